//! `groundcrew journal …`.

use std::process::ExitCode;

use super::args::{DeviceListArgs, JournalCommand};
use super::client;
use crate::office::{Command, Outcome};
use crate::site::Site;

pub fn run(command: JournalCommand) -> anyhow::Result<ExitCode> {
    match command {
        JournalCommand::Show(args) => show(&args),
        JournalCommand::Verify(args) => verify(&args),
    }
}

fn lines(args: &DeviceListArgs) -> anyhow::Result<Vec<String>> {
    match client::execute(&Site::at(&args.site.dir), Command::Journal)? {
        Outcome::Journal(lines) => Ok(lines),
        _ => anyhow::bail!("the appliance answered something else"),
    }
}

fn show(args: &DeviceListArgs) -> anyhow::Result<ExitCode> {
    for line in lines(args)? {
        if args.json {
            println!("{line}");
        } else {
            println!("{}", crate::office::describe_entry(&line)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &DeviceListArgs) -> anyhow::Result<ExitCode> {
    let lines = lines(args)?;
    let settings = Site::at(&args.site.dir).settings()?;
    let head = crate::office::verify_journal(&settings.site, &lines)?;
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "entries": lines.len(), "head": head })
        );
    } else {
        println!(
            "{} entries, every one in its place; the last one's hash is\n{head}",
            lines.len()
        );
    }
    Ok(ExitCode::SUCCESS)
}
