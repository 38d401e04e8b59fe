//! The appliance beside other people's DHCP servers, relays and clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::switch::{OTHER, Routed, Switched, bios, option, replies, to_all, uefi};
use common::{Appliance, Net, SERVER, TestSite, succeeded, udhcpc};

const AUTHORITATIVE: &str = "mode = \"authoritative\"";

/// The destination of every frame of a little-endian pcap file.
fn destinations(pcap: &[u8]) -> Vec<[u8; 6]> {
    let (mut at, mut found) = (24, Vec::new());
    while at + 22 <= pcap.len() {
        let length = u32::from_le_bytes(pcap[at + 8..at + 12].try_into().unwrap());
        found.push(pcap[at + 16..at + 22].try_into().unwrap());
        at += 16 + length as usize;
    }
    found
}

fn net_show(site: &TestSite) -> String {
    succeeded("net show", &site.groundcrew(&["net", "show", "--json"]))
}

#[test]
fn proxy_says_what_to_boot_and_leaves_addresses_to_dnsmasq() {
    let (switched, site) = (Switched::new(), TestSite::new());
    site.edit_settings(AUTHORITATIVE, "mode = \"proxy\"");
    let _dnsmasq = switched.dnsmasq();
    let mut appliance = Appliance::start(&switched.net, &site.dir());

    let text = udhcpc(&switched.net.client, site.folder.path(), &[]);
    assert!(text.contains("from 10.77.0.2"), "{text}");

    // Firmware: two offers, one with an address, one that leads to port 4011.
    let mac = [2, 0, 0, 0, 0, 7];
    let offers = switched.net.on_client(move || {
        let socket = common::dhcp::socket();
        socket.send_to(&uefi(mac, 77, None), to_all()).unwrap();
        replies(&socket, 77, Duration::from_secs(8), 2)
    });
    let of = |server: Ipv4Addr| {
        let mut offers = offers.iter().filter(|(from, _)| *from == server);
        offers
            .next()
            .unwrap_or_else(|| panic!("no offer of {server}"))
            .1
            .clone()
    };
    let (ours, theirs) = (of(SERVER), of(OTHER));
    assert_eq!(ours[16..20], [0; 4], "no address in a proxy offer");
    assert_eq!(option(&ours, 60).unwrap(), b"PXEClient");
    assert_eq!((option(&ours, 51), option(&ours, 43)), (None, None));
    let lent = Ipv4Addr::new(theirs[16], theirs[17], theirs[18], theirs[19]);
    assert!(lent.octets()[3] >= 50, "{lent}");

    let client = &switched.net.client;
    let address = format!("-n {client} address add 10.77.0.3/24 dev dev0");
    common::run("ip", address.split(' '));
    let acks = switched.net.on_client(move || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4011)).unwrap();
        let me = Ipv4Addr::new(10, 77, 0, 3);
        let packet = uefi(mac, 78, Some(me));
        socket
            .send_to(&packet, SocketAddrV4::new(SERVER, 4011))
            .unwrap();
        replies(&socket, 78, Duration::from_secs(5), 1)
    });
    let (from, ack) = &acks[0];
    assert_eq!((*from, option(ack, 53)), (SERVER, Some(vec![5])));
    assert!(ack[108..].starts_with(b"snponly.efi\0"));

    appliance.wait_for("REQUEST -> proxy ACK");
    let shown = net_show(&site);
    assert!(
        shown.contains("\"role\": \"proxy\"") && shown.contains("\"10.77.0.2\""),
        "{shown}"
    );
    let leases = succeeded("lease list", &site.groundcrew(&["lease", "list", "--json"]));
    assert_eq!(leases.trim(), "[]", "nothing was given");
}

