//! What each kind of client is offered; and a BIOS ROM that is not iPXE, which no
//! emulator has: its packets are built here as PXE 2.1 and RFC 4578 have them.

use std::net::Ipv4Addr;

use groundcrew_core::UnixTime;

use super::*;
use crate::dhcp::arch::Arch;
use crate::dhcp::proxy::{self, Via};
use crate::dhcp::server::{Server, Verdict};
use crate::dhcp::subnet::{Subnet, SubnetConfig};
use crate::dhcp::tests_support::{PacketBuilder, option};
use crate::dhcp::{Reply, Request};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const GIVEN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 130);

fn offered(loaders: Loaders, arch: u16, word: BootWord) -> Option<String> {
    let http = SocketAddrV4::new([10, 77, 0, 1].into(), 80);
    let arch = Arch::by_id(arch).unwrap();
    let client = if arch.http {
        BootClient::HttpBoot(arch)
    } else {
        BootClient::Pxe(arch)
    };
    let service = BootService { http, loaders };
    service
        .offer_for(&client, word, true)
        .map(|offer| offer.file)
}

fn whole() -> Option<LoaderFile> {
    LoaderFile::whole("groundcrew.efi", "local.efi", "held.efi")
}

#[test]
fn only_a_whole_image_is_replaced_by_what_dhcp_says() {
    let mixed = || Loaders {
        efi_x64_http: whole(),
        ..Loaders::debian()
    };
    let tells = |arch| {
        let arch = Arch::by_id(arch).unwrap();
        mixed().tells(&BootClient::HttpBoot(arch))
    };
    assert!(tells(16) && !tells(7) && !mixed().tells(&BootClient::Plain));
    let file = |arch, word| offered(mixed(), arch, word).unwrap();
    for word in [BootWord::OwnDisk, BootWord::Held] {
        assert_eq!(file(7, word), "snponly.efi");
    }
    assert_eq!(
        file(16, BootWord::Agent),
        "http://10.77.0.1/boot/groundcrew.efi"
    );
    assert_eq!(
        file(16, BootWord::OwnDisk),
        "http://10.77.0.1/boot/local.efi"
    );
    assert_eq!(file(16, BootWord::Held), "http://10.77.0.1/boot/held.efi");
    let loaders = mixed();
    let files: Vec<_> = loaders.files().into_iter().map(BootPath::as_str).collect();
    assert!(
        files.ends_with(&["groundcrew.efi", "local.efi", "held.efi"]),
        "{files:?}"
    );
    assert_eq!(offered(mixed(), 11, BootWord::Agent), None);
}

#[test]
fn an_ipxe_rom_gets_its_text_unless_the_site_wants_another_loader() {
    let http = SocketAddrV4::new([10, 77, 0, 1].into(), 80);
    let ipxe = |loaders, arch| {
        let service = BootService { http, loaders };
        let client = BootClient::Ipxe(Arch::by_id(arch).unwrap());
        service
            .offer_for(&client, BootWord::Agent, true)
            .unwrap()
            .file
    };
    assert!(ipxe(Loaders::debian(), 0).starts_with("http://10.77.0.1/ipxe?"));
    let loaders = Loaders {
        bios_pxe: LoaderFile::that_asks("pxelinux.0").map(LoaderFile::for_ipxe_too),
        efi_x64: whole(),
        ..Loaders::debian()
    };
    assert_eq!(ipxe(loaders.clone(), 0), "pxelinux.0");
    assert_eq!(ipxe(loaders, 7), "http://10.77.0.1/boot/groundcrew.efi");
}

/// The PXE 2.1 ROM of an older Intel card: options in its order.
fn rom() -> PacketBuilder {
    PacketBuilder::new(1)
        .broadcast()
        .option(
            55,
            &[
                1, 2, 3, 5, 6, 11, 12, 13, 15, 16, 17, 18, 43, 54, 60, 67, 128, 129, 130, 131, 132,
                133, 134, 135,
            ],
        )
        .option(57, &1260u16.to_be_bytes())
        .option(97, &[&[0][..], &[7; 16]].concat())
        .option(93, &[0, 0])
        .option(94, &[1, 2, 1])
        .option(60, b"PXEClient:Arch:00000:UNDI:002001")
}

fn service() -> BootService {
    BootService {
        http: SocketAddrV4::new(SERVER, 80),
        loaders: Loaders::debian(),
    }
}

fn replied(verdict: Verdict) -> Reply {
    match verdict {
        Verdict::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// The `file` field, to its closing NUL.
fn file_field(reply: &[u8]) -> &[u8] {
    reply[108..236].split(|b| *b == 0).next().unwrap()
}

#[test]
fn a_rom_that_is_not_ipxe_finds_its_file_where_it_looks() {
    let subnet = Subnet::new(SubnetConfig {
        server: SERVER,
        prefix: 24,
        pool_first: GIVEN,
        pool_last: GIVEN,
        router: None,
        dns: vec![],
        ntp: vec![],
        search: vec![],
        domain: None,
        lease_seconds: 3600,
        behind_relay: None,
        reservations: vec![],
    });
    let mut server = Server::new(subnet.unwrap(), Some(service()), []);
    let now = UnixTime::new(1_000_000);
    let mut ask = |packet: &PacketBuilder| {
        let request = Request::parse(&packet.bytes()).unwrap();
        replied(server.handle(&request, now).verdict)
    };
    let offer = ask(&rom());
    let ack = ask(&rom().kind(3).address(50, GIVEN).address(54, SERVER));
    for reply in [offer, ack] {
        let bytes = &reply.bytes;
        assert_eq!(reply.yiaddr, GIVEN);
        assert_eq!(bytes[20..24], SERVER.octets(), "siaddr");
        // It reads the field and never asks for option 66 or 150.
        assert_eq!(file_field(bytes), b"undionly.kpxe");
        assert_eq!(option(bytes, 67).as_deref(), Some(&b"undionly.kpxe\0"[..]));
        // Class PXEClient would make it look for a boot menu, then ask port 4011.
        assert_eq!((option(bytes, 60), option(bytes, 43)), (None, None));
    }
}

#[test]
fn beside_another_server_it_needs_no_port_4011() {
    let ask = |packet: &PacketBuilder, via| {
        let request = Request::parse(&packet.bytes()).unwrap();
        replied(proxy::answer(&service(), SERVER, &request, via))
    };
    let offer = ask(&rom(), Via::Dhcp);
    assert_eq!(offer.yiaddr, Ipv4Addr::UNSPECIFIED);
    let bytes = &offer.bytes;
    assert_eq!(option(bytes, 60).as_deref(), Some(&b"PXEClient"[..]));
    // Discovery control, bit 3: take the file of this offer.
    assert_eq!(option(bytes, 43).unwrap()[..3], [6, 1, 8]);
    assert_eq!(option(bytes, 97).unwrap()[1..], [7; 16]);
    assert_eq!(file_field(bytes), b"undionly.kpxe");
    // One that asks there all the same is answered there.
    let from = SocketAddrV4::new(GIVEN, 68);
    let asked = rom().kind(3).ciaddr(GIVEN);
    let ack = ask(&asked, Via::Pxe(from));
    assert_eq!(file_field(&ack.bytes), b"undionly.kpxe");
    assert_eq!(ack.destination, crate::dhcp::Destination::Back(from));
}
