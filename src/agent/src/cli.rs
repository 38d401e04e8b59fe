//! The command line. By hand: the agent travels in every boot image, and an
//! argument parser would be a tenth of it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cmdline::Address;

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be PID 1: provision this machine.
    Init,
    /// Print the hardware report.
    Report(Form),
    /// Become a program inside the installed system: `exec-in-root ROOT --
    /// PROGRAM…`, as [`crate::apply::ChrootRunner`] starts it.
    ExecInRoot {
        /// The system's root.
        root: PathBuf,
        /// The program and its arguments.
        argv: Vec<OsString>,
    },
    /// Provision this machine from the stick it was started from.
    Provision,
    /// Bring the network up for an appliance on a stick; its address where
    /// nobody gives it one.
    Network(Address),
    /// A request of the kernel for a module.
    Modprobe(String),
    /// Print the version.
    Version,
    /// Print [`HELP`].
    Help,
}

/// How the report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table for people.
    Table,
    /// JSON.
    Json,
    /// An Autopilot CSV file with one row.
    Csv,
    /// A QR code for the terminal.
    Qr,
}

/// Arguments that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}\nTry `groundcrew-agent --help`.")]
pub struct UsageError(String);

/// The help text.
pub const HELP: &str = "\
groundcrew-agent: provisions the machine it runs on

Usage:
  groundcrew-agent report [FORM]     print what this machine says of its
                                     hardware (as root: with serial numbers)
      --json   all of it, for programs
      --csv    an Autopilot CSV file with a 4K hardware hash, for
               `groundcrew device import` or Intune
      --qr     a QR code of manufacturer,model,serial
  groundcrew-agent init              provision this machine; only as the first
                                     process of a groundcrew boot image
  groundcrew-agent --version
  groundcrew-agent --help

As the first process (PID 1) it reads gc.mac, gc.ip, gc.mask, gc.gw, gc.server,
gc.http and gc.https from the kernel's command line; without gc.ip and gc.mask
it asks DHCP.

Exit status: 0 done, 1 failed, 2 wrong usage.
";

impl Command {
    /// Reads the arguments (without the program's name). The kernel hands its
    /// own unknown words to PID 1, so that one ignores them.
    pub fn parse(args: &[OsString], pid: u32) -> Result<Self, UsageError> {
        // What is not text matches nothing but a program's arguments.
        let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("?")).collect();
        if pid == 1 {
            return Ok(Self::Init);
        }
        match words.as_slice() {
            ["report"] => Ok(Self::Report(Form::Table)),
            ["report", "--json"] => Ok(Self::Report(Form::Json)),
            ["report", "--csv"] => Ok(Self::Report(Form::Csv)),
            ["report", "--qr"] => Ok(Self::Report(Form::Qr)),
            ["report", "--help" | "-h"] => Ok(Self::Help),
            ["report", form, ..] => Err(UsageError(format!(
                "`report` takes --json, --csv or --qr, not `{}`",
                groundcrew_core::ids::shown(form)
            ))),
            ["init"] => Err(UsageError(
                "`init` provisions and restarts the machine; it runs only as PID 1 of a boot image"
                    .into(),
            )),
            ["provision"] => Ok(Self::Provision),
            ["network", own] => own
                .parse()
                .map(Self::Network)
                .map_err(|()| UsageError("`network` takes an address as 10.77.0.1/24".into())),
            ["exec-in-root", root, "--", ..] => Ok(Self::ExecInRoot {
                root: root.into(),
                argv: args.iter().skip(3).cloned().collect(),
            }),
            // The form in which the kernel calls modprobe.
            ["-q", "--", name] => Ok(Self::Modprobe((*name).to_owned())),
            ["--version" | "-V"] => Ok(Self::Version),
            ["--help" | "-h" | "help"] => Ok(Self::Help),
            [] => Err(UsageError("what is to be done?".into())),
            [first, ..] => Err(UsageError(format!(
                "`{}` is not understood",
                groundcrew_core::ids::shown(first)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str], pid: u32) -> Result<Command, UsageError> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Command::parse(&args, pid)
    }

    #[test]
    fn pid_1_provisions_whatever_the_kernel_hands_it() {
        assert_eq!(parse(&["splash", "--nonsense"], 1), Ok(Command::Init));
        assert!(parse(&["init"], 77).is_err(), "never on a running machine");
    }

    #[test]
    fn subcommands() {
        assert_eq!(
            parse(&["report", "--json"], 9),
            Ok(Command::Report(Form::Json))
        );
        assert_eq!(
            parse(&["report", "--csv"], 9),
            Ok(Command::Report(Form::Csv))
        );
        assert!(parse(&["report", "--csv", "--qr"], 9).is_err());
        assert_eq!(
            parse(&["-q", "--", "fs-ext4"], 9),
            Ok(Command::Modprobe("fs-ext4".into()))
        );
        assert_eq!(parse(&["--version"], 9), Ok(Command::Version));
        assert_eq!(parse(&["provision"], 9), Ok(Command::Provision));
        assert!(matches!(
            parse(&["network", "10.77.0.1/24"], 9),
            Ok(Command::Network(Address { prefix: 24, .. }))
        ));
        for bad in ["10.77.0.1", "10.77.0.1/33", "/24"] {
            assert!(parse(&["network", bad], 9).is_err(), "{bad}");
        }
        assert!(parse(&[], 9).is_err() && parse(&["report", "--yaml"], 9).is_err());
        assert!(HELP.lines().all(|line| line.len() <= 80));
    }
}
