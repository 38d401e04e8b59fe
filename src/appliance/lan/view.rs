//! Leases and network for people and scripts.

use std::net::Ipv4Addr;

use groundcrew_core::UnixTime;
use groundcrew_netboot::dhcp::{Counters, Lease, LeaseState, Moment, Network, Service};
use serde::{Deserialize, Serialize};

use crate::site;
use crate::transfers::TransfersView;

/// A lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseView {
    /// The address.
    pub ip: Ipv4Addr,
    /// The interface it is given on; none where `site.toml` names its network no more.
    pub interface: Option<String>,
    /// bound, expired, released or declined.
    pub state: String,
    /// The hardware address it was given to.
    pub mac: String,
    /// By what the client is known: `mac:…` or `id:…`.
    pub client: String,
    /// The machine's UUID, if it said.
    pub uuid: Option<String>,
    /// The name it gave itself.
    pub hostname: Option<String>,
    /// When it ends, or ended.
    pub expires: UnixTime,
}

/// What is served on the devices' networks, and who else is heard there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetView {
    /// In the order of `site.toml`.
    pub interfaces: Vec<InterfaceView>,
    /// Files on their way to devices. Filled by who knows the devices.
    #[serde(default)]
    pub transfers: TransfersView,
}

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Its name.
    pub interface: String,
    /// The appliance's address there, which devices boot from.
    pub address: String,
    /// As `site.toml` says.
    pub mode: String,
    /// What is done at this moment.
    pub role: String,
    /// The networks that addresses are given on.
    pub subnets: Vec<SubnetView>,
    /// Other DHCP servers heard.
    pub others: Vec<OtherView>,
    /// What was counted since the appliance was started.
    pub counters: Counters,
}

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubnetView {
    /// Its own address.
    pub network: Ipv4Addr,
    /// Its mask.
    pub mask: Ipv4Addr,
    /// Addresses that may be given.
    pub pool: usize,
    /// Addresses in use.
    pub bound: usize,
    /// Addresses promised but not taken.
    pub offered: usize,
    /// Addresses in use by clients that have shown one exchange and nothing since.
    pub strangers: usize,
    /// Addresses put aside because somebody else uses them.
    pub declined: usize,
}

/// Another DHCP server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OtherView {
    /// Its identifier.
    pub server: Ipv4Addr,
    /// Seconds since it was heard last.
    pub seconds_ago: u64,
    /// By what it was noticed.
    pub noticed: String,
}

pub fn by_address(leases: impl Iterator<Item = LeaseView>) -> Vec<LeaseView> {
    let mut leases: Vec<LeaseView> = leases.collect();
    leases.sort_by_key(|lease| lease.ip);
    leases
}

pub fn lease(row: &Lease, interface: Option<&str>, now: UnixTime) -> LeaseView {
    let over = row.state != LeaseState::Released && !row.holds(now);
    let state = if over { "expired" } else { row.state.as_str() };
    LeaseView {
        ip: row.ip,
        interface: interface.map(str::to_owned),
        state: state.to_owned(),
        mac: row.mac.to_string(),
        client: row.key.to_string(),
        uuid: row.uuid.map(|uuid| uuid.to_string()),
        hostname: row.hostname.clone(),
        expires: row.expires_at,
    }
}

pub fn interface(service: &Service, network: &site::Network, now: Moment) -> InterfaceView {
    let watch = service.watch();
    let others = watch.others().iter().map(|(server, other)| OtherView {
        server: *server,
        seconds_ago: now.steady.saturating_sub(other.last).as_secs(),
        noticed: other.evidence.to_string(),
    });
    InterfaceView {
        interface: network.interface.clone(),
        address: network.address.to_string(),
        mode: watch.mode().to_string(),
        role: watch.role().to_string(),
        subnets: subnets(service, now.wall),
        others: others.collect(),
        counters: *service.counters(),
    }
}

fn subnets(service: &Service, now: UnixTime) -> Vec<SubnetView> {
    let view = |network: &Network| {
        let count = |state| {
            let of = |lease: &&Lease| lease.state == state && lease.holds(now);
            network.leases().filter(of).count()
        };
        let subnet = network.subnet();
        SubnetView {
            network: subnet.network(),
            mask: subnet.mask(),
            pool: subnet.pool_size(),
            bound: count(LeaseState::Bound),
            offered: network.offers(),
            strangers: network.strangers(),
            declined: count(LeaseState::Declined),
        }
    };
    service.server().networks().iter().map(view).collect()
}
