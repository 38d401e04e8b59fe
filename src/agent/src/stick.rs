//! Started from a stick: the appliance's own program lies beside the agent and
//! decides what happens; the agent stays PID 1, loads drivers for it, and ends
//! the machine as it says.

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{WaitOptions, WaitStatus};

use crate::cmdline::{Address, BootArgs};
use crate::console::Console;
use crate::modules::Loader;
use crate::{net, provision};

/// The appliance's program, from the stick's second initrd.
const PROGRAM: &str = "/groundcrew";
/// With this exit status the program asks for the power to be switched off.
const POWER_OFF: i32 = 10;

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
    match status.exit_status() {
        Some(POWER_OFF) => End::PowerOff,
        Some(0) => End::Restart,
        // What it must remember before it answers could not be written.
        Some(1) => {
            console.line("failed: the stick could not be written: it is full, worn out or pulled");
            End::Restart
        }
        _ => {
            console.line("failed: the stick's program ended by a fault");
            End::Restart
        }
    }
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
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
