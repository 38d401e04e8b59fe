//! Ethernet frames that carry a reply to a client which does not answer ARP yet
//! (RFC 2131 §4.1: the reply goes to its hardware address).

use std::net::{Ipv4Addr, SocketAddrV4};

use groundcrew_core::hardware::MacAddr;

use super::{CLIENT_PORT, SERVER_PORT};

/// From whom to whom a frame goes.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The sending interface.
    pub from_mac: MacAddr,
    /// The server's address.
    pub from: Ipv4Addr,
    /// The client's interface.
    pub to_mac: MacAddr,
    /// The address it is being given.
    pub to: Ipv4Addr,
}

/// From whom to whom any datagram goes.
#[derive(Debug, Clone, Copy)]
pub struct Udp {
    /// The sending card.
    pub from_mac: MacAddr,
    /// The receiving card.
    pub to_mac: MacAddr,
    /// The sender.
    pub from: SocketAddrV4,
    /// The receiver.
    pub to: SocketAddrV4,
}

/// A whole frame, without padding and check sequence, with `payload` as UDP from
/// port 67 to port 68. `None`: the payload does not fit into one packet.
pub fn reply(ends: &Ends, payload: &[u8]) -> Option<Vec<u8>> {
    let ends = Udp {
        from_mac: ends.from_mac,
        to_mac: ends.to_mac,
        from: SocketAddrV4::new(ends.from, SERVER_PORT),
        to: SocketAddrV4::new(ends.to, CLIENT_PORT),
    };
    udp(&ends, payload)
}

/// The same between any two ends.
pub fn udp(ends: &Udp, payload: &[u8]) -> Option<Vec<u8>> {
    let (from, to) = (ends.from.ip(), ends.to.ip());
    let udp_length = u16::try_from(payload.len() + 8).ok()?;
    let ip_length = udp_length.checked_add(20)?;
    let mut frame = Vec::with_capacity(42 + payload.len());
    frame.extend(ends.to_mac.0);
    frame.extend(ends.from_mac.0);
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(*from, *to, ip_length));
    let mut udp = Vec::with_capacity(8 + payload.len());
    udp.extend(ends.from.port().to_be_bytes());
    udp.extend(ends.to.port().to_be_bytes());
    udp.extend(udp_length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let sum = sum(&from.octets()) + sum(&to.octets()) + 17 + u32::from(udp_length);
    // 0 would say "no checksum" (RFC 768).
    let check = match folded(sum + self::sum(&udp)) {
        0 => u16::MAX,
        check => check,
    };
    if let Some(field) = udp.get_mut(6..8) {
        field.copy_from_slice(&check.to_be_bytes());
    }
    frame.extend(udp);
    Some(frame)
}

/// RFC 791: no options, do not fragment, 64 hops, UDP.
fn ip_header(from: Ipv4Addr, to: Ipv4Addr, length: u16) -> [u8; 20] {
    let mut header = [0; 20];
    let [hi, lo] = length.to_be_bytes();
    header[..10].copy_from_slice(&[0x45, 0, hi, lo, 0, 0, 0x40, 0, 64, 17]);
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let check = folded(sum(&header));
    header[10..12].copy_from_slice(&check.to_be_bytes());
    header
}

/// The sum of 16-bit words (RFC 1071); 64 KiB of them fit into 32 bits.
fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks();
    let odd = rest.first().map_or(0, |byte| u32::from(*byte) << 8);
    pairs
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum::<u32>()
        + odd
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn checksums_add_up_as_a_receiver_adds_them(
            payload in proptest::collection::vec(any::<u8>(), 0..1400),
            to in any::<[u8; 4]>(),
        ) {
            let ends = Ends {
                from_mac: MacAddr([2, 0, 0, 0, 0, 1]),
                from: Ipv4Addr::new(10, 77, 0, 1),
                to_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                to: Ipv4Addr::from(to),
            };
            let frame = reply(&ends, &payload).unwrap();
            prop_assert_eq!(&frame[..14], &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
            prop_assert_eq!(folded(sum(&frame[14..34])), 0);
            let udp = &frame[34..];
            let pseudo = sum(&frame[26..34]) + 17 + udp.len() as u32;
            prop_assert_eq!(folded(pseudo + sum(udp)), 0);
            prop_assert_eq!(&udp[8..], &payload[..]);
            prop_assert_eq!(&udp[..4], &[0, 67, 0, 68]);
        }
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let ip = Ipv4Addr::LOCALHOST;
        let ends = Ends {
            from_mac: mac,
            from: ip,
            to_mac: mac,
            to: ip,
        };
        assert_eq!(reply(&ends, &[0; 65_508]), None);
    }
}
