//! Name templates: what a device's system is to be called.

use std::fmt;
use std::str::FromStr;

use groundcrew_core::ids::shown;
use serde::{Deserialize, Serialize};

/// The longest name that Windows' NetBIOS takes.
pub const NETBIOS: usize = 15;

/// The longest label of a DNS name (RFC 1035 §2.3.4).
pub const LABEL: usize = 63;

/// The characters of `{{serial-tail}}` and `{{id}}`.
const TAIL: usize = 8;

/// A name template, such as `{{site}}-{{serial-tail}}`. Also reads Autopilot's
/// `%SERIAL%`. Checked when it is read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostnameTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// The site's name.
    Site,
    /// The random part of the device's id.
    Id,
    /// The whole serial number, as much of its end as there is room for.
    Serial,
    /// The last eight characters of the serial number.
    SerialTail,
}

/// Text that is not a name template.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// Nothing in it.
    #[error("the name template is empty")]
    Empty,
    /// A character that host names do not have.
    #[error("the name template holds `{0}`: use letters, digits, `-` and placeholders")]
    Character(char),
    /// An unknown or unclosed placeholder.
    #[error(
        "the name template holds `{0}`; the placeholders are {{{{site}}}}, {{{{id}}}}, {{{{serial}}}}, {{{{serial-tail}}}} and %SERIAL%"
    )]
    Placeholder(String),
    /// Two devices would get the same name.
    #[error(
        "the name template `{0}` names every device alike: put {{{{serial}}}}, {{{{serial-tail}}}} or {{{{id}}}} in it"
    )]
    Constant(String),
}

/// A name cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// The fixed part alone is too long.
    #[error(
        "the name template `{template}` leaves no room: its fixed part takes {fixed} of {max} characters"
    )]
    NoRoom {
        /// The template.
        template: String,
        /// Characters that are fixed.
        fixed: usize,
        /// Characters allowed.
        max: usize,
    },
    /// Only digits, which Windows and resolvers refuse.
    #[error("the name `{0}` has only digits: put a letter in the name template")]
    Digits(String),
}

/// What a name is made of.
#[derive(Clone, Copy, Debug)]
pub struct Naming<'a> {
    /// The site.
    pub site: &'a str,
    /// The random part of the device's id.
    pub id: &'a str,
    /// Its serial number, unless it has none or a junk one.
    pub serial: Option<&'a str>,
}

impl HostnameTemplate {
    /// Makes the name: lower case, letters, digits and inner hyphens, at most
    /// `max` characters. What does not fit is cut from the beginning of the
    /// serial number, as Autopilot does: the end is what tells devices apart.
    /// Without a serial number the device's id takes its place.
    pub fn name(&self, naming: Naming<'_>, max: usize) -> Result<String, NameError> {
        let serial = naming.serial.map(label).filter(|s| !s.is_empty());
        let serial = serial.unwrap_or_else(|| label(naming.id));
        let fixed: usize = self.parts.iter().map(|p| p.fixed(naming)).sum();
        let count = self.parts.iter().filter(|p| p.is_serial()).count();
        let left = max.saturating_sub(fixed);
        // Room for each serial number, where there is one.
        let room = left.checked_div(count).unwrap_or(left);
        if fixed > max || (count > 0 && room == 0) {
            return Err(NameError::NoRoom {
                template: self.text.clone(),
                fixed,
                max,
            });
        }
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => name.push_str(text),
                Part::Site => name.push_str(&label(naming.site)),
                Part::Id => name.push_str(&label(naming.id)),
                Part::Serial => name.push_str(tail(&serial, room)),
                Part::SerialTail => name.push_str(tail(&serial, room.min(TAIL))),
            }
        }
        let name = name.trim_matches('-').to_lowercase();
        if name.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NameError::Digits(name));
        }
        Ok(name)
    }
}

impl Part {
    fn is_serial(&self) -> bool {
        matches!(self, Self::Serial | Self::SerialTail)
    }

    fn fixed(&self, naming: Naming<'_>) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::Site => label(naming.site).len(),
            Self::Id => label(naming.id).len(),
            Self::Serial | Self::SerialTail => 0,
        }
    }
}

/// Only what a host name may hold.
fn label(text: &str) -> String {
    let good = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    text.chars().filter(good).collect()
}

/// The last `length` characters of an ASCII text.
fn tail(text: &str, length: usize) -> &str {
    let from = text.len().saturating_sub(length);
    text.get(from..).unwrap_or(text)
}

