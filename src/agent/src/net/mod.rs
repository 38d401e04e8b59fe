//! From a driver to an address: which interface, link up, carrier, address,
//! route, and keeping the address while the device waits for its approval.

pub mod dhcp;
pub mod netlink;

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcp::machine::{Client, Event};
use groundcrew_core::hardware::MacAddr;
use netlink::{LinkInfo, Netlink};

use crate::cmdline::{Address, BootArgs};
use crate::modules;
use crate::random;
use crate::uevent::{self, Uevents};

/// How long a network card may take to appear (USB hubs, slow firmware).
const NIC_DEADLINE: Duration = Duration::from_secs(20);
/// How long a link may train (spanning tree holds a port for up to 30 s).
const CARRIER_DEADLINE: Duration = Duration::from_secs(45);
/// How long a DHCP server may be silent.
const DHCP_DEADLINE: Duration = Duration::from_secs(60);
/// The same for an appliance: it goes on without one.
const APPLIANCE_PATIENCE: Duration = Duration::from_secs(6);
/// When an address of unknown lease is first renewed. The loader got it a few
/// seconds ago, and no sane lease is shorter.
const FIRST_RENEWAL: Duration = Duration::from_secs(20);

/// A network that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Interface's name.
    pub interface: String,
    /// Its current hardware address.
    pub mac: MacAddr,
    /// Our address.
    pub address: Address,
    /// The appliance.
    pub server: Ipv4Addr,
}

/// Why there is no network, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No interface appeared.
    #[error("no network card appeared{}", listed(.0))]
    NoCard(Vec<modules::Missing>),
    /// There are cards, none with the address that the loader used.
    #[error("no network card has the address {wanted} that this machine was booted from; there are {}{}", .found.join(", "), listed(.missing))]
    OtherCards {
        /// From `gc.mac`.
        wanted: MacAddr,
        /// `name mac`.
        found: Vec<String>,
        /// Cards without driver.
        missing: Vec<modules::Missing>,
    },
    /// No cable, or a dead port.
    #[error("no link on {0}: check the cable and the switch port")]
    NoCarrier(String),
    /// Nobody gave an address.
    #[error("no DHCP server answered on {0}: is the appliance on this network?")]
    NoLease(String),
    /// Nobody said where the appliance is.
    #[error("the network does not name the appliance: boot with gc.server=ADDRESS")]
    NoServer,
    /// The kernel refused.
    #[error("{what}: {error}")]
    System {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        error: io::Error,
    },
}

fn listed(missing: &[modules::Missing]) -> String {
    missing.iter().map(|one| format!("; {one}")).collect()
}

/// Brings the network up. Renewals go on in a background thread for as long
/// as the process lives.
pub fn bring_up(args: &BootArgs, say: &dyn Fn(String)) -> Result<Network, NetError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |error| NetError::System { what, error }
    };
    let mut netlink = Netlink::open().map_err(system("opening rtnetlink"))?;
    if let Some(loopback) = loopback_index() {
        let _ = netlink.set_up(loopback);
    }
    // The appliance is on this very machine: a stick, and no network at all.
    if let Some(server) = args.server.filter(Ipv4Addr::is_loopback) {
        return Ok(Network {
            interface: "lo".to_owned(),
            mac: MacAddr([0; 6]),
            address: Address {
                ip: server,
                prefix: 8,
            },
            server,
        });
    }
    let candidates = cards(&mut netlink, args.mac)?;
    let link = with_carrier(&mut netlink, &candidates, say)?;
    let mac = link
        .permanent
        .filter(|_| link.mac.0 == [0; 6])
        .unwrap_or(link.mac);
    let network = match args.address {
        Some(address) => adopt(&mut netlink, args, &link, mac, address),
        None => lease(&mut netlink, args, &link, mac, DHCP_DEADLINE, None, say),
    }?;
    Ok(network)
}

