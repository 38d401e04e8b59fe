//! Telling people and the lab what happens: a page on the screen, one line
//! per event on the serial lines, and the same lines kept as the log.
//!
//! A serial line that takes no bytes must not stop a provisioning: every sink
//! has its own thread and a bounded queue; what does not fit is left out.

mod font;
mod screen;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

pub use screen::{Ending, Screen, clean, wrapped};

/// How much of the log is kept: the first and the last of these many bytes.
const LOG_LIMIT: usize = 256 * 1024;

/// It is held for microseconds by whoever has no defect.
const PAGE_PATIENCE: Duration = Duration::from_secs(1);

/// Every line begins with this.
pub const PREFIX: &str = "groundcrew: ";

/// The way out. Cheap to clone; all clones are one console.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    began: Instant,
    page: Mutex<Page>,
    lines: Vec<Sink>,
    screen: Option<Sink>,
}

#[derive(Default)]
struct Page {
    screen: Screen,
    log: Log,
}

impl Console {
    /// The machine's own screen and the serial lines the kernel writes to.
    pub fn of_machine(began: Instant) -> Self {
        let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let (screens, lines) = sinks_of(&active);
        let open = |name: &&str| {
            let path = Path::new("/dev").join(name);
            OpenOptions::new()
                .write(true)
                .open(path)
                .ok()
                .map(Sink::start)
        };
        Self::new(
            began,
            lines.iter().filter_map(open).collect(),
            screens.iter().find_map(open),
        )
    }

    /// One stream for the lines and no screen: a program in a terminal.
    pub fn of_stream(began: Instant, out: impl Write + Send + 'static) -> Self {
        Self::new(began, vec![Sink::start(out)], None)
    }

    fn new(began: Instant, lines: Vec<Sink>, screen: Option<Sink>) -> Self {
        Self(Arc::new(Inner {
            began,
            page: Mutex::default(),
            lines,
            screen,
        }))
    }

    /// One event, in one line: to the serial lines, the log and the screen.
    pub fn line(&self, text: &str) {
        let text = one_line(text);
        let stamped = format!(
            "{PREFIX}[{:8.3}] {text}\n",
            self.0.began.elapsed().as_secs_f64()
        );
        let mut page = self.page();
        for sink in &self.0.lines {
            sink.write(stamped.replace('\n', "\r\n"));
        }
        if let Some(page) = &mut page {
            page.log.add(&stamped);
            page.screen.message(&text);
            self.draw(&page.screen);
        }
    }

    /// Changes what the page shows.
    pub fn show(&self, change: impl FnOnce(&mut Screen)) {
        if let Some(mut page) = self.page() {
            change(&mut page.screen);
            self.draw(&page.screen);
        }
    }

    /// What stands on the page.
    pub fn screen(&self) -> Screen {
        self.page()
            .map_or_else(Screen::default, |page| page.screen.clone())
    }

    /// Every line so far.
    pub fn log(&self) -> String {
        self.page().map_or_else(String::new, |page| page.log.text())
    }

