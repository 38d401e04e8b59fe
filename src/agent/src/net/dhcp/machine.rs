//! The DHCP client's states (RFC 2131 figure 5), without a socket or a clock:
//! the caller brings the time and the datagrams.

use std::net::Ipv4Addr;
use std::time::Duration;

use groundcrew_core::hardware::MacAddr;

use super::wire::{Kind, Query, Reply, ReplyKind};

/// Time since the client began.
pub type Elapsed = Duration;

/// What a lease says; `ends` and the rest counted from the client's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub ip: Ipv4Addr,
    /// The network's mask; 255.255.255.0 if the server names none.
    pub mask: Ipv4Addr,
    /// The router.
    pub router: Option<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// `siaddr`: where boot files come from.
    pub next_server: Ipv4Addr,
    /// When to ask the same server again.
    pub renew: Elapsed,
    /// When to ask any server.
    pub rebind: Elapsed,
    /// When the address is no longer ours.
    pub ends: Elapsed,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes: to everybody, or to this server.
    Send(Vec<u8>, Option<Ipv4Addr>),
    /// Hand in datagrams; poll again at this time at the latest.
    Wait(Elapsed),
}

/// What a datagram meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An address is ours, or still ours.
    Bound(Lease),
    /// The server takes the address away, or the lease ran out.
    Lost,
}

#[derive(Clone, Debug)]
enum State {
    Selecting,
    Requesting {
        ip: Ipv4Addr,
        server: Ipv4Addr,
        tries: u32,
    },
    Bound(Lease),
    Renewing(Lease),
}

/// One client on one interface.
#[derive(Debug)]
pub struct Client {
    mac: MacAddr,
    xid: u32,
    state: State,
    next: Elapsed,
    tries: u32,
}

/// RFC 2131 §4.1: 4 s, doubled up to 64 s. A device that boots is watched by
/// a person, so it begins faster.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(16);
const SHORTEST_LEASE: Duration = Duration::from_secs(30);
const INFINITE: Duration = Duration::from_secs(u32::MAX as u64);

impl Client {
    /// A client without an address; `xid` is random.
    pub const fn new(mac: MacAddr, xid: u32) -> Self {
        Self {
            mac,
            xid,
            state: State::Selecting,
            next: Duration::ZERO,
            tries: 0,
        }
    }

    /// A client that goes on with the address that the loader got. Of the
    /// lease nothing else is known, so it asks after `first_renew`.
    pub fn adopt(
        mac: MacAddr,
        xid: u32,
        ip: Ipv4Addr,
        server: Ipv4Addr,
        first_renew: Elapsed,
    ) -> Self {
        let lease = Lease {
            ip,
            mask: Ipv4Addr::new(255, 255, 255, 0),
            router: None,
            server,
            next_server: server,
            renew: first_renew,
            rebind: INFINITE,
            ends: INFINITE,
        };
        Self {
            state: State::Bound(lease),
            ..Self::new(mac, xid)
        }
    }

    /// What to do now.
    pub fn poll(&mut self, now: Elapsed) -> Action {
        if let State::Bound(lease) = &self.state {
            if now < lease.renew {
                return Action::Wait(lease.renew);
            }
            self.state = State::Renewing(lease.clone());
            (self.next, self.tries) = (now, 0);
            self.xid = self.xid.wrapping_add(1);
        }
        if now < self.next {
            return Action::Wait(self.next);
        }
        self.retry_later(now);
        let server = match &self.state {
            State::Renewing(lease) if now < lease.rebind => Some(lease.server),
            _ => None,
        };
        Action::Send(self.query(now).encode(), server)
    }

    /// Whether the lease ran out while nobody answered.
    pub fn expired(&mut self, now: Elapsed) -> Option<Event> {
        let State::Renewing(lease) = &self.state else {
            return None;
        };
        (now >= lease.ends).then(|| self.start_over(now))
    }

    fn start_over(&mut self, now: Elapsed) -> Event {
        (self.state, self.next, self.tries) = (State::Selecting, now, 0);
        self.xid = self.xid.wrapping_add(1);
        Event::Lost
    }

