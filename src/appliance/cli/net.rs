//! `groundcrew net …`.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::args::{DeviceListArgs, NetCommand};
use super::client;
use crate::lan::InterfaceView;
use crate::office::{Command, Outcome};
use crate::site::Site;

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
        for interface in &net.interfaces {
            print!("{}", overview(interface));
        }
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
