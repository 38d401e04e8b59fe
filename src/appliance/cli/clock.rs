//! `groundcrew clock …`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use groundcrew_core::UnixTime;

use super::site_arg::SiteArg;
use crate::clock;
use crate::site::{Site, time};

/// `groundcrew clock`.
#[derive(Debug, Subcommand)]
pub enum ClockCommand {
    /// Say what the clock says, what is proven past, and whether it is believed
    #[command(after_help = "\
Example:
  groundcrew clock show --site /srv/gc/site

Exit status 1 where the clock is not believed.")]
    Show(ClockShowArgs),
    /// Say what time it is: sets this machine's clock, and keeps it in mind
    #[command(after_help = "\
Examples:
  groundcrew clock set '2026-11-23 10:00'
  groundcrew clock set 2026-11-23T10:00:00Z

The time is UTC. A later start with a clock behind it is noticed. A slip can be mended by
another `set`, but not behind what the site has signed or recorded since.")]
    Set(ClockSetArgs),
}

/// `groundcrew clock show`.
#[derive(Debug, Args)]
pub struct ClockShowArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew clock set`.
#[derive(Debug, Args)]
pub struct ClockSetArgs {
    /// What time it is, in UTC: 'YYYY-MM-DD HH:MM'
    #[arg(value_parser = parse)]
    pub time: UnixTime,
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
}

/// Reads a time as people write it, with or without seconds, `Z` or their zone.
fn parse(text: &str) -> Result<UnixTime, String> {
    let wrong = "write it in UTC as '2026-11-23 10:00', or with your zone as '2026-11-23 12:00 +2'";
    time::spoken(text).ok_or_else(|| wrong.to_owned())
}

/// Carries it out.
pub fn run(command: ClockCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClockCommand::Show(args) => show(&args),
        ClockCommand::Set(args) => set(&args).map(|()| ExitCode::SUCCESS),
    }
}

fn show(args: &ClockShowArgs) -> anyhow::Result<ExitCode> {
    let standing = time::standing(&Site::at(&args.site.dir), clock::read())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&standing)?);
    } else {
        print!("{}", time::render(&standing));
    }
    Ok(if standing.credible {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn set(args: &ClockSetArgs) -> anyhow::Result<()> {
    let site = Site::at(&args.site.dir);
    site.settings()?;
    time::decide(&site, args.time, clock::read(), clock::set)?;
    let standing = time::standing(&site, clock::read()).context("looking at the clock again")?;
    print!("{}", time::render(&standing));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn people_s_spellings_are_read() {
        let time = parse("2026-11-23 10:00").unwrap();
        assert_eq!(time.to_string(), "2026-11-23T10:00:00Z");
        for same in [
            "2026-11-23T10:00",
            "2026-11-23 10:00:00",
            "2026-11-23T10:00:00Z",
        ] {
            assert_eq!(parse(same), Ok(time), "{same}");
        }
        for wrong in [
            "",
            "10:00",
            "23.11.2026 10:00",
            "2026-11-23 25:00",
            "2026-02-30 10:00",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