    fn retry_later(&mut self, now: Elapsed) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.tries.min(3))
            .min(MAX_RETRY);
        // While an address is held there is no hurry: RFC 2131 §4.4.5 wants a
        // minute between renewals.
        let wait = match self.state {
            State::Renewing(_) => wait.max(Duration::from_secs(10)),
            _ => wait,
        };
        self.next = now + wait;
        self.tries += 1;
        if let State::Requesting { tries, .. } = &mut self.state {
            *tries += 1;
            if *tries > 4 {
                // The server that offered does not answer: ask all again.
                self.state = State::Selecting;
            }
        }
    }

    fn query(&self, now: Elapsed) -> Query {
        let base = Query {
            kind: Kind::Request,
            xid: self.xid,
            mac: self.mac,
            secs: u16::try_from(now.as_secs()).unwrap_or(u16::MAX),
            ciaddr: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
        };
        match &self.state {
            State::Selecting => Query {
                kind: Kind::Discover,
                ..base
            },
            State::Requesting { ip, server, .. } => Query {
                requested: Some(*ip),
                server: Some(*server),
                ..base
            },
            State::Bound(lease) | State::Renewing(lease) => Query {
                ciaddr: lease.ip,
                ..base
            },
        }
    }

    /// Takes in a datagram; what is not for us, or not now, changes nothing.
    pub fn receive(&mut self, now: Elapsed, bytes: &[u8]) -> Option<Event> {
        let reply = Reply::decode(bytes)?;
        if reply.xid != self.xid || reply.mac != self.mac {
            return None;
        }
        match (&self.state, reply.kind) {
            (State::Selecting, ReplyKind::Offer) if usable(reply.yiaddr) => {
                // A proxy's offer carries no address; it is passed over above.
                self.state = State::Requesting {
                    ip: reply.yiaddr,
                    server: reply.server?,
                    tries: 0,
                };
                (self.next, self.tries) = (now, 0);
                None
            }
            (State::Requesting { server, .. }, ReplyKind::Nak) if reply.server == Some(*server) => {
                Some(self.start_over(now))
            }
            (State::Renewing(_), ReplyKind::Nak) => Some(self.start_over(now)),
            (State::Requesting { ip, .. }, ReplyKind::Ack) if *ip == reply.yiaddr => {
                self.bind(now, &reply)
            }
            (State::Renewing(lease), ReplyKind::Ack) if lease.ip == reply.yiaddr => {
                self.bind(now, &reply)
            }
            _ => None,
        }
    }

    fn bind(&mut self, now: Elapsed, reply: &Reply) -> Option<Event> {
        let seconds = |value: u32| Duration::from_secs(u64::from(value));
        let length = reply.lease.map_or(INFINITE, seconds).max(SHORTEST_LEASE);
        let inside = |value: Option<u32>, default: Duration| {
            let value = value.map_or(default, seconds);
            if value < length && !value.is_zero() {
                value
            } else {
                default
            }
        };
        let lease = Lease {
            ip: reply.yiaddr,
            mask: reply.mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
            router: reply.router,
            server: reply.server?,
            next_server: reply.siaddr,
            renew: now + inside(reply.t1, length / 2),
            rebind: now + inside(reply.t2, length / 8 * 7),
            ends: now + length,
        };
        self.state = State::Bound(lease.clone());
        Some(Event::Bound(lease))
    }
}

