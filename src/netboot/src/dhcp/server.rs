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

use super::boot::{BootOffer, BootService};
use super::client::BootClient;
use super::leases::{Asker, ClientKey, Lease, LeaseEvent, LeaseState, Leases};
use super::limit::Limited;
use super::mode::Role;
use super::reply::{Draft, Reply, ReplyKind};
use super::subnet::Subnet;
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
}

/// A network and what is given on it.
#[derive(Debug)]
pub struct Network {
    subnet: Subnet,
    leases: Leases,
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
        for subnet in relayed {
            let twin = server
                .networks
                .iter()
                .map(|network| &network.subnet)
                .find(|known| known.contains(subnet.network()) || subnet.contains(known.network()));
            if let Some(twin) = twin {
                return Err(Overlap(twin.network(), subnet.network()));
            }
            let leases = Leases::from_rows(&subnet, rows.iter().cloned());
            server.networks.push(Network { subnet, leases });
        }
        Ok(server)
    }

    /// Decides on a request. Read the contract above before sending the answer.
    pub fn handle(&mut self, request: &Request, now: UnixTime) -> Outcome {
        let client = BootClient::of(request);
        let Self { networks, boot } = self;
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
        network.leases.lapse(now);
        let mut turn = Turn {
            network,
            boot: boot.as_ref(),
            request,
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

    /// How many addresses may be given.
    pub fn pool_size(&self) -> usize {
        self.networks.iter().map(|n| n.subnet.pool_size()).sum()
    }

    /// Addresses promised but not taken.
    pub fn offers(&self) -> usize {
        self.networks.iter().map(Network::offers).sum()
    }

    /// A technician takes a lease away; the client moves when it next asks.
    pub fn release(&mut self, ip: Ipv4Addr, now: UnixTime) -> Vec<LeaseEvent> {
        for network in &mut self.networks {
            if let Some(lease) = network.leases.at(ip).cloned() {
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

/// One request being decided.
struct Turn<'a> {
    network: &'a mut Network,
    boot: Option<&'a BootService>,
    request: &'a Request,
    client: BootClient,
    now: UnixTime,
    events: Vec<LeaseEvent>,
}

impl Turn<'_> {
    fn decide(&mut self) -> Verdict {
        match self.request.kind {
            MessageKind::Discover => self.discover(),
            MessageKind::Request => self.request(),
            MessageKind::Decline => self.decline(),
            MessageKind::Release => self.release(),
            MessageKind::Inform => self.inform(),
        }
    }

    fn key(&self) -> ClientKey {
        self.request.key()
    }

    /// §4.3.1.
    fn discover(&mut self) -> Verdict {
        let reserved = self.network.subnet.reserved_for(self.request);
        let Network { subnet, leases } = &mut *self.network;
        let key = self.request.key();
        let asker = Asker {
            key: &key,
            reserved,
        };
        match leases.offer(subnet, asker, self.request.requested_ip, self.now) {
            Some(ip) => match self.give(ReplyKind::Offer, ip) {
                Verdict::Reply(reply) => Verdict::Reply(Reply {
                    fresh: !self.holds(ip) && !self.request.relayed(),
                    ..reply
                }),
                other => other,
            },
            None => Verdict::Ignored(Ignored::PoolExhausted {
                size: self.network.subnet.pool_size(),
                offers: self.network.leases.offers(),
            }),
        }
    }

    /// §4.3.2: the state the client is in shows in which fields it fills.
    fn request(&mut self) -> Verdict {
        let Request {
            server_id,
            requested_ip,
            ciaddr,
            ..
        } = *self.request;
        match (server_id, requested_ip, ciaddr.is_unspecified()) {
            (Some(server), Some(ip), true) => self.selecting(server, ip),
            (None, Some(ip), true) => self.init_reboot(ip),
            // Some clients fill in option 54 when they renew; it must be ours.
            (Some(server), _, false) if !self.is_us(server) => {
                Verdict::Ignored(Ignored::OtherServer(server))
            }
            (_, _, false) => self.extend(ciaddr),
            (_, None, true) => Verdict::Ignored(Ignored::NoState),
        }
    }

    /// SELECTING: the client takes an offer, ours or another's. After a restart
    /// the offer is forgotten, but an address that is free may still be taken.
    fn selecting(&mut self, server: Ipv4Addr, ip: Ipv4Addr) -> Verdict {
        if !self.is_us(server) {
            if let Some(offered) = self.network.leases.offered_to(&self.key()) {
                self.network.leases.withdraw(offered);
            }
            return Verdict::Ignored(Ignored::OtherServer(server));
        }
        if self.may_have(ip) {
            self.bind(ip)
        } else {
            self.nak("that address is not on offer")
        }
    }

    /// INIT-REBOOT: the client remembers an address. NAK on the wrong network or
    /// when we know better; silence when we know nothing of this client.
    fn init_reboot(&mut self, ip: Ipv4Addr) -> Verdict {
        if !self.network.subnet.contains(ip) {
            return self.nak("that address belongs to another network");
        }
        match self.network.leases.of(&self.key()).map(|lease| lease.ip) {
            None => Verdict::Ignored(Ignored::NoRecord(ip)),
            Some(known) if known == ip && self.may_have(ip) => self.bind(ip),
            Some(_) => self.nak("that address is not yours"),
        }
    }

    /// RENEWING and REBINDING: the client uses the address already. An address
    /// of another network is left alone: its own server may be behind a router.
    fn extend(&mut self, ip: Ipv4Addr) -> Verdict {
        if !self.network.subnet.contains(ip) {
            return Verdict::Ignored(Ignored::ForeignAddress(ip));
        }
        if self.may_have(ip) {
            return self.bind(ip);
        }
        match self.network.leases.at(ip) {
            Some(lease) if lease.key != self.key() => {
                self.nak("that address was given to another client")
            }
            _ => self.nak("that address can no longer be had"),
        }
    }

    /// §4.3.3. Only the holder may put an address aside, else anybody could
    /// empty the pool.
    fn decline(&mut self) -> Verdict {
        let Some(ip) = self.request.requested_ip else {
            return Verdict::Ignored(Ignored::NoAddress);
        };
        if let Some(other) = self.request.server_id.filter(|s| !self.is_us(*s)) {
            return Verdict::Ignored(Ignored::OtherServer(other));
        }
        if !self.holds(ip) {
            return Verdict::Ignored(Ignored::NotHolder(ip));
        }
        let lease = self.lease(ip, self.now.plus(DECLINE_SECONDS), LeaseState::Declined);
        self.events.extend(self.network.leases.put(lease));
        Verdict::Noted(Noted::Declined(ip))
    }

    /// §4.3.4. The row stays, so that the client gets the same address again.
    fn release(&mut self) -> Verdict {
        let ip = self.request.ciaddr;
        if ip.is_unspecified() {
            return Verdict::Ignored(Ignored::NoAddress);
        }
        if !self.holds(ip) {
            return Verdict::Ignored(Ignored::NotHolder(ip));
        }
        let lease = self.lease(ip, self.now, LeaseState::Released);
        self.events.extend(self.network.leases.put(lease));
        Verdict::Noted(Noted::Released(ip))
    }

    /// §4.3.5: parameters only, to the address the client says it has.
    fn inform(&mut self) -> Verdict {
        let ip = self.request.ciaddr;
        if ip.is_unspecified() {
            return Verdict::Ignored(Ignored::NoAddress);
        }
        if !self.network.subnet.contains(ip) {
            return Verdict::Ignored(Ignored::ForeignAddress(ip));
        }
        let boot = self.boot_offer();
        self.reply(&Draft {
            kind: ReplyKind::Ack,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            lease_seconds: None,
            boot: boot.as_ref(),
            message: None,
        })
    }

    fn may_have(&self, ip: Ipv4Addr) -> bool {
        let Network { subnet, leases } = &*self.network;
        let asker = Asker {
            key: &self.key(),
            reserved: subnet.reserved_for(self.request),
        };
        leases.may_have(subnet, asker, ip, self.now)
    }

    /// Whom clients see as their server: us, or the relay that stands for us (RFC 5107).
    fn identifier(&self) -> Ipv4Addr {
        let own = self.network.subnet.server();
        self.request.server_override().unwrap_or(own)
    }

    fn is_us(&self, server: Ipv4Addr) -> bool {
        server == self.identifier() || server == self.network.subnet.server()
    }

    fn holds(&self, ip: Ipv4Addr) -> bool {
        self.network
            .leases
            .of(&self.key())
            .is_some_and(|l| l.ip == ip && l.holds(self.now))
    }

    fn bind(&mut self, ip: Ipv4Addr) -> Verdict {
        let until = self
            .now
            .plus(u64::from(self.network.subnet.lease_seconds()));
        let lease = self.lease(ip, until, LeaseState::Bound);
        self.events.extend(self.network.leases.put(lease));
        self.give(ReplyKind::Ack, ip)
    }

    fn lease(&self, ip: Ipv4Addr, expires_at: UnixTime, state: LeaseState) -> Lease {
        let Request {
            mac,
            uuid,
            ref hostname,
            ..
        } = *self.request;
        Lease {
            ip,
            key: self.key(),
            mac,
            uuid,
            hostname: hostname.clone(),
            expires_at,
            state,
        }
    }

    fn give(&self, kind: ReplyKind, yiaddr: Ipv4Addr) -> Verdict {
        let boot = self.boot_offer();
        let lease_seconds = Some(self.network.subnet.lease_seconds());
        self.reply(&Draft {
            kind,
            yiaddr,
            lease_seconds,
            boot: boot.as_ref(),
            message: None,
        })
    }

    fn nak(&self, reason: &'static str) -> Verdict {
        self.reply(&Draft {
            kind: ReplyKind::Nak,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            lease_seconds: None,
            boot: None,
            message: Some(reason),
        })
    }

    fn boot_offer(&self) -> Option<BootOffer> {
        self.boot?.offer_for(&self.client, self.request.word, true)
    }

    fn reply(&self, draft: &Draft<'_>) -> Verdict {
        let subnet = &self.network.subnet;
        Verdict::Reply(Reply::build(self.request, subnet, self.identifier(), draft))
    }
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
            Self::PoolExhausted { size, offers } => write!(
                f,
                "the pool is exhausted: all {size} addresses are in use ({offers} of them only promised); widen the pool or shorten the lease time"
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
#[path = "server_tests.rs"]
mod tests;
