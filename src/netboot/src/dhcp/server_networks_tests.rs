//! Reservations, and networks behind relays.

use super::*;

#[test]
fn reserved_addresses_are_their_clients_alone() {
    let mut bench = Bench::new(110);
    let first = bench.lease(&client(1));
    assert_eq!(first, ip(100));
    // The technician writes the reservations and starts anew.
    bench.server = Server::new(
        with_reservations(110),
        Some(boot()),
        bench.rows.values().cloned(),
    );
    let nak = bench.reply(&renewing(&client(1), first));
    assert_eq!(nak.kind, ReplyKind::Nak, "it is to move");
    assert_eq!(bench.lease(&client(1)), ip(101));
    let by_id = client(2).option(61, &[0, 7, 7]);
    assert_eq!(bench.lease(&by_id), ip(20));
    let mut uuid = vec![0];
    uuid.extend([9; 16]);
    let docked = |n| client(n).option(97, &uuid);
    assert_eq!(bench.lease(&docked(3)), ip(21));
    // The same machine by another NIC: taken as long as the first one holds it.
    let other_nic = bench.lease(&docked(4));
    assert_ne!(other_nic, ip(21));
    bench.send(&release(&docked(3), ip(21)));
    assert_eq!(bench.lease(&docked(4)), ip(21), "then it moves");
    // Strangers take everything else, and never these, however long they ended.
    bench.send(&release(&client(1), ip(101)));
    bench.now += LEASE * 9;
    for n in 10..40 {
        if let Verdict::Reply(offer) = bench.send(&client(n).address(50, ip(101))) {
            assert!(
                ![ip(101), ip(20), ip(21)].contains(&offer.yiaddr),
                "{}",
                offer.yiaddr
            );
        }
    }
    assert_eq!(bench.lease(&client(1)), ip(101));
}

const RELAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// A server with a network behind a relay, 10.88.0.0/24.
fn routed() -> Bench {
    let mut far = config(110);
    let last = |n| Ipv4Addr::new(10, 88, 0, n);
    (far.behind_relay, far.router) = (Some(RELAY), Some(RELAY));
    (far.pool_first, far.pool_last) = (last(50), last(60));
    let far = Subnet::new(far).unwrap();
    let overlap = Server::with_relays(subnet(110), vec![far.clone(), far.clone()], None, &[]);
    assert!(overlap.unwrap_err().to_string().contains("overlap"));
    let mut bench = Bench::new(110);
    bench.server = Server::with_relays(subnet(110), vec![far], Some(boot()), &[]).unwrap();
    bench
}

fn told(reply: &Reply, code: u8) -> Option<Vec<u8>> {
    let message = dhcproto::v4::borrowed::Message::new(&reply.bytes).unwrap();
    let found = message.opts().find(|o| u8::from(o.code()) == code);
    found.map(|o| o.data().to_vec())
}

#[test]
fn relayed_clients_live_on_their_own_network() {
    let mut bench = routed();
    let far = client(1).giaddr(RELAY);
    let ip50 = Ipv4Addr::new(10, 88, 0, 50);
    let offer = bench.reply(&far);
    assert_eq!(
        (offer.yiaddr, offer.destination),
        (ip50, Destination::Relay(RELAY))
    );
    assert_eq!(told(&offer, 3), Some(RELAY.octets().to_vec()));
    assert_eq!(told(&offer, 54), Some(SERVER.octets().to_vec()));
    assert_eq!(bench.lease(&far), ip50);
    assert_eq!(
        bench.lease(&client(1)),
        ip(100),
        "the same machine on this wire"
    );
    // RENEWING goes past the relay, straight to the server.
    let renewed = bench.reply(&renewing(&client(1), ip50));
    assert_eq!(
        (renewed.kind, renewed.destination),
        (ReplyKind::Ack, Destination::Unicast(ip50))
    );
    assert!(matches!(
        bench.send(&release(&client(1), ip50)),
        Verdict::Noted(Noted::Released(_))
    ));
    let lost = bench.reply(&init_reboot(&far, ip(100)));
    assert_eq!(
        (lost.kind, lost.bytes[10]),
        (ReplyKind::Nak, 0x80),
        "NAK by broadcast of the relay"
    );
}

#[test]
fn option_82_selects_the_network_and_signs_for_the_server() {
    let mut bench = routed();
    let elsewhere = Ipv4Addr::new(172, 16, 0, 1);
    let info = [1, 2, 7, 7, 5, 4, 10, 88, 0, 9, 151, 0, 11, 4, 10, 88, 0, 1];
    let relayed = client(1).giaddr(elsewhere).option(82, &info);
    let offer = bench.reply(&relayed);
    assert_eq!(offer.destination, Destination::Relay(elsewhere));
    assert_eq!(offer.yiaddr, Ipv4Addr::new(10, 88, 0, 50));
    assert_eq!(told(&offer, 54), Some(RELAY.octets().to_vec()), "RFC 5107");
    assert_eq!(told(&offer, 82), Some(info.to_vec()), "byte for byte");
    let takes = relayed
        .clone()
        .kind(3)
        .address(54, RELAY)
        .address(50, offer.yiaddr);
    assert_eq!(bench.reply(&takes).kind, ReplyKind::Ack);
    let renews = relayed
        .clone()
        .kind(3)
        .ciaddr(offer.yiaddr)
        .address(54, RELAY);
    assert_eq!(bench.reply(&renews).kind, ReplyKind::Ack);
    let unknown = client(1).giaddr(elsewhere);
    assert_eq!(
        bench.send(&unknown),
        Verdict::Ignored(Ignored::OtherNetwork(elsewhere))
    );
    // Without a relay the same bytes mean nothing, and are echoed all the same.
    let forged = bench.reply(&client(2).option(82, &info));
    assert_eq!(
        (forged.yiaddr, told(&forged, 54)),
        (ip(100), Some(SERVER.octets().to_vec()))
    );
    assert_eq!(told(&forged, 82), Some(info.to_vec()));
}

#[test]
fn search_list_and_time_servers_go_to_who_asks() {
    let mut config = config(110);
    config.search = vec!["lab.example".into(), "example".into()];
    config.ntp = vec![ip(3)];
    let mut bench = Bench::new(110);
    bench.server = Server::new(Subnet::new(config).unwrap(), None, []);
    let asked = bench.reply(&client(1).option(55, &[119, 42]));
    assert_eq!(
        told(&asked, 119).unwrap(),
        b"\x03lab\x07example\0\x07example\0"
    );
    assert_eq!(told(&asked, 42), Some(ip(3).octets().to_vec()));
    assert_eq!(told(&bench.reply(&client(2)), 119), None);
}
