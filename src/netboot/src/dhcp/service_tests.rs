//! Whole conversations in each mode.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use proptest::prelude::*;

use super::*;
use crate::dhcp::tests_support::PacketBuilder;
use crate::dhcp::{Destination, Loaders, Reply, Subnet, SubnetConfig};

const ME: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const MY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn at(seconds: u64) -> Moment {
    Moment {
        wall: UnixTime::new(1_000_000 + seconds),
        steady: Duration::from_secs(seconds),
    }
}

fn server(address: Ipv4Addr) -> Server {
    let config = SubnetConfig {
        server: address,
        prefix: 24,
        pool_first: ip(100),
        pool_last: ip(110),
        router: None,
        dns: vec![],
        ntp: vec![],
        domain: None,
        lease_seconds: 600,
        behind_relay: None,
        search: vec![],
        reservations: vec![],
    };
    Server::new(Subnet::new(config).unwrap(), None, [])
}

fn service(mode: Mode) -> Service {
    let boot = BootService {
        http: SocketAddrV4::new(ME, 80),
        loaders: Loaders::debian(),
    };
    let me = Identity {
        address: ME,
        mac: MY_MAC,
        seed: 0x1122_3344_5566_7788,
    };
    Service::new(mode, me, boot, server(ME), at(0))
}

fn send(service: &mut Service, packet: &PacketBuilder, via: Via, now: u64) -> Handled {
    service.handle(&Request::parse(&packet.bytes()).unwrap(), via, at(now))
}

fn reply(service: &mut Service, packet: &PacketBuilder, via: Via, now: u64) -> Reply {
    match send(service, packet, via, now).outcome.verdict {
        Verdict::Reply(reply) => reply,
        other => panic!("no reply: {other:?}"),
    }
}

