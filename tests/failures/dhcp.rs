//! Addresses and offers that go wrong.

use std::net::{Ipv4Addr, SocketAddrV4};

use groundcrew_netboot::story::{Cause, Event, What};

use crate::common::run;
use crate::common::switch::OTHER;
use crate::device::{Device, Firmware, Tftp, take};
use crate::stage::Stage;

const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 60);

#[test]
fn on_a_network_of_its_own() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;

    let lured = Device::new(1, Firmware::Uefi);
    lured.discover(net).unwrap();
    lured.choose(net, THEIRS, OTHER);
    let told = stage.says(
        "other server's offer taken",
        &lured.name(),
        Cause::OtherServerTaken,
    );
    assert!(told.evidence.unwrap().contains("10.77.0.2"));

    let foreign = Device::new(2, Firmware::Ia32);
    foreign.discover(net).unwrap();
    stage.says(
        "architecture without a loader",
        &foreign.name(),
        Cause::NoLoaderForArchitecture,
    );
    foreign.running(Firmware::Plain).lease(net);
    stage.says(
        "architecture without a loader, then its own disk",
        &foreign.name(),
        Cause::NoLoaderForArchitecture,
    );

    let hasty = Device::new(3, Firmware::Bios);
    hasty.shout(net, 60);
    stage.says("rate limited", &hasty.name(), Cause::RateLimited);

    let deaf = Device::new(4, Firmware::Bios);
    for _ in 0..3 {
        deaf.discover(net).unwrap();
    }
    stage.says("offer not heard", &deaf.name(), Cause::OfferNotHeard);

    let deaf = Device::new(8, Firmware::Ipxe);
    for _ in 0..3 {
        deaf.discover(net).unwrap();
    }
    stage.says(
        "offer not heard by iPXE",
        &deaf.name(),
        Cause::OfferNotHeard,
    );

    let lured = Device::new(9, Firmware::Ipxe);
    lured.discover(net).unwrap();
    lured.choose(net, THEIRS, OTHER);
    stage.says(
        "other server's offer taken by iPXE",
        &lured.name(),
        Cause::OtherServerTaken,
    );

    let blocked = Device::new(5, Firmware::Uefi);
    blocked.lease(net);
    stage.says(
        "TFTP blocked: loader never asked for",
        &blocked.name(),
        Cause::LoaderNotAskedFor,
    );

    let mut stray = Device::new(6, Firmware::Uefi);
    stray.giaddr = Ipv4Addr::new(10, 99, 0, 1);
    stray.shout(net, 1);
    let name = stray.name();
    stage.says("relay that nobody set up", &name, Cause::UnknownRelay);

    let settled = Device::new(7, Firmware::Plain);
    settled.lease(net);
    stage.says(
        "boots its own disk by firmware order",
        &settled.name(),
        Cause::OwnDiskByFirmware,
    );
}

#[test]
fn a_reply_through_a_relay_is_lost() {
    let subnet = "mode = \"authoritative\"\nconflict_probe = false";
    let more = "[[network.subnet]]\nrelay = \"10.88.0.1/24\"\n\n[ports]";
    let stage = Stage::with(subnet, |site| site.edit_settings("[ports]", more));
    for (n, firmware) in [(1, Firmware::Uefi), (2, Firmware::Ipxe)] {
        let mut device = Device::new(n, firmware);
        device.giaddr = Ipv4Addr::new(10, 88, 0, 1);
        device.shout(&stage.switched.net, 3);
        let told = stage.says("relay reply lost", &device.name(), Cause::RelayReplyLost);
        assert!(told.evidence.unwrap().contains("10.88.0.1"));
    }
}

#[test]
fn the_pool_is_empty() {
    let stage = Stage::with("mode = \"authoritative\"\nconflict_probe = false", |site| {
        let text = std::fs::read_to_string(site.dir().join("site.toml")).unwrap();
        let pool = text
            .lines()
            .find(|line| line.starts_with("pool ="))
            .unwrap();
        site.edit_settings(pool, "pool = \"10.77.0.128-10.77.0.128\"");
    });
    let net = &stage.switched.net;
    Device::new(1, Firmware::Uefi).lease(net);
    let late = Device::new(2, Firmware::Uefi);
    late.shout(net, 1);
    stage.says("pool empty", &late.name(), Cause::PoolEmpty);
}

