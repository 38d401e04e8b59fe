//! What a relay says in option 82 beside the client's packet: on which network
//! the client is (RFC 3527) and as whom the server is to sign (RFC 5107).
//!
//! Both are heard only from relays (`giaddr` set): a client could write option
//! 82 itself. Whatever it says is echoed byte for byte (RFC 3046 §2.2).

use std::net::Ipv4Addr;

use super::wire::Request;

const LINK_SELECTION: u8 = 5;
const SERVER_OVERRIDE: u8 = 11;

impl Request {
    /// An address of the client's network, where that is not the relay's own.
    pub fn link_selection(&self) -> Option<Ipv4Addr> {
        self.relay_address(LINK_SELECTION)
    }

    /// The relay's address that the client is to see as its server, so that it
    /// renews through the relay.
    pub fn server_override(&self) -> Option<Ipv4Addr> {
        self.relay_address(SERVER_OVERRIDE)
    }

    fn relay_address(&self, wanted: u8) -> Option<Ipv4Addr> {
        let info = self.relay_info.as_deref().filter(|_| self.relayed())?;
        let octets: [u8; 4] = sub_option(info, wanted)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets)).filter(|address| !address.is_unspecified())
    }
}

/// The first sub-option of that code; one that does not fit ends the list.
fn sub_option(mut info: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [code, length, rest @ ..] = info {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *code == wanted {
            return Some(value);
        }
        info = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::tests_support::PacketBuilder;
    use proptest::prelude::*;

    fn request(giaddr: Ipv4Addr, info: &[u8]) -> Request {
        let packet = PacketBuilder::new(1).giaddr(giaddr).option(82, info);
        Request::parse(&packet.bytes()).unwrap()
    }

    #[test]
    fn relays_are_heard_and_clients_are_not() {
        let info = [1, 2, b'p', b'1', 5, 4, 10, 88, 0, 1, 11, 4, 10, 88, 0, 2];
        let relayed = request(Ipv4Addr::new(10, 9, 0, 1), &info);
        assert_eq!(relayed.link_selection(), Some(Ipv4Addr::new(10, 88, 0, 1)));
        assert_eq!(relayed.server_override(), Some(Ipv4Addr::new(10, 88, 0, 2)));
        let direct = request(Ipv4Addr::UNSPECIFIED, &info);
        assert_eq!(
            (direct.link_selection(), direct.server_override()),
            (None, None)
        );
        let broken = request(Ipv4Addr::new(10, 9, 0, 1), &[1, 200, 5, 4, 10, 88, 0, 1]);
        assert_eq!(broken.link_selection(), None);
    }

    proptest! {
        #[test]
        fn hostile_information_never_panics(info in proptest::collection::vec(any::<u8>(), 0..80)) {
            let request = request(Ipv4Addr::new(10, 9, 0, 1), &info);
            let _ = (request.link_selection(), request.server_override());
        }
    }
}
