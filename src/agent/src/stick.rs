//! Started from a stick: the appliance's own program lies beside the agent and
//! decides what happens; the agent stays PID 1, loads drivers for it, and ends
//! the machine as it says.

use std::fs::OpenOptions;
use std::io::{BufReader, Read as _};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, WaitStatus};

use crate::cmdline::{Address, BootArgs};
use crate::console::Console;
use crate::modules::Loader;
use crate::{net, processes, provision};

/// The appliance's program, from the stick's second initrd.
const PROGRAM: &str = "/groundcrew";
/// With this exit status the program asks for the power to be switched off.
const POWER_OFF: i32 = 10;
/// With this one it says that the stick is gone.
const PULLED: i32 = 11;
/// Its log, where there is no serial line.
const LOG: &str = "/run/stick.log";
/// How long a fault stays on the screen where nobody presses Enter.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the machine is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Start again.
    Restart,
    /// Switch off.
    PowerOff,
}

/// Whether this start is a stick's: `groundcrew.stick=MODE` was given.
pub fn wanted() -> bool {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    text.split_ascii_whitespace()
        .any(|word| word.starts_with("groundcrew.stick="))
}

/// Runs the program to its end, and waits for everybody's orphans meanwhile.
pub fn run(console: &Console) -> End {
    let child = match Command::new(PROGRAM).args(["stick", "run"]).spawn() {
        Ok(child) => child,
        Err(error) => {
            console.line(&format!(
                "failed: {PROGRAM} cannot be started: {error}; build the stick anew"
            ));
            return End::Restart;
        }
    };
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == child.id() => {
                return ending(console, status);
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return End::Restart,
        }
    }
}

fn ending(console: &Console, status: WaitStatus) -> End {
    let end = match status.exit_status() {
        Some(POWER_OFF) => return End::PowerOff,
        Some(0) => return End::Restart,
        Some(PULLED) => Fault::Pulled,
        // What it must remember before it answers could not be written.
        Some(1) => Fault::Unwritten,
        _ => Fault::Defect,
    };
    // Who still works has nobody to work for, and would write over this.
    processes::end_other_processes();
    let log = std::fs::read_to_string(LOG).unwrap_or_default();
    for line in last_words(end, &log) {
        console.line(&line);
    }
    console.flush(Duration::from_secs(2));
    wait_for_enter();
    End::Restart
}

/// Why a stick's program ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Pulled,
    Unwritten,
    Defect,
}

/// What stands on the screen then.
fn last_words(fault: Fault, log: &str) -> Vec<String> {
    let (what, advice) = match fault {
        Fault::Pulled => (
            "failed: THE STICK WAS PULLED: nothing more is accepted",
            "What devices were told is on the stick. Put it back in, then press Enter.",
        ),
        Fault::Unwritten => (
            "failed: THE STICK COULD NOT BE WRITTEN: it is full, worn out or pulled",
            "What devices were told is on it: `groundcrew stick backup` elsewhere saves it.",
        ),
        Fault::Defect => (
            "failed: the stick's program ended by a fault",
            "What devices were told is on the stick.",
        ),
    };
    let mut lines = vec![what.to_owned()];
    let last = log.lines().rev().find(|line| line.contains("ERROR"));
    lines.extend(last.map(crate::console::clean));
    lines.push(advice.to_owned());
    lines.push("Enter starts the machine again (by itself after 2 minutes)".to_owned());
    lines
}

/// On any keyboard or serial line that the kernel speaks on.
fn wait_for_enter() {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let (sender, keys) = channel();
    for name in active.split_whitespace().chain(["tty0"]) {
        let sender = sender.clone();
        let path = format!("/dev/{name}");
        let Ok(file) = OpenOptions::new().read(true).open(path) else {
            continue;
        };
        std::thread::spawn(move || {
            let keys = BufReader::new(file).bytes().map_while(Result::ok);
            for key in keys.filter(|key| matches!(key, b'\r' | b'\n')) {
                let _ = sender.send(key);
            }
        });
    }
    let _ = keys.recv_timeout(PATIENCE);
}

/// `groundcrew-agent provision`, as the stick's program calls it: the same run
/// as after a start from the network, with the appliance on loopback.
pub fn provision() -> ExitCode {
    if !wanted() {
        eprintln!("groundcrew-agent: `provision` is for machines that were started from a stick");
        return ExitCode::from(2);
    }
    let console = Console::of_machine(Instant::now());
    let good = provision::run(&console, &Arc::new(Loader::open()));
    console.flush(std::time::Duration::from_secs(2));
    ExitCode::from(u8::from(!good))
}

/// `groundcrew-agent network ADDRESS`, as the stick's program calls it: brings
/// the wired network up, says in one line how, and keeps a lease alive until
/// it is ended.
pub fn network(own: Address) -> ExitCode {
    let said = net::for_appliance(&BootArgs::default(), own, &|text| eprintln!("{text}"));
    match said {
        Ok((network, leased)) => {
            let from = if leased { "leased" } else { "own" };
            println!(
                "{} {} {} {from}",
                network.interface, network.mac, network.address
            );
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            // The stick's program shows it, and tries again.
            println!("none {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_s_words_fit_the_screen_and_say_what_to_do() {
        let log = "INFO ready\nERROR cannot write the registry: disk I/O error\nINFO x\n";
        for fault in [Fault::Pulled, Fault::Unwritten, Fault::Defect] {
            let lines = last_words(fault, log);
            assert!(lines.len() < 8 && lines.iter().all(|line| line.len() <= 79));
            let text = lines.join("\n");
            assert!(
                text.contains("disk I/O error") && text.contains("Enter"),
                "{text}"
            );
        }
        assert_eq!(last_words(Fault::Pulled, "").len(), 3);
        assert!(last_words(Fault::Pulled, "")[0].contains("PULLED: nothing more is accepted"));
    }
}
