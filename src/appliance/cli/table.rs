//! Plain tables for a terminal: columns as wide as they need, the last one cut
//! to the screen.

/// Rows under a header, two spaces between columns, no line wider than `width`.
pub fn render(header: &[&str], rows: &[Vec<String>], width: usize) -> String {
    let columns = header.len();
    let cell = |row: &[String], i: usize| row.get(i).map_or(0, |text| text.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|i| {
            let head = header.get(i).map_or(0, |text| text.chars().count());
            rows.iter()
                .map(|row| cell(row, i))
                .max()
                .unwrap_or(0)
                .max(head)
        })
        .collect();
    let header: Vec<String> = header.iter().map(|text| (*text).to_owned()).collect();
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (text, column) in row.iter().zip(&widths) {
            line.push_str(&format!("{text:<column$}  "));
        }
        let line = line.trim_end();
        if line.chars().count() > width {
            out.extend(line.chars().take(width.saturating_sub(1)));
            out.push('…');
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// Names and values, one below the other: values wrapped at blanks, or where
/// there is none, so that no line is wider than `width`.
pub fn fields<N: AsRef<str>>(rows: &[(N, String)], width: usize) -> String {
    let length = |name: &N| name.as_ref().chars().count();
    // A name that would leave no room for values has a line of its own.
    let names = rows.iter().map(|(name, _)| length(name));
    let indent = names.filter(|name| *name <= width / 2).max().unwrap_or(0) + 4;
    let room = width.saturating_sub(indent).max(20);
    let mut out = String::new();
    for (name, value) in rows {
        let alone = length(name) + 4 > indent;
        if alone {
            for line in wrap(name.as_ref(), width.saturating_sub(2).max(20)) {
                out.push_str(&format!("  {line}\n"));
            }
        }
        for (number, line) in wrap(value, room).iter().enumerate() {
            let name = if number == 0 && !alone {
                name.as_ref()
            } else {
                ""
            };
            let line = format!("  {name:<column$}{line}", column = indent - 2);
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

/// Lines of at most `width` characters; at least one.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let word: Vec<char> = word.chars().collect();
        // Digests and keys are cut in equal parts, not in a long and a short one.
        let pieces = word.len().div_ceil(width).max(1);
        let length = word.len().div_ceil(pieces).max(1);
        for (number, piece) in word.chunks(length).enumerate() {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(line)
                    if number == 0
                        && !line.is_empty()
                        && line.chars().count() + 1 + piece.chars().count() <= width =>
                {
                    line.push(' ');
                    line.push_str(&piece);
                }
                Some(line) if line.is_empty() => line.push_str(&piece),
                _ => lines.push(piece),
            }
        }
    }
    lines
}

/// The width of the terminal, or `fallback` where output goes elsewhere.
pub fn terminal_width(fallback: usize) -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(fallback, |size| match size.ws_col {
        0 => 80,
        columns => usize::from(columns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_wrapped_under_their_names() {
        let rows = [
            ("A", "one two three four five six seven".to_owned()),
            ("Long", "x".repeat(45)),
        ];
        let text = fields(&rows, 30);
        assert_eq!(
            text,
            "  A     one two three four\n        five six seven\n  Long  xxxxxxxxxxxxxxx\n        xxxxxxxxxxxxxxx\n        xxxxxxxxxxxxxxx\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 30));
    }

    #[test]
    fn a_name_that_is_too_long_stands_alone() {
        let rows = [("A", "one".to_owned()), (&"n".repeat(20), "two".to_owned())];
        assert_eq!(
            fields(&rows, 30),
            format!("  A  one\n  {}\n     two\n", "n".repeat(20))
        );
    }

    #[test]
    fn columns_line_up_and_long_lines_are_cut() {
        let rows = vec![
            vec!["a".into(), "x".repeat(30)],
            vec!["long".into(), "y".into()],
        ];
        let text = render(&["ID", "WHAT"], &rows, 20);
        assert_eq!(
            text,
            format!("ID    WHAT\na     {}…\nlong  y\n", "x".repeat(13))
        );
    }
}
