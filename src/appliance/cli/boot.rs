//! `groundcrew boot …`: what happened to a device, why, and what to do.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use groundcrew_core::hardware::identity::clean;
use groundcrew_netboot::story::{Cause, Names, Past, State, pcap, tell};

use super::site_arg::SiteArg;
use super::{client, table};
use crate::flight::{StoryLine, StoryView};
use crate::office::{Command, Outcome};
use crate::once::Once;
use crate::site::Site;

/// `groundcrew boot`.
#[derive(Debug, Subcommand)]
pub enum BootCommand {
    /// Every device that booted or tried to: how far it got, and why not further
    #[command(after_help = "\
Examples:
  groundcrew boot list
  groundcrew boot list --all --json

Times are UTC. `groundcrew boot explain DEVICE` tells the story behind a line.")]
    List(BootListArgs),
    /// Tell one device's story, the likely cause and the cure
    #[command(after_help = "\
Examples:
  groundcrew boot explain 52:54:00:77:00:01
  groundcrew boot explain PF3A1B2C --pcap story.pcap
  groundcrew boot explain hq-7k2m9qx4 --json

The device is named by its MAC address, serial number, UUID, id, or present address.
Exit status: 0 nothing is wrong, 1 the boot failed (or the device is not known).")]
    Explain(BootExplainArgs),
    /// Let a device boot something else at its next start, once
    #[command(after_help = "\
Examples:
  groundcrew boot once 52:54:00:77:00:01 menu
  groundcrew boot once PF3A1B2C memtest
  groundcrew boot once 52:54:00:77:00:01 --clear

The order is used up when the device was told. iPXE can do all of it; GRUB (with shim or without)
and pxelinux menu, agent and disk; where the site's signed image is loaded, agent and disk.")]
    Once(BootOnceArgs),
    /// Send a device round again that was held for failing the same way
    #[command(after_help = "\
Examples:
  groundcrew boot release 52:54:00:77:00:01
  groundcrew boot release --all

A device is held once it failed the same way three times in a row, until it is released.")]
    Release(BootReleaseArgs),
}

