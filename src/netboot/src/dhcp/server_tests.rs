//! Conversations with a clock moved by hand.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use groundcrew_core::UnixTime;
use proptest::prelude::*;

use super::*;
use crate::dhcp::leases::{OFFER_PATIENCE, OFFER_SECONDS};
use crate::dhcp::tests_support::PacketBuilder;
use crate::dhcp::{Destination, Loaders, Reservation, SubnetConfig, Who};

#[path = "server_networks_tests.rs"]
mod networks;
#[path = "server_random_tests.rs"]
mod random;
#[path = "server_strangers_tests.rs"]
mod strangers;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const LEASE: u64 = 600;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn subnet(last: u8) -> Subnet {
    Subnet::new(config(last)).unwrap()
}

fn config(last: u8) -> SubnetConfig {
    SubnetConfig {
        server: SERVER,
        prefix: 24,
        pool_first: ip(100),
        pool_last: ip(last),
        router: Some(SERVER),
        dns: vec![SERVER],
        ntp: vec![],
        domain: Some("lab.example".into()),
        lease_seconds: LEASE as u32,
        behind_relay: None,
        search: vec![],
        reservations: vec![],
    }
}

/// The same with addresses kept for clients 1 (hardware address), 2 (identifier)
/// and 3 (machine); 1's lies in the pool, the others outside it.
fn with_reservations(last: u8) -> Subnet {
    let mac = groundcrew_core::hardware::MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    let keep = |last, who| Reservation {
        ip: ip(last),
        who,
        hostname: None,
    };
    let mut config = config(last);
    config.reservations = vec![
        keep(101, Who::Mac(mac)),
        keep(20, Who::Id(vec![0, 7, 7])),
        keep(
            21,
            Who::Uuid(groundcrew_core::hardware::SmbiosUuid::from_little_endian(
                [9; 16],
            )),
        ),
    ];
    Subnet::new(config).unwrap()
}

fn boot() -> BootService {
    BootService {
        http: std::net::SocketAddrV4::new(SERVER, 80),
        loaders: Loaders::debian(),
    }
}

/// A server, a clock and the rows a caller keeps.
struct Bench {
    server: Server,
    now: u64,
    rows: BTreeMap<Ipv4Addr, Lease>,
}

impl Bench {
    fn new(last: u8) -> Self {
        Self {
            server: Server::new(subnet(last), Some(boot()), []),
            now: 1_000_000,
            rows: BTreeMap::new(),
        }
    }

    fn send(&mut self, packet: &PacketBuilder) -> Verdict {
        let request = Request::parse(&packet.bytes()).unwrap();
        let outcome = self.server.handle(&request, UnixTime::new(self.now));
        for event in outcome.events {
            match event {
                LeaseEvent::Put(lease) => self.rows.insert(lease.ip, lease),
                LeaseEvent::Delete(ip) => self.rows.remove(&ip),
            };
        }
        outcome.verdict
    }

    fn crash(&mut self, last: u8) {
        self.server = Server::new(subnet(last), Some(boot()), self.rows.values().cloned());
    }

    fn reply(&mut self, packet: &PacketBuilder) -> Reply {
        match self.send(packet) {
            Verdict::Reply(reply) => reply,
            other => panic!("no reply: {other:?}"),
        }
    }

    /// DISCOVER and REQUEST; the address.
    fn lease(&mut self, client: &PacketBuilder) -> Ipv4Addr {
        let offered = self.reply(&client.clone().kind(1)).yiaddr;
        let ack = self.reply(&selecting(client, offered));
        assert_eq!((ack.kind, ack.yiaddr), (ReplyKind::Ack, offered));
        offered
    }
}

fn client(n: u8) -> PacketBuilder {
    PacketBuilder::new(n)
}

fn selecting(client: &PacketBuilder, ip: Ipv4Addr) -> PacketBuilder {
    client.clone().kind(3).address(54, SERVER).address(50, ip)
}

fn renewing(client: &PacketBuilder, ip: Ipv4Addr) -> PacketBuilder {
    client.clone().kind(3).ciaddr(ip)
}

fn init_reboot(client: &PacketBuilder, ip: Ipv4Addr) -> PacketBuilder {
    client.clone().kind(3).address(50, ip)
}

fn release(client: &PacketBuilder, ip: Ipv4Addr) -> PacketBuilder {
    client.clone().kind(7).address(54, SERVER).ciaddr(ip)
}

fn decline(client: &PacketBuilder, ip: Ipv4Addr) -> PacketBuilder {
    client.clone().kind(4).address(54, SERVER).address(50, ip)
}

