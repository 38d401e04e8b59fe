//! The wired network of a stick that is the appliance: brought up and kept by
//! the agent, asked for again where it is not as it should be.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::{AGENT, unlock};
use crate::site::Cidr;

/// Between two attempts to get an address from a server that was heard.
const AGAIN: Duration = Duration::from_secs(10);

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
            match line.trim().strip_prefix("none ") {
                Some(why) => anyhow::bail!("{why}"),
                None => anyhow::bail!("no wired network came up; is the cable in?"),
            }
        };
        Ok(Self {
            interface: (*interface).to_owned(),
            mac: (*mac).to_owned(),
            address: address.parse()?,
            leased: *from == "leased",
        })
    }

    /// Whether something is at the other end of the cable; where the kernel does
    /// not tell, there is.
    pub fn has_link(&self) -> bool {
        let path = format!("/sys/class/net/{}/carrier", self.interface);
        let told = std::fs::read_to_string(path);
        told.map_or(true, |text| text.trim() != "0")
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

    /// Whether [`Coming::wait`] answers at once.
    pub fn is_there(&self) -> bool {
        self.0.is_finished()
    }

    /// What came.
    pub fn wait(self) -> anyhow::Result<(Wire, Keeper)> {
        let lost = |_| anyhow::anyhow!("the network was lost by a fault; this is a bug");
        self.0.join().map_err(lost)?
    }
}

/// What is to be done about the network at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is as it should be, or the agent is being waited for.
    Rest,
    /// Ask for an address.
    Ask,
}

/// The network that is served, and the search for a better one: a stick that was
/// given no address serves on its own; where a server is heard later (a switch
/// port may be deaf for half a minute), that address is no good any more.
pub struct Network {
    /// As it is served.
    pub wire: Wire,
    keeper: Keeper,
    again: Option<Coming>,
    /// When was asked last, since the start.
    asked: Option<Duration>,
}

impl Network {
    /// As it came up.
    pub fn new((wire, keeper): (Wire, Keeper)) -> Self {
        Self {
            wire,
            keeper,
            again: None,
            asked: None,
        }
    }

    /// Looks after it; `now` is counted from any fixed moment. `true` where
    /// [`Network::wire`] is another one from now on.
    pub fn tend(&mut self, role: &str, now: Duration) -> anyhow::Result<bool> {
        if let Some(coming) = self.again.take_if(|coming| coming.is_there()) {
            match coming.wait() {
                Ok((wire, keeper)) if wire.leased => {
                    (self.wire, self.keeper) = (wire, keeper);
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("asking for an address again: {error:#}"),
            }
        }
        if step(&self.wire, role, self.again.is_some(), self.asked, now) == Step::Ask {
            self.asked = Some(now);
            self.again = Some(Coming::begin()?);
        }
        Ok(false)
    }

    /// What a technician must know of it.
    pub fn note(&self, role: &str) -> Option<String> {
        note(&self.wire, self.wire.has_link(), role)
    }
}

fn step(wire: &Wire, role: &str, asking: bool, asked: Option<Duration>, now: Duration) -> Step {
    let due = asked.is_none_or(|asked| now.saturating_sub(asked) >= AGAIN);
    if is_beside_the_network(wire, role) && !asking && due {
        return Step::Ask;
    }
    Step::Rest
}

/// Somebody else gives addresses here, and this stick has none of them: devices
/// would be told of an appliance that they cannot reach.
fn is_beside_the_network(wire: &Wire, role: &str) -> bool {
    !wire.leased && role == "proxy"
}

fn note(wire: &Wire, has_link: bool, role: &str) -> Option<String> {
    let Wire {
        address, interface, ..
    } = wire;
    if !has_link {
        return Some(format!(
            "NO LINK on {interface}: put the cable in, or try another port or cable. It goes on by itself."
        ));
    }
    is_beside_the_network(wire, role).then(|| {
        format!(
            "NO DEVICE CAN REACH {}: another server gives the addresses here and has given this stick none. \
             It is asked again every {} s; if this stays, it has no address left or knows this machine's \
             port as blocked: ask whoever runs the network.",
            address.address,
            AGAIN.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(line: &str) -> Wire {
        Wire::read(line).unwrap()
    }

    #[test]
    fn the_agent_s_answer() {
        let leased = wire("eth0 52:54:00:77:00:01 10.77.0.50/24 leased\n");
        assert!(leased.leased && leased.interface == "eth0");
        assert_eq!(leased.address.to_string(), "10.77.0.50/24");
        assert!(!wire("eth0 m 10.77.0.1/24 own").leased);
        for bad in ["", "eth0 m 10.77.0.1 own", "eth0 m 10.77.0.1/24 given"] {
            assert!(Wire::read(bad).is_err(), "{bad}");
        }
        let why = Wire::read("none no link on eth0: check the cable\n").unwrap_err();
        assert_eq!(why.to_string(), "no link on eth0: check the cable");
    }

    #[test]
    fn a_server_that_is_heard_late_is_asked_until_it_gives_an_address() {
        let (own, leased) = (wire("e m 10.77.0.1/24 own"), wire("e m 10.9.0.5/24 leased"));
        let at = Duration::from_secs;
        let step_of = |role, asking, asked, now| step(&own, role, asking, asked, at(now));
        for quiet in ["listening", "authoritative", "silent", ""] {
            assert_eq!(step_of(quiet, false, None, 100), Step::Rest, "{quiet}");
        }
        assert_eq!(step_of("proxy", false, None, 30), Step::Ask);
        assert_eq!(step_of("proxy", true, Some(at(30)), 60), Step::Rest);
        assert_eq!(step_of("proxy", false, Some(at(30)), 36), Step::Rest);
        assert_eq!(step_of("proxy", false, Some(at(30)), 40), Step::Ask);
        assert_eq!(step(&leased, "proxy", false, None, at(90)), Step::Rest);
    }

    #[test]
    fn the_screen_says_what_is_wrong_with_the_network() {
        let own = wire("eth0 m 10.77.0.1/24 own");
        assert_eq!(note(&own, true, "authoritative"), None);
        let beside = note(&own, true, "proxy").unwrap();
        assert!(beside.starts_with("NO DEVICE CAN REACH 10.77.0.1"));
        assert!(super::super::screens::wrapped(&beside, 80).len() <= 4);
        assert!(note(&own, false, "proxy").unwrap().contains("cable"));
        let leased = wire("eth0 m 10.9.0.5/24 leased");
        assert_eq!(note(&leased, true, "proxy"), None);
    }
}