fn ignored(service: &mut Service, packet: &PacketBuilder, now: u64) -> Ignored {
    match send(service, packet, Via::Dhcp, now).outcome.verdict {
        Verdict::Ignored(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Lets time pass as the appliance does.
fn pass(service: &mut Service, from: u64, to: u64) -> Vec<Notice> {
    let mut notices = Vec::new();
    for second in from..=to {
        let tick = service.tick(at(second));
        if tick.probe {
            service.probe_sent();
        }
        notices.extend(tick.notice);
    }
    notices
}

fn efi(n: u8) -> PacketBuilder {
    let mut uuid = vec![0];
    uuid.extend([7; 16]);
    PacketBuilder::new(n)
        .option(60, b"PXEClient:Arch:00007:UNDI:003000")
        .option(93, &[0, 7])
        .option(97, &uuid)
        .broadcast()
}

fn bios(n: u8) -> PacketBuilder {
    PacketBuilder::new(n)
        .option(60, b"PXEClient:Arch:00000:UNDI:002001")
        .option(93, &[0, 0])
}

fn http(n: u8) -> PacketBuilder {
    PacketBuilder::new(n)
        .option(60, b"HTTPClient:Arch:00016:UNDI:003000")
        .option(93, &[0, 16])
}

fn options(bytes: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let message = dhcproto::v4::borrowed::Message::new(bytes).unwrap();
    let read = |o: dhcproto::v4::borrowed::DhcpOption<'_>| (o.code().into(), o.data().to_vec());
    message.opts().map(read).collect()
}

fn codes(bytes: &[u8]) -> Vec<u8> {
    options(bytes).into_keys().collect()
}

fn file(bytes: &[u8]) -> String {
    let field = &bytes[108..236];
    let end = field.iter().position(|b| *b == 0).unwrap();
    String::from_utf8(field[..end].to_vec()).unwrap()
}

/// An answer of the other server to our own probe.
fn answer_to_probe(service: &Service) -> Vec<u8> {
    let request = Request::parse(&service.probe()).unwrap();
    match server(OTHER).handle(&request, UnixTime::new(5)).verdict {
        Verdict::Reply(reply) => reply.bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn uefi_is_sent_to_4011_by_a_bare_offer() {
    let mut service = service(Mode::Proxy);
    let offer = reply(&mut service, &efi(1), Via::Dhcp, 1);
    assert_eq!(codes(&offer.bytes), [53, 54, 60, 97]);
    assert_eq!(
        (offer.yiaddr, file(&offer.bytes).as_str()),
        (Ipv4Addr::UNSPECIFIED, "")
    );
    assert_eq!(offer.bytes[20..24], ME.octets(), "siaddr");
    assert_eq!(offer.destination, Destination::Broadcast);
    let from = SocketAddrV4::new(ip(130), 4011);
    let asks = efi(1).kind(3).ciaddr(ip(130));
    let ack = reply(&mut service, &asks, Via::Pxe(from), 2);
    assert_eq!(
        (ack.kind, ack.destination),
        (ReplyKind::Ack, Destination::Back(from))
    );
    assert_eq!(file(&ack.bytes), "snponly.efi");
    assert_eq!(codes(&ack.bytes), [53, 54, 60, 97]);
}

#[test]
fn bios_http_and_ipxe_get_their_file_in_the_offer() {
    let mut service = service(Mode::Proxy);
    let offer = reply(&mut service, &bios(1), Via::Dhcp, 1).bytes;
    assert_eq!(file(&offer), "undionly.kpxe");
    assert_eq!(options(&offer)[&43][..3], [6, 1, 8]);
    let offer = reply(&mut service, &http(2), Via::Dhcp, 1).bytes;
    let told = options(&offer);
    assert_eq!(
        (&told[&60][..], told.contains_key(&43)),
        (&b"HTTPClient"[..], false)
    );
    assert_eq!(told[&67], b"http://10.77.0.1/boot/ipxe.efi\0");
    let ipxe = efi(3).option(77, b"iPXE").option(175, &[1]);
    let offer = reply(&mut service, &ipxe, Via::Dhcp, 1).bytes;
    let told = options(&offer);
    assert!(told[&67].starts_with(b"http://10.77.0.1/ipxe?"));
    assert!(
        !told.contains_key(&175),
        "no word that there is no ProxyDHCP: this is it"
    );
    assert_eq!(offer[20..24], ME.octets(), "siaddr");
}

#[test]
fn proxy_leaves_addresses_to_the_other_server() {
    let mut service = service(Mode::Proxy);
    assert_eq!(
        ignored(&mut service, &PacketBuilder::new(1), 1),
        Ignored::NothingToBoot
    );
    let chooses = efi(1).kind(3).address(54, OTHER).address(50, ip(77));
    let handled = send(&mut service, &chooses, Via::Dhcp, 2);
    assert_eq!(handled.notice, Some(Notice::Found(OTHER)));
    assert_eq!(
        handled.outcome.verdict,
        Verdict::Ignored(Ignored::NotTheAddressServer)
    );
    for kind in [4, 7, 8] {
        let packet = efi(1).kind(kind).ciaddr(ip(77)).address(50, ip(77));
        assert_eq!(
            ignored(&mut service, &packet, 3),
            Ignored::NotTheAddressServer
        );
    }
    let relayed = efi(1).giaddr(ip(254)).option(82, b"\x01\x01a");
    let offer = reply(&mut service, &relayed, Via::Dhcp, 4);
    assert_eq!(offer.destination, Destination::Relay(ip(254)));
    assert_eq!(options(&offer.bytes)[&82], b"\x01\x01a");
}

#[test]
fn port_4011_answers_nobody_who_was_forged() {
    let mut service = service(Mode::Proxy);
    let asks = efi(1).kind(3).ciaddr(ip(130));
    for from in [
        SocketAddrV4::new(Ipv4Addr::BROADCAST, 4011),
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68),
        SocketAddrV4::new(ip(130), 0),
    ] {
        let verdict = send(&mut service, &asks, Via::Pxe(from), 1).outcome.verdict;
        assert_eq!(verdict, Verdict::Ignored(Ignored::NoAddress));
    }
    let meant_for_another = asks.address(54, OTHER);
    let from = Via::Pxe(SocketAddrV4::new(ip(130), 4011));
    let verdict = send(&mut service, &meant_for_another, from, 1)
        .outcome
        .verdict;
    assert_eq!(verdict, Verdict::Ignored(Ignored::OtherServer(OTHER)));
}

#[test]
fn auto_finds_the_other_server_by_asking() {
    let mut service = service(Mode::Auto {
        serve_if_alone: true,
    });
    assert_eq!(
        ignored(&mut service, &efi(1), 1),
        Ignored::NoRole(Role::Listening)
    );
    let answer = answer_to_probe(&service);
    assert_eq!(
        service.overhear(&answer, at(2)),
        Some(Notice::Beside(OTHER))
    );
    assert!(reply(&mut service, &efi(1), Via::Dhcp, 3).proxied);
    assert_eq!(pass(&mut service, 4, 500), []);
    assert_eq!(
        service.watch().others()[&OTHER].evidence,
        Evidence::Answered
    );
}

#[test]
fn auto_alone_gives_addresses_and_yields() {
    let mut service = service(Mode::Auto {
        serve_if_alone: true,
    });
    assert_eq!(pass(&mut service, 0, 60), [Notice::Alone]);
    let offer = reply(&mut service, &efi(1), Via::Dhcp, 61);
    assert_eq!((offer.yiaddr, offer.proxied), (ip(100), false));
    let chooses = efi(1).kind(3).address(54, OTHER).address(50, ip(77));
    let handled = send(&mut service, &chooses, Via::Dhcp, 62);
    assert_eq!(handled.notice, Some(Notice::Yielded(OTHER)));
    assert!(handled.outcome.events.is_empty());
    let takes_ours = efi(1).kind(3).address(54, ME).address(50, ip(100));
    assert_eq!(
        ignored(&mut service, &takes_ours, 63),
        Ignored::NotTheAddressServer
    );
}

#[test]
fn our_own_words_that_come_back_mean_nothing() {
    let mut service = service(Mode::Auto {
        serve_if_alone: true,
    });
    let probe = Request::parse(&service.probe()).unwrap();
    let handled = service.handle(&probe, Via::Dhcp, at(1));
    assert_eq!(handled.outcome.verdict, Verdict::Ignored(Ignored::OwnProbe));
    pass(&mut service, 0, 60);
    let offer = reply(&mut service, &PacketBuilder::new(1), Via::Dhcp, 61);
    assert_eq!(service.overhear(&offer.bytes, at(62)), None);
    // Another ProxyDHCP server gives no addresses: no reason to yield.
    let mut proxy = Service {
        me: Identity {
            address: OTHER,
            ..service.me
        },
        ..super::tests::service(Mode::Proxy)
    };
    let other = reply(&mut proxy, &efi(1), Via::Dhcp, 1);
    assert_eq!(service.overhear(&other.bytes, at(63)), None);
    assert_eq!(service.watch().role(), Role::Authoritative);
}

#[test]
fn authority_that_was_written_stays_and_warns_once() {
    let mut service = service(Mode::Authoritative);
    let answer = answer_to_probe(&service);
    assert_eq!(
        service.overhear(&answer, at(2)),
        Some(Notice::Conflict(OTHER))
    );
    assert_eq!(service.overhear(&answer, at(3)), None);
    assert_eq!(reply(&mut service, &efi(1), Via::Dhcp, 4).yiaddr, ip(100));
    let mut off = super::tests::service(Mode::Off);
    assert_eq!(ignored(&mut off, &efi(1), 1), Ignored::NoRole(Role::Off));
}

#[test]
fn a_flood_of_one_is_counted_and_the_next_is_served() {
    let mut service = service(Mode::Authoritative);
    for _ in 0..1000 {
        send(&mut service, &PacketBuilder::new(1), Via::Dhcp, 1);
    }
    assert_eq!(service.counters().limited_client, 975);
    assert_eq!(
        reply(&mut service, &PacketBuilder::new(2), Via::Dhcp, 1).yiaddr,
        ip(101)
    );
    assert_eq!(service.counters().offers, 26);
}

proptest! {
    /// Whatever clients send and whoever is heard: in any role but authority no
    /// reply carries an address, a lease or a NAK, and no row is written.
    #[test]
    fn only_authority_gives_addresses(
        mode in prop_oneof![
            Just(Mode::Proxy), Just(Mode::Off), Just(Mode::Authoritative),
            any::<bool>().prop_map(|serve_if_alone| Mode::Auto { serve_if_alone }),
        ],
        steps in proptest::collection::vec(
            (0u64..20, 0u8..4, 1u8..9, any::<u8>(), any::<bool>(), 0u8..12), 1..120),
    ) {
        let mut service = service(mode);
        let mut now = 0;
        for (pause, sort, kind, n, on_4011, event) in steps {
            pass(&mut service, now, now + pause);
            now += pause;
            if event == 0 {
                let answer = answer_to_probe(&service);
                service.overhear(&answer, at(now));
            }
            let packet = match sort {
                0 => efi(n), 1 => bios(n), 2 => http(n), _ => PacketBuilder::new(n),
            };
            let packet = match kind {
                3 => packet.kind(3).address(50, ip(100)).address(54, if event == 1 { OTHER } else { ME }),
                8 => packet.kind(8).ciaddr(ip(100)),
                _ => packet.kind(kind),
            };
            let via = if on_4011 { Via::Pxe(SocketAddrV4::new(ip(99), 4011)) } else { Via::Dhcp };
            let Ok(request) = Request::parse(&packet.bytes()) else { continue };
            let handled = service.handle(&request, via, at(now));
            let role = service.watch().role();
            if let Verdict::Reply(reply) = &handled.outcome.verdict {
                prop_assert!((300..1400).contains(&reply.bytes.len()));
                prop_assert!(matches!(role, Role::Proxy | Role::Authoritative));
                if role == Role::Proxy {
                    let told = options(&reply.bytes);
                    prop_assert!(reply.proxied && reply.kind != ReplyKind::Nak);
                    prop_assert_eq!(&reply.bytes[16..20], &[0; 4]);
                    prop_assert!(!told.contains_key(&51) && !told.contains_key(&1));
                }
            }
            prop_assert!(role == Role::Authoritative || handled.outcome.events.is_empty());
        }
    }
}
