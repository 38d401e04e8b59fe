//! The authoritative server of one interface and the networks behind its relays, as a pure machine (RFC 2131 §4.3).
//!
//! # Contract
//! [`Server::handle`] moves memory first. The caller then makes the outcome's
//! events durable, and only then sends the reply. If that cannot be done the
//! process must end: memory would promise what the rows do not know. After a
//! restart [`Server::new`] takes the rows; offers are forgotten, which costs a
//! client at most one more DISCOVER.

use std::fmt;
use std::net::Ipv4Addr;

use groundcrew_core::UnixTime;
use groundcrew_core::hardware::MacAddr;

use super::boot::BootService;
use super::client::BootClient;
use super::leases::{ClientKey, Lease, LeaseEvent, LeaseState, Leases};
use super::limit::Limited;
use super::mode::Role;
use super::reply::Reply;
use super::subnet::Subnet;
use super::turn::Turn;
use super::wire::{MessageKind, Request};

/// How long a declined address is put aside, in seconds.
pub const DECLINE_SECONDS: u64 = 3600;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Send something, or not, and why.
    pub verdict: Verdict,
    /// Rows to make durable before anything is sent.
    pub events: Vec<LeaseEvent>,
    /// What kind of client asked.
    pub client: BootClient,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send this, once the events are durable.
    Reply(Reply),
    /// A message that has no answer was carried out.
    Noted(Noted),
    /// Say nothing; log the reason at debug (an exhausted pool at warn).
    Ignored(Ignored),
}

/// A message without answer that changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// The client gave its address back.
    Released(Ipv4Addr),
    /// The address is used by somebody else and is put aside: worth a warning.
    Declined(Ipv4Addr),
}

/// Why a request gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The client chose another server (option 54); our offer is withdrawn.
    OtherServer(Ipv4Addr),
    /// It came through a relay whose network is not this one.
    OtherNetwork(Ipv4Addr),
    /// It names an address it has, on a network that is not this one.
    ForeignAddress(Ipv4Addr),
    /// It remembers an address, but nothing is known of it here (RFC 2131 §4.3.2).
    NoRecord(Ipv4Addr),
    /// A REQUEST that fits none of RFC 2131's four states.
    NoState,
    /// Every address is leased, promised or put aside.
    PoolExhausted {
        /// Addresses in the pool.
        size: usize,
        /// How many are promised only.
        offers: usize,
        /// How many are held by clients that showed one exchange and nothing since.
        strangers: usize,
    },
    /// RELEASE or DECLINE of an address that the client does not hold.
    NotHolder(Ipv4Addr),
    /// RELEASE, DECLINE or INFORM without an address.
    NoAddress,
    /// ProxyDHCP: it boots nothing from here.
    NothingToBoot,
    /// ProxyDHCP: a message for the server that gives the addresses.
    NotTheAddressServer,
    /// The role of this moment is to be silent.
    NoRole(Role),
    /// Our own DISCOVER came back.
    OwnProbe,
    /// Too many packets.
    RateLimited(Limited),
}

/// Gives addresses on one or more networks and says what to boot.
#[derive(Debug)]
pub struct Server {
    /// The first one is that of the interface; the others lie behind relays.
    networks: Vec<Network>,
    boot: Option<BootService>,
    /// Somebody asks by ARP before a fresh address is offered.
    probed: bool,
}

/// What the site knows of a device that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The name it is to have.
    pub hostname: Option<String>,
}

/// A network and what is given on it.
#[derive(Debug)]
pub struct Network {
    pub(super) subnet: Subnet,
    pub(super) leases: Leases,
}

/// Two networks that are one.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the networks of {0} and {1} overlap: every address must belong to one network")]
pub struct Overlap(Ipv4Addr, Ipv4Addr);

impl Server {
    /// A server with the leases of earlier runs. `boot: None` gives addresses only.
    pub fn new(
        subnet: Subnet,
        boot: Option<BootService>,
        rows: impl IntoIterator<Item = Lease>,
    ) -> Self {
        let leases = Leases::from_rows(&subnet, rows);
        Self {
            networks: vec![Network { subnet, leases }],
            boot,
            probed: false,
        }
    }

