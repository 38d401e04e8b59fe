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

    /// Adds to what is shown.
    pub fn say(&mut self, text: &str) {
        for out in &mut self.outs {
            out.write(&text.replace('\n', "\r\n"));
        }
    }

    /// A line that is typed, shown as asterisks, without its end.
    pub fn secret(&mut self, prompt: &str) -> String {
        self.typed(prompt, |_| '*')
    }

    /// A line that is typed, without its end.
    pub fn line(&mut self, prompt: &str) -> String {
        self.typed(prompt, |typed| typed)
    }

    fn typed(&mut self, prompt: &str, shown: impl Fn(char) -> char) -> String {
        while self.keys.try_recv().is_ok() {}
        self.say(prompt);
        let mut line = String::new();
        loop {
            match self.keys.recv() {
                Ok(b'\r' | b'\n') => break,
                Ok(8 | 127) if line.pop().is_some() => self.say("\x08 \x08"),
                // Ctrl-U
                Ok(21) => {
                    self.say(&"\x08 \x08".repeat(line.len()));
                    line.clear();
                }
                Ok(byte @ b' '..=b'~') if line.len() < 200 => {
                    line.push(char::from(byte));
                    self.say(&shown(char::from(byte)).to_string());
                }
                Ok(_) => {}
                // No terminal at all: nobody will ever type.
                Err(_) => std::thread::park(),
            }
        }
        self.say("\n");
        line
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
