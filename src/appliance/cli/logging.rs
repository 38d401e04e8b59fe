//! Where log lines go, and how many. Answers of commands go to standard
//! output, log lines to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::args::{Cli, Command};

/// Starts logging for one run of the program.
pub fn start(arguments: &Cli) {
    let serving = matches!(
        arguments.command,
        Command::Serve(_) | Command::Stick(super::stick::StickCommand::Run)
    );
    let level = match (serving, arguments.verbose) {
        (false, 0) => "warn",
        (true, 0) | (false, 1) => "info",
        (true, 1) | (false, 2) => {
            "groundcrew=debug,groundcrew_core=debug,groundcrew_registry=debug,groundcrew_netboot=debug,info"
        }
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match &arguments.command {
        Command::Serve(serve) if serve.log_json => lines.json().init(),
        // journald stamps lines itself and shows no colours.
        _ if std::env::var_os("JOURNAL_STREAM").is_some() => {
            lines.without_time().with_ansi(false).init();
        }
        _ => lines.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
