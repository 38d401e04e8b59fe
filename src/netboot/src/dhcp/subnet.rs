//! The network a site's machine gives addresses on, checked once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::wire::Request;

/// What `site.toml` says about the network, unchecked.
#[derive(Debug, Clone)]
pub struct SubnetConfig {
    /// The appliance's own address, server identifier and next server.
    pub server: Ipv4Addr,
    /// An address of the network, where the appliance has none there and a relay
    /// brings the packets. `None`: the appliance's own network.
    pub behind_relay: Option<Ipv4Addr>,
    /// Prefix length of the network, 8 to 30.
    pub prefix: u8,
    /// First address to give.
    pub pool_first: Ipv4Addr,
    /// Last address to give.
    pub pool_last: Ipv4Addr,
    /// Default router, if there is one.
    pub router: Option<Ipv4Addr>,
    /// DNS servers, in order of preference.
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// Domains that short names are looked up in (RFC 3397).
    pub search: Vec<String>,
    /// Lease time in seconds, 120 to one year.
    pub lease_seconds: u32,
    /// Addresses kept for clients, in the pool or outside it.
    pub reservations: Vec<Reservation>,
}

/// An address kept for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub ip: Ipv4Addr,
    /// For whom.
    pub who: Who,
    /// The name the client is told, where it asks for one.
    pub hostname: Option<String>,
}

/// By what a client with a reservation is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Its hardware address.
    Mac(MacAddr),
    /// Its client identifier, option 61, as sent.
    Id(Vec<u8>),
    /// Its machine identifier, option 97: whichever NIC asks.
    Uuid(SmbiosUuid),
}

/// A network with a pool inside it. Every address of the pool may be given,
/// except the server's, the router's and the name servers' own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    server: Ipv4Addr,
    network: u32,
    mask: u32,
    reserved: BTreeMap<Who, Reservation>,
    kept: BTreeSet<Ipv4Addr>,
    first: u32,
    last: u32,
    excluded: BTreeSet<u32>,
    router: Option<Ipv4Addr>,
    dns: Vec<Ipv4Addr>,
    ntp: Vec<Ipv4Addr>,
    domain: Option<String>,
    search: Vec<String>,
    lease_seconds: u32,
}

/// Why a network cannot be served as written.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SubnetError {
    /// The prefix leaves no room or too much.
    #[error("prefix /{0}: a served network has /8 to /30")]
    Prefix(u8),
    /// An address that must be in the network is not, or is its first or last.
    #[error("{what} {address} is not a host address of {network}/{prefix}")]
    Outside {
        /// Which setting.
        what: &'static str,
        /// Its value.
        address: Ipv4Addr,
        /// The network.
        network: Ipv4Addr,
        /// Its prefix length.
        prefix: u8,
    },
    /// The pool ends before it begins.
    #[error("the pool ends at {last}, before its first address {first}")]
    PoolOrder {
        /// As written.
        first: Ipv4Addr,
        /// As written.
        last: Ipv4Addr,
    },
    /// Nothing is left after own addresses are taken out, or too much to keep.
    #[error("the pool holds {0} addresses to give; it needs 1 to {MAX_POOL}")]
    PoolSize(u64),
    /// Lease time out of range.
    #[error("a lease of {0} s; write 120 s to 31536000 s (a year)")]
    Lease(u32),
    /// Too many or impossible name or time servers.
    #[error("{0}: give at most 8 addresses, none of them 0.0.0.0")]
    Servers(&'static str),
    /// An address or a client with two reservations.
    #[error("{0} is reserved twice: give each address and each client one reservation")]
    ReservedTwice(Ipv4Addr),
    /// Not a host's name.
    #[error("`{0}` is not a host name: 1 to 63 letters, digits and hyphens")]
    Hostname(String),
    /// The search list does not fit into one option.
    #[error("the search list is longer than 255 bytes: leave domains out")]
    Search,
    /// Not a domain name.
    #[error("`{0}` is not a domain name: labels of letters, digits and hyphens, joined by dots")]
    Domain(String),
}

/// The most addresses a pool may hold; bounds the memory of the leases.
pub const MAX_POOL: u64 = 1 << 18;

