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
