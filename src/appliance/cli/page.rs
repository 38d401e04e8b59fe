//! `groundcrew page …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client;
use super::site_arg::SiteArg;
use crate::office::{Command, Outcome};
use crate::page;
use crate::site::Site;

/// `groundcrew page`.
#[derive(Debug, Subcommand)]
pub enum PageCommand {
    /// Say where the status page is, and the set-up code that opens it
    #[command(after_help = "\
Examples:
  groundcrew page code
  groundcrew page code --new     make another code, and log everybody out

The code is made when `groundcrew serve` starts, and is never written to a log or a disk.")]
    Code(PageCodeArgs),
}

/// `groundcrew page code`.
#[derive(Debug, Args)]
pub struct PageCodeArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Make a new code and log everybody out
    #[arg(long)]
    pub new: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Carries it out.
pub fn run(command: PageCommand) -> anyhow::Result<ExitCode> {
    let PageCommand::Code(args) = command;
    let order = Command::PageCode { renew: args.new };
    let Outcome::Page(code) = client::execute(&Site::at(&args.site.dir), order)? else {
        anyhow::bail!("the appliance answered something else");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&code)?);
    } else {
        print!("{}", page::invitation(&code));
    }
    Ok(ExitCode::SUCCESS)
}
