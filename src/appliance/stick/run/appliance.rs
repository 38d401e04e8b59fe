//! Be the appliance: the network on the cable is brought up and served, and
//! the screen shows who comes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::provision::Done;
use super::service::Service;
use super::terminal::Terminal;
use super::unlock::{self, Kept};
use super::{AGENT, End, screens};
use crate::site::Cidr;

const EVERY: Duration = Duration::from_millis(500);

/// A network that the agent brought up and keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// `enp3s0`.
    pub interface: String,
    /// Its hardware address.
    pub mac: String,
    /// Ours there.
    pub address: Cidr,
    /// Whether a DHCP server gave it.
    pub leased: bool,
}

impl Wire {
    /// The line that `groundcrew-agent network` writes.
    fn read(line: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [interface, mac, address, from @ ("leased" | "own")] = words.as_slice() else {
            anyhow::bail!("no wired network came up; is the cable in?");
        };
        Ok(Self {
            interface: (*interface).to_owned(),
            mac: (*mac).to_owned(),
            address: address.parse()?,
            leased: *from == "leased",
        })
    }
}

/// The agent's child that keeps the address; ended with this.
pub struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Brings the wired network up, with `own` as the address where nobody gives one.
pub fn network(own: Cidr) -> anyhow::Result<(Wire, Keeper)> {
    let mut child = Command::new(AGENT)
        .args(["network", &own.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the agent")?;
    let out = child.stdout.take().context("the agent's answer")?;
    let keeper = Keeper(child);
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    Ok((Wire::read(&line)?, keeper))
}

/// Serves until somebody presses `q`.
pub fn run(terminal: &mut Terminal, kept: &mut Kept) -> anyhow::Result<Done> {
    terminal.say("bringing the network up ...\n");
    let settings = unlock::site().settings()?;
    let (wire, _keeper) = network(settings.address)?;
    let settings = settings.on_network(&wire.interface, wire.address, wire.leased);
    let service = Service::start(settings.clone())?;
    let mut shown = Vec::new();
    loop {
        kept.follow(service.journal_entries())?;
        ensure!(
            service.is_running(),
            "the appliance ended; its log says why"
        );
        let page = screens::appliance(&settings, &wire, &service.devices());
        if page != shown {
            terminal.page(&page);
            shown = page;
        }
        if let Some(b'q' | b'Q') = terminal.key(EVERY) {
            break;
        }
    }
    terminal.say("ending ...\n");
    service.stop()?;
    kept.finish()?;
    Ok(Done::End(End::PowerOff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_s_answer() {
        let wire = Wire::read("eth0 52:54:00:77:00:01 10.77.0.50/24 leased\n").unwrap();
        assert!(wire.leased && wire.interface == "eth0");
        assert_eq!(wire.address.to_string(), "10.77.0.50/24");
        assert!(!Wire::read("eth0 m 10.77.0.1/24 own").unwrap().leased);
        for bad in ["", "eth0 m 10.77.0.1 own", "eth0 m 10.77.0.1/24 given"] {
            assert!(Wire::read(bad).is_err(), "{bad}");
        }
    }
}