#[test]
fn a_client_keeps_its_address_through_time_and_restarts() {
    let mut bench = Bench::new(110);
    let mine = bench.lease(&client(1));
    bench.lease(&client(2));
    bench.now += LEASE * 3;
    assert_eq!(bench.lease(&client(1)), mine, "long after its end");
    bench.send(&release(&client(1), mine));
    bench.crash(110);
    assert_eq!(bench.lease(&client(1)), mine, "given back, then a restart");
    // Firmware sends no client identifier, iPXE and Linux one that spells the MAC.
    let ipxe = client(1).option(61, &[1, 0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(bench.lease(&ipxe), mine);
    let other_id = client(1).option(61, &[255, 1, 2, 3]);
    assert_ne!(
        bench.lease(&other_id),
        mine,
        "another identifier is another client"
    );
}

#[test]
fn replies_go_where_rfc_2131_sends_them() {
    let mut bench = Bench::new(110);
    let mac = groundcrew_core::hardware::MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    let to = |reply: Reply| reply.destination;
    assert_eq!(
        to(bench.reply(&client(1))),
        Destination::L2 { mac, ip: ip(100) }
    );
    assert_eq!(
        to(bench.reply(&client(1).broadcast())),
        Destination::Broadcast
    );
    let relayed = client(1).giaddr(ip(254)).option(82, b"\x01\x03abc");
    let reply = bench.reply(&relayed);
    assert_eq!(reply.destination, Destination::Relay(ip(254)));
    let echoed: Vec<u8> = [&b"\x52\x05\x01\x03abc"[..], &[255]].concat();
    assert!(
        reply.bytes.windows(echoed.len()).any(|w| w == echoed),
        "option 82 last and unchanged"
    );
    bench.lease(&client(1));
    assert_eq!(
        to(bench.reply(&renewing(&client(1), ip(100)))),
        Destination::Unicast(ip(100))
    );
    assert_eq!(
        to(bench.reply(&selecting(&client(2), ip(100)))),
        Destination::Broadcast,
        "NAK"
    );
    let nak = bench.reply(&selecting(&client(2).giaddr(ip(254)), ip(100)));
    assert_eq!(
        (nak.destination, nak.bytes[10]),
        (Destination::Relay(ip(254)), 0x80),
        "the relay must broadcast a NAK"
    );
    let elsewhere = client(1).giaddr(Ipv4Addr::new(10, 9, 0, 1));
    assert_eq!(
        bench.send(&elsewhere),
        Verdict::Ignored(Ignored::OtherNetwork(Ipv4Addr::new(10, 9, 0, 1)))
    );
}

#[test]
fn nak_only_where_right() {
    let mut bench = Bench::new(110);
    let mine = bench.lease(&client(1));
    let nak = |bench: &mut Bench, packet: PacketBuilder| match bench.send(&packet) {
        Verdict::Reply(reply) => assert_eq!(
            (reply.kind, reply.yiaddr),
            (ReplyKind::Nak, Ipv4Addr::UNSPECIFIED)
        ),
        other => panic!("{other:?}"),
    };
    nak(&mut bench, selecting(&client(2), mine));
    nak(
        &mut bench,
        init_reboot(&client(1), Ipv4Addr::new(192, 168, 1, 9)),
    );
    nak(&mut bench, init_reboot(&client(1), ip(105)));
    nak(&mut bench, renewing(&client(2), mine));
    let ignored = |bench: &mut Bench, packet: PacketBuilder| match bench.send(&packet) {
        Verdict::Ignored(why) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        ignored(&mut bench, init_reboot(&client(3), ip(105))),
        Ignored::NoRecord(ip(105))
    );
    let far = Ipv4Addr::new(10, 9, 0, 9);
    assert_eq!(
        ignored(&mut bench, renewing(&client(1), far)),
        Ignored::ForeignAddress(far)
    );
    assert_eq!(ignored(&mut bench, client(1).kind(3)), Ignored::NoState);
    assert_eq!(
        ignored(&mut bench, renewing(&client(1), mine).address(54, ip(2))),
        Ignored::OtherServer(ip(2))
    );
    // All four states of the holder are acknowledged.
    for packet in [
        selecting(&client(1), mine),
        init_reboot(&client(1), mine),
        renewing(&client(1), mine),
    ] {
        assert_eq!(bench.reply(&packet).kind, ReplyKind::Ack);
    }
}

#[test]
fn a_forgotten_offer_may_be_taken_after_a_restart() {
    let mut bench = Bench::new(110);
    let offered = bench.reply(&client(1)).yiaddr;
    bench.crash(110);
    assert_eq!(
        bench.reply(&selecting(&client(1), offered)).kind,
        ReplyKind::Ack
    );
}

#[test]
fn a_promised_address_is_nobody_elses() {
    let mut bench = Bench::new(110);
    let promised = bench.reply(&client(1)).yiaddr;
    assert_eq!(
        bench.reply(&selecting(&client(2), promised)).kind,
        ReplyKind::Nak
    );
    assert_ne!(
        bench.reply(&client(2).address(50, promised)).yiaddr,
        promised
    );
    assert_eq!(
        bench.reply(&selecting(&client(1), promised)).kind,
        ReplyKind::Ack
    );
}

#[test]
fn choosing_another_server_frees_the_offer() {
    let mut bench = Bench::new(100);
    bench.reply(&client(1));
    assert!(matches!(
        bench.send(&client(2)),
        Verdict::Ignored(Ignored::PoolExhausted {
            size: 1,
            offers: 1,
            strangers: 0
        })
    ));
    let chosen = client(1).kind(3).address(54, ip(2)).address(50, ip(77));
    assert_eq!(
        bench.send(&chosen),
        Verdict::Ignored(Ignored::OtherServer(ip(2)))
    );
    assert_eq!(bench.reply(&client(2)).yiaddr, ip(100));
}

#[test]
fn a_full_pool_reuses_what_ended_longest_ago() {
    let mut bench = Bench::new(102);
    for n in 1..=3 {
        bench.lease(&client(n));
        bench.now += 10;
    }
    let full = bench.send(&client(4));
    assert_eq!(
        full,
        Verdict::Ignored(Ignored::PoolExhausted {
            size: 3,
            offers: 0,
            strangers: 3
        })
    );
    let Verdict::Ignored(why) = &full else {
        unreachable!()
    };
    assert!(
        why.to_string()
            .starts_with("the pool is exhausted: all 3 addresses")
    );
    bench.now += LEASE - 31;
    let early = bench.send(&client(4));
    assert_eq!(early, full, "one second before the first ends");
    bench.now += 31;
    assert_eq!(bench.lease(&client(4)), ip(100));
    assert_eq!(bench.lease(&client(5)), ip(101));
    // The first holder came too late and gets what is left.
    assert_eq!(bench.lease(&client(1)), ip(102));
    assert_eq!(bench.rows.len(), 3);
}

#[test]
fn offers_lapse_and_random_macs_leave_no_trace() {
    let mut bench = Bench::new(149);
    for n in 0..10_000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        bench.send(&PacketBuilder::with_mac([2, 0, a, b, c, d]));
    }
    // One in eight is not for strangers.
    assert_eq!((bench.server.offers(), bench.rows.len()), (44, 0));
    bench.now += OFFER_SECONDS;
    assert_eq!(bench.lease(&client(1)), ip(100));
    assert_eq!(bench.server.offers(), 0);
}

#[test]
fn a_flood_blocks_the_pool_for_seconds_only() {
    let mut bench = Bench::new(149);
    for n in 0..1000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        bench.send(&PacketBuilder::with_mac([2, 0, a, b, c, d]));
    }
    bench.now += OFFER_PATIENCE - 1;
    assert!(matches!(
        bench.send(&client(1)),
        Verdict::Ignored(Ignored::PoolExhausted {
            size: 50,
            offers: 44,
            ..
        })
    ));
    bench.now += 1;
    bench.lease(&client(1));
    assert_eq!(bench.server.offers(), 43);
}