    /// The interface's own network, and those that relays bring.
    pub fn with_relays(
        own: Subnet,
        relayed: Vec<Subnet>,
        boot: Option<BootService>,
        rows: &[Lease],
    ) -> Result<Self, Overlap> {
        let mut server = Self::new(own, boot, rows.iter().cloned());
        let own = server.networks.iter().map(|network| &network.subnet);
        check_apart(own.chain(&relayed))?;
        for subnet in relayed {
            let leases = Leases::from_rows(&subnet, rows.iter().cloned());
            server.networks.push(Network { subnet, leases });
        }
        Ok(server)
    }

    /// Somebody asks by ARP before a fresh address is offered, so that addresses of
    /// clients that are not there can be taken back ([`Reply::held`]).
    pub fn probed(mut self) -> Self {
        self.probed = true;
        self
    }

    /// Decides on a request. Read the contract above before sending the answer.
    pub fn handle(&mut self, request: &Request, now: UnixTime) -> Outcome {
        self.handle_known(request, None, now)
    }

    /// The same for a device that the site knows.
    pub fn handle_known(
        &mut self,
        request: &Request,
        known: Option<&Known>,
        now: UnixTime,
    ) -> Outcome {
        let client = BootClient::of(request);
        let Self {
            networks,
            boot,
            probed,
        } = self;
        let network = match network_of(networks, request) {
            Ok(network) => network,
            Err(why) => {
                return Outcome {
                    verdict: Verdict::Ignored(why),
                    events: Vec::new(),
                    client,
                };
            }
        };
        network.leases.lapse(&network.subnet, now);
        let mut turn = Turn {
            network,
            boot: boot.as_ref(),
            request,
            known,
            probed: *probed && !request.relayed(),
            client,
            now,
            events: Vec::new(),
        };
        let verdict = turn.decide();
        Outcome {
            verdict,
            events: turn.events,
            client,
        }
    }

    /// The interface's own network, then those behind relays.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Every row there is, in no order; ended and released ones too.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.networks.iter().flat_map(Network::leases)
    }

    /// The row of one address.
    pub fn lease(&self, ip: Ipv4Addr) -> Option<&Lease> {
        let mut rows = self.networks.iter().map(|n| n.leases.at(ip));
        rows.find_map(|row| row)
    }

    /// How many addresses may be given.
    pub fn pool_size(&self) -> usize {
        self.networks.iter().map(|n| n.subnet.pool_size()).sum()
    }

    /// Addresses promised but not taken.
    pub fn offers(&self) -> usize {
        self.networks.iter().map(Network::offers).sum()
    }

    /// Whether this is the second half of an exchange: a REQUEST of a client that
    /// was promised an address.
    pub fn promised(&self, request: &Request) -> bool {
        let key = ClientKey::of(request.client_id.as_deref(), request.mac);
        let offered = |n: &Network| n.leases.offered_to(&key).is_some();
        request.kind == MessageKind::Request && self.networks.iter().any(offered)
    }

    /// A technician takes a lease away; the client moves when it next asks.
    pub fn release(&mut self, ip: Ipv4Addr, now: UnixTime) -> Vec<LeaseEvent> {
        for network in &mut self.networks {
            if let Some(lease) = network.leases.at(ip).cloned() {
                // The row of a declined address names who complained, not a holder.
                if lease.state == LeaseState::Declined {
                    return vec![network.leases.drop_declined(ip)];
                }
                return network.leases.put(Lease {
                    state: LeaseState::Released,
                    expires_at: now,
                    ..lease
                });
            }
        }
        Vec::new()
    }
}

impl Server {
    /// Another machine was found to use an address that was about to be given:
    /// it is put aside, unless a client holds it by now.
    pub fn conflict(&mut self, ip: Ipv4Addr, user: MacAddr, now: UnixTime) -> Vec<LeaseEvent> {
        let network = self.networks.iter_mut().find(|n| n.subnet.gives(ip));
        let Some(network) = network else {
            return Vec::new();
        };
        // Whoever it is, the address is in use.
        network.leases.trust(ip);
        if network.leases.at(ip).is_some_and(|lease| lease.holds(now)) {
            return Vec::new();
        }
        network.leases.put(Lease {
            ip,
            key: ClientKey::Mac(user),
            mac: user,
            uuid: None,
            hostname: None,
            expires_at: now.plus(DECLINE_SECONDS),
            state: LeaseState::Declined,
        })
    }
}

impl Server {
    /// Who has this address asked for something to boot: somebody is there.
    pub fn seen(&mut self, ip: Ipv4Addr) {
        for network in &mut self.networks {
            network.leases.trust(ip);
        }
    }