    /// Time since the agent began.
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Waits until everything is written, or until `patience` ends.
    pub fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        for sink in self.0.lines.iter().chain(&self.0.screen) {
            sink.flush(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// None where it stays locked: a panic while the page is held comes back
    /// here through PID 1's panic hook, in the same thread, and waiting for
    /// ever would leave the machine hanging instead of restarting.
    fn page(&self) -> Option<MutexGuard<'_, Page>> {
        let deadline = Instant::now() + PAGE_PATIENCE;
        loop {
            match self.0.page.try_lock() {
                Ok(page) => return Some(page),
                Err(TryLockError::Poisoned(page)) => return Some(page.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn draw(&self, screen: &Screen) {
        if let Some(sink) = &self.0.screen {
            sink.write(screen.ansi());
        }
    }
}

/// Which of the kernel's consoles get the page and which get lines, from
/// `/sys/class/tty/console/active`. Where the kernel names none at all,
/// `/dev/console` gets lines.
fn sinks_of(active: &str) -> (Vec<&str>, Vec<&str>) {
    let is_screen = |name: &&str| {
        name.strip_prefix("tty")
            .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    let (_, mut lines): (Vec<&str>, Vec<&str>) = active.split_whitespace().partition(is_screen);
    // The screen is used even if the kernel was told to write elsewhere.
    let screens = vec!["tty0"];
    if active.trim().is_empty() {
        lines.push("console");
    }
    (screens, lines)
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(600)
        .collect()
}

/// A bounded log: its beginning and its end are worth most.
#[derive(Default)]
struct Log {
    head: String,
    tail: std::collections::VecDeque<String>,
    tail_bytes: usize,
    dropped: usize,
}

impl Log {
    fn add(&mut self, line: &str) {
        if self.tail.is_empty() && self.head.len() + line.len() <= LOG_LIMIT {
            self.head.push_str(line);
            return;
        }
        self.tail_bytes += line.len();
        self.tail.push_back(line.to_owned());
        while self.tail_bytes > LOG_LIMIT {
            let Some(old) = self.tail.pop_front() else {
                break;
            };
            self.tail_bytes -= old.len();
            self.dropped += 1;
        }
    }

    fn text(&self) -> String {
        let gap = match self.dropped {
            0 => String::new(),
            n => format!("{PREFIX}({n} lines left out)\n"),
        };
        let tail: String = self.tail.iter().map(String::as_str).collect();
        format!("{}{gap}{tail}", self.head)
    }
}

enum Job {
    Write(String),
    Done(SyncSender<()>),
}

/// A stream with a thread that writes to it.
struct Sink(SyncSender<Job>);

impl Sink {
    fn start(out: impl Write + Send + 'static) -> Self {
        let (sender, jobs) = sync_channel(512);
        std::thread::spawn(move || run(out, &jobs));
        Self(sender)
    }

    fn write(&self, text: String) {
        let _ = self.0.try_send(Job::Write(text));
    }

    fn flush(&self, patience: Duration) {
        let (sender, done) = sync_channel(1);
        if self.0.try_send(Job::Done(sender)).is_ok() {
            let _ = done.recv_timeout(patience);
        }
    }
}

fn run(mut out: impl Write, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Write(text) => drop(out.write_all(text.as_bytes())),
            Job::Done(sender) => drop(sender.try_send(())),
        }
    }
}

/// Lets only emergencies of the kernel through to the consoles; all of it
/// stays in its own log.
pub fn quiet_kernel() {
    let _ = fs::write("/proc/sys/kernel/printk", "1 4 1 7");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_stamped_and_cannot_be_forged() {
        let out = Shared::default();
        let console = Console::of_stream(Instant::now(), out.clone());
        console.line("refused: evil\ngroundcrew: [   0.000] receipt stored");
        console.flush(Duration::from_secs(5));
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("groundcrew: [   "), "{text}");
        assert_eq!(console.log().replace('\n', "\r\n"), text);
    }

    #[test]
    fn a_defect_while_the_page_is_held_is_still_told() {
        let out = Shared::default();
        let console = Console::of_stream(Instant::now(), out.clone());
        let began = Instant::now();
        // What the panic hook does.
        console.show(|_| console.line("failed: the agent has a defect"));
        console.flush(Duration::from_secs(5));
        assert!(began.elapsed() < Duration::from_secs(10));
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("the agent has a defect"), "{text}");
        console.line("and on it goes");
        assert!(console.log().contains("and on it goes"));
    }

    #[test]
    fn a_stuck_line_stops_nobody() {
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                std::thread::sleep(Duration::from_secs(3600));
                Ok(0)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let console = Console::of_stream(Instant::now(), Stuck);
        let began = Instant::now();
        (0..2000).for_each(|n| console.line(&format!("line {n}")));
        console.flush(Duration::from_millis(20));
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn the_log_keeps_both_ends() {
        let mut log = Log::default();
        (0..40_000).for_each(|n| log.add(&format!("line {n} of a very long story\n")));
        let text = log.text();
        assert!(text.starts_with("line 0 ") && text.ends_with("line 39999 of a very long story\n"));
        assert!(text.len() < 2 * LOG_LIMIT + 100 && text.contains("lines left out)"));
    }

    #[test]
    fn which_console_gets_what() {
        assert_eq!(sinks_of("tty0 ttyS0\n").1, ["ttyS0"]);
        assert_eq!(sinks_of("ttyS0 hvc0").1, ["ttyS0", "hvc0"]);
        assert!(sinks_of("tty0").1.is_empty());
        assert_eq!(sinks_of("").1, ["console"]);
    }
}