impl Subnet {
    /// Checks a network as written.
    pub fn new(config: SubnetConfig) -> Result<Self, SubnetError> {
        if !(8..=30).contains(&config.prefix) {
            return Err(SubnetError::Prefix(config.prefix));
        }
        let mask = u32::MAX << (32 - config.prefix);
        check_hosts(&config, mask)?;
        let (first, last) = (u32::from(config.pool_first), u32::from(config.pool_last));
        if last < first {
            return Err(SubnetError::PoolOrder {
                first: config.pool_first,
                last: config.pool_last,
            });
        }
        check_extras(&config)?;
        let (reserved, kept) = reservations(&config)?;
        let own = [config.server].into_iter().chain(config.router);
        let own = own
            .chain(config.dns.iter().copied())
            .chain(config.ntp.iter().copied())
            .chain(kept.iter().copied());
        let excluded: BTreeSet<u32> = own
            .map(u32::from)
            .filter(|a| (first..=last).contains(a))
            .collect();
        let size = u64::from(last - first) + 1 - excluded.len() as u64;
        if !(1..=MAX_POOL).contains(&size) {
            return Err(SubnetError::PoolSize(size));
        }
        let network = u32::from(network_of(&config)) & mask;
        let SubnetConfig {
            server,
            router,
            dns,
            ntp,
            domain,
            search,
            lease_seconds,
            ..
        } = config;
        Ok(Self {
            server,
            network,
            mask,
            reserved,
            kept,
            first,
            last,
            excluded,
            router,
            dns,
            ntp,
            domain,
            search,
            lease_seconds,
        })
    }

    /// The appliance's address.
    pub fn server(&self) -> Ipv4Addr {
        self.server
    }

    /// The network mask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.mask)
    }

    /// The network's broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network | !self.mask)
    }

    /// Whether an address belongs to this network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask == self.network
    }

    /// The network's own address.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network)
    }

    /// Whether an address may be given to some client.
    pub fn gives(&self, address: Ipv4Addr) -> bool {
        self.in_pool(address) || self.kept.contains(&address)
    }

    /// Addresses kept by reservations.
    pub(super) fn kept(&self) -> &BTreeSet<Ipv4Addr> {
        &self.kept
    }

    /// The address reserved for who asks: by identifier, then by hardware
    /// address, then by machine.
    pub fn reserved_for(&self, request: &Request) -> Option<&Reservation> {
        if self.reserved.is_empty() {
            return None;
        }
        let id = request.client_id.clone().map(Who::Id);
        let uuid = request.uuid.map(Who::Uuid);
        let names = [id, Some(Who::Mac(request.mac)), uuid];
        names
            .into_iter()
            .flatten()
            .find_map(|who| self.reserved.get(&who))
    }

    /// Whether an address may be given to any client.
    pub(super) fn in_pool(&self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        (self.first..=self.last).contains(&address) && !self.excluded.contains(&address)
    }

    /// How many addresses may be given.
    pub fn pool_size(&self) -> usize {
        (self.last - self.first) as usize + 1 - self.excluded.len()
    }

    /// The addresses that may be given, as numbers, ascending.
    pub(super) fn pool(&self) -> std::ops::RangeInclusive<u32> {
        self.first..=self.last
    }

    /// Default router.
    pub fn router(&self) -> Option<Ipv4Addr> {
        self.router
    }

    /// DNS servers.
    pub fn dns(&self) -> &[Ipv4Addr] {
        &self.dns
    }

    /// NTP servers.
    pub fn ntp(&self) -> &[Ipv4Addr] {
        &self.ntp
    }

    /// Domain name.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// Domains that short names are looked up in.
    pub fn search(&self) -> &[String] {
        &self.search
    }

    /// Lease time in seconds.
    pub fn lease_seconds(&self) -> u32 {
        self.lease_seconds
    }
}

fn network_of(config: &SubnetConfig) -> Ipv4Addr {
    config.behind_relay.unwrap_or(config.server)
}

type Reserved = (BTreeMap<Who, Reservation>, BTreeSet<Ipv4Addr>);

fn reservations(config: &SubnetConfig) -> Result<Reserved, SubnetError> {
    let (mut reserved, mut kept) = (BTreeMap::new(), BTreeSet::new());
    for reservation in &config.reservations {
        let Reservation { ip, who, hostname } = reservation;
        if let Some(wrong) = hostname.as_ref().filter(|name| !is_label(name)) {
            return Err(SubnetError::Hostname(wrong.clone()));
        }
        let taken = *ip == config.server || Some(*ip) == config.router;
        if taken || reserved.insert(who.clone(), reservation.clone()).is_some() || !kept.insert(*ip)
        {
            return Err(SubnetError::ReservedTwice(*ip));
        }
    }
    Ok((reserved, kept))
}

fn check_hosts(config: &SubnetConfig, mask: u32) -> Result<(), SubnetError> {
    let network = u32::from(network_of(config)) & mask;
    let hosts = network + 1..=(network | !mask) - 1;
    let named = [
        ("the address", network_of(config)),
        ("the pool's first address", config.pool_first),
        ("the pool's last address", config.pool_last),
    ];
    for (what, address) in named
        .into_iter()
        .chain(config.router.map(|r| ("the router", r)))
        .chain(
            config
                .reservations
                .iter()
                .map(|r| ("the reserved address", r.ip)),
        )
    {
        if !hosts.contains(&u32::from(address)) {
            return Err(SubnetError::Outside {
                what,
                address,
                network: Ipv4Addr::from(network),
                prefix: config.prefix,
            });
        }
    }
    Ok(())
}

