//! The client's side of DHCPv4 on the wire (RFC 2131, RFC 2132): what is sent
//! and what of an answer is believed.

use std::net::Ipv4Addr;

use groundcrew_core::hardware::MacAddr;

/// `63 82 53 63`, RFC 2131 §3.
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 236;
/// Some servers and relays drop less than a BOOTP message (RFC 1542 §2.1).
const MIN_LENGTH: usize = 300;

/// Option 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST.
    Request,
}

/// A message of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What it is.
    pub kind: Kind,
    /// Transaction id.
    pub xid: u32,
    /// Our hardware address; also option 61, as `01` and the address, the
    /// way iPXE sends it, so that the server sees one client.
    pub mac: MacAddr,
    /// Seconds since we began.
    pub secs: u16,
    /// Our address, when renewing; else 0.0.0.0 and the broadcast flag.
    pub ciaddr: Ipv4Addr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
}

impl Query {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1, 1, 6, 0];
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        let broadcast = self.ciaddr.is_unspecified();
        out.extend(if broadcast { [0x80, 0] } else { [0, 0] });
        out.extend(self.ciaddr.octets());
        out.extend([0; 12]); // yiaddr, siaddr, giaddr
        out.extend(self.mac.0);
        out.resize(FIXED, 0); // rest of chaddr, sname, file
        out.extend(MAGIC);
        let kind = match self.kind {
            Kind::Discover => 1,
            Kind::Request => 3,
        };
        option(&mut out, 53, &[kind]);
        option(&mut out, 61, &[&[1], &self.mac.0[..]].concat());
        option(&mut out, 57, &1472u16.to_be_bytes());
        option(&mut out, 60, b"groundcrew");
        option(&mut out, 55, &[1, 3, 6, 51, 54, 58, 59]);
        if let Some(ip) = self.requested {
            option(&mut out, 50, &ip.octets());
        }
        if let Some(ip) = self.server {
            option(&mut out, 54, &ip.octets());
        }
        out.push(255);
        out.resize(out.len().max(MIN_LENGTH), 0);
        out
    }
}

fn option(out: &mut Vec<u8>, code: u8, data: &[u8]) {
    let Ok(length) = u8::try_from(data.len()) else {
        return;
    };
    out.extend([code, length]);
    out.extend(data);
}

/// A server's answer, as far as a client believes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// OFFER, ACK or NAK.
    pub kind: ReplyKind,
    /// Transaction id.
    pub xid: u32,
    /// Whom it is for.
    pub mac: MacAddr,
    /// The address given.
    pub yiaddr: Ipv4Addr,
    /// Next server.
    pub siaddr: Ipv4Addr,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 1.
    pub mask: Option<Ipv4Addr>,
    /// First of option 3.
    pub router: Option<Ipv4Addr>,
    /// Options 51, 58, 59, in seconds.
    pub lease: Option<u32>,
    /// T1.
    pub t1: Option<u32>,
    /// T2.
    pub t2: Option<u32>,
}

/// Option 53 of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// DHCPOFFER.
    Offer,
    /// DHCPACK.
    Ack,
    /// DHCPNAK.
    Nak,
}

impl Reply {
    /// Reads a datagram; `None` is "not an answer to an Ethernet client".
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..FIXED)?;
        // op BOOTREPLY, htype Ethernet, hlen 6: checked before chaddr is read.
        if head.get(..3)? != [2, 1, 6] || bytes.get(FIXED..FIXED + 4)? != MAGIC {
            return None;
        }
        let options = bytes.get(FIXED + 4..)?;
        let kind = match find(options, 53)? {
            [2] => ReplyKind::Offer,
            [5] => ReplyKind::Ack,
            [6] => ReplyKind::Nak,
            _ => return None,
        };
        let ip = |at: usize| ip_of(head.get(at..at + 4)?);
        let option_ip = |code| find(options, code).and_then(|data| ip_of(data.get(..4)?));
        let seconds = |code| Some(u32::from_be_bytes(find(options, code)?.try_into().ok()?));
        Some(Self {
            kind,
            xid: u32::from_be_bytes(head.get(4..8)?.try_into().ok()?),
            mac: MacAddr(head.get(28..34)?.try_into().ok()?),
            yiaddr: ip(16)?,
            siaddr: ip(20)?,
            server: option_ip(54),
            mask: option_ip(1),
            router: option_ip(3),
            lease: seconds(51),
            t1: seconds(58),
            t2: seconds(59),
        })
    }
}

