//! The commands: each reads its arguments, does one thing, and says what came
//! of it. Exit status 0 done, 1 failed, 2 wrong usage (clap's).

mod approve;
mod archive;
pub mod args;
mod backup;
mod boot;
mod bundle;
mod client;
pub mod clock;
mod device;
mod explain;
mod hash;
mod hq;
pub mod hq_args;
pub mod hq_region;
mod image;
mod init;
mod inventory;
mod journal;
mod lease;
pub mod logging;
mod net;
pub mod page;
mod secure;
pub mod site_arg;
mod stick;
mod table;
mod transfer;
mod trust;

use std::process::ExitCode;

use args::{CheckArgs, Command};

use crate::check;
use crate::site::Site;

/// Runs one command.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(args) => init::run(&args),
        Command::Check(args) => run_check(&args),
        Command::Serve(args) => {
            crate::serve::run(&Site::at(args.site.dir)).map(|()| ExitCode::SUCCESS)
        }
        Command::Image(command) => image::run(command),
        Command::Device(command) => device::run(command),
        Command::Bundle(command) => bundle::run(command),
        Command::Journal(command) => journal::run(command),
        Command::Lease(command) => lease::run(command),
        Command::Net(command) => net::run(command),
        Command::Page(command) => page::run(command),
        Command::Boot(command) => boot::run(command),
        Command::Backup(args) => backup::backup(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Hash(command) => hash::run(command),
        Command::Profile(command) => explain::profile(command),
        Command::Hq(command) => hq::run(command),
        Command::Clock(command) => clock::run(command),
        Command::Trust(command) => trust::run(command),
        Command::Stick(command) => stick::run(command),
    }
}

fn run_check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let wire = if args.quiet_wire {
        check::Wire::Quiet
    } else {
        check::Wire::Ask
    };
    let findings = check::run(&Site::at(&args.site.dir), wire);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", check::render(&findings));
    }
    let problem = findings
        .iter()
        .any(|finding| finding.level == check::Level::Problem);
    Ok(if problem {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_command_has_two_options_of_one_name() {
        super::args::Cli::command().debug_assert();
    }
}
