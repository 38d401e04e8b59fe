//! What runs on a stick: `groundcrew stick run`, started by the agent, which is
//! PID 1 and loads drivers. By its exit status the machine restarts (0) or is
//! switched off (10); 11 says that the stick was pulled.

mod appliance;
mod check;
mod clock;
mod input;
mod medium;
mod provision;
mod screens;
mod service;
mod terminal;
mod unlock;
mod wire;

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Mode;
use super::gpt::Guid;
use medium::Stick;
use provision::Done;
use terminal::Terminal;

/// The agent's program, which is PID 1 here and does some work by name.
const AGENT: &str = "/init";
/// How long an error stays on the screen where nobody presses Enter.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Restart,
    PowerOff,
    /// Nothing more can be written; the agent says so, as PID 1 does when the
    /// store ends this program.
    Pulled,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::Restart => Self::SUCCESS,
            End::PowerOff => Self::from(10),
            End::Pulled => Self::from(11),
        }
    }
}

/// What the menu handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    mode: Mode,
    data: Guid,
}

impl Start {
    fn read(cmdline: &str) -> anyhow::Result<Self> {
        let word = |key: &str| {
            let mut words = cmdline.split_ascii_whitespace();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let mode = word("groundcrew.stick").context("this machine was not started from a stick")?;
        let data = word("groundcrew.data").context("the menu names no data partition")?;
        Ok(Self {
            mode: mode.parse()?,
            data: data.parse().context("groundcrew.data")?,
        })
    }
}

/// Does what the menu said, and returns how the machine ends.
pub fn run() -> anyhow::Result<ExitCode> {
    // On any other machine this would take over the console of whoever typed it.
    ensure!(
        Path::new(AGENT).exists() && std::env::var_os("HOME").is_none_or(|home| home == "/"),
        "`stick run` is what a stick starts by itself; `groundcrew stick build` makes one"
    );
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let start = Start::read(&cmdline)?;
    log_elsewhere();
    let mut terminal = Terminal::open();
    let done = match start.mode {
        Mode::Check => check::run(&mut terminal),
        mode => with_stick(&mut terminal, start.data, mode),
    };
    let end = done.unwrap_or_else(|error| {
        let advice = medium::advice(&error).map(|text| format!("{text}\n"));
        terminal.say(&format!(
            "\ngroundcrew stick: failed: {error:#}\n{}Enter starts the machine again.\n",
            advice.unwrap_or_default()
        ));
        terminal.wait(PATIENCE, || false);
        End::Restart
    });
    Ok(end.into())
}

fn with_stick(terminal: &mut Terminal, data: Guid, mode: Mode) -> anyhow::Result<End> {
    terminal.page(&["groundcrew: looking for the stick's data ...".to_owned()]);
    let mut stick = Stick::find(data)?;
    let notes = stick.mount()?;
    let done = opened(terminal, &stick, &notes, mode);
    // Whatever went wrong then, this is why.
    if done.is_err() && !stick.is_there() {
        return Ok(End::Pulled);
    }
    stick.unmount();
    match done? {
        Done::End(end) => Ok(end),
        Done::Provisioned => {
            terminal.say(
                "\ngroundcrew stick: provisioned. Pull the stick out now; the machine starts its own system.\n",
            );
            terminal.wait(Duration::from_secs(20), || !stick.is_there());
            Ok(End::Restart)
        }
        Done::NotProvisioned => {
            terminal.say(
                "\ngroundcrew stick: this machine was not provisioned; what stopped it stands above.\n\
                 Enter starts the machine again.\n",
            );
            terminal.wait(PATIENCE, || !stick.is_there());
            Ok(End::Restart)
        }
    }
}

/// What is done with a mounted stick.
fn opened(
    terminal: &mut Terminal,
    stick: &Stick,
    notes: &[String],
    mode: Mode,
) -> anyhow::Result<Done> {
    let coming = (mode == Mode::Appliance).then(wire::Coming::begin);
    let mut kept = unlock::unlock(terminal, stick)?;
    for note in notes {
        terminal.say(&format!("{note}\n"));
    }
    clock::settle(terminal, &unlock::site())?;
    match coming {
        Some(coming) => appliance::run(terminal, stick, &mut kept, coming?),
        None => provision::run(terminal, &mut kept),
    }
}

/// Log lines go to the serial line, or, where there is none, into memory: the
/// screen is for pages.
fn log_elsewhere() {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let serial = active
        .split_whitespace()
        .find(|name| name.starts_with("ttyS"));
    let path = serial.map_or("/run/stick.log".to_owned(), |name| format!("/dev/{name}"));
    let mut options = OpenOptions::new();
    options.append(true).create(serial.is_none());
    if let Ok(file) = options.open(path) {
        let _ = rustix::stdio::dup2_stderr(&file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_menu_hands_over() {
        let text = "BOOT_IMAGE=/vmlinuz groundcrew.stick=appliance \
                    groundcrew.data=7b1d0e52-4c2c-4e0b-9a51-6f2e4f454d01 console=tty0\n";
        assert_eq!(Start::read(text).unwrap().mode, Mode::Appliance);
        for bad in [
            "quiet",
            "groundcrew.stick=fly groundcrew.data=7b1d0e52-4c2c-4e0b-9a51-6f2e4f454d01",
            "groundcrew.stick=check",
            "groundcrew.stick=check groundcrew.data=7",
        ] {
            assert!(Start::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn not_on_a_machine_of_somebody_s() {
        let error = run().unwrap_err().to_string();
        assert!(error.contains("stick"), "{error}");
    }
}
