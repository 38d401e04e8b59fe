//! IPv6 router advertisements of lifetime 0: "here is no router".
//!
//! iPXE waits 13 s for a router before it goes on (captures `bios-ipxe-virtio`
//! and `bios-ipxe-virtio-nora`); one such advertisement ends the wait. It may be
//! sent only where no real router speaks, so incoming ones are read too.
//! The caller sends to [`ALL_NODES`] with hop limit 255 from its link-local address.

use std::net::Ipv6Addr;

use groundcrew_core::hardware::MacAddr;

/// Where advertisements go: every node on the link (RFC 4861 §4.2).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where solicitations come in; the caller joins it (RFC 4861 §4.1).
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The hop limit every neighbour discovery message must have, out and in.
pub const HOP_LIMIT: u8 = 255;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const ICMPV6: u8 = 58;
/// Bytes before the options of an advertisement.
const FIXED: usize = 16;

/// Why an ICMPv6 message is not a valid neighbour discovery message
/// (RFC 4861 §6.1.1, §6.1.2).
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum RaError {
    /// Another ICMPv6 message.
    #[error("neither a router solicitation nor an advertisement")]
    OtherType,
    /// Shorter than its fixed part, or an option runs over the end.
    #[error("the message is cut short")]
    Short,
    /// It was forwarded, so it did not come from this link.
    #[error("hop limit {0} instead of 255: it does not come from this link")]
    HopLimit(u8),
    /// The sum over pseudo header and message is wrong.
    #[error("the checksum is wrong")]
    Checksum,
    /// An advertisement must come from a link-local address.
    #[error("the source {0} is not a link-local address")]
    Source(Ipv6Addr),
}

/// A neighbour discovery message that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighborDiscovery {
    /// A client asks for routers: a good moment to answer.
    Solicitation,
    /// Somebody advertises.
    Advertisement {
        /// Its link-local address.
        router: Ipv6Addr,
        /// Seconds it may serve as default router; 0 means "not a router".
        lifetime: u16,
        /// It announces at least one prefix (option 3).
        prefixes: bool,
    },
}