#[test]
fn only_the_holder_declines_or_releases() {
    let mut bench = Bench::new(101);
    let mine = bench.lease(&client(1));
    assert_eq!(
        bench.send(&decline(&client(2), mine)),
        Verdict::Ignored(Ignored::NotHolder(mine))
    );
    assert_eq!(
        bench.send(&release(&client(2), mine)),
        Verdict::Ignored(Ignored::NotHolder(mine))
    );
    assert_eq!(
        bench.send(&client(1).kind(7)),
        Verdict::Ignored(Ignored::NoAddress)
    );
    assert_eq!(
        bench.send(&decline(&client(1), mine)),
        Verdict::Noted(Noted::Declined(mine))
    );
    assert_eq!(
        bench.lease(&client(1)),
        ip(101),
        "the declined address is put aside"
    );
    bench.crash(101);
    assert!(matches!(
        bench.send(&client(2)),
        Verdict::Ignored(Ignored::PoolExhausted { .. })
    ));
    bench.now += DECLINE_SECONDS;
    assert_eq!(bench.lease(&client(1)), ip(101));
    assert_eq!(bench.lease(&client(2)), mine, "for an hour");
}

#[test]
fn an_address_in_use_is_put_aside_and_the_next_is_offered() {
    let mut bench = Bench::new(101);
    let user = groundcrew_core::hardware::MacAddr([2, 0, 0, 0, 9, 9]);
    let offer = bench.reply(&client(1));
    assert_eq!((offer.yiaddr, offer.fresh), (ip(100), true));
    let now = UnixTime::new(bench.now);
    let events = bench.server.conflict(ip(100), user, now);
    assert!(matches!(&events[..], [LeaseEvent::Put(l)] if l.state == LeaseState::Declined));
    assert_eq!(bench.server.offers(), 0, "the promise is taken back");
    assert_eq!(bench.lease(&client(1)), ip(101));
    assert!(!bench.reply(&client(1)).fresh, "it holds that address");
    assert!(
        bench.server.conflict(ip(101), user, now).is_empty(),
        "too late: it is leased"
    );
    assert_eq!(
        bench.reply(&selecting(&client(2), ip(100))).kind,
        ReplyKind::Nak
    );
}

