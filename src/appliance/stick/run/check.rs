//! Check this machine: what its hardware says of itself, and who answers on
//! its network. Nothing is written anywhere, and no PIN is needed.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::terminal::Terminal;
use super::wire::network_of;
use super::{AGENT, End, screens};
use crate::check::servers_on;
use crate::site::Cidr;

/// Until the machine is switched off where nobody presses a key.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Shows pages until somebody has seen enough.
pub fn run(terminal: &mut Terminal) -> anyhow::Result<End> {
    terminal.page(&["groundcrew: looking at this machine ...".to_owned()]);
    let report = agent(&["report"])?;
    let code = agent(&["report", "--qr"])?;
    let asking = ["asking the network (a few seconds) ...".to_owned()];
    let first = screens::check(&report, &asking, "");
    terminal.page(first.first().map_or(&[], Vec::as_slice));
    let pages = screens::check(&report, &ask_network(), &code);
    for page in pages.iter().cycle() {
        terminal.page(page);
        match terminal.key(PATIENCE) {
            Some(b'r' | b'R') => return Ok(End::Restart),
            Some(b'q' | b'Q') | None => return Ok(End::PowerOff),
            Some(_) => {}
        }
    }
    Ok(End::PowerOff)
}

fn agent(arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(AGENT)
        .args(arguments)
        .output()
        .context("starting the agent")?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Link, address, and every DHCP server that answers here.
fn ask_network() -> Vec<String> {
    let mut lines = Vec::new();
    // An address that nobody routes, where no server gives one (RFC 3927).
    let own = "169.254.77.1/16".parse::<Cidr>();
    let asked = own.map_err(anyhow::Error::from).and_then(network_of);
    match asked {
        Ok((wire, _keeper)) => {
            lines.push(format!("{} {}: link is up", wire.interface, wire.mac));
            lines.push(if wire.leased {
                format!(
                    "a DHCP server gave this machine the address {}",
                    wire.address
                )
            } else {
                "no DHCP server gave this machine an address".to_owned()
            });
            lines.push(match servers_on(&wire.interface, wire.address.address) {
                Ok(servers) if servers.is_empty() => "DHCP servers that answer: none".to_owned(),
                Ok(servers) => {
                    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
                    format!("DHCP servers that answer: {}", servers.join(", "))
                }
                Err(error) => format!("DHCP servers could not be asked: {error:#}"),
            });
        }
        Err(error) => lines.push(format!("{error:#}")),
    }
    lines
}
