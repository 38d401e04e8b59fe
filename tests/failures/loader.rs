//! Loaders, boot texts, kernels and initrds that do not arrive or do not start.

use std::net::SocketAddr;
use std::time::Duration;

use groundcrew::flight::Flight;
use groundcrew_netboot::path::BootPath;
use groundcrew_netboot::story::{At, Cause, State, TftpStep, diagnose};
use groundcrew_netboot::tftp::{Limits, ReadRequest, Step, Transfer};

use crate::device::{Device, Firmware, Tftp, begin, get};
use crate::stage::{Stage, judged, later};

#[test]
fn loaders() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;

    let missing = Device::new(1, Firmware::Uefi);
    let ip = missing.lease(net);
    missing.tftp(net, ip, "snponly.efi", Tftp::Whole);
    stage.says("loader missing", &missing.name(), Cause::LoaderMissing);

    stage.boot_file("snponly.efi", 30_000);
    stage.boot_file("undionly.kpxe", 30_000);
    let cut = Device::new(2, Firmware::Uefi);
    let ip = cut.lease(net);
    cut.tftp(net, ip, "snponly.efi", Tftp::GiveUpAfter(3));
    let told = stage.says("transfer given up", &cut.name(), Cause::TransferCut);
    assert!(told.evidence.unwrap().contains("at byte 1536 of 30000"));

    let picky = Device::new(3, Firmware::Uefi);
    let ip = picky.lease(net);
    picky.tftp(net, ip, "snponly.efi", Tftp::RefuseOptions);
    stage.says("blksize refused", &picky.name(), Cause::BlksizeRefused);

    // A size probe ends the same way, and the file is fetched afterwards.
    let probing = Device::new(4, Firmware::Uefi);
    let ip = probing.lease(net);
    probing.tftp(net, ip, "snponly.efi", Tftp::RefuseOptions);
    probing.tftp(net, ip, "snponly.efi", Tftp::Whole);
    stage.says(
        "Secure Boot refuses the loader (as seen from here)",
        &probing.name(),
        Cause::SecureBootRefused,
    );

    let stuck = Device::new(5, Firmware::Bios);
    let ip = stuck.lease(net);
    stuck.tftp(net, ip, "undionly.kpxe", Tftp::Whole);
    stage.says(
        "BIOS loader does not start",
        &stuck.name(),
        Cause::LoaderNotStarted,
    );

    let walled = Device::new(6, Firmware::Uefi);
    let ip = walled.lease(net);
    walled.tftp(net, ip, "snponly.efi", Tftp::Whole);
    walled.running(Firmware::Ipxe).lease(net);
    stage.says("HTTP blocked", &walled.name(), Cause::HttpUnreachable);
}

#[test]
fn kernels() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;

    let none = Device::new(1, Firmware::Uefi);
    let ip = none.up_to_text(net, "SYNTH-1");
    get(net, ip, "/boot/vmlinuz", usize::MAX);
    let told = stage.says("kernel missing", &none.name(), Cause::BootImageMissing);
    assert_eq!(told.evidence.unwrap(), "vmlinuz is not there");

    stage.boot_file("vmlinuz", 40_000_000);
    stage.boot_file("initrd.img", 10_000);
    let cut = Device::new(2, Firmware::Uefi);
    let ip = cut.up_to_text(net, "SYNTH-2");
    get(net, ip, "/boot/vmlinuz", 100_000);
    stage.says("kernel cut", &cut.name(), Cause::TransferCut);

    let idle = Device::new(3, Firmware::Uefi);
    idle.up_to_text(net, "SYNTH-3");
    stage.says("text not followed", "SYNTH-3", Cause::TextNotFollowed);

    stage.boot_file("vmlinuz", 10_000);
    let silent = Device::new(4, Firmware::Uefi);
    silent.up_to_initrd(net, "SYNTH-4");
    stage.says(
        "kernel without NIC driver (as seen from here)",
        "SYNTH-4",
        Cause::AgentNeverHeard,
    );

    silent.running(Firmware::Agent).lease(net);
    stage.says(
        "the agent has an address, HTTP blocked",
        "SYNTH-4",
        Cause::HttpUnreachable,
    );

    // A whole capture of it, for Wireshark.
    let pcap = stage.site.folder.path().join("story.pcap");
    let path = pcap.to_str().unwrap();
    let output = stage
        .site
        .groundcrew(&["boot", "explain", "SYNTH-4", "--pcap", path]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    println!("{text}");
    let output = stage.site.groundcrew(&["boot", "list"]);
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(
        list.lines().all(|line| line.chars().count() <= 80),
        "{list}"
    );
    assert!(
        list.contains(Cause::HttpUnreachable.short()) || list.contains("on its way"),
        "{list}"
    );
    println!("{list}");
    let read = crate::common::run("tcpdump", ["-n", "-r", path, "udp port 67"]);
    assert!(read.lines().count() >= 4, "{read}");
    assert!(
        read.contains("BOOTP/DHCP, Request") && read.contains("Reply"),
        "{read}"
    );
}

