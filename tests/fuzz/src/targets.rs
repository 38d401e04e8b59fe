//! What is fuzzed: every place where bytes from outside become a checked type.
//! Plain functions, so that the ordinary test `fuzz_replay` runs them, too.
//! Besides "no panic" each asserts what its type promises.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use groundcrew_core::bundle::config::Config;
use groundcrew_core::bundle::manifest::{Index, Manifest};
use groundcrew_core::bundle::source::Source;
use groundcrew_core::bundle::tree::Unpacker;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll;
use groundcrew_core::hardware::hash4k::HardwareHash;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid, smbios};
use groundcrew_core::keys::SigningKey;
use groundcrew_core::trust::charter::Charter;
use groundcrew_core::trust::image::ImageTrust;
use groundcrew_core::trust::tuf::signed::Unverified;
use groundcrew_core::trust::tuf::{Root, Snapshot, Targets, Timestamp};
use groundcrew_core::{Digest, UnixTime};
use groundcrew_netboot::dhcp::probe::{Answer, OtherServer};
use groundcrew_netboot::dhcp::{BootClient, BootService, BootWord, Loaders, Request};
use groundcrew_netboot::ipxe::{BootDecision, IpxeQuery, OnFailure, ScriptSettings};
use groundcrew_netboot::path::{BootPath, MAX_DEPTH, MAX_LEN};
use groundcrew_netboot::ra::NeighborDiscovery;
use groundcrew_netboot::text::TextRequest;
use groundcrew_netboot::tftp::{Limits, Step, Transfer, parse_request};
use groundcrew_registry::import::Rows;
use groundcrew_registry::journal::Entry;

/// One of them.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("dhcp_request", dhcp_request),
    ("dhcp_answer", dhcp_answer),
    ("dhcp_agent", dhcp_agent),
    ("tftp_request", tftp_request),
    ("tftp_transfer", tftp_transfer),
    ("ipxe_query", ipxe_query),
    ("boot_path", boot_path),
    ("http_head", http_head),
    ("router_advertisement", router_advertisement),
    ("smbios_tables", smbios_tables),
    ("hardware_hash", hardware_hash),
    ("csv_import", csv_import),
    ("envelope", envelope),
    ("enrollment", enrollment),
    ("tuf_metadata", tuf_metadata),
    ("bundle_files", bundle_files),
    ("bundle_tree", bundle_tree),
    ("journal_line", journal_line),
    ("settings", settings),
    ("names", names),
    ("agent_texts", agent_texts),
    ("courier", courier),
    ("sntp_and_arp", sntp_and_arp),
    ("last_words", last_words),
    ("stick_medium", stick_medium),
];

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

fn scripts() -> ScriptSettings {
    ScriptSettings {
        http: SocketAddrV4::new(SERVER, 80),
        https_port: 443,
        appliance: "crew".to_owned(),
        site: "lab".to_owned(),
        attempts: 3,
        on_failure: OnFailure::OwnDisk,
    }
}

fn dhcp_request(data: &[u8]) {
    let Ok(request) = Request::parse(data) else {
        return;
    };
    let _ = (request.link_selection(), request.server_override());
    let boot = BootService {
        http: SocketAddrV4::new(SERVER, 80),
        loaders: Loaders::debian(),
    };
    for word in [BootWord::Agent, BootWord::OwnDisk, BootWord::Held] {
        let _ = boot.offer_for(&BootClient::of(&request), word, true);
    }
}

fn dhcp_answer(data: &[u8]) {
    let _ = groundcrew_netboot::dhcp::told::Told::read(data);
    if let Some(answer) = Answer::parse(data) {
        let ours = OtherServer::parse(data, answer.mac, answer.xid);
        assert_eq!(ours.is_none(), answer.refuses);
    }
}

fn dhcp_agent(data: &[u8]) {
    let _ = groundcrew_agent::net::dhcp::wire::Reply::decode(data);
}

fn tftp_request(data: &[u8]) {
    match parse_request(data) {
        Ok(request) => {
            let _ = Transfer::new(&request, 1000, &Limits::default(), Duration::ZERO);
        }
        Err(refusal) => {
            // No answer may be longer than a question: nobody is amplified.
            let packet = refusal.packet().unwrap_or_default();
            assert!(packet.len() <= 128, "{refusal}");
        }
    }
}

