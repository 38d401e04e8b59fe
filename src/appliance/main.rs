//! The `groundcrew` program: arguments in, exit status out. Everything else is
//! in the library beside it.

use std::process::ExitCode;

use clap::Parser as _;
use groundcrew::cli;

fn main() -> ExitCode {
    quiet_on_closed_pipe();
    let arguments = cli::args::Cli::parse();
    cli::logging::start(&arguments);
    match cli::run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("groundcrew: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `groundcrew device list | head` is no fault: when the reader of our output
/// has gone, the program ends without a word.
fn quiet_on_closed_pipe() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") {
            std::process::exit(0);
        }
        usual(panic);
    }));
}
