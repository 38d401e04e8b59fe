//! Text with `{{name}}` in it. No logic, no escapes: a name stands for its
//! value, and a name without a value is an error, never an empty string.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::enroll::Grant;
use crate::ids::shown;
use crate::text_form::text_form;

/// Longest value of a variable, bytes.
const MAX_VALUE: usize = 1024;
/// Most variables.
const MAX_VARIABLES: usize = 256;

/// A template whose syntax was checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(String),
}

/// Text that is not a template.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// `{{` with no `}}` on the same line.
    #[error(
        "line {line}: `{{{{` is not closed by `}}}}` on the same line (a file that needs `{{{{` itself: template = false)"
    )]
    Open {
        /// Counted from 1.
        line: usize,
    },
    /// Not a variable's name between the braces.
    #[error(
        "line {line}: `{{{{{inner}}}}}` is not a variable: names are a-z, 0-9 and _, and there is no logic"
    )]
    Name {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        inner: String,
    },
}

/// A template names a variable that has no value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no value for `{{{{{name}}}}}`; known: {known}")]
pub struct UnknownVariable {
    /// The name.
    pub name: String,
    /// The names that have values.
    pub known: String,
}

impl Template {
    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of the variables it uses, in order, with repeats.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with every variable's value put in; values are not read as
    /// templates again.
    pub fn render(&self, variables: &Variables) -> Result<String, UnknownVariable> {
        let mut out = String::with_capacity(self.text.len());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Variable(name) => out.push_str(variables.value(name)?),
            }
        }
        Ok(out)
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let line = text
                .get(..text.len() - after.len())
                .map_or(0, |t| t.matches('\n').count())
                + 1;
            let (inner, tail) = after
                .split_once("}}")
                .filter(|(inner, _)| !inner.contains('\n'))
                .ok_or(TemplateError::Open { line })?;
            let name = inner.trim_matches(' ');
            if !is_name(name) {
                return Err(TemplateError::Name {
                    line,
                    inner: shown(inner),
                });
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Variable(name.to_owned()));
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            pieces,
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text_form!(Template);

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The values that templates may use: one line of printable text each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

/// A variable that a template must not be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VariableError {
    /// Not a name.
    #[error("`{0}` is not a variable's name: use a-z, 0-9 and _, a letter first, at most 64")]
    Name(String),
    /// A line break could add a line to the file that the value is put into.
    #[error("the value of `{0}` is not one line of printable text of at most 1024 bytes")]
    Value(String),
    /// More than 256.
    #[error("more than 256 variables")]
    TooMany,
}

impl Variables {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// The values of a grant: `hostname`, `device`, `site`, `profile`, and the
    /// grant's own variables (`tag`, `serial`, …), which cannot replace those.
    pub fn of_grant(grant: &Grant) -> Result<Self, VariableError> {
        let mut all = Self::new();
        for (name, value) in &grant.variables {
            all.set(name, value)?;
        }
        all.set("hostname", &grant.hostname)?;
        all.set("device", grant.device.as_str())?;
        all.set("site", grant.site.as_str())?;
        all.set("profile", grant.profile.as_str())?;
        Ok(all)
    }

    /// Gives `name` a value, in place of one that it had.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), VariableError> {
        if !is_name(name) {
            return Err(VariableError::Name(shown(name)));
        }
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            return Err(VariableError::Value(name.to_owned()));
        }
        if self.0.len() >= MAX_VARIABLES && !self.0.contains_key(name) {
            return Err(VariableError::TooMany);
        }
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// The value of `name`.
    pub fn value(&self, name: &str) -> Result<&str, UnknownVariable> {
        self.0
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| UnknownVariable {
                name: name.to_owned(),
                known: self
                    .0
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let mut all = Variables::new();
        for (name, value) in pairs {
            all.set(name, value).unwrap();
        }
        all
    }

    #[test]
    fn renders_and_does_not_render_twice() {
        let template: Template = "a {{ hostname }}{{site}} }} {x}\n".parse().unwrap();
        let values = variables(&[("hostname", "{{site}}"), ("site", "hq")]);
        assert_eq!(template.render(&values).unwrap(), "a {{site}}hq }} {x}\n");
        assert_eq!(
            template.variables().collect::<Vec<_>>(),
            ["hostname", "site"]
        );
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known() {
        let template: Template = "{{hostnme}}".parse().unwrap();
        let err = template
            .render(&variables(&[("hostname", "x"), ("site", "y")]))
            .unwrap_err();
        assert_eq!(
            err.to_string(),
            "no value for `{{hostnme}}`; known: hostname, site"
        );
    }

    #[test]
    fn bad_syntax_says_the_line() {
        assert_eq!(
            "a\n{{x\n}}".parse::<Template>(),
            Err(TemplateError::Open { line: 2 })
        );
        for bad in [
            "{{}}",
            "{{X}}",
            "{{a b}}",
            "{{#if a}}",
            "{{a|upper}}",
            "{{{{a}}}}",
            "{{1}}",
        ] {
            assert!(
                matches!(bad.parse::<Template>(), Err(TemplateError::Name { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn values_cannot_smuggle_lines() {
        let mut all = Variables::new();
        for bad in ["a\nb", "a\rb", "\0", &"x".repeat(1025)] {
            assert!(all.set("a", bad).is_err());
        }
        assert!(all.set("A", "x").is_err());
    }

    proptest! {
        #[test]
        fn text_without_braces_is_itself(text in "[^{]{0,200}") {
            let template: Template = text.parse().unwrap();
            prop_assert_eq!(template.render(&Variables::new()).unwrap(), text);
        }

        #[test]
        fn any_text_parses_or_is_refused(text in "[{} a-z\n]{0,60}") {
            if let Ok(template) = text.parse::<Template>() {
                let mut values = Variables::new();
                for name in template.variables() {
                    values.set(name, "v").unwrap();
                }
                prop_assert!(template.render(&values).is_ok());
            }
        }
    }
}
