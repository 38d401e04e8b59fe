//! The DHCP service of one interface: watch, limiter, address server and
//! ProxyDHCP as one machine. The caller owns sockets, clock and disk.
//!
//! ```text
//! packet  -> handle   -> Handled { outcome, notice }     events first, then the reply
//! answer of another server -> overhear -> notice
//! time    -> tick     -> a DISCOVER to send, a notice, when to come back
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use groundcrew_core::UnixTime;
use groundcrew_core::hardware::MacAddr;

use serde::{Deserialize, Serialize};

use super::boot::BootService;
use super::client::BootClient;
use super::leases::LeaseEvent;
use super::limit::{Limited, Limiter};
use super::mode::{Evidence, Mode, Notice, Role, Tick, Watch};
use super::probe::{self, Answer};
use super::proxy::{self, Via};
use super::reply::ReplyKind;
use super::server::{Ignored, Known, Noted, Outcome, Server, Verdict};
use super::wire::{MessageKind, Request};

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For leases.
    pub wall: UnixTime,
    /// Never steps: counted from any fixed moment.
    pub steady: Duration,
}

/// Who this server is on its interface.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Server identifier and next server.
    pub address: Ipv4Addr,
    /// The interface's hardware address, from which it probes.
    pub mac: MacAddr,
    /// Random: transaction id of the probe, key of the limiter.
    pub seed: u64,
}

/// What came of a packet.
#[derive(Debug)]
pub struct Handled {
    /// Events to make durable, and the reply.
    pub outcome: Outcome,
    /// What the packet gave away about other servers.
    pub notice: Option<Notice>,
}

/// What was counted since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// DISCOVERs that were looked at.
    pub discovers: u64,
    /// REQUESTs that were looked at.
    pub requests: u64,
    /// Other messages that were looked at.
    pub others: u64,
    /// Addresses offered.
    pub offers: u64,
    /// Addresses acknowledged, and answers to INFORM.
    pub acks: u64,
    /// Refusals.
    pub naks: u64,
    /// Boot files told beside another server.
    pub proxied: u64,
    /// Addresses that clients, or an ARP probe, found in use.
    pub declined: u64,
    /// DISCOVERs that found the pool exhausted.
    pub exhausted: u64,
    /// Packets that were not DHCP, or not a client's.
    pub malformed: u64,
    /// Turned away: one hardware address asked too often.
    pub limited_client: u64,
    /// Turned away: too many packets altogether.
    pub limited_total: u64,
}

/// One interface's service.
#[derive(Debug)]
pub struct Service {
    me: Identity,
    boot: BootService,
    server: Server,
    watch: Watch,
    limiter: Limiter,
    counters: Counters,
}

impl Service {
    /// Begins at `now`. `server` gives the addresses wherever the role allows it.
    pub fn new(mode: Mode, me: Identity, boot: BootService, server: Server, now: Moment) -> Self {
        Self {
            me,
            boot,
            server,
            watch: Watch::new(mode, me.address, now.steady),
            limiter: Limiter::new(me.seed),
            counters: Counters::default(),
        }
    }

    /// Decides on a packet of a client that the site does not know: both halves.
    /// See [`Server`]'s contract: events first.
    pub fn handle(&mut self, request: &Request, via: Via, now: Moment) -> Handled {
        match self.turned_away(request, now) {
            Some(turned_away) => turned_away,
            None => self.handle_admitted(request, None, via, now),
        }
    }

    /// The second half: for a packet that [`Self::turned_away`] lets pass.
    pub fn handle_admitted(
        &mut self,
        request: &Request,
        known: Option<&Known>,
        via: Via,
        now: Moment,
    ) -> Handled {
        let notice = chosen_server(request)
            .and_then(|server| self.watch.heard(server, Evidence::Chosen, now.steady));
        let outcome = self.decide(request, known, via, now);
        self.count(request.kind, &outcome.verdict);
        Handled { outcome, notice }
    }

    /// The first half: what becomes of a packet that is not worth a look, so that
    /// nobody need ask who sent it.
    pub fn turned_away(&mut self, request: &Request, now: Moment) -> Option<Handled> {
        let why = self.why_not(request, now)?;
        let outcome = Outcome {
            verdict: Verdict::Ignored(why),
            events: Vec::new(),
            client: BootClient::of(request),
        };
        Some(Handled {
            outcome,
            notice: None,
        })
    }

