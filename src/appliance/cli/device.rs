//! `groundcrew device …`.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::args::{DeviceCommand, DeviceFindArgs, DeviceShowArgs};
use super::{approve, client, explain, inventory, table, transfer};
use crate::office::{Command, DeviceView, Outcome, every_device};
use crate::site::Site;

pub fn run(command: DeviceCommand) -> anyhow::Result<ExitCode> {
    let (site, command) = match command {
        DeviceCommand::List(args) => return list(&args),
        DeviceCommand::Show(args) => return show(&args),
        DeviceCommand::Import(args) => return inventory::import(&args),
        DeviceCommand::Export(args) => return inventory::export(&args),
        DeviceCommand::Transfer(args) => return transfer::transfer(&args),
        DeviceCommand::Receive(args) => return transfer::receive(&args),
        DeviceCommand::Explain(args) => return explain::explain(&args),
        DeviceCommand::Approve(args) => return approve::approve(&args),
        DeviceCommand::Reject(args) => (
            args.site,
            Command::Reject {
                device: args.id,
                reason: args.reason,
            },
        ),
        DeviceCommand::Hold(args) => (
            args.site,
            Command::Hold {
                device: args.id,
                reason: args.reason,
            },
        ),
        DeviceCommand::Tag(args) => (
            args.site,
            Command::Tag {
                device: args.id,
                tag: args.tag,
            },
        ),
        DeviceCommand::Retire(args) => (
            args.site,
            Command::Retire {
                device: args.id,
                reason: args.reason,
            },
        ),
        DeviceCommand::Reprovision(args) => (args.site, Command::Reprovision(args.id)),
        DeviceCommand::Release(args) => (args.site, Command::Release(args.id)),
        DeviceCommand::Accept(args) => (args.site, Command::Accept(args.id)),
        DeviceCommand::Forget(args) => (args.site, Command::Forget(args.id)),
    };
    match client::execute(&Site::at(site.dir), command)? {
        Outcome::Done(line) => println!("{line}"),
        _ => anyhow::bail!("the appliance answered something else"),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &DeviceFindArgs) -> anyhow::Result<ExitCode> {
    let narrowed = args.find.is_some() || args.phase.is_some() || args.limit.is_some();
    let text = args.find.clone().unwrap_or_default();
    let link = client::connect(&Site::at(&args.site.dir))?;
    let (devices, matching) = match args.limit {
        None => (
            every_device(&text, args.phase.as_deref(), |command| {
                link.execute(command)
            })?,
            None,
        ),
        Some(limit) => {
            let command = Command::FindDevices {
                text,
                phase: args.phase.clone(),
                skip: 0,
                limit,
            };
            match link.execute(command)? {
                Outcome::Found(found) => (found.devices, Some(found.matching)),
                _ => anyhow::bail!("the appliance answered something else"),
            }
        }
    };
    if !args.json && narrowed && devices.is_empty() {
        println!("No device fits.");
    } else if args.json {
        println!("{}", serde_json::to_string_pretty(&devices)?);
    } else if devices.is_empty() {
        println!("No device is known yet. Register some with `groundcrew device import FILE.csv`,");
        println!("or switch one on: it boots from the network and waits here for its approval.");
    } else {
        print!("{}", overview(&devices, table::terminal_width(200)));
        if let Some(more) = matching
            .and_then(|all| all.checked_sub(devices.len()))
            .filter(|n| *n > 0)
        {
            println!("\n{more} more fit; raise --limit to see them");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn overview(devices: &[DeviceView], width: usize) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = devices
        .iter()
        .map(|device| {
            let code = device
                .code
                .map_or_else(|| "-".to_owned(), |code| code.to_string());
            let what = device
                .progress
                .clone()
                .or_else(|| device.reason.clone())
                .or_else(|| device.bundle.clone());
            vec![
                device.id.to_string(),
                device.state.clone(),
                code,
                text(&device.serial),
                text(&device.model),
                what.unwrap_or_default(),
            ]
        })
        .collect();
    let mut out = table::render(
        &["ID", "STATE", "CODE", "SERIAL", "MODEL", ""],
        &rows,
        width,
    );
    if let Some(waiting) = devices.iter().find(|device| device.code.is_some()) {
        let _ = writeln!(out, "\nCompare the code with the device's screen, then:");
        let _ = writeln!(out, "  groundcrew device approve {} CODE", waiting.id);
    }
    out
}

fn show(args: &DeviceShowArgs) -> anyhow::Result<ExitCode> {
    let site = Site::at(&args.site.dir);
    if args.log {
        return show_log(&site, args);
    }
    let Outcome::Device(device) = client::execute(&site, Command::ShowDevice(args.id.clone()))?
    else {
        anyhow::bail!("the appliance answered something else");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&device)?);
    } else {
        print!("{}", details(&device, table::terminal_width(80)));
    }
    Ok(ExitCode::SUCCESS)
}

fn show_log(site: &Site, args: &DeviceShowArgs) -> anyhow::Result<ExitCode> {
    let Outcome::Log(log) = client::execute(site, Command::DeviceLog(args.id.clone()))? else {
        anyhow::bail!("the appliance answered something else");
    };
    match log {
        log if args.json => {
            let log = serde_json::json!({ "device": args.id, "log": log });
            println!("{}", serde_json::to_string_pretty(&log)?);
        }
        Some(text) => print!("{text}"),
        None => println!("{} has sent no log.", args.id),
    }
    Ok(ExitCode::SUCCESS)
}

fn details(device: &DeviceView, width: usize) -> String {
    let since = device
        .since
        .map(|since| format!(" since {since}"))
        .unwrap_or_default();
    let mut out = format!("{} is {}{since}\n", device.id, device.state);
    let macs = (!device.macs.is_empty()).then(|| device.macs.join(", "));
    let fields = [
        ("code", device.code.map(|code| code.to_string())),
        ("because", device.reason.clone()),
        ("doing", device.progress.clone()),
        ("maker", device.manufacturer.clone()),
        ("model", device.model.clone()),
        ("serial", device.serial.clone()),
        ("uuid", device.uuid.clone()),
        ("macs", macs),
        ("tag", device.tag.as_ref().map(ToString::to_string)),
        ("profile", device.profile.as_ref().map(ToString::to_string)),
        ("bundle", device.bundle.clone()),
    ];
    let rows: Vec<(&str, String)> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    out.push_str(&table::fields(&rows, width));
    out
}
