//! The program on the device; `/init` of the boot image.

use std::io::Write as _;
use std::process::ExitCode;

use groundcrew_agent::cli::{Command, Form, HELP};
use groundcrew_agent::{apply, hardware, init, modules, report, stick};
use groundcrew_core::UnixTime;

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
        Command::Report(form) => print_report(form),
        Command::ExecInRoot { root, argv } => {
            let error = apply::exec_in_root(&root, &argv);
            eprintln!("{error}");
            ExitCode::from(127)
        }
        Command::Provision => stick::provision(),
        Command::Network(own) => stick::network(own),
        Command::Modprobe(name) => {
            let loaded = modules::serve_request(&name);
            ExitCode::from(u8::from(loaded.unwrap_or(0) == 0))
        }
        Command::Version => print(&format!("groundcrew-agent {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Help => print(HELP),
    }
}

fn print_report(form: Form) -> ExitCode {
    let hardware = hardware::gather();
    let text = match form {
        Form::Table => Ok(hardware::table(&hardware)),
        Form::Json => serde_json::to_string_pretty(&hardware)
            .map(|text| text + "\n")
            .map_err(|error| error.to_string()),
        Form::Csv => report::csv(&hardware, clock()).map_err(|error| error.to_string()),
        Form::Qr => report::qr(&hardware).ok_or_else(|| "it does not fit in a QR code".to_owned()),
    };
    match text {
        Ok(text) => print(&text),
        Err(error) => {
            eprintln!("groundcrew-agent: writing the report: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The clock, whatever it says: the hash carries it as a remark.
fn clock() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::new(since.map_or(0, |since| since.as_secs()))
}

/// A closed pipe is no panic.
fn print(text: &str) -> ExitCode {
    let written = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(written.is_err()))
}
