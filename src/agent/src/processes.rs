//! The processes beside this one, as PID 1 has to see to them.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// Waits for children nobody else waits for: what a bundle's command left
/// behind becomes a child of PID 1. To be called only while no command of our
/// own runs, or its status would be taken away.
pub fn reap_orphans() {
    if std::process::id() == 1 {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

/// Ends every other process: a daemon that a command started would hold the
/// installed system's file system.
pub fn end_other_processes() {
    if std::process::id() != 1 {
        return;
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let others = other_processes();
        if others.is_empty() {
            return;
        }
        for pid in others {
            let _ = rustix::process::kill_process(pid, signal);
        }
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline && !other_processes().is_empty() {
            reap_orphans();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Every process with a program: kernel threads have none.
fn other_processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = |entry: fs::DirEntry| {
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        let has_program = fs::read_link(entry.path().join("exe")).is_ok();
        Pid::from_raw(number).filter(|_| number > 1 && has_program)
    };
    entries.filter_map(pid).collect()
}