impl FromStr for HostnameTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (part, left) = match first {
                '{' => placeholder(rest, "{{", "}}")?,
                '%' => placeholder(rest, "%", "%")?,
                _ => literal(rest)?,
            };
            parts.push(part);
            rest = left;
        }
        if parts.is_empty() {
            return Err(TemplateError::Empty);
        }
        if !parts.iter().any(|p| p.is_serial() || *p == Part::Id) {
            return Err(TemplateError::Constant(shown(text)));
        }
        let text = text.to_owned();
        Ok(Self { text, parts })
    }
}

fn placeholder<'a>(
    text: &'a str,
    open: &str,
    close: &str,
) -> Result<(Part, &'a str), TemplateError> {
    let wrong = || TemplateError::Placeholder(shown(text));
    let inner = text.strip_prefix(open).ok_or_else(wrong)?;
    let (name, rest) = inner.split_once(close).ok_or_else(wrong)?;
    let part = match (open, name.trim()) {
        ("{{", "site") => Part::Site,
        ("{{", "id") => Part::Id,
        ("{{", "serial") | ("%", "SERIAL") => Part::Serial,
        ("{{", "serial-tail") => Part::SerialTail,
        _ => return Err(wrong()),
    };
    Ok((part, rest))
}

fn literal(text: &str) -> Result<(Part, &str), TemplateError> {
    let end = text.find(['{', '%']).unwrap_or(text.len());
    let (literal, rest) = text.split_at(end);
    let bad = |c: &char| !c.is_ascii_alphanumeric() && *c != '-';
    match literal.chars().find(bad) {
        Some(c) => Err(TemplateError::Character(c)),
        None => Ok((Part::Literal(literal.to_owned()), rest)),
    }
}

impl TryFrom<String> for HostnameTemplate {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        text.parse()
    }
}

impl From<HostnameTemplate> for String {
    fn from(template: HostnameTemplate) -> Self {
        template.text
    }
}

impl fmt::Display for HostnameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(template: &str, serial: Option<&str>, max: usize) -> Result<String, NameError> {
        let naming = Naming {
            site: "hq",
            id: "7k2m9qx4",
            serial,
        };
        let template: HostnameTemplate = template.parse().unwrap();
        template.name(naming, max)
    }

    #[test]
    fn the_end_of_the_serial_number_is_kept() {
        // The example in Microsoft's accounts-csp documentation.
        assert_eq!(
            name("Test-Device-%SERIAL%", Some("123456"), NETBIOS).unwrap(),
            "test-device-456"
        );
        assert_eq!(
            name("{{site}}-{{serial-tail}}", Some("AB/12345-6789 X"), LABEL).unwrap(),
            "hq-45-6789x"
        );
        assert_eq!(
            name("{{site}}-{{serial-tail}}", None, LABEL).unwrap(),
            "hq-7k2m9qx4"
        );
        assert_eq!(
            name("pc-{{id}}", Some("X"), NETBIOS).unwrap(),
            "pc-7k2m9qx4"
        );
    }

    #[test]
    fn says_what_is_wrong() {
        let read = |text: &str| text.parse::<HostnameTemplate>().unwrap_err();
        assert_eq!(read(""), TemplateError::Empty);
        assert_eq!(read("pc_{{id}}"), TemplateError::Character('_'));
        assert_eq!(
            read("pc-{{mac}}"),
            TemplateError::Placeholder("{{mac}}".into())
        );
        assert!(read("pc-%RAND").to_string().contains("{{serial-tail}}"));
        assert_eq!(
            read("{{site}}-pc"),
            TemplateError::Constant("{{site}}-pc".into())
        );
        assert!(matches!(
            name("a-name-of-fifteen-{{serial}}", Some("1"), NETBIOS),
            Err(NameError::NoRoom {
                fixed: 18,
                max: 15,
                ..
            })
        ));
        assert_eq!(
            name("{{serial}}", Some("12345"), LABEL),
            Err(NameError::Digits("12345".into()))
        );
    }

    proptest! {
        #[test]
        fn a_name_is_always_a_valid_label(
            template in "[a-z-]{0,6}(\\{\\{(site|id|serial|serial-tail)\\}\\}[a-z-]{0,3}){1,3}",
            serial in proptest::option::of("\\PC{0,40}"), max in prop_oneof![Just(NETBIOS), Just(LABEL)],
        ) {
            let Ok(template) = template.parse::<HostnameTemplate>() else { return Ok(()) };
            let naming = Naming { site: "berlin-2", id: "7k2m9qx4", serial: serial.as_deref() };
            if let Ok(name) = template.name(naming, max) {
                prop_assert!((1..=max).contains(&name.len()), "{name}");
                prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
                prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
            }
        }

        #[test]
        fn any_text_never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<HostnameTemplate>();
        }
    }
}
