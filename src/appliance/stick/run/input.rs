//! What is typed on the appliance's page, key by key. Nothing here waits: the
//! loop that serves goes on while somebody looks for a letter.

use groundcrew_core::enroll::Code;

/// As much as fits behind the longest question.
const MOST: usize = 16;

/// What the technician wants, once a line is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Let the device in that shows this code.
    Approve(Code),
    /// End and switch off; asked and answered.
    End,
}

/// The line at the bottom, and which page of the devices is shown.
#[derive(Clone, Debug, Default)]
pub struct Input {
    line: String,
    /// Whether `yes` is waited for.
    ending: bool,
    /// An escape sequence that has begun.
    escape: Option<Vec<u8>>,
    page: usize,
    said: String,
}

impl Input {
    /// Takes a key.
    pub fn press(&mut self, key: u8) -> Option<Wish> {
        if let Some(sequence) = &mut self.escape {
            sequence.push(key);
            let over = sequence.len() > 5 || !matches!(key, b'[' | b'O' | b'0'..=b'9' | b';');
            if over {
                let sequence = self.escape.take().unwrap_or_default();
                self.turn(&sequence);
            }
            return None;
        }
        match key {
            b'\r' | b'\n' => return self.enter(),
            0x1b => self.escape = Some(Vec::new()),
            8 | 127 => drop(self.line.pop()),
            // Ctrl-U
            21 => self.line.clear(),
            b' '..=b'~' if self.line.len() < MOST => self.line.push(char::from(key)),
            _ => {}
        }
        None
    }

    /// PgUp and PgDn, and the arrows of keyboards that have neither.
    fn turn(&mut self, sequence: &[u8]) {
        match sequence {
            b"[5~" | b"[A" | b"OA" => self.page = self.page.saturating_sub(1),
            b"[6~" | b"[B" | b"OB" => self.page += 1,
            _ => {}
        }
    }

    fn enter(&mut self) -> Option<Wish> {
        let line = std::mem::take(&mut self.line);
        let line = line.trim();
        self.said.clear();
        if std::mem::take(&mut self.ending) {
            if line.eq_ignore_ascii_case("yes") {
                return Some(Wish::End);
            }
            "Not ended: the appliance goes on.".clone_into(&mut self.said);
            return None;
        }
        if line.is_empty() {
            return None;
        }
        if line.eq_ignore_ascii_case("q") {
            self.ending = true;
            return None;
        }
        let code = code(line);
        if code.is_none() {
            "This is no code: it has eight letters and digits, as on the device's screen."
                .clone_into(&mut self.said);
        }
        code.map(Wish::Approve)
    }

    /// The page to show of so many; one that is not there any more is left.
    pub fn page_of(&mut self, pages: usize) -> usize {
        self.page = self.page.min(pages.saturating_sub(1));
        self.page
    }

    /// Says what came of a wish, until the next line.
    pub fn say(&mut self, text: impl Into<String>) {
        self.said = text.into();
    }

    /// What is to be said now. `under_way`: devices that are being provisioned.
    pub fn said(&self, under_way: &[String]) -> Option<String> {
        if self.ending {
            return Some(match under_way {
                [] => "No device is under way.".to_owned(),
                some => format!("Under way, and not finished: {}", some.join(", ")),
            });
        }
        (!self.said.is_empty()).then(|| self.said.clone())
    }

    /// The last line of the screen.
    pub fn prompt(&self) -> String {
        let question = if self.ending {
            "End and switch off? Type yes and Enter (Enter alone: go on): "
        } else if self.line.eq_ignore_ascii_case("q") {
            "Enter asks whether to end: "
        } else {
            "Code to let a device in, or q to end; then Enter: "
        };
        format!("{question}{}", self.line)
    }
}

/// The code; whoever is used to pressing `a` first is understood, too.
fn code(line: &str) -> Option<Code> {
    let after_a = line.strip_prefix(['a', 'A']);
    line.parse()
        .ok()
        .or_else(|| after_a.and_then(|rest| rest.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(input: &mut Input, text: &str) -> Vec<Wish> {
        text.bytes().filter_map(|key| input.press(key)).collect()
    }

    #[test]
    fn a_code_with_a_q_lets_in_and_ends_nothing() {
        let mut input = Input::default();
        let wanted = Wish::Approve("Q7QF-2M9Q".parse().unwrap());
        for text in ["Q7QF-2M9Q\r", "q7qf2m9q\n", "aQ7QF-2M9Q\r", "A q7qf 2m9q\r"] {
            assert_eq!(typed(&mut input, text), [wanted], "{text:?}");
        }
        // A code that begins with A is itself.
        let own = Wish::Approve("A7QF-2M9Q".parse().unwrap());
        assert_eq!(typed(&mut input, "a7qf2m9q\r"), [own]);
        assert_eq!(
            typed(&mut input, "q7qx\x7f\x7f\x7f\x7fq7qf2m9q\r"),
            [wanted]
        );
    }

    #[test]
    fn the_end_is_asked_for_and_names_who_is_under_way() {
        let mut input = Input::default();
        assert_eq!(typed(&mut input, "q"), []);
        assert!(input.prompt().contains("asks whether to end"));
        assert_eq!(typed(&mut input, "\r"), []);
        assert!(input.prompt().contains("Type yes"));
        let said = input.said(&["van-2".to_owned(), "van-3".to_owned()]);
        assert!(said.unwrap().ends_with("van-2, van-3"));
        assert_eq!(typed(&mut input, "\r"), [], "Enter alone goes on");
        assert!(input.said(&[]).unwrap().contains("goes on"));
        assert_eq!(typed(&mut input, "yes\r"), [], "nothing was asked");
        assert_eq!(typed(&mut input, "q\rno\r"), []);
        assert_eq!(typed(&mut input, "q\ryes\r"), [Wish::End]);
        assert_eq!(typed(&mut input, "\r\n\n"), []);
    }

    #[test]
    fn every_prompt_fits_with_whatever_is_typed() {
        let mut input = Input::default();
        typed(&mut input, &"x".repeat(100));
        assert!(input.prompt().len() < 80, "{}", input.prompt());
        typed(&mut input, "\r");
        assert!(input.said(&[]).unwrap().contains("no code"));
        typed(&mut input, "q\r");
        typed(&mut input, &"x".repeat(100));
        assert!(input.prompt().len() < 80, "{}", input.prompt());
        typed(&mut input, "\x15yes");
        assert!(input.prompt().ends_with("yes") && input.prompt().len() < 80);
    }

    #[test]
    fn pages_are_turned_and_end_where_the_devices_do() {
        let mut input = Input::default();
        typed(&mut input, "\x1b[6~\x1b[B\x1bOB");
        assert_eq!(input.clone().page_of(9), 3);
        assert_eq!(input.page_of(2), 1);
        typed(&mut input, "\x1b[5~\x1b[5~\x1b[A");
        assert_eq!(input.page_of(2), 0);
        // What is no such key leaves nothing on the line.
        typed(&mut input, "\x1b[15~\x1b[1;5C\x1bx");
        assert_eq!(input.line, "");
    }
}
