//! The `groundcrew` program: arguments in, exit status out. Everything else is
//! in the library beside it.

use std::process::ExitCode;

use clap::Parser as _;
use groundcrew::cli;

fn main() -> ExitCode {
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