/// A ROM's whole way beside another server, played packet by packet: two offers,
/// the REQUEST to the other server, and the file by TFTP as PXE ROMs fetch it.
#[test]
fn a_bios_rom_boots_beside_dnsmasq() {
    let (switched, site) = (Switched::new(), TestSite::new());
    site.edit_settings(AUTHORITATIVE, "mode = \"proxy\"");
    let loader = common::pattern(70_123);
    fs::write(site.dir().join("boot/undionly.kpxe"), &loader).unwrap();
    let _dnsmasq = switched.dnsmasq();
    let mut appliance = Appliance::start(&switched.net, &site.dir());
    let mac = [2, 0, 0, 0, 0, 8];
    let (offers, ack) = switched.net.on_client(move || {
        let socket = common::dhcp::socket();
        // By broadcast, because a socket hears nothing sent to an address it has not.
        let mut discover = bios(mac, 79);
        discover[10] = 0x80;
        socket.send_to(&discover, to_all()).unwrap();
        let offers = replies(&socket, 79, Duration::from_secs(8), 2);
        let (_, theirs) = offers.iter().find(|(from, _)| *from == OTHER).unwrap();
        let offered = Ipv4Addr::new(theirs[16], theirs[17], theirs[18], theirs[19]);
        let mut request = common::dhcp::packet(mac, 80, Some(offered));
        let server = request
            .windows(4)
            .rposition(|w| w == SERVER.octets())
            .unwrap();
        request[server..server + 4].copy_from_slice(&OTHER.octets());
        socket.send_to(&request, to_all()).unwrap();
        let ack = replies(&socket, 80, Duration::from_secs(3), 2);
        (offers, ack)
    });
    let ours = &offers.iter().find(|(from, _)| *from == SERVER).unwrap().1;
    assert_eq!(ours[16..20], [0; 4], "no address in a proxy offer");
    assert_eq!(ours[20..24], SERVER.octets(), "the next server");
    assert!(ours[108..].starts_with(b"undionly.kpxe\0"));
    assert_eq!(option(ours, 60).unwrap(), b"PXEClient");
    assert_eq!(option(ours, 97).unwrap()[1..], [8; 16]);
    // Discovery control 8: take this file, ask nobody else (PXE 2.1 table 2-3).
    assert_eq!(option(ours, 43).unwrap()[..3], [6, 1, 8]);
    let from: Vec<_> = ack.iter().map(|(from, _)| *from).collect();
    assert_eq!(
        from,
        [OTHER],
        "only the server that gave the address answers"
    );
    appliance.wait_for("DISCOVER -> proxy OFFER");

    let address = format!(
        "-n {} address add 10.77.0.60/24 dev dev0",
        switched.net.client
    );
    common::run("ip", address.split(' '));
    let fetched = switched
        .net
        .on_client(|| common::tftp(SERVER, "undionly.kpxe", 1456));
    assert_eq!(fetched, loader);
}

/// Somebody invents hardware addresses until the pool is dry. A machine that is
/// there keeps its address; the others' are taken again once nobody answers ARP.
#[test]
fn a_starved_pool_recovers() {
    let (net, site) = (Net::new(), TestSite::new());
    site.edit_settings(
        "pool = \"10.77.0.128-10.77.0.254\"",
        "pool = \"10.77.0.128-10.77.0.147\"",
    );
    let mut appliance = Appliance::start(&net, &site.dir());
    let held = net.on_client(|| {
        let lease = |n| common::dhcp::lease([2, 0xba, 0xd0, 0, 0, n], Duration::from_secs(3));
        (0..18).filter_map(lease).collect::<Vec<_>>()
    });
    assert_eq!(held.len(), 18, "7/8 of 20 addresses, rounded up");
    let refused =
        net.on_client(|| common::dhcp::lease([2, 0xba, 0xd0, 0, 0, 99], Duration::from_secs(2)));
    assert_eq!(refused, None);
    appliance.wait_for("the pool is EXHAUSTED");
    let shown = succeeded("net show", &site.groundcrew(&["net", "show"]));
    assert!(
        shown.contains("18 of those in use by clients that did nothing"),
        "{shown}"
    );
    assert!(shown.contains("18 of 20 addresses in use"), "{shown}");
    if std::env::var_os("GROUNDCREW_FULL").is_none() {
        eprintln!("left out: the two minutes until they are taken again; GROUNDCREW_FULL=1");
        return;
    }
    // One of them is a machine: it answers ARP.
    let real = format!("-n {} address add {}/24 dev dev0", net.client, held[0]);
    common::run("ip", real.split(' '));
    std::thread::sleep(Duration::from_secs(121));
    let taken = net.on_client(|| {
        let lease = |n| common::dhcp::lease([2, 0, 0, 1, 0, n], Duration::from_secs(8));
        (0..3).filter_map(lease).collect::<Vec<_>>()
    });
    assert_eq!(taken.len(), 3, "{taken:?}");
    assert!(
        !taken.contains(&held[0]),
        "{taken:?} and a machine at {}",
        held[0]
    );
    assert!(
        taken.iter().any(|ip| held.contains(ip)),
        "{taken:?} of {held:?}"
    );
}