/// Brings the network up for an appliance: with the address that a DHCP server
/// gives it, and where none answers with its `own`. Whether it was given one.
pub fn for_appliance(
    args: &BootArgs,
    own: Address,
    say: &dyn Fn(String),
) -> Result<(Network, bool), NetError> {
    let system = |error| NetError::System {
        what: "bringing the network up".to_owned(),
        error,
    };
    let mut netlink = Netlink::open().map_err(system)?;
    if let Some(loopback) = loopback_index() {
        let _ = netlink.set_up(loopback);
    }
    let candidates = cards(&mut netlink, args.mac)?;
    let link = with_carrier(&mut netlink, &candidates, say)?;
    let (mac, patience) = (link.mac, APPLIANCE_PATIENCE);
    match lease(&mut netlink, args, &link, mac, patience, Some(own), say) {
        Err(NetError::NoLease(_)) => {}
        other => return other.map(|network| (network, true)),
    }
    configure(&mut netlink, &link, own, None)?;
    let network = Network {
        interface: link.name,
        mac: link.mac,
        address: own,
        server: own.ip,
    };
    Ok((network, false))
}

fn loopback_index() -> Option<u32> {
    let text = std::fs::read_to_string("/sys/class/net/lo/ifindex").ok()?;
    text.trim().parse().ok()
}

/// The card with the wanted address as soon as it is there, else all cards.
fn cards(netlink: &mut Netlink, wanted: Option<MacAddr>) -> Result<Vec<LinkInfo>, NetError> {
    let events = Uevents::open().map_err(|error| NetError::System {
        what: "opening the device event socket".into(),
        error,
    })?;
    let mut all = Vec::new();
    let found = uevent::wait_for(&events, Instant::now() + NIC_DEADLINE, || {
        all = netlink.links().unwrap_or_default();
        all.retain(|link| is_hardware(&link.name));
        match wanted {
            None => (!all.is_empty()).then(|| all.clone()),
            Some(mac) => {
                let ours = |link: &&LinkInfo| link.mac == mac || link.permanent == Some(mac);
                all.iter().find(ours).map(|link| vec![link.clone()])
            }
        }
    });
    let missing = modules::missing_drivers;
    match (found, wanted) {
        (Some(found), _) => Ok(found),
        (None, Some(wanted)) if !all.is_empty() => Err(NetError::OtherCards {
            wanted,
            found: all
                .iter()
                .map(|l| format!("{} {}", l.name, l.mac))
                .collect(),
            missing: missing(),
        }),
        (None, _) => Err(NetError::NoCard(missing())),
    }
}

/// Whether there is a device behind the interface (no bridge, no tunnel).
pub fn is_hardware(name: &str) -> bool {
    std::path::Path::new("/sys/class/net")
        .join(name)
        .join("device")
        .exists()
}

