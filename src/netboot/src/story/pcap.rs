//! Packets of a story as a capture file (libpcap 2.4, Ethernet, microseconds).
//!
//! A socket tells payload and ports, not the frame around them: Ethernet, IPv4
//! and UDP headers are made to fit, with right checksums, so that Wireshark and
//! tcpdump read the payload. The appliance's card is `02:67:63:00:00:01`.

use std::net::{Ipv4Addr, SocketAddrV4};

use groundcrew_core::hardware::MacAddr;

use super::device::Packet;
use crate::dhcp::frame;

/// Stands for the appliance's card, and for one that is not known.
const APPLIANCE: MacAddr = MacAddr([0x02, 0x67, 0x63, 0, 0, 1]);
const UNKNOWN: MacAddr = MacAddr([0x02, 0x67, 0x63, 0, 0, 2]);
const EVERYBODY: MacAddr = MacAddr([0xff; 6]);

/// The whole file.
pub fn file<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(0xa1b2_c3d4u32.to_le_bytes());
    out.extend(2u16.to_le_bytes());
    out.extend(4u16.to_le_bytes());
    out.extend([0; 8]);
    out.extend(65_535u32.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    for packet in packets {
        let Some(frame) = framed(packet) else {
            continue;
        };
        let (seconds, rest) = (packet.at.0 / 1000, packet.at.0 % 1000);
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        out.extend(u32::try_from(seconds).unwrap_or(u32::MAX).to_le_bytes());
        out.extend((rest as u32 * 1000).to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(frame);
    }
    out
}

fn framed(packet: &Packet) -> Option<Vec<u8>> {
    let device = packet.mac.unwrap_or(UNKNOWN);
    let broadcast = packet.to.ip().is_broadcast();
    let (from_mac, to_mac) = if packet.by_device {
        (device, if broadcast { EVERYBODY } else { APPLIANCE })
    } else {
        (APPLIANCE, if broadcast { EVERYBODY } else { device })
    };
    let ends = frame::Udp {
        from_mac,
        to_mac,
        from: packet.from,
        to: packet.to,
    };
    frame::udp(&ends, &packet.payload)
}

/// Where a client's DHCP packet came from and went to, as its fields say.
pub fn dhcp_ends(relay: Ipv4Addr, ciaddr: Ipv4Addr, me: Ipv4Addr) -> (SocketAddrV4, SocketAddrV4) {
    if !relay.is_unspecified() {
        return (SocketAddrV4::new(relay, 67), SocketAddrV4::new(me, 67));
    }
    let to = if ciaddr.is_unspecified() {
        Ipv4Addr::BROADCAST
    } else {
        me
    };
    (SocketAddrV4::new(ciaddr, 68), SocketAddrV4::new(to, 67))
}