impl NeighborDiscovery {
    /// Reads an ICMPv6 message (without the IPv6 header) as received from
    /// `source` to `destination` with `hop_limit`.
    pub fn parse(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        hop_limit: u8,
        message: &[u8],
    ) -> Result<Self, RaError> {
        let (&kind, _) = message.split_first().ok_or(RaError::Short)?;
        if kind != SOLICITATION && kind != ADVERTISEMENT {
            return Err(RaError::OtherType);
        }
        if hop_limit != HOP_LIMIT {
            return Err(RaError::HopLimit(hop_limit));
        }
        if checksum(source, destination, message) != 0 {
            return Err(RaError::Checksum);
        }
        if kind == SOLICITATION {
            return if message.len() < 8 {
                Err(RaError::Short)
            } else {
                Ok(Self::Solicitation)
            };
        }
        if !source.is_unicast_link_local() {
            return Err(RaError::Source(source));
        }
        let (fixed, options) = message.split_at_checked(FIXED).ok_or(RaError::Short)?;
        let lifetime = match fixed {
            [_, _, _, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => return Err(RaError::Short),
        };
        Ok(Self::Advertisement {
            router: source,
            lifetime,
            prefixes: has_prefix(options)?,
        })
    }

    /// Another machine routes or configures addresses here, so ours must be silent.
    pub fn is_router_other_than(&self, ours: Ipv6Addr) -> bool {
        match self {
            Self::Solicitation => false,
            Self::Advertisement {
                router,
                lifetime,
                prefixes,
            } => *router != ours && (*lifetime > 0 || *prefixes),
        }
    }
}

/// The ICMPv6 bytes of an advertisement of lifetime 0 from `source` (link-local)
/// to [`ALL_NODES`], with checksum; `mac` becomes the source link-layer option.
pub fn no_router(source: Ipv6Addr, mac: Option<MacAddr>) -> Vec<u8> {
    // Hop limit, flags, lifetime, reachable and retransmission time all 0:
    // "unspecified by this router" (RFC 4861 §4.2).
    let mut message = vec![0; FIXED];
    if let Some(kind) = message.first_mut() {
        *kind = ADVERTISEMENT;
    }
    if let Some(mac) = mac {
        message.extend([1, 1]);
        message.extend(mac.0);
    }
    let sum = checksum(source, ALL_NODES, &message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Whether a prefix information option is among `options`, each `type, length
/// in units of 8 bytes, ...`.
fn has_prefix(mut options: &[u8]) -> Result<bool, RaError> {
    while let [kind, length, ..] = options {
        if *kind == 3 {
            return Ok(true);
        }
        let bytes = usize::from(*length) * 8;
        // RFC 4861 §4.6: a length of 0 makes the whole message void.
        if bytes == 0 {
            return Err(RaError::Short);
        }
        options = options.get(bytes..).ok_or(RaError::Short)?;
    }
    if options.is_empty() {
        Ok(false)
    } else {
        Err(RaError::Short)
    }
}

/// The Internet checksum over pseudo header and message (RFC 4443 §2.3, RFC 8200
/// §8.1): the value to write while the field is 0, or 0 when the field is right.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let pseudo = [
        &source.octets()[..],
        &destination.octets()[..],
        &length,
        &[0, 0, 0, ICMPV6],
    ];
    let mut sum = 0u64;
    for part in pseudo.into_iter().chain([message]) {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5878, 0xe7ff, 0xfe13, 0x6fc8);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    fn sealed(source: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
        message[2..4].fill(0);
        let sum = checksum(source, ALL_NODES, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    #[test]
    fn the_sum_is_the_one_worked_out_by_hand() {
        // fe80::1 -> ff02::1, 16 bytes: fe80+1 + ff02+1 + 10 + 3a + 8600 = 283ce, folded 83d0.
        assert_eq!(
            no_router(OTHER, None)[..8],
            [134, 0, 0x7c, 0x2f, 0, 0, 0, 0]
        );
    }

    #[test]
    fn ours_reads_back_as_no_router() {
        let message = no_router(OURS, Some(MacAddr([0x5a, 0x78, 0xe7, 0x13, 0x6f, 0xc8])));
        assert_eq!(message.len(), 24);
        let read = NeighborDiscovery::parse(OURS, ALL_NODES, 255, &message).unwrap();
        assert_eq!(
            read,
            NeighborDiscovery::Advertisement {
                router: OURS,
                lifetime: 0,
                prefixes: false
            }
        );
        assert!(!read.is_router_other_than(OURS));
        assert!(
            !read.is_router_other_than(OTHER),
            "lifetime 0 is no router, whoever says it"
        );
    }

    #[test]
    fn a_real_router_is_heard() {
        let mut message = no_router(OTHER, None);
        message[6..8].copy_from_slice(&1800u16.to_be_bytes());
        let read =
            NeighborDiscovery::parse(OTHER, ALL_NODES, 255, &sealed(OTHER, message)).unwrap();
        assert!(read.is_router_other_than(OURS));
        let mut prefix_only = no_router(OTHER, None);
        prefix_only.extend([3, 4]);
        prefix_only.extend([0; 30]);
        let read =
            NeighborDiscovery::parse(OTHER, ALL_NODES, 255, &sealed(OTHER, prefix_only)).unwrap();
        assert!(read.is_router_other_than(OURS));
    }

    #[test]
    fn forged_and_broken_ones_are_refused() {
        let good = no_router(OTHER, None);
        let parse =
            |hops, message: &[u8]| NeighborDiscovery::parse(OTHER, ALL_NODES, hops, message);
        assert_eq!(parse(64, &good), Err(RaError::HopLimit(64)));
        let mut flipped = good.clone();
        flipped[7] ^= 1;
        assert_eq!(parse(255, &flipped), Err(RaError::Checksum));
        let mut endless = good;
        endless.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(255, &sealed(OTHER, endless)), Err(RaError::Short));
        assert_eq!(parse(255, &[128, 0, 0, 0]), Err(RaError::OtherType));
        assert_eq!(parse(255, &[]), Err(RaError::Short));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(kind in 133u8..135, body in proptest::collection::vec(any::<u8>(), 3..80)) {
            let mut message = vec![kind];
            message.extend(body);
            let _ = NeighborDiscovery::parse(OTHER, ALL_NODES, 255, &message);
            let _ = NeighborDiscovery::parse(OTHER, ALL_NODES, 255, &sealed(OTHER, message));
        }
    }
}
