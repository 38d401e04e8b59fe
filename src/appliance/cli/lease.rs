//! `groundcrew lease …`.

use std::process::ExitCode;

use super::args::{DeviceListArgs, LeaseCommand};
use super::{client, table};
use crate::lan::LeaseView;
use crate::office::{Command, Outcome};
use crate::site::Site;

pub fn run(command: LeaseCommand) -> anyhow::Result<ExitCode> {
    match command {
        LeaseCommand::List(args) => list(&args),
        LeaseCommand::Release(args) => {
            let site = Site::at(&args.site.dir);
            match client::execute(&site, Command::ReleaseLease(args.ip))? {
                Outcome::Done(line) => println!("{line}"),
                _ => anyhow::bail!("the appliance answered something else"),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(args: &DeviceListArgs) -> anyhow::Result<ExitCode> {
    let Outcome::Leases(leases) = client::execute(&Site::at(&args.site.dir), Command::ListLeases)?
    else {
        anyhow::bail!("the appliance answered something else");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&leases)?);
    } else if leases.is_empty() {
        println!("No address was given yet.");
    } else {
        print!("{}", overview(&leases, table::terminal_width(200)));
    }
    Ok(ExitCode::SUCCESS)
}

fn overview(leases: &[LeaseView], width: usize) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let row = |lease: &LeaseView| {
        vec![
            lease.ip.to_string(),
            lease.state.clone(),
            lease.mac.clone(),
            lease.expires.to_string(),
            text(&lease.interface),
            text(&lease.hostname),
            text(&lease.uuid),
        ]
    };
    let rows: Vec<_> = leases.iter().map(row).collect();
    let header = ["ADDRESS", "STATE", "MAC", "UNTIL", "ON", "NAME", "UUID"];
    table::render(&header, &rows, width)
}