    fn why_not(&mut self, request: &Request, now: Moment) -> Option<Ignored> {
        // A broadcast of ours comes back to our own socket.
        if request.mac == self.me.mac && request.xid == self.xid() {
            return Some(Ignored::OwnProbe);
        }
        let promised = self.server.promised(request);
        let limited = self.limiter.admit(request.mac, promised, now.steady);
        let limited = limited.err()?;
        match limited {
            Limited::Client => self.counters.limited_client += 1,
            Limited::Total => self.counters.limited_total += 1,
        }
        Some(Ignored::RateLimited(limited))
    }

    fn decide(
        &mut self,
        request: &Request,
        known: Option<&Known>,
        via: Via,
        now: Moment,
    ) -> Outcome {
        let role = self.watch.role();
        let silently = |verdict| Outcome {
            verdict,
            events: Vec::new(),
            client: BootClient::of(request),
        };
        match (role, via) {
            (Role::Authoritative, Via::Dhcp) => self.server.handle_known(request, known, now.wall),
            // Somebody who was told of port 4011 before the role changed.
            (Role::Proxy | Role::Authoritative, _) => {
                silently(proxy::answer(&self.boot, self.me.address, request, via))
            }
            (Role::Listening | Role::Silent | Role::Off, _) => {
                silently(Verdict::Ignored(Ignored::NoRole(role)))
            }
        }
    }

    fn count(&mut self, kind: MessageKind, verdict: &Verdict) {
        let counters = &mut self.counters;
        match kind {
            MessageKind::Discover => counters.discovers += 1,
            MessageKind::Request => counters.requests += 1,
            _ => counters.others += 1,
        }
        match verdict {
            Verdict::Reply(reply) if reply.proxied => counters.proxied += 1,
            Verdict::Reply(reply) => match reply.kind {
                ReplyKind::Offer => counters.offers += 1,
                ReplyKind::Ack => counters.acks += 1,
                ReplyKind::Nak => counters.naks += 1,
            },
            Verdict::Noted(Noted::Declined(_)) => counters.declined += 1,
            Verdict::Ignored(Ignored::PoolExhausted { .. }) => counters.exhausted += 1,
            Verdict::Noted(_) | Verdict::Ignored(_) => (),
        }
    }

    /// A packet that is not a client's request was dropped.
    pub fn count_malformed(&mut self) {
        self.counters.malformed += 1;
    }

    /// A packet to port 68 was heard.
    pub fn overhear(&mut self, packet: &[u8], now: Moment) -> Option<Notice> {
        let answer = Answer::parse(packet)?;
        if !answer.gives_addresses {
            return None;
        }
        let ours = answer.mac == self.me.mac && answer.xid == self.xid();
        let evidence = if ours {
            Evidence::Answered
        } else {
            Evidence::Overheard
        };
        self.watch.heard(answer.server, evidence, now.steady)
    }

    /// What the passing of time asks for.
    pub fn tick(&mut self, now: Moment) -> Tick {
        self.watch.tick(now.steady)
    }

    /// The DISCOVER to broadcast when [`Tick::probe`] says so.
    pub fn probe(&self) -> Vec<u8> {
        probe::discover(self.me.mac, self.xid())
    }

    /// The DISCOVER went out.
    pub fn probe_sent(&mut self) {
        self.watch.probe_sent();
    }

    /// The same for the life of the process: late answers count, too.
    fn xid(&self) -> u32 {
        u32::try_from(self.me.seed >> 32).unwrap_or(0)
    }

    /// `user` answered an ARP probe for an address that was about to be offered.
    pub fn conflict(&mut self, ip: Ipv4Addr, user: MacAddr, now: Moment) -> Vec<LeaseEvent> {
        self.counters.declined += 1;
        self.server.conflict(ip, user, now.wall)
    }

    /// Nobody answered an ARP probe for the address of a held offer; whether it may
    /// be sent.
    pub fn nobody_at(&mut self, ip: Ipv4Addr) -> bool {
        self.server.nobody_at(ip)
    }

    /// Who has this address asked for something to boot.
    pub fn seen(&mut self, ip: Ipv4Addr) {
        self.server.seen(ip);
    }

    /// A technician takes a lease away.
    pub fn release(&mut self, ip: Ipv4Addr, now: Moment) -> Vec<LeaseEvent> {
        self.server.release(ip, now.wall)
    }

    /// The address server, to look at.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The watch, to look at.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// The server a client on this wire chose: RFC 2131 table 4, state SELECTING.
/// Through a relay it is another wire's business.
fn chosen_server(request: &Request) -> Option<Ipv4Addr> {
    let selecting = request.kind == MessageKind::Request
        && request.ciaddr.is_unspecified()
        && request.requested_ip.is_some()
        && !request.relayed();
    request.server_id.filter(|_| selecting)
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
