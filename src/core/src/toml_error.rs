//! How a mistake in a TOML file is told: file, line, column, the line itself
//! with a caret, and the nearest right key.

use std::ops::Range;

/// Renders a reader's error. `file` is the name as the user knows it, `text`
/// what was read from it. `known` are keys to suggest besides those that the
/// error itself lists.
///
/// ```text
/// bundle.toml:7:1: unknown key `moed`; did you mean `mode`?
///   |
/// 7 | moed = "0644"
///   | ^^^^
/// ```
pub fn explain(file: &str, text: &str, err: &toml::de::Error, known: &[&str]) -> String {
    at(file, text, err.span(), &advice(err.message(), known))
}

/// The same for a mistake that a reader cannot see, such as two keys that
/// exclude each other. `span` is in bytes of `text`.
pub fn at(file: &str, text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let Some(place) = span.and_then(|span| Place::find(text, span)) else {
        return format!("{file}: {message}");
    };
    let number = place.line.to_string();
    let gutter = " ".repeat(number.len());
    format!(
        "{file}:{number}:{}: {message}\n{gutter} |\n{number} | {}\n{gutter} | {}{}",
        place.column,
        place.text,
        " ".repeat(place.column - 1),
        "^".repeat(place.width),
    )
}

/// The word of `known` that is nearest to `word`, where one is near enough to
/// be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1) + 1;
    let lower = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|candidate| (distance(&lower, candidate), candidate))
        .filter(|&(d, _)| d <= allowed)
        .min_by_key(|&(d, _)| d)
        .map(|(_, candidate)| candidate)
}

/// Where in a text something stands, counted in lines and characters from 1.
struct Place {
    line: usize,
    column: usize,
    width: usize,
    text: String,
}

impl Place {
    fn find(text: &str, span: Range<usize>) -> Option<Self> {
        let start = span.start.min(text.len());
        let before = text.get(..start)?;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text.get(line_start..)?.lines().next().unwrap_or("");
        let column = text.get(line_start..start)?.chars().count() + 1;
        let length = text.get(line_start..).map_or(0, |_| line.chars().count());
        let width = text
            .get(span.start..span.end.max(start))
            .map_or(1, |marked| {
                marked.lines().next().unwrap_or("").chars().count()
            });
        Some(Self {
            line: before.matches('\n').count() + 1,
            column,
            width: width.clamp(1, length.saturating_sub(column - 1).max(1)),
            // one printed cell for each character, or the caret would be off
            text: line
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        })
    }
}

fn advice(message: &str, known: &[&str]) -> String {
    let unknown = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split_once('`'));
    let Some((word, rest)) = unknown else {
        return message.trim_end().to_owned();
    };
    let listed: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let what = if message.starts_with("unknown field") {
        "key"
    } else {
        "value"
    };
    let near =
        nearest(word, listed.iter().copied()).or_else(|| nearest(word, known.iter().copied()));
    let word = crate::ids::shown(word);
    match near {
        Some(near) => format!("unknown {what} `{word}`; did you mean `{near}`?"),
        None if listed.is_empty() => format!("unknown {what} `{word}`"),
        None => format!(
            "unknown {what} `{word}`; possible here: {}",
            listed.join(", ")
        ),
    }
}

/// Edit distance with insertions, deletions, substitutions and swaps of
/// neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &cb) in b.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX - 1);
            let mut best = (cell(&last, j) + usize::from(ca != cb))
                .min(cell(&last, j + 1) + 1)
                .min(cell(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(&cb) && b.get(j - 1) == Some(&ca);
            if swapped {
                best = best.min(cell(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        mode: Option<String>,
        path: Option<String>,
        inner: Option<Box<Sample>>,
    }

    fn told(text: &str) -> String {
        let err = toml::from_str::<Sample>(text).unwrap_err();
        explain("x.toml", text, &err, &["interface"])
    }

    #[test]
    fn a_typo_is_pointed_at_with_the_nearest_key() {
        let text = "path = \"a\"\n[inner]\n  moed = \"0644\"\n";
        assert_eq!(
            told(text),
            "x.toml:3:3: unknown key `moed`; did you mean `mode`?\n  |\n3 |   moed = \"0644\"\n  |   ^^^^"
        );
        assert!(told("intreface = 1").contains("did you mean `interface`?"));
        assert!(told("zzzzzz = 1").contains("possible here: mode, path, inner"));
    }

    #[test]
    fn other_mistakes_keep_the_readers_words() {
        let wrong = told("mode = 644");
        assert!(
            wrong.starts_with("x.toml:1:8: invalid type: integer"),
            "{wrong}"
        );
        assert!(wrong.ends_with("  |        ^^^"), "{wrong}");
        let syntax = told("path = \"a\nmode = \"b\"");
        assert!(syntax.starts_with("x.toml:1:"), "{syntax}");
    }

    #[test]
    fn distances() {
        for (a, b, d) in [
            ("mode", "mode", 0),
            ("moed", "mode", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}\n?\\PC{0,40}", start in 0usize..100, len in 0usize..100) {
            let _ = at("f", &text, Some(start..start + len), "m");
            if let Err(err) = toml::from_str::<Sample>(&text) {
                let told = explain("f", &text, &err, &[]);
                prop_assert!(told.starts_with("f:"));
            }
        }
    }
}