#[test]
fn auto_finds_dnsmasq_and_steps_aside() {
    let (switched, site) = (Switched::new(), TestSite::new());
    site.edit_settings(AUTHORITATIVE, "mode = \"auto\"");
    let _dnsmasq = switched.dnsmasq();
    // It may be heard before the appliance has said that it is ready.
    let mut appliance = Appliance::spawn(&switched.net, &site.dir());
    appliance.wait_for("the DHCP server 10.77.0.2 gives addresses here");
    let text = udhcpc(&switched.net.client, site.folder.path(), &[]);
    assert!(text.contains("from 10.77.0.2"), "{text}");
    let shown = net_show(&site);
    assert!(
        shown.contains("it answered our DISCOVER") || shown.contains("a client chose it"),
        "{shown}"
    );
}

#[test]
fn a_relay_brings_its_network() {
    let (routed, site) = (Routed::new(), TestSite::new());
    let more = "[[network.subnet]]\nrelay = \"10.88.0.1/24\"\npool = \"10.88.0.100-10.88.0.110\"\n\n[ports]";
    site.edit_settings("[ports]", more);
    let mut appliance = Appliance::start(&routed.net, &site.dir());
    let _relay = routed.dhcrelay();
    let text = udhcpc(&routed.net.client, site.folder.path(), &["-t", "10"]);
    assert!(text.contains("bound 10.88.0.100 from 10.77.0.1"), "{text}");
    appliance.wait_for("REQUEST -> ACK");
    let shown = succeeded("net show", &site.groundcrew(&["net", "show"]));
    assert!(
        shown.contains("10.88.0.0/255.255.255.0: 1 of 11"),
        "{shown}"
    );
}

#[test]
fn one_that_floods_is_dropped_and_the_next_is_served() {
    let (net, site) = (Net::new(), TestSite::new());
    let mut appliance = Appliance::start(&net, &site.dir());
    let before = appliance.memory_kib();
    let leased = net.on_client(|| {
        let socket = common::dhcp::socket();
        for xid in 0..5000 {
            let packet = common::dhcp::packet([2, 0, 0, 0, 0, 9], xid, None);
            let _ = socket.send_to(&packet, to_all());
        }
        drop(socket);
        common::dhcp::lease([2, 0, 0, 0, 0, 10], Duration::from_secs(10))
    });
    assert!(leased.is_some(), "nobody else was served");
    appliance.wait_for("clients that ask too often");
    let shown = net_show(&site);
    let limited = shown.split("\"limited_client\": ").nth(1).unwrap();
    let limited: u32 = limited.split(',').next().unwrap().trim().parse().unwrap();
    // A busy machine loses most of the others in the socket's buffer.
    assert!(limited > 100, "{shown}");
    let after = appliance.memory_kib();
    assert!(after < before + 8192, "{before} KiB, then {after} KiB");
}

#[test]
fn an_address_that_somebody_uses_is_not_given() {
    let (switched, site) = (Switched::new(), TestSite::new());
    let mut appliance = Appliance::start(&switched.net, &site.dir());
    // The pool's first address, taken by hand.
    let taken = format!("-n {} address add 10.77.0.128/24 dev oth0", switched.other);
    common::run("ip", taken.split(' '));
    let text = udhcpc(&switched.net.client, site.folder.path(), &[]);
    assert!(text.contains("bound 10.77.0.129 from 10.77.0.1"), "{text}");
    appliance.wait_for("10.77.0.128 is used by");
    let shown = succeeded("net show", &site.groundcrew(&["net", "show"]));
    assert!(shown.contains("1 put aside"), "{shown}");
}