fn usable(ip: Ipv4Addr) -> bool {
    !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast() && !ip.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::super::wire::tests::answer;
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const IP: [u8; 4] = [10, 77, 0, 50];
    const SERVER: &[u8] = &[54, 4, 10, 77, 0, 1];

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn sent(client: &mut Client, now: Elapsed) -> (Vec<u8>, Option<Ipv4Addr>) {
        match client.poll(now) {
            Action::Send(bytes, to) => (bytes, to),
            Action::Wait(until) => panic!("waits until {until:?} at {now:?}"),
        }
    }

    fn with_lease(seconds: u32) -> Vec<u8> {
        let mut options = SERVER.to_vec();
        options.extend([51, 4]);
        options.extend(seconds.to_be_bytes());
        options
    }

    #[test]
    fn discover_offer_request_ack_renew_rebind_lost() {
        let mut client = Client::new(MAC, 100);
        let (first, to) = sent(&mut client, s(0));
        assert_eq!((first[240 + 2], to), (1, None));
        assert_eq!(client.poll(s(1)), Action::Wait(s(2)));
        sent(&mut client, s(2));
        assert_eq!(
            client.receive(s(2), &answer(2, 100, MAC, [0; 4], SERVER)),
            None,
            "a proxy"
        );
        assert_eq!(client.poll(s(2)), Action::Wait(s(6)), "is not enough");
        assert_eq!(client.receive(s(3), &answer(2, 100, MAC, IP, SERVER)), None);
        let (request, to) = sent(&mut client, s(3));
        assert_eq!((request[240 + 2], to), (3, None));
        let ack = answer(5, 100, MAC, IP, &with_lease(600));
        let Some(Event::Bound(lease)) = client.receive(s(3), &ack) else {
            panic!()
        };
        assert_eq!(
            (lease.renew, lease.rebind, lease.ends),
            (s(303), s(528), s(603))
        );
        assert_eq!(client.poll(s(4)), Action::Wait(s(303)));
        let (renew, to) = sent(&mut client, s(303));
        assert_eq!(to, Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!(renew[12..16], IP);
        let ack = answer(5, 101, MAC, IP, &with_lease(600));
        assert!(matches!(
            client.receive(s(303), &ack),
            Some(Event::Bound(_))
        ));
        sent(&mut client, s(603));
        let (_, to) = sent(&mut client, s(303 + 526));
        assert_eq!(to, None, "after T2 anybody may answer");
        assert_eq!(client.expired(s(902)), None);
        assert_eq!(client.expired(s(903)), Some(Event::Lost));
        assert_eq!(
            sent(&mut client, s(903)).0[242],
            1,
            "and it discovers again"
        );
    }

    #[test]
    fn an_adopted_address_is_renewed_and_survives_silence() {
        let ip = Ipv4Addr::from(IP);
        let mut client = Client::adopt(MAC, 7, ip, Ipv4Addr::new(10, 77, 0, 1), s(20));
        assert_eq!(client.poll(s(0)), Action::Wait(s(20)));
        sent(&mut client, s(20));
        sent(&mut client, s(30));
        assert_eq!(
            client.expired(s(100_000)),
            None,
            "nothing says that it ended"
        );
        let nak = answer(6, 8, MAC, [0; 4], SERVER);
        assert_eq!(client.receive(s(31), &nak), Some(Event::Lost));
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let mut client = Client::new(MAC, 1);
        sent(&mut client, s(0));
        client.receive(s(0), &answer(2, 1, MAC, IP, SERVER));
        let mut now = s(0);
        let mut kinds = Vec::new();
        for _ in 0..6 {
            match client.poll(now) {
                Action::Send(bytes, _) => kinds.push(bytes[242]),
                Action::Wait(until) => now = until,
            }
            if let Action::Wait(until) = client.poll(now) {
                now = until;
            }
        }
        assert_eq!(kinds.first(), Some(&3));
        assert_eq!(kinds.last(), Some(&1));
    }

    #[test]
    fn answers_for_others_change_nothing() {
        let mut client = Client::new(MAC, 1);
        sent(&mut client, s(0));
        for (kind, xid, mac) in [
            (2, 2, MAC),
            (2, 1, MacAddr([9; 6])),
            (5, 1, MAC),
            (6, 1, MAC),
        ] {
            assert_eq!(
                client.receive(s(0), &answer(kind, xid, mac, IP, SERVER)),
                None
            );
        }
        assert_eq!(client.poll(s(1)), Action::Wait(s(2)));
    }

    proptest! {
        #[test]
        fn whatever_comes_it_goes_on(
            script in proptest::collection::vec((0u64..2000, 0u8..8, 0u32..4, proptest::collection::vec(any::<u8>(), 0..60)), 0..40),
        ) {
            let mut client = Client::new(MAC, 1);
            let mut now = Duration::ZERO;
            for (pause, kind, xid, options) in script {
                now += s(pause);
                client.expired(now);
                if let Action::Wait(until) = client.poll(now) {
                    prop_assert!(until > now);
                }
                client.receive(now, &answer(kind, xid, MAC, IP, &options));
            }
        }
    }
}
