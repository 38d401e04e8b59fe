//! Whether somebody uses an address already: asked by ARP before the address is
//! offered to a client that did not have it (RFC 2131 §4.4.1, RFC 5227 §2.1).

use std::net::Ipv4Addr;

use groundcrew_core::hardware::MacAddr;

/// How long a machine has to say that an address is its own. They answer within
/// milliseconds; one that sleeps would not answer in a second either.
pub const ARP_PATIENCE: std::time::Duration = std::time::Duration::from_millis(250);

/// The question as a whole frame. The sender's address is left out, so that no
/// machine's ARP table changes (RFC 5227 §1.1).
pub fn probe(from: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(from.0);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(from.0);
    frame.extend([0; 4 + 6]);
    frame.extend(ip.octets());
    frame
}

/// Who says in an ARP frame that an address is his, and which.
pub fn claim(frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    if frame.get(12..20)? != [0x08, 0x06, 0, 1, 0x08, 0, 6, 4] {
        return None;
    }
    let mac = MacAddr(frame.get(22..28)?.try_into().ok()?);
    let octets: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
    let ip = Ipv4Addr::from(octets);
    (!ip.is_unspecified()).then_some((ip, mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_claims_nothing_and_an_answer_does() {
        let (me, other) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let ip = Ipv4Addr::new(10, 77, 0, 9);
        let mut frame = probe(me, ip);
        assert_eq!((frame.len(), claim(&frame)), (42, None));
        assert_eq!(frame[38..42], ip.octets());
        frame[21] = 2;
        frame[22..28].copy_from_slice(&other.0);
        frame[28..32].copy_from_slice(&ip.octets());
        assert_eq!(claim(&frame), Some((ip, other)));
    }

    proptest! {
        #[test]
        fn hostile_frames_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = claim(&frame);
        }
    }
}