/// `groundcrew boot list`.
#[derive(Debug, Args)]
pub struct BootListArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// With machines on the network that never asked to boot from it
    #[arg(long)]
    pub all: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew boot explain`.
#[derive(Debug, Args)]
pub struct BootExplainArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device
    #[arg(value_name = "MAC|SERIAL|UUID|ID")]
    pub device: String,
    /// Every attempt line by line, not only the last
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
    /// As JSON: the story as recorded, and what is said of it
    #[arg(long)]
    pub json: bool,
    /// Write the packets that were seen, for Wireshark or tcpdump
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

/// `groundcrew boot once`.
#[derive(Debug, Args)]
pub struct BootOnceArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device
    #[arg(value_name = "MAC|SERIAL|UUID|ID")]
    pub device: String,
    /// What it boots
    #[arg(value_enum, required_unless_present = "clear")]
    pub what: Option<Once>,
    /// Take the order back
    #[arg(long, conflicts_with = "what")]
    pub clear: bool,
}

/// `groundcrew boot release`.
#[derive(Debug, Args)]
pub struct BootReleaseArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device
    #[arg(
        value_name = "MAC|SERIAL|UUID|ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub device: Option<String>,
    /// Every device that is held
    #[arg(long)]
    pub all: bool,
    /// As JSON: the names of those that were held
    #[arg(long)]
    pub json: bool,
}

/// Runs one of them.
pub fn run(command: BootCommand) -> anyhow::Result<ExitCode> {
    match command {
        BootCommand::List(args) => list(&args),
        BootCommand::Explain(args) => explain(&args),
        BootCommand::Once(args) => done(
            &args.site,
            Command::BootOnce {
                device: args.device,
                once: args.what,
            },
        ),
        BootCommand::Release(args) => release(args),
    }
}

fn done(site: &SiteArg, command: Command) -> anyhow::Result<ExitCode> {
    match client::execute(&Site::at(&site.dir), command)? {
        Outcome::Done(line) => println!("{line}"),
        _ => anyhow::bail!("the appliance answered something else"),
    }
    Ok(ExitCode::SUCCESS)
}

fn release(args: BootReleaseArgs) -> anyhow::Result<ExitCode> {
    let command = Command::ReleaseBoot(args.device.clone());
    let site = Site::at(&args.site.dir);
    let Outcome::BootsReleased(released) = client::execute(&site, command)? else {
        anyhow::bail!("the appliance answered something else");
    };
    if args.json {
        let answer = serde_json::json!({ "released": released });
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    for name in &released {
        let name = shown(name);
        println!("{name} is released: it is sent to the agent again at its next start");
    }
    match args.device {
        Some(name) if released.is_empty() => println!("{name} is not held; nothing to do"),
        None if released.is_empty() => println!("no device is held; nothing to do"),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &BootListArgs) -> anyhow::Result<ExitCode> {
    let site = Site::at(&args.site.dir);
    let lines = boots(&site, args.all)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(ExitCode::SUCCESS);
    }
    if lines.is_empty() {
        println!("No device asked to boot yet.");
    } else {
        print!("{}", overview(&lines, table::terminal_width(80)));
    }
    if !args.all {
        let others = boots(&site, true)?.len().saturating_sub(lines.len());
        print!("{}", did_not_ask(others));
    }
    Ok(ExitCode::SUCCESS)
}

fn boots(site: &Site, all: bool) -> anyhow::Result<Vec<StoryLine>> {
    match client::execute(site, Command::ListBoots { all })? {
        Outcome::Boots(lines) => Ok(lines),
        _ => anyhow::bail!("the appliance answered something else"),
    }
}

/// Whoever looks for a machine that started its disk instead must learn where it is.
fn did_not_ask(machines: usize) -> String {
    match machines {
        0 => String::new(),
        1 => "1 machine on the network did not ask: `groundcrew boot list --all`\n".to_owned(),
        more => {
            format!("{more} machines on the network did not ask: `groundcrew boot list --all`\n")
        }
    }
}

fn overview(lines: &[StoryLine], width: usize) -> String {
    let today = lines
        .first()
        .map_or_else(String::new, |line| line.last.to_string());
    let row = |line: &StoryLine| {
        let when = line.last.to_string();
        // The time of the newest day, the day of older ones.
        let when = match when.get(..10) == today.get(..10) {
            true => when.get(11..19),
            false => when.get(..10),
        };
        let why = match (line.state, &line.short) {
            (_, Some(short)) => short.clone(),
            (State::Booting, None) => "on its way".to_owned(),
            (state, None) => state.name().to_owned(),
        };
        vec![
            shown(&line.names.title()),
            when.unwrap_or_default().to_owned(),
            firmware(line.firmware.as_deref()).to_owned(),
            line.reached.short().to_owned(),
            why,
        ]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    table::render(&["DEVICE", "LAST UTC", "FW", "GOT TO", "WHY"], &rows, width)
}

/// The firmware in four letters: the list has 80 columns.
fn firmware(name: Option<&str>) -> &'static str {
    match name {
        None => "-",
        Some("BIOS") => "BIOS",
        Some(name) if name.contains("HTTP") => "HTTP",
        Some(name) if name.contains("64-bit UEFI") => "ARM",
        Some(name) if name.contains("UEFI") => "UEFI",
        Some(_) => "?",
    }
}

fn explain(args: &BootExplainArgs) -> anyhow::Result<ExitCode> {
    let command = Command::ExplainBoot(args.device.clone());
    let Outcome::Boot(view) = client::execute(&Site::at(&args.site.dir), command)? else {
        anyhow::bail!("the appliance answered something else");
    };
    if let Some(file) = &args.pcap {
        write_pcap(file, &view)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print!(
            "{}",
            told(&view, args.all, table::terminal_width(80).min(100))
        );
    }
    let failed = matches!(view.diagnosis.state, State::Failed | State::Held);
    Ok(ExitCode::from(u8::from(failed)))
}

fn write_pcap(file: &Path, view: &StoryView) -> anyhow::Result<()> {
    let packets = &view.story.packets;
    anyhow::ensure!(
        !packets.is_empty(),
        "no packet of this device was kept, so {} is not written",
        file.display()
    );
    std::fs::write(file, pcap::file(packets))
        .with_context(|| format!("writing {}", file.display()))?;
    eprintln!("{}: {} packets", file.display(), packets.len());
    Ok(())
}

fn told(view: &StoryView, all: bool, width: usize) -> String {
    let diagnosis = &view.diagnosis;
    let mut out = table::fields(
        &names(&view.story.names, diagnosis.firmware.as_deref()),
        width,
    );
    let every = all.then(|| tell(&view.story));
    if !diagnosis.past.is_empty() && !all {
        out.push_str("\nAttempts before:\n");
        for past in before(&diagnosis.past) {
            let _ = writeln!(out, "  {past}");
        }
    }
    let lines = every.as_ref().unwrap_or(&diagnosis.lines);
    let mut heading = "\nWhat happened on";
    for day in lines.chunk_by(|one, next| one.at.day() == next.at.day()) {
        let date = day.first().map(|first| first.at.day());
        let _ = writeln!(out, "{heading} {} (UTC):", date.unwrap_or_default());
        heading = "On";
        let rows = day.iter().map(|line| (line.at.clock(), shown(&line.text)));
        out.push_str(&table::fields(&rows.collect::<Vec<_>>(), width));
    }
    out.push('\n');
    let mut end = vec![("State", state(view))];
    let mut push = |name, text: Option<&str>| end.extend(text.map(|text| (name, shown(text))));
    push("Seen in", diagnosis.evidence.as_deref());
    let meaning = match diagnosis.cause {
        Some(cause) if !cause.is_fault() => "Meaning",
        _ => "Cause",
    };
    push(meaning, diagnosis.cause.map(Cause::likely));
    push("Cure", diagnosis.cause.map(Cause::cure));
    for note in &diagnosis.notes {
        push("Note", Some(note));
    }
    out.push_str(&table::fields(&end, width));
    out
}

fn state(view: &StoryView) -> String {
    let diagnosis = &view.diagnosis;
    let (state, reached) = (diagnosis.state.name(), diagnosis.reached);
    match diagnosis.cause {
        Some(cause) => format!("{state}: {} (got to: {reached})", cause.short()),
        None => format!("{state} (got to: {reached})"),
    }
}

fn names(names: &Names, firmware: Option<&str>) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Device", shown(&names.title()))];
    let mut push = |name, text: Option<String>| {
        rows.extend(
            text.filter(|text| !text.is_empty())
                .map(|text| (name, text)),
        );
    };
    let all = |list: Vec<String>| Some(list.join(", "));
    push(
        "Cards",
        all(names.macs.iter().map(ToString::to_string).collect()),
    );
    push(
        "Addresses",
        all(names.ips.iter().map(ToString::to_string).collect()),
    );
    let model = [&names.maker, &names.model].into_iter().flatten();
    let model: Vec<String> = model.filter_map(|text| clean(text)).collect();
    push("Model", Some(model.join(" ")));
    push("Serial", names.serial.as_deref().and_then(clean));
    push("UUID", names.uuid.map(|uuid| uuid.to_string()));
    push("Firmware", firmware.map(ToOwned::to_owned));
    rows
}

/// The last ones, several alike as one.
fn before(past: &[Past]) -> Vec<String> {
    let mut lines: Vec<(String, u32, &Past)> = Vec::new();
    for attempt in past {
        let text = match attempt.cause {
            Some(cause) => format!("{}; got to: {}", cause.short(), attempt.reached),
            None => format!("got to: {}", attempt.reached),
        };
        match lines.last_mut() {
            Some((same, times, _)) if *same == text => *times += 1,
            _ => lines.push((text, 1, attempt)),
        }
    }
    let skip = lines.len().saturating_sub(8);
    let lines = lines.into_iter().skip(skip);
    lines
        .map(|(text, times, first)| match times {
            1 => format!("{}  {text}", first.at),
            _ => format!("{}  {text} ({times} times)", first.at),
        })
        .collect()
}

/// Foreign text must not steer the terminal.
fn shown(text: &str) -> String {
    let mark = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(mark).collect()
}