#[test]
fn an_address_is_in_use() {
    let mut stage = Stage::new("mode = \"authoritative\"");
    let taken = format!(
        "-n {} address add 10.77.0.128/24 dev oth0",
        stage.switched.other
    );
    run("ip", taken.split(' '));
    let device = Device::new(1, Firmware::Uefi);
    device.shout(&stage.switched.net, 1);
    stage.appliance.wait_for("10.77.0.128 is used by");
    let told = stage.says("address conflict", &device.name(), Cause::AddressConflict);
    assert!(told.evidence.unwrap().contains("10.77.0.128"));

    // The next address is free, and something else is wrong.
    assert_ne!(
        device.lease(&stage.switched.net),
        Ipv4Addr::new(10, 77, 0, 128)
    );
    stage.says(
        "address conflict overcome, then TFTP blocked",
        &device.name(),
        Cause::LoaderNotAskedFor,
    );
}

#[test]
fn the_appliance_is_not_sure_yet() {
    let stage = Stage::new("mode = \"auto\"");
    let device = Device::new(1, Firmware::Uefi);
    device.shout(&stage.switched.net, 1);
    stage.says("appliance silent (auto)", &device.name(), Cause::NotServing);
}

#[test]
fn beside_another_server() {
    let stage = Stage::new("mode = \"proxy\"");
    let net = &stage.switched.net;
    let deaf = Device::new(1, Firmware::Uefi);
    let dnsmasq = stage.switched.dnsmasq();
    deaf.shout(net, 1);
    deaf.choose(net, THEIRS, OTHER);
    stage.says(
        "proxy offer ignored",
        &deaf.name(),
        Cause::ProxyOfferIgnored,
    );
    let deaf = Device::new(4, Firmware::Ipxe);
    deaf.shout(net, 1);
    deaf.choose(net, THEIRS, OTHER);
    stage.says(
        "proxy offer ignored by iPXE",
        &deaf.name(),
        Cause::ProxyOfferIgnored,
    );
    drop(dnsmasq);

    // Their answer carries a URL and no option 60.
    let http = Device::new(2, Firmware::HttpBoot);
    http.shout(net, 1);
    let url = b"http://10.77.0.2/boot.efi";
    theirs(&stage, &http, 2, Some(url));
    http.choose(net, THEIRS, OTHER);
    theirs(&stage, &http, 5, Some(url));
    stage.says("no option 60 echo", &http.name(), Cause::NoHttpClientEcho);

    // Their boot file, from us.
    stage.boot_file("undionly.kpxe", 3000);
    let wrong = Device::new(3, Firmware::Uefi);
    wrong.shout(net, 1);
    wrong.choose(net, THEIRS, OTHER);
    theirs(&stage, &wrong, 5, Some(b"undionly.kpxe"));
    take(net, THEIRS);
    wrong.tftp(net, THEIRS, "undionly.kpxe", Tftp::Whole);
    let told = stage.says(
        "wrong architecture's loader",
        &wrong.name(),
        Cause::WrongLoader,
    );
    assert!(told.evidence.unwrap().contains("undionly.kpxe is for BIOS"));
    assert!(told.notes[0].contains("10.77.0.2"), "{:?}", told.notes);
}

/// The other server's OFFER (2) or ACK (5) to everybody.
fn theirs(stage: &Stage, device: &Device, kind: u8, file: Option<&[u8]>) {
    // Only who was seen before is listened for.
    stage.story(&device.name());
    let mut packet = device.packet(kind, &[(54, &OTHER.octets())]);
    packet[0] = 2;
    packet[16..20].copy_from_slice(&THEIRS.octets());
    // Only what a server of that kind would say.
    packet.truncate(240);
    packet.extend([53, 1, kind, 54, 4]);
    packet.extend(OTHER.octets());
    if let Some(file) = file {
        packet.extend([67, u8::try_from(file.len()).unwrap()]);
        packet.extend(file);
    }
    packet.push(255);
    packet.resize(packet.len().max(300), 0);
    let namespace = std::fs::File::open(format!("/run/netns/{}", stage.switched.other)).unwrap();
    let send = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = std::net::UdpSocket::bind((OTHER, 67)).unwrap();
        socket.set_broadcast(true).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
        socket.send_to(&packet, to).unwrap();
    });
    send.join().unwrap();
    heard(stage, device);
}

/// The appliance has read what was sent to it before.
fn heard(stage: &Stage, device: &Device) {
    for _ in 0..100 {
        let story = stage.story(&device.name()).story;
        let other = |event: &Event| matches!(event.what, What::Overheard(_));
        if story.events.iter().any(other) {
            return;
        }
    }
    panic!("the other server's answer was not heard");
}
