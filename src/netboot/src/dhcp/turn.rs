//! One request at the address server, decided (RFC 2131 §4.3).

use std::net::Ipv4Addr;

use groundcrew_core::UnixTime;

use super::boot::{BootOffer, BootService};
use super::client::BootClient;
use super::leases::{Asker, ClientKey, Lease, LeaseEvent, LeaseState};
use super::reply::{Draft, Reply, ReplyKind};
use super::server::{DECLINE_SECONDS, Ignored, Known, Network, Noted, Verdict};
use super::wire::{MessageKind, Request};

/// One request being decided.
pub(super) struct Turn<'a> {
    pub network: &'a mut Network,
    pub boot: Option<&'a BootService>,
    pub request: &'a Request,
    pub known: Option<&'a Known>,
    /// Somebody asks by ARP before a fresh address is offered.
    pub probed: bool,
    pub client: BootClient,
    pub now: UnixTime,
    pub events: Vec<LeaseEvent>,
}

impl Turn<'_> {
    pub(super) fn decide(&mut self) -> Verdict {
        self.recognise();
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

    /// Who comes back is no stranger any more.
    fn recognise(&mut self) {
        let known = self.network.leases.of(&self.key()).map(|lease| lease.ip);
        if let Some(ip) = known {
            self.network.leases.trust(ip);
        }
    }

    fn reserved(&self) -> Option<Ipv4Addr> {
        let reservation = self.network.subnet.reserved_for(self.request)?;
        Some(reservation.ip)
    }

    /// Nobody that the site knows, and nobody who had an address here before.
    fn is_stranger(&self) -> bool {
        self.known.is_none()
            && self.reserved().is_none()
            && self.network.leases.of(&self.key()).is_none()
    }

    /// §4.3.1.
    fn discover(&mut self) -> Verdict {
        let key = self.request.key();
        let asker = Asker {
            key: &key,
            reserved: self.reserved(),
            known: !self.is_stranger(),
            probed: self.probed,
        };
        let Network { subnet, leases } = &mut *self.network;
        match leases.offer(subnet, asker, self.request.requested_ip, self.now) {
            Some(ip) => match self.give(ReplyKind::Offer, ip) {
                Verdict::Reply(reply) => Verdict::Reply(Reply {
                    fresh: !self.holds(ip) && !self.request.relayed(),
                    held: self.network.leases.strangers().doubted(ip),
                    ..reply
                }),
                other => other,
            },
            None => Verdict::Ignored(Ignored::PoolExhausted {
                size: self.network.subnet.pool_size(),
                offers: self.network.leases.offers(),
                strangers: self.network.leases.strangers().len(),
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
            hostname: self.hostname(),
            message: None,
        })
    }

    fn may_have(&self, ip: Ipv4Addr) -> bool {
        let Network { subnet, leases } = &*self.network;
        let asker = Asker {
            key: &self.key(),
            reserved: self.reserved(),
            known: true,
            probed: self.probed,
        };
        leases.may_have(subnet, asker, ip, self.now) && !leases.is_unasked(ip)
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
        let stranger = self.is_stranger();
        self.events.extend(self.network.leases.put(lease));
        if stranger {
            self.network.leases.doubt(ip, self.now);
        }
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
            hostname: self.hostname(),
            message: None,
        })
    }

    fn nak(&self, reason: &'static str) -> Verdict {
        self.reply(&Draft {
            kind: ReplyKind::Nak,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            lease_seconds: None,
            boot: None,
            hostname: None,
            message: Some(reason),
        })
    }

    /// What a technician wrote, else what the registry says.
    fn hostname(&self) -> Option<&str> {
        let reservation = self.network.subnet.reserved_for(self.request);
        let written = reservation.and_then(|kept| kept.hostname.as_deref());
        written.or_else(|| self.known?.hostname.as_deref())
    }

    fn boot_offer(&self) -> Option<BootOffer> {
        self.boot?.offer_for(&self.client, self.request.word, true)
    }

    fn reply(&self, draft: &Draft<'_>) -> Verdict {
        let subnet = &self.network.subnet;
        Verdict::Reply(Reply::build(self.request, subnet, self.identifier(), draft))
    }
}