fn check_extras(config: &SubnetConfig) -> Result<(), SubnetError> {
    if !(120..=31_536_000).contains(&config.lease_seconds) {
        return Err(SubnetError::Lease(config.lease_seconds));
    }
    for (what, servers) in [("DNS servers", &config.dns), ("NTP servers", &config.ntp)] {
        if servers.len() > 8 || servers.iter().any(Ipv4Addr::is_unspecified) {
            return Err(SubnetError::Servers(what));
        }
    }
    let mut domains = config.domain.iter().chain(&config.search);
    if let Some(wrong) = domains.find(|domain| !is_domain(domain)) {
        return Err(SubnetError::Domain(wrong.clone()));
    }
    // Two bytes more for each on the wire; one option holds 255.
    if config
        .search
        .iter()
        .map(|domain| domain.len() + 2)
        .sum::<usize>()
        > 255
    {
        return Err(SubnetError::Search);
    }
    Ok(())
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn config() -> SubnetConfig {
        let ip = |last| Ipv4Addr::new(10, 77, 0, last);
        SubnetConfig {
            server: ip(1),
            prefix: 24,
            pool_first: ip(1),
            pool_last: ip(9),
            router: Some(ip(2)),
            dns: vec![ip(3), Ipv4Addr::new(9, 9, 9, 9)],
            ntp: vec![],
            domain: Some("lab.example".into()),
            search: vec![],
            lease_seconds: 3600,
            behind_relay: None,
            reservations: vec![],
        }
    }

    fn with(edit: impl FnOnce(&mut SubnetConfig)) -> Result<Subnet, String> {
        let mut config = config();
        edit(&mut config);
        Subnet::new(config).map_err(|e| e.to_string())
    }

    #[test]
    fn own_addresses_are_never_given() {
        let subnet = Subnet::new(config()).unwrap();
        let given: Vec<u8> = (0..=255)
            .filter(|&n| subnet.gives(Ipv4Addr::new(10, 77, 0, n)))
            .collect();
        assert_eq!(given, [4, 5, 6, 7, 8, 9]);
        assert_eq!(subnet.pool_size(), 6);
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 77, 0, 255));
    }

    #[test]
    fn wrong_networks_say_what_would_be_right() {
        let far = Ipv4Addr::new(10, 78, 0, 9);
        assert_eq!(
            with(|c| c.pool_last = far).unwrap_err(),
            "the pool's last address 10.78.0.9 is not a host address of 10.77.0.0/24"
        );
        assert_eq!(
            with(|c| c.pool_last = Ipv4Addr::new(10, 77, 0, 255)).unwrap_err(),
            "the pool's last address 10.77.0.255 is not a host address of 10.77.0.0/24"
        );
        assert!(
            with(|c| c.router = Some(far))
                .unwrap_err()
                .starts_with("the router 10.78.0.9")
        );
        assert_eq!(
            with(|c| c.prefix = 31).unwrap_err(),
            "prefix /31: a served network has /8 to /30"
        );
        assert!(
            with(|c| c.pool_first = Ipv4Addr::new(10, 77, 0, 20))
                .unwrap_err()
                .contains("before its first")
        );
        assert_eq!(
            with(|c| c.pool_last = Ipv4Addr::new(10, 77, 0, 3)).unwrap_err(),
            "the pool holds 0 addresses to give; it needs 1 to 262144"
        );
        let keep = |ip| Reservation {
            ip,
            who: Who::Id(vec![ip.octets()[3], 1]),
            hostname: None,
        };
        assert_eq!(
            with(|c| c.reservations = vec![keep(c.server)]).unwrap_err(),
            "10.77.0.1 is reserved twice: give each address and each client one reservation"
        );
        assert!(
            with(|c| c.reservations = vec![keep(far)])
                .unwrap_err()
                .starts_with("the reserved address 10.78.0.9")
        );
        assert!(with(|c| c.lease_seconds = 5).is_err());
        assert!(with(|c| c.domain = Some("a b".into())).is_err());
        assert!(with(|c| c.search = vec!["a..b".into()]).is_err());
        assert!(
            with(|c| c.search = vec!["x".repeat(60); 5])
                .unwrap_err()
                .contains("255 bytes")
        );
        assert!(with(|c| c.dns = vec![far; 9]).is_err());
    }
}
