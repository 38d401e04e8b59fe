//! Somebody invents hardware addresses and takes every address there is.

use groundcrew_core::hardware::MacAddr;

use super::*;
use crate::dhcp::strangers::PATIENCE;

fn invented(n: u8) -> PacketBuilder {
    PacketBuilder::with_mac([2, 0xba, 0xd0, 0, 0, n])
}

/// 50 addresses, 44 of them taken by clients that are not there.
fn starved() -> Bench {
    let mut bench = Bench::new(149);
    bench.server = Server::new(subnet(149), Some(boot()), []).probed();
    for n in 0..44 {
        bench.lease(&invented(n));
    }
    assert_eq!(bench.server.strangers(), 44);
    bench
}

fn exhausted(bench: &mut Bench, who: &PacketBuilder) -> bool {
    let verdict = bench.send(who);
    matches!(verdict, Verdict::Ignored(Ignored::PoolExhausted { .. }))
}

#[test]
fn known_devices_find_room_where_strangers_find_none() {
    let mut bench = starved();
    assert!(exhausted(&mut bench, &invented(99)));
    let known = Known::default();
    for n in 0..6 {
        let request = Request::parse(&client(n).bytes()).unwrap();
        let now = UnixTime::new(bench.now);
        let verdict = bench
            .server
            .handle_known(&request, Some(&known), now)
            .verdict;
        assert!(matches!(verdict, Verdict::Reply(_)), "{n}: {verdict:?}");
    }
}

#[test]
fn whoever_boots_is_no_stranger() {
    let mut bench = starved();
    let mut renewed = 0;
    for lease in bench.rows.values().take(10).cloned().collect::<Vec<_>>() {
        bench.server.seen(lease.ip);
        renewed += 1;
    }
    assert_eq!(bench.server.strangers(), 44 - renewed);
    bench.lease(&client(1));
    // Nor is who renews.
    bench.reply(&renewing(&invented(40), ip(140)));
    assert_eq!(bench.server.strangers(), 44 - renewed);
}

#[test]
fn the_lease_of_nobody_is_taken_after_arp_found_nobody() {
    let mut bench = starved();
    bench.now += PATIENCE - 1;
    assert!(exhausted(&mut bench, &client(1)));
    bench.now += 1;
    let offer = bench.reply(&client(1));
    assert_eq!(
        (offer.yiaddr, offer.held, offer.fresh),
        (ip(100), true, true)
    );
    let other = bench.reply(&client(2));
    assert_eq!(other.yiaddr, ip(101), "each is offered once");
    // The wire is still being asked, and the offer not sent: it was guessed.
    let nak = bench.reply(&selecting(&client(1), ip(100)));
    assert_eq!(nak.kind, ReplyKind::Nak);
    assert!(bench.server.nobody_at(ip(100)));
    // It asks once more before it has heard the first offer.
    assert_eq!(bench.reply(&client(1)).yiaddr, ip(100));
    let ack = bench.reply(&selecting(&client(1), ip(100)));
    assert_eq!((ack.kind, ack.yiaddr), (ReplyKind::Ack, ip(100)));
    let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(bench.rows[&ip(100)].mac, mac);
    let nak = bench.reply(&renewing(&invented(0), ip(100)));
    assert_eq!(nak.kind, ReplyKind::Nak, "it was given to another");
}

#[test]
fn who_answers_arp_keeps_its_address() {
    let mut bench = starved();
    bench.now += PATIENCE;
    assert_eq!(bench.reply(&client(1)).yiaddr, ip(100));
    let user = MacAddr([2, 0xba, 0xd0, 0, 0, 0]);
    let rows = bench
        .server
        .conflict(ip(100), user, UnixTime::new(bench.now));
    assert_eq!(rows, [], "it holds the address by right");
    let nak = bench.reply(&selecting(&client(1), ip(100)));
    assert_eq!(nak.kind, ReplyKind::Nak);
    assert_eq!(
        bench.reply(&client(1)).yiaddr,
        ip(144),
        "with one stranger less there is room"
    );
    let ack = bench.reply(&renewing(&invented(0), ip(100)));
    assert_eq!(ack.kind, ReplyKind::Ack);
}

#[test]
fn who_comes_back_while_another_is_offered_its_address_keeps_it() {
    let mut bench = starved();
    bench.now += PATIENCE;
    assert_eq!(bench.reply(&client(1)).yiaddr, ip(100));
    let ack = bench.reply(&renewing(&invented(0), ip(100)));
    assert_eq!(ack.kind, ReplyKind::Ack);
    assert!(!bench.server.nobody_at(ip(100)), "the offer is not sent");
    let nak = bench.reply(&selecting(&client(1), ip(100)));
    assert_eq!(nak.kind, ReplyKind::Nak);
}

#[test]
fn where_nobody_asks_by_arp_leases_last() {
    let mut bench = Bench::new(149);
    for n in 0..44 {
        bench.lease(&invented(n));
    }
    bench.now += PATIENCE * 2;
    assert!(exhausted(&mut bench, &client(1)));
    bench.now += LEASE;
    bench.lease(&client(1));
    assert_eq!(bench.server.strangers(), 1, "what ended is doubted no more");
}

#[test]
fn a_device_is_told_its_name_where_it_asks() {
    let mut config = config(110);
    config.reservations = vec![Reservation {
        ip: ip(20),
        who: Who::Mac(MacAddr([0x52, 0x54, 0, 0, 0, 1])),
        hostname: Some("front-desk".into()),
    }];
    let mut server = Server::new(Subnet::new(config).unwrap(), None, []);
    let known = Known {
        hostname: Some("hq-1234".into()),
    };
    let mut name = |who: u8, known: Option<&Known>, wish: &[u8]| {
        let packet = client(who).option(55, wish).bytes();
        let request = Request::parse(&packet).unwrap();
        match server
            .handle_known(&request, known, UnixTime::new(1))
            .verdict
        {
            Verdict::Reply(reply) => crate::dhcp::tests_support::option(&reply.bytes, 12),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(name(1, None, &[1, 12]).unwrap(), b"front-desk");
    assert_eq!(name(1, Some(&known), &[1, 12]).unwrap(), b"front-desk");
    assert_eq!(name(2, Some(&known), &[1, 12]).unwrap(), b"hq-1234");
    assert_eq!(name(2, Some(&known), &[1, 3]), None, "it did not ask");
    assert_eq!(name(3, None, &[1, 12]), None);
}