#[test]
fn dhclient_gets_its_reservation() {
    let (net, site) = (Net::new(), TestSite::new());
    let link = common::run(
        "ip",
        ["-n", &net.client, "-br", "link", "show", "dev", "dev0"],
    );
    let mac = link.split_whitespace().nth(2).unwrap();
    let more = format!(
        "[[network.reservation]]\naddress = \"10.77.0.20\"\nmac = \"{mac}\"\nhostname = \"front-desk\"\n\n[ports]"
    );
    site.edit_settings("[ports]", &more);
    let _appliance = Appliance::start(&net, &site.dir());
    let work = site.folder.path();
    let script = work.join("dhclient-script");
    fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = net
        .in_client("dhclient")
        .args(["-4", "-d", "-1", "-v", "-cf", "/dev/null", "-lf"])
        .arg(work.join("leases"))
        .arg("-pf")
        .arg(work.join("pid"))
        .arg("-sf")
        .arg(&script)
        .arg("dev0")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let bound = lines.find_map(|line| line.ok().filter(|line| line.starts_with("bound to")));
    let _ = child.kill();
    let _ = child.wait();
    assert!(
        bound.as_ref().is_some_and(|b| b.contains("10.77.0.20")),
        "{bound:?}"
    );
    let leases = fs::read_to_string(work.join("leases")).unwrap();
    assert!(
        leases.contains("option host-name \"front-desk\""),
        "{leases}"
    );
}

#[test]
fn auto_is_silent_until_it_knows() {
    let (net, site) = (Net::new(), TestSite::new());
    site.edit_settings(AUTHORITATIVE, "");
    let mut appliance = Appliance::start(&net, &site.dir());
    let text = udhcpc(&net.client, site.folder.path(), &["-t", "2"]);
    assert!(!text.contains("bound 10."), "{text}");
    appliance.wait_for("this server is listening");
}

#[test]
fn a_reply_goes_to_the_clients_hardware_address() {
    let (net, site) = (Net::new(), TestSite::new());
    let _appliance = Appliance::start(&net, &site.dir());
    let pcap = site.folder.path().join("wire.pcap");
    let mut tcpdump = net.in_client("tcpdump");
    tcpdump
        .args(["-i", "dev0", "-U", "--immediate-mode", "-w"])
        .arg(&pcap)
        .arg("udp src port 67");
    let mut tcpdump = tcpdump
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(tcpdump.stderr.take().unwrap());
    while !line.contains("listening on") {
        line.clear();
        std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
        assert!(!line.is_empty(), "tcpdump ended");
    }
    let text = udhcpc(&net.client, site.folder.path(), &[]);
    assert!(text.contains("from 10.77.0.1"), "{text}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(tcpdump.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    tcpdump.wait().unwrap();
    let bytes = fs::read(&pcap).unwrap();
    let targets = destinations(&bytes);
    assert!(targets.len() >= 2, "OFFER and ACK: {targets:?}");
    assert!(
        targets.iter().all(|target| *target != [255; 6]),
        "a broadcast: {targets:?}"
    );

    // The lease is there for everybody to see, and goes when a technician says so.
    let list = |json: &[&str]| succeeded("lease list", &site.groundcrew(json));
    let leases = list(&["lease", "list", "--json"]);
    let ip = leases
        .split('"')
        .find(|w| w.starts_with("10.77.0."))
        .unwrap()
        .to_owned();
    assert!(leases.contains("\"bound\""), "{leases}");
    let said = list(&["lease", "release", &ip]);
    assert!(said.contains("is free"), "{said}");
    assert!(list(&["lease", "list"]).contains("released"));
    assert!(
        !site
            .groundcrew(&["lease", "release", "10.77.0.9"])
            .status
            .success()
    );
    let shown = list(&["net", "show"]);
    assert!(
        shown.contains("now authoritative") && shown.contains("1 OFFER, 1 ACK"),
        "{shown}"
    );
}
