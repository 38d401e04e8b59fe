//! The page on the device's screen, 80 by 24: what this machine is, where the
//! provisioning stands, the code to compare, and how it ended.

use super::font;

/// Width and height that every text console has.
const WIDTH: usize = 80;
const HEIGHT: usize = 24;
/// How many of the last messages are shown.
const MESSAGES: usize = 6;

/// What the page shows. Empty strings are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    /// Maker, model, serial number.
    pub machine: String,
    /// Interface and addresses.
    pub network: String,
    /// What is installed, and where.
    pub system: String,
    /// Site, profile, bundle.
    pub site: String,
    /// The code to compare, while a technician must decide.
    pub code: Option<String>,
    /// What is going on.
    pub phase: String,
    /// Done and total, for the bar.
    pub progress: Option<(u64, u64)>,
    /// How it ended.
    pub ending: Option<Ending>,
    messages: std::collections::VecDeque<String>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Green or red.
    pub good: bool,
    /// What happened.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Screen {
    /// Adds a line at the bottom.
    pub fn message(&mut self, text: &str) {
        self.messages.push_back(text.to_owned());
        while self.messages.len() > MESSAGES {
            self.messages.pop_front();
        }
    }

    /// The page as lines without control characters, at most 24 by 80.
    pub fn lines(&self) -> Vec<String> {
        let mut out = vec![centred("g r o u n d c r e w"), "=".repeat(WIDTH)];
        let facts = [
            ("Machine", &self.machine),
            ("Network", &self.network),
            ("System", &self.system),
            ("Site", &self.site),
        ];
        for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            out.push(format!("  {name:<8} {value}"));
        }
        out.push(String::new());
        match (&self.ending, &self.code) {
            (Some(ending), _) => self.ending_lines(ending, &mut out),
            (None, Some(code)) => code_lines(code, &mut out),
            (None, None) => self.phase_lines(&mut out),
        }
        let room = HEIGHT
            .saturating_sub(out.len() + 2)
            .min(self.messages.len());
        out.resize(HEIGHT.saturating_sub(room + 1), String::new());
        out.push("-".repeat(WIDTH));
        out.extend(self.messages.iter().rev().take(room).rev().cloned());
        out.truncate(HEIGHT);
        out.iter().map(|line| clean(line)).collect()
    }

    fn phase_lines(&self, out: &mut Vec<String>) {
        out.push(format!("  {}", self.phase));
        if let Some((done, total)) = self.progress.filter(|(_, total)| *total > 0) {
            let done = done.min(total);
            let cells = usize::try_from(u128::from(done) * 60 / u128::from(total)).unwrap_or(0);
            let percent = u128::from(done) * 100 / u128::from(total);
            out.push(String::new());
            out.push(format!("  [{:<60}] {percent:>3} %", "#".repeat(cells)));
        }
    }

    fn ending_lines(&self, ending: &Ending, out: &mut Vec<String>) {
        out.push(format!(
            "  {}",
            if ending.good { "DONE" } else { "STOPPED" }
        ));
        out.push(String::new());
        for text in [&ending.what, &ending.advice] {
            out.extend(
                wrapped(text, WIDTH - 4)
                    .into_iter()
                    .map(|line| format!("  {line}")),
            );
            out.push(String::new());
        }
    }

    /// The page with the escape sequences of a Linux console.
    pub fn ansi(&self) -> String {
        let colour = match &self.ending {
            Some(Ending { good: true, .. }) => "\x1b[32m",
            Some(Ending { good: false, .. }) => "\x1b[31m",
            None => "",
        };
        let mut out = String::from("\x1b[?25l\x1b[H");
        let lines = self.lines();
        for (number, line) in lines.iter().enumerate() {
            let strong = matches!(line.trim(), "DONE" | "STOPPED") || number == 0;
            let marked = if strong {
                format!("\x1b[1m{colour}{line}\x1b[0m")
            } else {
                line.clone()
            };
            out.push_str(&format!("\x1b[{};1H{marked}\x1b[K", number + 1));
        }
        out.push_str("\x1b[J");
        out
    }
}

fn code_lines(code: &str, out: &mut Vec<String>) {
    out.push(centred("This device waits for a technician. Its code:"));
    out.push(String::new());
    out.extend(font::rows(code).iter().map(|row| centred(row)));
    out.push(String::new());
    out.push(centred(code));
    out.push(centred(
        "Approve it only if the appliance shows the same code.",
    ));
}

fn centred(text: &str) -> String {
    let text = text.trim_end();
    let margin = WIDTH.saturating_sub(text.chars().count()) / 2;
    format!("{}{text}", " ".repeat(margin))
}

/// Breaks at spaces; a longer word is broken anywhere.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let room = width.saturating_sub(line.chars().count() + 1);
        if !line.is_empty() && word.chars().count() > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for letter in word.chars() {
            if line.chars().count() >= width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(letter);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// What may stand on one line of a screen: no control characters (firmware
/// strings and error texts come from elsewhere), at most 80 wide.
pub fn clean(line: &str) -> String {
    line.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(WIDTH)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_code_is_large_and_plain() {
        let mut screen = Screen {
            machine: "QEMU Standard PC, serial 42".into(),
            code: Some("K7QF-2M9X".into()),
            ..Screen::default()
        };
        screen.message("waiting");
        let lines = screen.lines();
        assert_eq!(lines.len(), 24);
        assert!(
            lines.iter().any(|line| line.trim() == "K7QF-2M9X"),
            "{lines:#?}"
        );
        assert_eq!(
            lines
                .iter()
                .filter(|line| line.matches('#').count() > 8)
                .count(),
            5
        );
        assert_eq!(lines.last().unwrap(), "waiting");
    }

    #[test]
    fn a_failure_says_what_and_what_to_do() {
        let screen = Screen {
            ending: Some(Ending {
                good: false,
                what: "the bundle is not signed by this site ".repeat(4),
                advice: "call the site's administrator".into(),
            }),
            ..Screen::default()
        };
        let text = screen.lines().join("\n");
        assert!(text.contains("STOPPED") && text.contains("call the site's administrator"));
        assert!(screen.ansi().contains("\x1b[31m"));
    }

    proptest! {
        #[test]
        fn always_24_by_80(
            machine in "\\PC{0,200}", phase in "\\PC{0,200}", what in "\\PC{0,3000}",
            code in proptest::option::of("[0-9A-Z-]{0,20}"), ended: bool,
            progress in proptest::option::of((any::<u64>(), any::<u64>())),
            messages in proptest::collection::vec("[\\PC\\x1b\n]{0,120}", 0..10),
        ) {
            let ending = ended.then(|| Ending { good: false, what, advice: machine.clone() });
            let mut screen = Screen { machine, phase, code, progress, ending, ..Screen::default() };
            messages.iter().for_each(|text| screen.message(text));
            let lines = screen.lines();
            prop_assert_eq!(lines.len(), 24);
            for line in lines {
                prop_assert!(line.chars().count() <= 80 && !line.contains('\x1b'));
            }
        }
    }
}
