//! Golden tests over packets of real firmware (`tests/fixtures/captures`).
//!
//! Every DHCP packet of every capture is read and written down as text, with
//! our own server's answer beside what dnsmasq answered on the day, and compared
//! with the committed `NAME.golden.txt`. `UPDATE_GOLDEN=1` writes them anew.
// A test crate as a whole; fixtures are files, the package itself reads none.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use dhcproto::v4::borrowed;
use groundcrew_core::UnixTime;
use groundcrew_netboot::dhcp::client::quirk;
use groundcrew_netboot::dhcp::{
    BootClient, BootService, Destination, Loaders, Request, Server, Subnet, SubnetConfig, Verdict,
    Via, proxy,
};
use groundcrew_netboot::tftp::parse_request;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A UDP datagram of a capture.
struct Datagram {
    seconds: u32,
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: Vec<u8>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/captures")
}

fn captures() -> BTreeMap<String, Vec<Datagram>> {
    let files = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let pcaps = files.filter(|path| path.extension().is_some_and(|e| e == "pcap"));
    pcaps
        .map(|path| {
            (
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                datagrams(&std::fs::read(path).unwrap()),
            )
        })
        .collect()
}

/// Reads a little-endian pcap file of Ethernet frames; keeps the UDP over IPv4.
fn datagrams(pcap: &[u8]) -> Vec<Datagram> {
    assert_eq!(pcap[..4], [0xd4, 0xc3, 0xb2, 0xa1], "little-endian pcap");
    assert_eq!(pcap[20..24], [1, 0, 0, 0], "Ethernet");
    let word = |at: usize| u32::from_le_bytes(pcap[at..at + 4].try_into().unwrap());
    let (mut at, mut found) = (24, Vec::new());
    while at < pcap.len() {
        let (seconds, length) = (word(at), word(at + 8) as usize);
        found.extend(datagram(seconds, &pcap[at + 16..at + 16 + length]));
        at += 16 + length;
    }
    found
}

fn datagram(seconds: u32, frame: &[u8]) -> Option<Datagram> {
    if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 17 {
        return None;
    }
    let udp = frame.get(14 + usize::from(frame[14] & 15) * 4..)?;
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    Some(Datagram {
        seconds,
        from: SocketAddrV4::new(address(26), port(0)),
        to: SocketAddrV4::new(address(30), port(2)),
        payload: udp.get(8..usize::from(port(4)).min(udp.len()))?.to_vec(),
    })
}

fn is_dhcp(datagram: &Datagram) -> bool {
    [67, 4011]
        .iter()
        .any(|p| datagram.to.port() == *p || datagram.from.port() == *p)
}

fn server() -> Server {
    let ip = |last| Ipv4Addr::new(10, 77, 0, last);
    let config = SubnetConfig {
        server: SERVER,
        prefix: 24,
        pool_first: ip(130),
        pool_last: ip(200),
        router: Some(SERVER),
        dns: vec![],
        ntp: vec![],
        domain: None,
        lease_seconds: 3600,
        behind_relay: None,
        search: vec![],
        reservations: vec![],
    };
    let boot = BootService {
        http: SocketAddrV4::new(SERVER, 80),
        loaders: Loaders::debian(),
    };
    Server::new(Subnet::new(config).unwrap(), Some(boot), [])
}

/// Options by code, as readable text where they are text.
fn options(packet: &[u8]) -> BTreeMap<u8, String> {
    let message = borrowed::Message::new(packet).unwrap();
    message
        .opts()
        .map(|option| (option.code().into(), shown(option.data())))
        .collect()
}