/// Sets the candidates up and takes the first one that gets a carrier.
fn with_carrier(
    netlink: &mut Netlink,
    candidates: &[LinkInfo],
    say: &dyn Fn(String),
) -> Result<LinkInfo, NetError> {
    let names = || {
        candidates
            .iter()
            .map(|l| l.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let system = |error| NetError::System {
        what: format!("setting {} up", names()),
        error,
    };
    let changes = Netlink::listen().map_err(system)?;
    for link in candidates {
        netlink.set_up(link.index).map_err(system)?;
    }
    let deadline = Instant::now() + CARRIER_DEADLINE;
    let mut patience = Instant::now() + Duration::from_secs(3);
    loop {
        let links = netlink.links().map_err(system)?;
        let ready = |l: &&LinkInfo| l.carrier && candidates.iter().any(|c| c.index == l.index);
        if let Some(link) = links.iter().find(ready) {
            return Ok(link.clone());
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(NetError::NoCarrier(names()));
        }
        if now >= patience {
            say(format!(
                "waiting for a link on {}: is the cable in?",
                names()
            ));
            patience = now + Duration::from_secs(15);
        }
        changes.changed(deadline.min(patience)).map_err(system)?;
    }
}

fn configure(
    netlink: &mut Netlink,
    link: &LinkInfo,
    address: Address,
    gateway: Option<Ipv4Addr>,
) -> Result<(), NetError> {
    let system = |what: String| move |error| NetError::System { what, error };
    netlink
        .add_address(link.index, address)
        .map_err(system(format!("setting {address} on {}", link.name)))?;
    let Some(gateway) = gateway else {
        return Ok(());
    };
    netlink
        .add_default_route(link.index, gateway)
        .map_err(system(format!("setting the route by {gateway}")))
}

/// Goes on with the loader's address and keeps it alive.
fn adopt(
    netlink: &mut Netlink,
    args: &BootArgs,
    link: &LinkInfo,
    mac: MacAddr,
    address: Address,
) -> Result<Network, NetError> {
    let server = args.server.ok_or(NetError::NoServer)?;
    // An unreachable router must not end what needs none on this network.
    if configure(netlink, link, address, args.gateway).is_err() {
        configure(netlink, link, address, None)?;
    }
    let client = Client::adopt(mac, random::u32(), address.ip, server, FIRST_RENEWAL);
    keep_alive(link.name.clone(), client);
    Ok(Network {
        interface: link.name.clone(),
        mac,
        address,
        server,
    })
}

/// Asks for an address and takes it, `instead_of` one that the interface may have.
fn lease(
    netlink: &mut Netlink,
    args: &BootArgs,
    link: &LinkInfo,
    mac: MacAddr,
    patience: Duration,
    instead_of: Option<Address>,
    say: &dyn Fn(String),
) -> Result<Network, NetError> {
    let system = |error| NetError::System {
        what: format!("DHCP on {}", link.name),
        error,
    };
    say(format!("asking for an address on {}", link.name));
    let socket = dhcp::Link::open(&link.name).map_err(system)?;
    let mut client = Client::new(mac, random::u32());
    let deadline = Instant::now() + patience;
    let lease = dhcp::acquire(&socket, &mut client, deadline)
        .map_err(system)?
        .ok_or_else(|| NetError::NoLease(link.name.clone()))?;
    let prefix = crate::cmdline::prefix_length(lease.mask).unwrap_or(24);
    let address = Address {
        ip: lease.ip,
        prefix,
    };
    // Before the new one is there: the kernel takes further addresses of a network
    // away together with its first. Mostly there is none.
    if let Some(old) = instead_of.filter(|old| *old != address) {
        let _ = netlink.remove_address(link.index, old);
    }
    if configure(netlink, link, address, lease.router).is_err() {
        configure(netlink, link, address, None)?;
    }
    renew_forever(socket, client);
    let next = Some(lease.next_server).filter(|ip| !ip.is_unspecified());
    Ok(Network {
        interface: link.name.clone(),
        mac,
        address,
        server: args.server.or(next).unwrap_or(lease.server),
    })
}

/// Renews in the background. A device may wait for hours for its approval;
/// without this the server would give its address away meanwhile.
fn keep_alive(interface: String, client: Client) {
    std::thread::spawn(move || {
        if let Ok(socket) = dhcp::Link::open(&interface) {
            renew_forever_here(&socket, client);
        }
    });
}

fn renew_forever(socket: dhcp::Link, client: Client) {
    std::thread::spawn(move || renew_forever_here(&socket, client));
}

/// A lost lease is asked for again; the server remembers option 61 and gives
/// the same address if it can. A new one is not taken up in mid-flight.
fn renew_forever_here(socket: &dhcp::Link, mut client: Client) {
    loop {
        match socket.run(&mut client, None) {
            Ok(Some(Event::Bound(_) | Event::Lost) | None) => {}
            Err(_) => std::thread::sleep(Duration::from_secs(30)),
        }
    }
}
