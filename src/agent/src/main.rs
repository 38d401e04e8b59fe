//! The program on the device; `/init` of the boot image.

use std::io::Write as _;
use std::process::ExitCode;

use groundcrew_agent::cli::{Command, HELP};
use groundcrew_agent::{apply, hardware, init, modules};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let command = match Command::parse(&args, std::process::id()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("groundcrew-agent: {error}");
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Init => init::run(),
        Command::Report { json } => report(json),
        Command::ExecInRoot { root, argv } => {
            let error = apply::exec_in_root(&root, &argv);
            eprintln!("{error}");
            ExitCode::from(127)
        }
        Command::Modprobe(name) => {
            let loaded = modules::serve_request(&name);
            ExitCode::from(u8::from(loaded.unwrap_or(0) == 0))
        }
        Command::Version => print(&format!("groundcrew-agent {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Help => print(HELP),
    }
}

fn report(json: bool) -> ExitCode {
    let report = hardware::gather();
    if !json {
        return print(&hardware::table(&report));
    }
    match serde_json::to_string_pretty(&report) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => {
            eprintln!("groundcrew-agent: writing the report: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A closed pipe is no panic.
fn print(text: &str) -> ExitCode {
    let written = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(written.is_err()))
}