/// A request, then packets: each begins with its length and the milliseconds
/// that pass before it.
fn tftp_transfer(data: &[u8]) {
    let Some((head, mut rest)) = data.split_at_checked(8) else {
        return;
    };
    let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let path = BootPath::from_tftp("f").expect("a path");
    let request = groundcrew_netboot::tftp::ReadRequest {
        block_size: Some(number(0)).filter(|b| *b >= 8),
        window: Some(number(2)).filter(|w| *w > 0),
        timeout: Some(head[4]).filter(|t| *t > 0),
        transfer_size: head[5] & 1 != 0,
        path,
    };
    let size = u64::from(number(6)) << (head[5] >> 4);
    let limits = Limits::default();
    let mut now = Duration::ZERO;
    let mut transfer = Transfer::new(&request, size, &limits, now);
    for _ in 0..4096 {
        match transfer.poll(now) {
            Step::Done(_) => break,
            Step::Send(packet) => assert!(packet.len() <= 512),
            Step::Window(window) => {
                assert!(window.length <= usize::from(limits.window) * 1468);
                assert!(window.offset + window.length as u64 <= size);
                let bytes = vec![0; window.length];
                let mut packets = Vec::new();
                assert!(window.write(&bytes, &mut packets));
                assert_eq!(
                    packets.len(),
                    window.length + 4 * usize::from(window.blocks)
                );
            }
            Step::Wait(until) => {
                assert!(until >= now);
                let [length, millis, more @ ..] = rest else {
                    now = until;
                    continue;
                };
                now += Duration::from_millis(u64::from(*millis) * 8);
                let (packet, more) = more.split_at(more.len().min(usize::from(*length)));
                transfer.received(packet, now);
                rest = more;
            }
        }
        let (done, all) = transfer.progress();
        assert!(done <= all);
    }
}

fn ipxe_query(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(query) = IpxeQuery::parse(&text) else {
        return;
    };
    let device = query.serial.clone().unwrap_or_default();
    let own = BootDecision::OwnDisk {
        why: device.clone(),
    };
    let script = own.script(&scripts(), &device, query.firmware);
    let harmless = own.script(&scripts(), "x", query.firmware);
    for line in script.lines().filter(|line| !line.starts_with("echo ")) {
        assert!(harmless.lines().any(|known| known == line), "{line}");
    }
}

fn boot_path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for path in [BootPath::from_http(&text), BootPath::from_tftp(&text)] {
        let Ok(path) = path else { continue };
        assert!(path.as_str().len() <= MAX_LEN && path.components().count() <= MAX_DEPTH);
        assert!(
            path.components()
                .all(|c| !c.is_empty() && !c.starts_with('.'))
        );
        assert_eq!(BootPath::from_http(&path.to_url_path()).as_ref(), Ok(&path));
        if let Some(request) = TextRequest::of(&path) {
            let own = BootDecision::OwnDisk {
                why: text.to_string(),
            };
            let text = request.text(&own, &scripts(), &text, None);
            assert!(text.len() < 4096, "{text}");
        }
    }
}

fn http_head(data: &[u8]) {
    let mut input = data.to_vec();
    for _ in 0..8 {
        let before = input.len();
        let Some(head) = groundcrew::serve::plain::take_head(&mut input) else {
            return;
        };
        let refused = matches!(head, groundcrew::serve::plain::Head::Refused(..));
        assert!(refused || input.len() < before);
        if refused {
            return;
        }
    }
}

fn router_advertisement(data: &[u8]) {
    let (from, to) = (
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::LOCALHOST,
    );
    let mut message = data.to_vec();
    // A wrong checksum would end it before anything is read.
    if let Some(sum) = message.get_mut(2..4) {
        sum.fill(0);
    }
    let sum = icmpv6_checksum(from, to, &message);
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    let read = NeighborDiscovery::parse(from, to, 255, &message);
    let summed = read != Err(groundcrew_netboot::ra::RaError::Checksum);
    assert!(summed || message.len() < 4);
    let _ = NeighborDiscovery::parse(from, to, 255, data);
}

fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let whole = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, 58],
        message,
    ]
    .concat();
    let words = whole
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The first byte says how long the entry point is.
fn smbios_tables(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else {
        return;
    };
    let (entry, table) = rest.split_at(rest.len().min(usize::from(*length)));
    let _ = smbios::parse(entry, table);
}

fn hardware_hash(data: &[u8]) {
    let _ = HardwareHash::from_text(&String::from_utf8_lossy(data));
    let _ = HardwareHash::from_bytes(data);
    // With the checksum made right, so that the records are read.
    let mut content = vec![b'O', b'A', 0, 0];
    content.extend(data.iter().take(2900));
    let total = (content.len() as u16).to_le_bytes();
    content[2..4].copy_from_slice(&total);
    let mut whole = content.clone();
    whole.extend([b'C', b'S', 36, 0]);
    whole.extend(Digest::of(&content).as_bytes());
    if let Ok(hash) = HardwareHash::from_bytes(&whole)
        && let Ok(bytes) = hash.to_bytes()
    {
        assert_eq!(HardwareHash::from_bytes(&bytes).as_ref(), Ok(&hash));
    }
}

fn csv_import(data: &[u8]) {
    if let Ok(rows) = Rows::new(data, "file.csv") {
        for row in rows.take(1000) {
            if row.is_err() {
                return;
            }
        }
    }
}

fn envelope(data: &[u8]) {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(data) else {
        return;
    };
    let key = SigningKey::from_seed([1; 32]).expect("a key").public();
    assert!(envelope.verify::<enroll::Grant>(&key).is_err(), "forged");
    let _ = envelope.verify_self_signed::<enroll::Request>(|request| request.sign_key);
    let _ = envelope.payload_digest();
}

fn enrollment(data: &[u8]) {
    again::<enroll::Start>(data);
    again::<enroll::Challenge>(data);
    again::<enroll::Request>(data);
    again::<enroll::Admission>(data);
    again::<enroll::Decision>(data);
    again::<enroll::Grant>(data);
    again::<enroll::Progress>(data);
    again::<enroll::Receipt>(data);
}

/// What is read and written again is the same.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_string(&value).expect("written");
        let read: T = serde_json::from_str(&text).expect("what was written is read");
        assert_eq!(serde_json::to_string(&read).expect("written"), text);
    }
}

fn tuf_metadata(data: &[u8]) {
    let _ = Unverified::<Root>::parse(data);
    let _ = Unverified::<Timestamp>::parse(data);
    let _ = Unverified::<Snapshot>::parse(data);
    let _ = Unverified::<Targets>::parse(data);
    let _ = serde_json::from_slice::<Charter>(data);
    if let Ok(trust) = ImageTrust::from_json(data) {
        let now = groundcrew_core::time::Now::Clock(UnixTime::new(1_900_000_000));
        let _ = trust.verify(now);
    }
}

fn bundle_files(data: &[u8]) {
    if let Ok(config) = Config::parse(data) {
        let bytes = config.to_bytes().expect("a configuration is written");
        assert!(Config::parse(&bytes).is_ok());
    }
    let _ = Manifest::parse(data);
    let _ = Index::parse(data);
    let _ = Source::parse("bundle.toml", &String::from_utf8_lossy(data));
}

/// The archive of two known files; whatever comes, only their bytes pass.
fn bundle_tree(data: &[u8]) {
    let entries = super::seeds::tree_entries();
    let mut unpacker = Unpacker::new(entries.iter().collect());
    let mut ended = 0;
    let mut sink = |event: groundcrew_core::bundle::tree::Event<'_>| {
        ended += u32::from(matches!(
            event,
            groundcrew_core::bundle::tree::Event::End(_)
        ));
        Ok::<_, std::convert::Infallible>(())
    };
    // In pieces: the first byte says of what size.
    let Some((size, rest)) = data.split_first() else {
        return;
    };
    let mut good = true;
    for piece in rest.chunks(usize::from(*size) * 8 + 1) {
        good = good && unpacker.feed(piece, &mut sink).is_ok();
        if !good {
            break;
        }
    }
    if good && unpacker.finish().is_ok() {
        assert_eq!(ended, 2, "whole without its files");
    }
}

