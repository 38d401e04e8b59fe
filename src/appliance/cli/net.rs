//! `groundcrew net …`.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::args::{DeviceListArgs, NetCommand};
use super::client;
use crate::lan::InterfaceView;
use crate::office::{Command, Outcome};
use crate::site::Site;
use crate::transfers::{Protocol, TransferView, TransfersView};

pub fn run(command: NetCommand) -> anyhow::Result<ExitCode> {
    let NetCommand::Show(args) = command;
    show(&args)
}

fn show(args: &DeviceListArgs) -> anyhow::Result<ExitCode> {
    let Outcome::Net(net) = client::execute(&Site::at(&args.site.dir), Command::ShowNet)? else {
        anyhow::bail!("the appliance answered something else");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&net)?);
    } else {
        let mut out = String::new();
        for interface in &net.interfaces {
            out.push_str(&overview(interface));
        }
        transfers(&mut out, &net.transfers);
        print!("{out}");
    }
    Ok(ExitCode::SUCCESS)
}

fn overview(net: &InterfaceView) -> String {
    let mut out = format!(
        "{} ({}): DHCP mode {}, now {}\n",
        net.interface, net.address, net.mode, net.role
    );
    for subnet in &net.subnets {
        let _ = writeln!(
            out,
            "  {}/{}: {} of {} addresses in use, {} promised, {} put aside",
            subnet.network, subnet.mask, subnet.bound, subnet.pool, subnet.offered, subnet.declined
        );
        if subnet.strangers > 0 {
            let _ = writeln!(
                out,
                "  {} of those in use by clients that did nothing since they got them",
                subnet.strangers
            );
        }
    }
    if net.others.is_empty() {
        out.push_str("  no other DHCP server was heard\n");
    }
    for other in &net.others {
        let _ = writeln!(
            out,
            "  other DHCP server {}, {} s ago: {}",
            other.server, other.seconds_ago, other.noticed
        );
    }
    let c = &net.counters;
    let _ = writeln!(
        out,
        "  asked: {} DISCOVER, {} REQUEST, {} others, {} malformed",
        c.discovers, c.requests, c.others, c.malformed
    );
    let _ = writeln!(
        out,
        "  answered: {} OFFER, {} ACK, {} NAK, {} by ProxyDHCP",
        c.offers, c.acks, c.naks, c.proxied
    );
    let _ = writeln!(
        out,
        "  not answered: {} pool exhausted, {} asked too often, {} of a flood; {} addresses declined",
        c.exhausted, c.limited_client, c.limited_total, c.declined
    );
    out
}

/// Lines for people; `--json` has them all.
const SHOWN: usize = 20;

fn transfers(out: &mut String, transfers: &TransfersView) {
    let totals = &transfers.totals;
    let _ = writeln!(
        out,
        "files: {} on their way, {} sent, {} failed; {} in all, {} times something was sent again",
        transfers.running.len(),
        totals.done,
        totals.failed,
        size(totals.bytes),
        totals.repeats
    );
    for transfer in transfers.running.iter().take(SHOWN) {
        let percent = transfer.bytes.saturating_mul(100) / transfer.total.max(1);
        line(
            out,
            transfer,
            &format!("{percent} % of {}", size(transfer.total)),
        );
    }
    let more = transfers.running.len().saturating_sub(SHOWN);
    if more > 0 {
        let _ = writeln!(out, "  and {more} more (--json lists them)");
    }
    for transfer in transfers.failed.iter().take(5) {
        let why = transfer.reason.as_deref().unwrap_or("failed");
        let ago = transfer.ended_seconds_ago.unwrap_or_default();
        let at = size(transfer.bytes);
        line(out, transfer, &format!("FAILED {ago} s ago at {at}: {why}"));
    }
    for transfer in transfers.done.iter().take(5) {
        let ago = transfer.ended_seconds_ago.unwrap_or_default();
        line(
            out,
            transfer,
            &format!("sent {ago} s ago, {}", size(transfer.total)),
        );
    }
}

fn line(out: &mut String, transfer: &TransferView, state: &str) {
    let who = match (&transfer.device, &transfer.mac) {
        (Some(device), _) => format!("{} ({device})", transfer.peer),
        (None, Some(mac)) => format!("{} ({mac})", transfer.peer),
        (None, None) => transfer.peer.to_string(),
    };
    let protocol = match transfer.protocol {
        Protocol::Tftp => "TFTP",
        Protocol::Http => "HTTP",
    };
    let repeats = match transfer.repeats {
        0 => String::new(),
        repeats => format!(", {repeats} sent again"),
    };
    let rate = size(transfer.bytes_per_second);
    let _ = writeln!(
        out,
        "  {protocol} {} to {who}: {state}, {rate}/s{repeats}",
        transfer.file
    );
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
