//! Hearing other DHCP servers: the DISCOVER to send, and who answers it.
//!
//! The probe asks nobody to keep an address: it never sends a REQUEST, so what
//! it is offered lapses.

use std::net::Ipv4Addr;

use dhcproto::v4::{self, DhcpOption, OptionCode, borrowed};
use dhcproto::{Encodable, Encoder};
use groundcrew_core::hardware::MacAddr;

use super::options::Options;
use super::wire::{MAX_LEN, MIN_LEN};

/// The UDP payload of a DISCOVER from `mac`, to be broadcast from port 68 to 67.
/// `xid` is random; answers are told apart by it. The broadcast flag is set, so
/// that an interface with an address hears the answer.
pub fn discover(mac: MacAddr, xid: u32) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = v4::Message::new_with_id(xid, none, none, none, none, &mac.0);
    message.set_flags(v4::Flags::default().set_broadcast());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(v4::MessageType::Discover));
    options.insert(DhcpOption::ParameterRequestList(vec![
        OptionCode::SubnetMask,
        OptionCode::Router,
    ]));
    let mut bytes = Vec::with_capacity(300);
    if message.encode(&mut Encoder::new(&mut bytes)).is_err() {
        debug_assert!(false, "a DISCOVER of ours does not encode");
    }
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

/// A DHCP server that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherServer {
    /// Its identifier, option 54, or its `siaddr` where it sends none.
    pub server: Ipv4Addr,
    /// The address it offers; 0.0.0.0 from a ProxyDHCP server.
    pub offers: Ipv4Addr,
}

impl OtherServer {
    /// Reads an OFFER (or ACK) for our probe `xid` and `mac`. `None`: something else.
    pub fn parse(packet: &[u8], mac: MacAddr, xid: u32) -> Option<Self> {
        let answer = Answer::parse(packet)?;
        let Answer { server, offers, .. } = answer;
        (answer.xid == xid && answer.mac == mac && !answer.refuses)
            .then_some(Self { server, offers })
    }
}

/// A server's message, to whomever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Its identifier, option 54, or its `siaddr` where it sends none.
    pub server: Ipv4Addr,
    /// The address it gives; 0.0.0.0 from a ProxyDHCP server and in a NAK.
    pub offers: Ipv4Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The transaction.
    pub xid: u32,
    /// It is a NAK.
    pub refuses: bool,
    /// Only who gives addresses sends this: an address, or a NAK.
    pub gives_addresses: bool,
}

impl Answer {
    /// Reads an OFFER, ACK or NAK. `None`: something else.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        if !(MIN_LEN..=MAX_LEN).contains(&packet.len()) || packet.get(..3)? != [2, 1, 6] {
            return None;
        }
        let message = borrowed::Message::new(packet).ok()?;
        if packet.get(236..240)? != v4::MAGIC {
            return None;
        }
        let options = Options::read(
            packet.get(240..)?,
            packet.get(108..236)?,
            packet.get(44..108)?,
        );
        let kind = v4::MessageType::from(options.byte(OptionCode::MessageType)?);
        let refuses = kind == v4::MessageType::Nak;
        if !refuses && !matches!(kind, v4::MessageType::Offer | v4::MessageType::Ack) {
            return None;
        }
        let offers = message.yiaddr();
        Some(Self {
            server: options
                .address(OptionCode::ServerIdentifier)
                .unwrap_or(message.siaddr()),
            offers,
            mac: MacAddr(packet.get(28..34)?.try_into().ok()?),
            xid: message.xid(),
            refuses,
            gives_addresses: refuses || !offers.is_unspecified(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::{Request, Server, Subnet, SubnetConfig, Verdict};
    use groundcrew_core::UnixTime;
    use proptest::prelude::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 9]);

    #[test]
    fn a_server_like_ours_is_heard() {
        let ip = |last| Ipv4Addr::new(10, 77, 0, last);
        let config = SubnetConfig {
            server: ip(1),
            prefix: 24,
            pool_first: ip(100),
            pool_last: ip(200),
            router: None,
            dns: vec![],
            ntp: vec![],
            domain: None,
            lease_seconds: 600,
            behind_relay: None,
            search: vec![],
            reservations: vec![],
        };
        let mut server = Server::new(Subnet::new(config).unwrap(), None, []);
        let request = Request::parse(&discover(MAC, 7)).unwrap();
        assert!(request.wants_broadcast());
        let Verdict::Reply(reply) = server.handle(&request, UnixTime::new(1)).verdict else {
            panic!("no offer");
        };
        let heard = OtherServer::parse(&reply.bytes, MAC, 7);
        assert_eq!(
            heard,
            Some(OtherServer {
                server: ip(1),
                offers: ip(100)
            })
        );
        assert_eq!(OtherServer::parse(&reply.bytes, MAC, 8), None);
        assert_eq!(OtherServer::parse(&discover(MAC, 7), MAC, 7), None);
    }

    proptest! {
        #[test]
        fn hostile_answers_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 240..500)) {
            bytes[..8].copy_from_slice(&[2, 1, 6, 0, 0, 0, 0, 7]);
            bytes[28..34].copy_from_slice(&MAC.0);
            bytes[236..240].copy_from_slice(&v4::MAGIC);
            let _ = OtherServer::parse(&bytes, MAC, 7);
        }
    }
}