fn journal_line(data: &[u8]) {
    if let Ok(entry) = Entry::read(&String::from_utf8_lossy(data)) {
        assert_eq!(
            Entry::read(entry.line()).map(|e| e.seq()).ok(),
            Some(entry.seq())
        );
        let _ = groundcrew::office::describe_entry(&entry);
    }
}

fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = groundcrew::site::settings::parse("site.toml", &text) {
        let _ = error.to_string();
    }
}

fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    shown_again::<groundcrew_core::DeviceId>(&text);
    shown_again::<groundcrew_core::ids::Slug>(&text);
    shown_again::<groundcrew_core::ids::Version>(&text);
    shown_again::<UnixTime>(&text);
    shown_again::<MacAddr>(&text);
    shown_again::<SmbiosUuid>(&text);
    shown_again::<Digest>(&text);
    shown_again::<enroll::Code>(&text);
    shown_again::<groundcrew::site::Cidr>(&text);
    shown_again::<groundcrew_core::bundle::path::RelPath>(&text);
    let _ = text.parse::<groundcrew::site::Pool>();
    let _ = text.parse::<groundcrew_core::bundle::path::TargetPath>();
    let _ = text.parse::<groundcrew_core::bundle::template::Template>();
    let _ = text.parse::<groundcrew_registry::hostname::HostnameTemplate>();
    let _ = groundcrew_registry::device::Tag::try_from(text.to_string());
    let _ = groundcrew_registry::junk::Junk::parse(&text);
}

/// What a name is shown as is read as the same name.
fn shown_again<T: FromStr + std::fmt::Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        let read = shown.parse::<T>();
        assert_eq!(read.ok().map(|r| r.to_string()).as_ref(), Some(&shown));
    }
}

fn agent_texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = groundcrew_agent::cmdline::BootArgs::parse(&text);
    let _ = groundcrew_agent::uevent::Uevent::parse(data);
    let _ = groundcrew_agent::apply::accounts::Table::parse(data);
    let mut parts = text.splitn(3, '\u{1}');
    let mut part = || parts.next().unwrap_or_default();
    let _ = groundcrew_agent::modules::Index::parse(part(), part(), part());
}

fn courier(data: &[u8]) {
    use groundcrew::site::courier::{blobs_of, each_blob, read};
    let Ok(package) = read(data) else { return };
    let Ok(wanted) = blobs_of(&package) else {
        return;
    };
    let mut read = Vec::new();
    let _ = each_blob(data, &wanted, &mut |digest, bytes| {
        if !bytes.is_empty() {
            read.extend_from_slice(bytes);
            return Ok(());
        }
        let whole = std::mem::take(&mut read);
        assert_eq!(wanted.get(digest), Some(&(whole.len() as u64)));
        assert_eq!(Digest::of(&whole), *digest);
        Ok(())
    });
}

fn sntp_and_arp(data: &[u8]) {
    if let Ok(request) = groundcrew_netboot::sntp::Request::parse(data) {
        // A broadcast of an answer must not be a question to the next server.
        let answer = request.answer(None);
        assert!(groundcrew_netboot::sntp::Request::parse(&answer).is_err());
    }
    if let Some((ip, _)) = groundcrew_netboot::dhcp::conflict::claim(data) {
        assert!(!ip.is_unspecified());
    }
}

fn last_words(data: &[u8]) {
    use groundcrew_core::trust::downgrade::Downgrades;
    let text = String::from_utf8_lossy(data);
    if let Some(words) = groundcrew_core::words::LastWords::read(&text) {
        let again = groundcrew_core::words::LastWords::read(&words.query());
        assert_eq!(again.map(|words| words.query()), Some(words.query()));
    }
    let site = "berlin".parse().expect("a site's name");
    if let Ok(found) = Downgrades::read(data, &site) {
        assert_eq!(found.site, site);
    }
}

fn stick_medium(data: &[u8]) {
    use groundcrew::stick::{anchor::Anchor, gpt::Table, vault::Vault};
    let _ = Anchor::read(data);
    let _ = Table::parse(data);
    if let Ok(vault) = Vault::read(data) {
        let json = vault.to_json().expect("a vault is written");
        assert!(Vault::read(&json).is_ok());
    }
}
