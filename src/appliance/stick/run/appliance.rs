//! Be the appliance: the network on the cable is brought up and served, and
//! the screen shows who comes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::provision::Done;
use super::service::Service;
use super::terminal::Terminal;
use super::unlock::{self, Kept};
use super::{AGENT, End, medium, screens};
use crate::office::{self, Outcome};
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
pub fn network_of(own: Cidr) -> anyhow::Result<(Wire, Keeper)> {
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

/// A network on its way up. Links and DHCP servers take seconds in which a
/// technician types the PIN.
pub struct Coming(JoinHandle<anyhow::Result<(Wire, Keeper)>>);

impl Coming {
    /// Begins, with the address that the site on the mounted stick has for itself.
    pub fn begin() -> anyhow::Result<Self> {
        let settings = unlock::site().settings()?;
        let network = settings.networks.first();
        let own = network.context("site.toml has no [[network]]")?.address;
        Ok(Self(std::thread::spawn(move || network_of(own))))
    }

    fn wait(self) -> anyhow::Result<(Wire, Keeper)> {
        let lost = |_| anyhow::anyhow!("the network was lost by a fault; this is a bug");
        self.0.join().map_err(lost)?
    }
}

/// Serves until somebody presses `q`.
pub fn run(terminal: &mut Terminal, kept: &mut Kept, coming: Coming) -> anyhow::Result<Done> {
    terminal.say("bringing the network up ...\n");
    let (wire, _keeper) = coming.wait()?;
    let settings = unlock::site().settings()?;
    let settings = settings.on_network(&wire.interface, wire.address, wire.leased);
    let service = Service::start(settings.clone())?;
    let door = service.page()?;
    tracing::info!("serving {} s after the kernel started", uptime());
    let mut shown = Vec::new();
    loop {
        kept.follow(service.journal_entries())?;
        ensure!(
            service.is_running(),
            "the appliance ended; its log says why"
        );
        let warning = medium::free_bytes().ok().and_then(medium::nearly_full);
        let mut page =
            screens::appliance(&settings, &wire, &service.role(), &door, &service.devices());
        page.extend(warning);
        if page != shown {
            terminal.page(&page);
            shown = page;
        }
        match terminal.key(EVERY) {
            Some(b'q' | b'Q') => break,
            Some(b'a' | b'A') => {
                approve(terminal, &service);
                shown.clear();
            }
            _ => {}
        }
    }
    terminal.say("ending ...\n");
    service.stop()?;
    kept.finish()?;
    Ok(Done::End(End::PowerOff))
}

/// Seconds since the kernel started, as it counts them itself.
fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The code is typed as the device's screen shows it: so it was compared.
fn approve(terminal: &mut Terminal, service: &Service) {
    let typed = terminal.line("\nCode on the device's screen (Enter alone: none): ");
    if typed.trim().is_empty() {
        return;
    }
    let devices = service.devices();
    let code = typed.trim().parse().ok();
    let waiting = devices
        .iter()
        .find(|device| code.is_some() && device.code == code);
    let said = match (waiting, code) {
        (Some(device), Some(code)) => {
            let device = device.id.clone();
            let done = service.execute(office::Command::Approve { device, code });
            match done {
                Ok(Outcome::Done(line)) => line,
                Ok(_) => "approved".to_owned(),
                Err(error) => format!("{error:#}"),
            }
        }
        _ => "No device waits with this code.".to_owned(),
    };
    terminal.say(&format!("{said}\n"));
    // Long enough to be read before the page is drawn again.
    terminal.wait(Duration::from_secs(3), || false);
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