#[test]
fn slow_transfers_are_no_failures() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;
    stage.boot_file("vmlinuz", 40_000_000);
    stage.boot_file("groundcrew.efi", 40_000_000);

    let slow = Device::new(1, Firmware::Uefi);
    let ip = slow.up_to_text(net, "SYNTH-11");
    let open = begin(net, ip, "/boot/vmlinuz", 100_000);
    let told = stage.in_minutes("SYNTH-11", 30);
    assert_eq!((told.state, told.cause), (State::Booting, None));
    drop(open);
    stage.says("kernel cut after a while", "SYNTH-11", Cause::TransferCut);

    let slow = Device::new(2, Firmware::Uefi);
    let ip = slow.lease(net);
    slow.tftp(net, ip, "groundcrew.efi", Tftp::Stall);
    let told = stage.in_minutes(&slow.name(), 30);
    assert_eq!((told.state, told.cause), (State::Booting, None));
}

#[test]
fn whole_images() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;
    stage.boot_file("groundcrew.efi", 30_000);
    let device = Device::new(1, Firmware::Uefi);
    let ip = device.lease(net);
    device.tftp(net, ip, "groundcrew.efi", Tftp::Whole);
    stage.says(
        "whole image not started",
        &device.name(),
        Cause::ImageNotStarted,
    );
    device.running(Firmware::Agent).lease(net);
    let told = stage.says(
        "whole image started, HTTP blocked",
        &device.name(),
        Cause::HttpUnreachable,
    );
    let agent = |text: &str| text.starts_with("the agent asked");
    assert!(told.lines.iter().any(|line| agent(&line.text)));
}

#[test]
fn transfers_that_the_appliance_ends() {
    let mut stage = Stage::authoritative();
    let net = &stage.switched.net;
    stage.boot_file("snponly.efi", 4_000_000);

    let odd = Device::new(1, Firmware::Uefi);
    let ip = odd.lease(net);
    odd.tftp(net, ip, "snponly.efi", Tftp::AsText);
    let told = stage.says("refused by TFTP", &odd.name(), Cause::ApplianceEnded);
    assert!(told.evidence.unwrap().contains("netascii"));

    let cut = Device::new(2, Firmware::Uefi);
    let ip = cut.lease(net);
    cut.tftp(net, ip, "snponly.efi", Tftp::Stall);
    stage.appliance.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(stage.appliance.end().0, Some(0));
    let told = stage.says(
        "the appliance stops meanwhile",
        &cut.name(),
        Cause::ApplianceEnded,
    );
    assert!(told.evidence.unwrap().contains("the appliance"));
}

/// The real transfer with a clock moved by hand: nobody waits for its retries.
#[test]
fn a_transfer_that_nobody_acknowledges_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let flight = Flight::open(&folder.path().join("flight.db"));
    let peer: SocketAddr = "10.77.0.130:2000".parse().unwrap();
    let request = ReadRequest::plain(BootPath::from_tftp("snponly.efi").unwrap());
    let mut transfer = Transfer::new(&request, 5000, &Limits::default(), Duration::ZERO);
    let mut now = Duration::ZERO;
    let end = loop {
        match transfer.poll(now) {
            Step::Send(_) => {}
            Step::Window(window) if window.offset == 0 => transfer.received(&[0, 4, 0, 1], now),
            Step::Window(_) => {}
            Step::Wait(until) => now = until,
            Step::Done(end) => break end,
        }
    };
    let (sent, size) = transfer.progress();
    let ms = u64::try_from(now.as_millis()).unwrap();
    flight.tftp(peer, "snponly.efi", TftpStep::ended(&end, sent, size, ms));
    let fixture = flight.explain("10.77.0.130").unwrap();
    let told = diagnose(&fixture.story, later(&fixture));
    judged("transfer cut", &told, Cause::TransferCut);
    assert!(
        told.evidence
            .unwrap()
            .contains("broke off at byte 512 of 5000")
    );
    assert!(At(0) < told.last);
}
