//! What a server's message tells a client: ours, or another server's that was
//! overheard.

use std::net::Ipv4Addr;

use dhcproto::v4::{self, OptionCode, borrowed};
use groundcrew_core::hardware::MacAddr;

use super::options::Options;
use super::reply::ReplyKind;
use super::wire::{MAX_LEN, MIN_LEN};

/// A server's message, as far as booting goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// OFFER, ACK or NAK.
    pub kind: ReplyKind,
    /// Whom it answers.
    pub mac: MacAddr,
    /// The transaction.
    pub xid: u32,
    /// The server's identifier, else its `siaddr`.
    pub server: Ipv4Addr,
    /// The address it gives; 0.0.0.0: none.
    pub address: Ipv4Addr,
    /// Option 67, else the `file` field: a name or a URL.
    pub file: Option<String>,
    /// Option 60.
    pub vendor_class: Option<String>,
}

/// The longest file name or class kept, in characters.
const MAX_TEXT: usize = 200;

impl Told {
    /// Reads the UDP payload of a server's message. `None`: something else.
    pub fn read(packet: &[u8]) -> Option<Self> {
        if !(MIN_LEN..=MAX_LEN).contains(&packet.len())
            || packet.get(..3)? != [2, 1, 6]
            || packet.get(236..240)? != v4::MAGIC
        {
            return None;
        }
        let message = borrowed::Message::new(packet).ok()?;
        let field = packet.get(108..236)?;
        let options = Options::read(packet.get(240..)?, field, packet.get(44..108)?);
        let kind = match v4::MessageType::from(options.byte(OptionCode::MessageType)?) {
            v4::MessageType::Offer => ReplyKind::Offer,
            v4::MessageType::Ack => ReplyKind::Ack,
            v4::MessageType::Nak => ReplyKind::Nak,
            _ => return None,
        };
        let overloaded = options
            .byte(OptionCode::OptionOverload)
            .is_some_and(|overload| overload & 1 != 0);
        let named = options.bytes(OptionCode::BootfileName).and_then(text);
        Some(Self {
            kind,
            mac: MacAddr(packet.get(28..34)?.try_into().ok()?),
            xid: message.xid(),
            server: options
                .address(OptionCode::ServerIdentifier)
                .unwrap_or(message.siaddr()),
            address: message.yiaddr(),
            file: named.or_else(|| text(field).filter(|_| !overloaded)),
            vendor_class: options.bytes(OptionCode::ClassIdentifier).and_then(text),
        })
    }
}

/// Up to the first NUL, printable.
pub(crate) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len()))?;
    let text: String = String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(MAX_TEXT)
        .collect();
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(more: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[16..20].copy_from_slice(&[10, 77, 0, 50]);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        bytes[108..112].copy_from_slice(b"x.0\0");
        bytes[236..240].copy_from_slice(&v4::MAGIC);
        bytes.extend([53, 1, 2, 54, 4, 10, 77, 0, 2]);
        bytes.extend(more);
        bytes.push(255);
        bytes
    }

    #[test]
    fn file_and_class_are_read_from_wherever_they_stand() {
        let told = Told::read(&message(&[])).unwrap();
        assert_eq!(told.file.as_deref(), Some("x.0"));
        assert_eq!(
            (told.server, told.address),
            ([10, 77, 0, 2].into(), [10, 77, 0, 50].into())
        );
        let told = Told::read(&message(b"\x43\x05a.efi\x3c\x0aHTTPClient")).unwrap();
        assert_eq!(told.file.as_deref(), Some("a.efi"));
        assert_eq!(told.vendor_class.as_deref(), Some("HTTPClient"));
    }

    proptest! {
        #[test]
        fn hostile_messages_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Told::read(&bytes);
            if bytes.len() > 240 {
                bytes[..3].copy_from_slice(&[2, 1, 6]);
                bytes[236..240].copy_from_slice(&v4::MAGIC);
                let _ = Told::read(&bytes);
            }
        }
    }
}