#[test]
fn inform_gets_parameters_and_no_lease() {
    let mut bench = Bench::new(110);
    let reply = bench.reply(&client(1).kind(8).ciaddr(ip(50)));
    assert_eq!(
        (reply.kind, reply.destination),
        (ReplyKind::Ack, Destination::Unicast(ip(50)))
    );
    let message = dhcproto::v4::borrowed::Message::new(&reply.bytes).unwrap();
    assert_eq!(
        (message.yiaddr(), message.ciaddr()),
        (Ipv4Addr::UNSPECIFIED, ip(50))
    );
    let codes: Vec<u8> = message.opts().map(|o| o.code().into()).collect();
    assert!(
        codes.contains(&6) && !codes.contains(&51) && !codes.contains(&58),
        "{codes:?}"
    );
    assert!(bench.rows.is_empty());
    assert_eq!(
        bench.send(&client(1).kind(8)),
        Verdict::Ignored(Ignored::NoAddress)
    );
}

#[test]
fn a_changed_pool_moves_its_clients() {
    let mut bench = Bench::new(110);
    for n in 1..=5 {
        bench.lease(&client(n));
    }
    bench.crash(102);
    let nak = bench.reply(&renewing(&client(5), ip(104)));
    assert_eq!(nak.kind, ReplyKind::Nak);
    assert_eq!(
        bench.reply(&renewing(&client(1), ip(100))).kind,
        ReplyKind::Ack
    );
}

#[test]
fn a_technician_takes_a_lease_away() {
    let mut bench = Bench::new(110);
    let mine = bench.lease(&client(1));
    let events = bench.server.release(mine, UnixTime::new(bench.now));
    assert!(
        matches!(&events[..], [LeaseEvent::Put(l)] if l.state == LeaseState::Released && l.ip == mine)
    );
    assert!(
        bench
            .server
            .release(ip(109), UnixTime::new(bench.now))
            .is_empty()
    );
}

#[test]
fn taking_a_declined_address_back_leaves_its_finder_alone() {
    let mut bench = Bench::new(110);
    let bad = bench.lease(&client(1));
    bench.send(&decline(&client(1), bad));
    let good = bench.lease(&client(1));
    assert_ne!(good, bad);
    let now = UnixTime::new(bench.now);
    let events = bench.server.release(bad, now);
    assert_eq!(events, [LeaseEvent::Delete(bad)]);
    let held = bench.server.lease(good).map(|lease| lease.holds(now));
    assert_eq!(held, Some(true));
    assert!(bench.server.lease(bad).is_none());
}

#[test]
fn keys_and_states_read_back_from_rows() {
    for key in [
        ClientKey::Mac("52:54:00:00:00:01".parse().unwrap()),
        ClientKey::Id(vec![0, 255, 7]),
    ] {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    for wrong in ["", "mac:1", "id:0", "id:ab", "x:1", "id:zz00"] {
        assert!(wrong.parse::<ClientKey>().is_err(), "{wrong}");
    }
    for state in [
        LeaseState::Bound,
        LeaseState::Released,
        LeaseState::Declined,
    ] {
        assert_eq!(LeaseState::from_word(state.as_str()), Some(state));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn hostile_packets_never_panic_the_server(
        kinds in proptest::collection::vec((1u8..9, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 1..40),
    ) {
        let mut bench = Bench::new(105);
        for (kind, n, options) in kinds {
            let mut bytes = client(n).kind(kind).bytes();
            bytes.pop();
            bytes.extend(options);
            if let Ok(request) = Request::parse(&bytes) {
                let outcome = bench.server.handle(&request, UnixTime::new(bench.now));
                prop_assert!(!outcome.to_string().is_empty());
                if let Verdict::Reply(reply) = outcome.verdict {
                    prop_assert!((300..1400).contains(&reply.bytes.len()));
                }
            }
            bench.now += 5;
        }
    }
}