fn ip_of(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

/// The first option with this code. Overload (52) is not followed: what we
/// ask for fits, and a server that overloads does it for names.
fn find(mut options: &[u8], code: u8) -> Option<&[u8]> {
    loop {
        match *options {
            [0, ref rest @ ..] => options = rest,
            [255, ..] | [] | [_] => return None,
            [found, length, ref rest @ ..] => {
                let data = rest.get(..usize::from(length))?;
                if found == code {
                    return Some(data);
                }
                options = rest.get(usize::from(length)..)?;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server's answer, for tests of the machine too.
    pub fn answer(kind: u8, xid: u32, mac: MacAddr, yiaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut out = vec![2, 1, 6, 0];
        out.extend(xid.to_be_bytes());
        out.extend([0; 8]);
        out.extend(yiaddr);
        out.extend([10, 77, 0, 1]);
        out.extend([0; 4]);
        out.extend(mac.0);
        out.resize(FIXED, 0);
        out.extend(MAGIC);
        out.extend([53, 1, kind]);
        out.extend(options);
        out.push(255);
        out
    }

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn a_discover_is_what_servers_expect() {
        let query = Query {
            kind: Kind::Discover,
            xid: 0x0102_0304,
            mac: MAC,
            secs: 3,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
        };
        let bytes = query.encode();
        assert_eq!(bytes.len(), 300);
        assert_eq!(&bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 3, 0x80, 0]);
        assert_eq!(&bytes[28..34], MAC.0);
        let options = &bytes[240..];
        assert_eq!(find(options, 53), Some(&[1][..]));
        assert_eq!(
            find(options, 61),
            Some(&[1, 0x52, 0x54, 0, 0x12, 0x34, 0x56][..])
        );
        let renew = Query {
            kind: Kind::Request,
            ciaddr: Ipv4Addr::new(10, 77, 0, 50),
            ..query
        };
        assert_eq!(
            &renew.encode()[10..16],
            [0, 0, 10, 77, 0, 50],
            "unicast: no broadcast flag"
        );
    }

    #[test]
    fn reads_an_offer() {
        let bytes = answer(
            2,
            7,
            MAC,
            [10, 77, 0, 50],
            &[
                0, 54, 4, 10, 77, 0, 1, 1, 4, 255, 255, 255, 0, 3, 8, 10, 77, 0, 1, 10, 77, 0, 2,
                51, 4, 0, 0, 14, 16,
            ],
        );
        let reply = Reply::decode(&bytes).unwrap();
        assert_eq!(reply.kind, ReplyKind::Offer);
        assert_eq!((reply.xid, reply.mac), (7, MAC));
        assert_eq!(reply.yiaddr, Ipv4Addr::new(10, 77, 0, 50));
        assert_eq!(reply.router, Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!(reply.lease, Some(3600));
        for cut in 0..bytes.len() - 30 {
            assert!(Reply::decode(&bytes[..cut]).is_none(), "{cut}");
        }
        let mut long_hlen = bytes.clone();
        long_hlen[2] = 200;
        assert_eq!(Reply::decode(&long_hlen), None);
        let mut bad_lease = bytes;
        let at = bad_lease.len() - 6;
        assert_eq!(bad_lease[at], 4);
        bad_lease[at] = 3;
        assert_eq!(Reply::decode(&bad_lease).and_then(|r| r.lease), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Reply::decode(&tail);
            let bytes = answer(5, 1, MAC, [1, 2, 3, 4], &tail);
            let _ = Reply::decode(&bytes);
        }
    }
}
