//! The stick's own screens: the machine's screen and keyboard, and every
//! serial line the kernel speaks on, all at once. Whoever types first is heard.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The terminals, and what is typed on any of them.
pub struct Terminal {
    outs: Vec<Out>,
    keys: Receiver<u8>,
}

struct Out {
    file: File,
    /// A screen is wiped for a new page; on a serial line pages follow each other.
    screen: bool,
}

impl Terminal {
    /// Opens what the kernel names as its consoles, and the screen.
    pub fn open() -> Self {
        let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let (sender, keys) = channel();
        let outs = consoles(&active)
            .into_iter()
            .filter_map(|(name, screen)| Out::open(&name, screen, &sender))
            .collect();
        Self { outs, keys }
    }

    /// Shows a page. Lines beyond the 80th column would break it, and are cut.
    pub fn page(&mut self, lines: &[String]) {
        let mut text = String::new();
        for line in lines {
            text.extend(line.chars().filter(|c| !c.is_control()).take(80));
            text.push_str("\r\n");
        }
        for out in &mut self.outs {
            let wipe = if out.screen { "\x1b[2J\x1b[H" } else { "\r\n" };
            out.write(&format!("{wipe}{text}"));
        }
    }

    /// Shows what is typed, on the line below the page: that line alone is drawn anew.
    pub fn prompt(&mut self, text: &str) {
        let shown: String = text.chars().filter(|c| !c.is_control()).take(79).collect();
        for out in &mut self.outs {
            out.write(&format!("\r\x1b[K{shown}"));
        }
    }

    /// Adds to what is shown.
    pub fn say(&mut self, text: &str) {
        for out in &mut self.outs {
            out.write(&text.replace('\n', "\r\n"));
        }
    }

    /// A line that is typed, shown as asterisks until Tab shows it, without its end.
    pub fn secret(&mut self, prompt: &str) -> String {
        self.typed(prompt, true)
    }

    /// A line that is typed, without its end. Nothing else goes on meanwhile.
    pub fn line(&mut self, prompt: &str) -> String {
        self.typed(prompt, false)
    }

    fn typed(&mut self, prompt: &str, hidden: bool) -> String {
        while self.keys.try_recv().is_ok() {}
        self.say(prompt);
        let mut line = Line::new(hidden);
        loop {
            match self.keys.recv() {
                Ok(b'\r' | b'\n') => break,
                Ok(key) => self.say(&line.press(key)),
                // No terminal at all: nobody will ever type.
                Err(_) => std::thread::park(),
            }
        }
        self.say(&format!("{}\n", line.hide()));
        line.text
    }

    /// The next key, or none when `patience` ends.
    pub fn key(&mut self, patience: Duration) -> Option<u8> {
        match self.keys.recv_timeout(patience) {
            Ok(byte) => Some(byte),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(patience);
                None
            }
        }
    }

    /// Waits for Enter, at most so long; what `until` tells ends it, too.
    pub fn wait(&mut self, patience: Duration, mut until: impl FnMut() -> bool) {
        let deadline = Instant::now() + patience;
        let step = Duration::from_millis(250);
        while Instant::now() < deadline && !until() {
            if matches!(self.key(step), Some(b'\r' | b'\n')) {
                return;
            }
        }
    }
}

/// A line on its way, and whether it can be read.
struct Line {
    text: String,
    secret: bool,
    hidden: bool,
}

impl Line {
    const fn new(hidden: bool) -> Self {
        Self {
            text: String::new(),
            secret: hidden,
            hidden,
        }
    }

    /// Takes a key, and says what is to be written for it.
    fn press(&mut self, key: u8) -> String {
        match key {
            8 | 127 if self.text.pop().is_some() => "\x08 \x08".to_owned(),
            // Ctrl-U
            21 => {
                let gone = "\x08 \x08".repeat(self.text.len());
                self.text.clear();
                gone
            }
            b'\t' if self.secret => {
                self.hidden = !self.hidden;
                self.again()
            }
            b' '..=b'~' if self.text.len() < 200 => {
                self.text.push(char::from(key));
                let shown = if self.hidden { '*' } else { char::from(key) };
                shown.to_string()
            }
            _ => String::new(),
        }
    }

    /// A secret does not stay on the screen.
    fn hide(&mut self) -> String {
        if self.secret == self.hidden {
            return String::new();
        }
        self.hidden = true;
        self.again()
    }

    fn again(&self) -> String {
        let shown = if self.hidden {
            "*".repeat(self.text.len())
        } else {
            self.text.clone()
        };
        format!("{}{shown}", "\x08".repeat(self.text.len()))
    }
}

impl Out {
    fn open(name: &str, screen: bool, keys: &Sender<u8>) -> Option<Self> {
        let path = format!("/dev/{name}");
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        // Raw: every key at once, and no echo of a PIN.
        if let Ok(mut modes) = rustix::termios::tcgetattr(&file) {
            modes.make_raw();
            let _ =
                rustix::termios::tcsetattr(&file, rustix::termios::OptionalActions::Now, &modes);
        }
        let (input, keys) = (file.try_clone().ok()?, keys.clone());
        std::thread::spawn(move || read_keys(input, &keys));
        Some(Self { file, screen })
    }

    fn write(&mut self, text: &str) {
        // A line that cannot be written to must not stop the work.
        let _ = self.file.write_all(text.as_bytes());
    }
}

fn read_keys(mut input: File, keys: &Sender<u8>) {
    let mut buffer = [0; 64];
    while let Ok(length) = input.read(&mut buffer) {
        if length == 0 {
            // A line that was hung up; another key may come later.
            std::thread::sleep(Duration::from_secs(1));
        }
        for byte in buffer.iter().take(length) {
            if keys.send(*byte).is_err() {
                return;
            }
        }
    }
}

/// Names and whether it is a screen: the screen always, and the kernel's
/// serial lines.
fn consoles(active: &str) -> Vec<(String, bool)> {
    let is_screen = |name: &str| {
        name.strip_prefix("tty")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let lines = active.split_whitespace().filter(|name| !is_screen(name));
    std::iter::once(("tty0".to_owned(), true))
        .chain(lines.map(|name| (name.to_owned(), false)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tab_shows_a_secret_and_its_end_hides_it() {
        let mut line = Line::new(true);
        let typed = |line: &mut Line, keys: &str| -> String {
            keys.bytes().map(|key| line.press(key)).collect()
        };
        assert_eq!(typed(&mut line, "crayz"), "*****");
        assert_eq!(typed(&mut line, "\t"), "\x08\x08\x08\x08\x08crayz");
        assert_eq!(typed(&mut line, "\x7f\x7fzy"), "\x08 \x08\x08 \x08zy");
        assert_eq!(line.hide(), "\x08\x08\x08\x08\x08*****");
        assert_eq!(line.text, "crazy");
        let mut plain = Line::new(false);
        assert_eq!(typed(&mut plain, "a\tb"), "ab");
        assert_eq!((plain.hide(), plain.text.as_str()), (String::new(), "ab"));
    }

    #[test]
    fn the_screen_and_every_serial_line() {
        let names = |active| {
            consoles(active)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names("tty0 ttyS0\n"), ["tty0", "ttyS0"]);
        assert_eq!(names("hvc0"), ["tty0", "hvc0"]);
        assert_eq!(names(""), ["tty0"]);
    }
}