fn shown(data: &[u8]) -> String {
    let text = data.strip_suffix(&[0]).unwrap_or(data);
    if text.len() > 3 && text.iter().all(|b| (b' '..=b'~').contains(b)) {
        let nul = if text.len() < data.len() { " NUL" } else { "" };
        format!("{:?}{nul}", String::from_utf8_lossy(text))
    } else {
        data.iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn describe_reply(out: &mut String, who: &str, packet: &[u8]) {
    let message = borrowed::Message::new(packet).unwrap();
    let (yiaddr, siaddr, file) = (
        message.yiaddr(),
        message.siaddr(),
        String::from_utf8_lossy(message.fname()),
    );
    writeln!(
        out,
        "  {who}: {} bytes, yiaddr {yiaddr}, siaddr {siaddr}, file {file:?}",
        packet.len()
    )
    .unwrap();
    for (code, value) in options(packet) {
        writeln!(out, "    {code:3} {value}").unwrap();
    }
}

fn describe_request(out: &mut String, request: &Request) {
    writeln!(
        out,
        "{:?} xid {:08x} flags {:04x}: {}",
        request.kind,
        request.xid,
        request.flags,
        BootClient::of(request)
    )
    .unwrap();
    writeln!(
        out,
        "  key {}, ciaddr {}, giaddr {}",
        request.key(),
        request.ciaddr,
        request.giaddr
    )
    .unwrap();
    writeln!(
        out,
        "  requested {:?}, server {:?}, max message {:?}",
        request.requested_ip, request.server_id, request.max_message
    )
    .unwrap();
    let classes: Vec<String> = request.user_classes.iter().map(|c| shown(c)).collect();
    writeln!(
        out,
        "  vendor class {}, user classes {classes:?}, option 175 {}",
        shown(&request.vendor_class),
        request.ipxe_options
    )
    .unwrap();
    writeln!(
        out,
        "  archs {:?}, uuid {:?}, hostname {:?}",
        request.archs, request.uuid, request.hostname
    )
    .unwrap();
    writeln!(out, "  asks for {:?}", request.parameters).unwrap();
}

/// The whole conversation as text: requests as we read them, what was answered
/// on the day, and what our server answers.
fn golden(datagrams: &[Datagram]) -> String {
    let (mut out, mut ours) = (String::new(), server());
    for datagram in datagrams.iter().filter(|d| is_dhcp(d)) {
        writeln!(out, "{} -> {}", datagram.from, datagram.to).unwrap();
        match Request::parse(&datagram.payload) {
            Err(why) if datagram.payload[0] == 1 => panic!("a client's packet was refused: {why}"),
            Err(_) => describe_reply(&mut out, "recorded", &datagram.payload),
            Ok(request) => {
                describe_request(&mut out, &request);
                let outcome = ours.handle(&request, UnixTime::new(datagram.seconds.into()));
                writeln!(out, "  ours: {outcome}").unwrap();
                if let Verdict::Reply(reply) = outcome.verdict {
                    describe_reply(&mut out, "ours", &reply.bytes);
                }
            }
        }
        out.push('\n');
    }
    out
}

#[test]
fn every_packet_reads_and_is_answered_as_written_down() {
    let update = std::env::var("UPDATE_GOLDEN").is_ok();
    let captures = captures();
    assert_eq!(captures.len(), 11, "captures in {}", folder().display());
    for (name, datagrams) in captures {
        let path = folder().join(format!("{name}.golden.txt"));
        let text = golden(&datagrams);
        if update {
            std::fs::write(&path, text).unwrap();
            continue;
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = known.lines().zip(text.lines()).position(|(a, b)| a != b);
        assert!(
            known == text,
            "{name}.golden.txt differs from line {differs:?}; UPDATE_GOLDEN=1 writes it anew"
        );
    }
}

/// Where dnsmasq, too, was the authoritative server and the client booted, our
/// answer must carry what carried it.
#[test]
fn our_answers_carry_what_booted_the_recorded_clients() {
    let mut compared = 0;
    for (name, datagrams) in captures() {
        if name.starts_with("proxy") || name == "uefi-httpboot-no-opt60" {
            continue;
        }
        let mut ours = server();
        let dhcp: Vec<&Datagram> = datagrams.iter().filter(|d| is_dhcp(d)).collect();
        for pair in dhcp.windows(2) {
            let Ok(request) = Request::parse(&pair[0].payload) else {
                continue;
            };
            let theirs = borrowed::Message::new(&pair[1].payload).unwrap();
            assert_eq!(
                theirs.xid(),
                request.xid,
                "{name}: the answer follows its question"
            );
            let Verdict::Reply(reply) = ours
                .handle(&request, UnixTime::new(pair[0].seconds.into()))
                .verdict
            else {
                panic!("{name}: no reply");
            };
            let mine = borrowed::Message::new(&reply.bytes).unwrap();
            assert_eq!(
                (mine.xid(), u16::from(mine.flags())),
                (theirs.xid(), u16::from(theirs.flags())),
                "{name}"
            );
            assert_eq!(
                (mine.yiaddr(), mine.siaddr()),
                (
                    theirs.yiaddr(),
                    if plain(&request) {
                        mine.siaddr()
                    } else {
                        theirs.siaddr()
                    }
                ),
                "{name}"
            );
            let (recorded, answered) = (options(&pair[1].payload), options(&reply.bytes));
            for code in recorded.keys().filter(|code| **code != 67) {
                assert_eq!(
                    answered.get(code),
                    recorded.get(code),
                    "{name}, option {code}"
                );
            }
            // The file differs (ours is made for the device); that there is one must not.
            assert_eq!(
                answered.contains_key(&67),
                recorded.contains_key(&67),
                "{name}"
            );
            compared += 1;
        }
    }
    assert!(compared >= 30, "only {compared} answers compared");
}

/// Beside the recorded DHCP server, our ProxyDHCP answers are the recorded ones:
/// same options, same address fields; only the file is ours. The recording with
/// `siaddr` 0.0.0.0 is the one that did not boot: there ours must differ.
#[test]
fn our_proxy_answers_are_those_that_booted_the_recorded_clients() {
    let boot = BootService {
        http: SocketAddrV4::new(SERVER, 80),
        loaders: Loaders::debian(),
    };
    let (mut compared, mut silent) = (0, 0);
    for (name, datagrams) in captures() {
        if !name.starts_with("proxy") {
            continue;
        }
        for (place, asked) in datagrams.iter().enumerate() {
            let Ok(request) = Request::parse(&asked.payload) else {
                continue;
            };
            let via = match asked.to.port() {
                67 => Via::Dhcp,
                4011 => Via::Pxe(asked.from),
                _ => continue,
            };
            let recorded = datagrams[place + 1..]
                .iter()
                .take_while(|d| Request::parse(&d.payload).is_err())
                .find(|d| is_dhcp(d) && *d.from.ip() == SERVER);
            let Verdict::Reply(reply) = proxy::answer(&boot, SERVER, &request, via) else {
                assert!(recorded.is_none(), "{name}: silent where it was answered");
                silent += 1;
                continue;
            };
            let recorded = recorded.unwrap_or_else(|| panic!("{name}: answered in a silence"));
            let theirs = borrowed::Message::new(&recorded.payload).unwrap();
            let mine = borrowed::Message::new(&reply.bytes).unwrap();
            assert_eq!(mine.xid(), theirs.xid(), "{name}");
            assert_eq!(mine.yiaddr(), theirs.yiaddr(), "{name}");
            assert_eq!(mine.siaddr(), SERVER, "{name}");
            let (wanted, ours) = (options(&recorded.payload), options(&reply.bytes));
            for (code, value) in &wanted {
                assert_eq!(ours.get(code), Some(value), "{name}, option {code}");
            }
            // RFC 6842 gives the client its identifier back; our URL is longer than `file`.
            let more = ours.keys().filter(|code| !wanted.contains_key(code));
            assert!(
                more.clone().all(|code| [61, 67].contains(code)),
                "{name}: {more:?}"
            );
            let tells = |m: &borrowed::Message<'_>, o: &BTreeMap<u8, String>| {
                m.fname().first().is_some_and(|b| *b != 0) || o.contains_key(&67)
            };
            assert_eq!(
                tells(&mine, &ours),
                tells(&theirs, &wanted),
                "{name}: a file"
            );
            let to = match reply.destination {
                Destination::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, 68),
                Destination::Back(from) => from,
                other => panic!("{name}: {other}"),
            };
            assert_eq!(to, recorded.to, "{name}");
            compared += 1;
        }
    }
    assert_eq!(
        (compared, silent > 5),
        (9, true),
        "{compared} compared, {silent} silent"
    );
}

fn plain(request: &Request) -> bool {
    BootClient::of(request) == BootClient::Plain
}

#[test]
fn every_recorded_tftp_request_reads() {
    let mut names = BTreeMap::new();
    for (name, datagrams) in captures() {
        for datagram in datagrams.iter().filter(|d| d.to.port() == 69) {
            let request =
                parse_request(&datagram.payload).unwrap_or_else(|why| panic!("{name}: {why}"));
            *names
                .entry((request.path.to_string(), request.block_size, request.window))
                .or_insert(0) += 1;
        }
    }
    // OVMF asks for its loader twice: for its size, then for its bytes.
    assert_eq!(
        names.get(&("shimx64.efi".to_owned(), Some(1468), Some(4))),
        Some(&2)
    );
    assert_eq!(
        names.get(&("grubx64.efi".to_owned(), Some(512), Some(4))),
        Some(&1)
    );
    assert!(names.contains_key(&("grub/x86_64-efi/command.lst".to_owned(), Some(1024), None)));
    assert!(names.contains_key(&(
        "pxelinux.cfg/01-52-54-00-77-00-01".to_owned(),
        Some(1408),
        None
    )));
}

#[test]
fn quirks_name_captures_that_exist() {
    let captures = captures();
    for quirk in quirk::ALL {
        if let quirk::Proof::Capture(name) = quirk.proof {
            assert!(captures.contains_key(name), "{}: {name}", quirk.name);
        }
    }
}