    /// ARP found nobody at the address of an offer that is [`Reply::held`]: it may be
    /// sent, and taken. `false`: somebody was heard there meanwhile, it must not.
    pub fn nobody_at(&mut self, ip: Ipv4Addr) -> bool {
        let network = self.networks.iter_mut().find(|n| n.subnet.gives(ip));
        network.is_some_and(|network| network.leases.nobody_at(ip))
    }

    /// Addresses of clients that have shown one exchange and nothing since.
    pub fn strangers(&self) -> usize {
        self.networks.iter().map(Network::strangers).sum()
    }
}

/// Whether every address belongs to one of these networks at most.
///
/// # Errors
/// The first two that overlap.
pub fn check_apart<'a>(networks: impl IntoIterator<Item = &'a Subnet>) -> Result<(), Overlap> {
    let mut known: Vec<&Subnet> = Vec::new();
    for subnet in networks {
        let overlaps =
            |known: &&&Subnet| known.contains(subnet.network()) || subnet.contains(known.network());
        if let Some(twin) = known.iter().find(overlaps) {
            return Err(Overlap(twin.network(), subnet.network()));
        }
        known.push(subnet);
    }
    Ok(())
}

impl Network {
    /// The network as configured.
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// Its rows, in no order; ended and released ones too.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter()
    }

    /// Addresses promised but not taken.
    pub fn offers(&self) -> usize {
        self.leases.offers()
    }

    /// Addresses of clients that have shown one exchange and nothing since.
    pub fn strangers(&self) -> usize {
        self.leases.strangers().len()
    }
}

/// Where the client is: where its relay says (RFC 3527, else `giaddr`), where the
/// address it uses belongs (it renews past the relay), else on this wire.
fn network_of<'a>(
    networks: &'a mut [Network],
    request: &Request,
) -> Result<&'a mut Network, Ignored> {
    let (wanted, fallback) = if request.relayed() {
        (request.link_selection().unwrap_or(request.giaddr), None)
    } else {
        (request.ciaddr, Some(0))
    };
    let place = networks.iter().position(|n| n.subnet.contains(wanted));
    place
        .or(fallback)
        .and_then(|place| networks.get_mut(place))
        .ok_or(Ignored::OtherNetwork(wanted))
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherServer(server) => write!(f, "it chose the DHCP server {server}"),
            Self::OtherNetwork(relay) => {
                write!(f, "relay {relay} is on a network that is not served")
            }
            Self::ForeignAddress(ip) => write!(
                f,
                "its address {ip} belongs to a network that is not served"
            ),
            Self::NoRecord(ip) => write!(f, "it remembers {ip}, of which nothing is known here"),
            Self::NoState => f.write_str("a REQUEST that names no address"),
            Self::PoolExhausted {
                size,
                offers,
                strangers,
            } => write!(
                f,
                "the pool is exhausted: all {size} addresses are in use ({offers} of them only promised, {strangers} by clients that did nothing since); widen the pool or shorten the lease time"
            ),
            Self::NotHolder(ip) => write!(f, "it does not hold {ip}"),
            Self::NoAddress => f.write_str("it names no address"),
            Self::NothingToBoot => f.write_str("it boots nothing from here"),
            Self::NotTheAddressServer => {
                f.write_str("that is for the server that gives the addresses")
            }
            Self::NoRole(role) => write!(f, "this server is {role}"),
            Self::OwnProbe => f.write_str("it is our own DISCOVER"),
            Self::RateLimited(Limited::Client) => f.write_str("it asks too often"),
            Self::RateLimited(Limited::Total) => f.write_str("too many packets arrive at once"),
        }
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Released(ip) => write!(f, "{ip} was given back"),
            Self::Declined(ip) => write!(
                f,
                "{ip} is used by another machine and is put aside for {DECLINE_SECONDS} s"
            ),
        }
    }
}

/// A line for the log: who asked what, and what became of it.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Reply(reply) => write!(
                f,
                "{} {} to {} ({})",
                reply.kind, reply.yiaddr, reply.destination, self.client
            ),
            Verdict::Noted(noted) => write!(f, "{noted}"),
            Verdict::Ignored(why) => write!(f, "ignored: {why}"),
        }
    }
}

#[cfg(test)]
use super::reply::ReplyKind;
#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
