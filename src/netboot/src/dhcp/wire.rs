//! A client's packet, read once into a type whose fields can be trusted.
//!
//! The fixed part is checked on the raw bytes before dhcproto sees it: its
//! `chaddr()` slices by the length the wire claims and would panic.

use std::net::Ipv4Addr;

use dhcproto::v4::{self, OptionCode, borrowed};
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::boot::BootWord;
use super::leases::ClientKey;
use super::options::Options;

/// The shortest packet: the fixed part and the magic cookie.
pub const MIN_LEN: usize = 240;
/// The longest packet read: one Ethernet frame's payload.
pub const MAX_LEN: usize = 1500;
/// The longest client identifier kept; DUIDs have at most 130 bytes (RFC 8415 §11.1).
const MAX_CLIENT_ID: usize = 255;
/// The longest machine identifier echoed; a UUID has 17 bytes.
const MAX_MACHINE_ID: usize = 64;

/// What a client asks, message type by message type (RFC 2131 §3.1, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// Looks for servers.
    Discover,
    /// Takes an offer, checks a remembered address, or extends its lease.
    Request,
    /// Found its address in use by somebody else.
    Decline,
    /// Gives its address back.
    Release,
    /// Has an address, wants only parameters.
    Inform,
}

impl std::fmt::Display for MessageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Discover => "DISCOVER",
            Self::Request => "REQUEST",
            Self::Decline => "DECLINE",
            Self::Release => "RELEASE",
            Self::Inform => "INFORM",
        })
    }
}

/// A DHCPv4 request of an Ethernet client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Message type, option 53.
    pub kind: MessageKind,
    /// Transaction id, echoed.
    pub xid: u32,
    /// Relay hops, echoed.
    pub hops: u8,
    /// Seconds since the client began.
    pub secs: u16,
    /// Flags as received, echoed; see [`Request::wants_broadcast`].
    pub flags: u16,
    /// The client's present address, 0.0.0.0 if it has none.
    pub ciaddr: Ipv4Addr,
    /// The relay's address on the client's network, 0.0.0.0 if none.
    pub giaddr: Ipv4Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// Requested address, option 50.
    pub requested_ip: Option<Ipv4Addr>,
    /// The server meant, option 54.
    pub server_id: Option<Ipv4Addr>,
    /// Client identifier, option 61, 2 to 255 bytes.
    pub client_id: Option<Vec<u8>>,
    /// Parameter request list, option 55: codes in the client's order.
    pub parameters: Vec<u8>,
    /// Vendor class, option 60.
    pub vendor_class: Vec<u8>,
    /// User classes, option 77: one entry for iPXE's bare text, else RFC 3004's list.
    pub user_classes: Vec<Vec<u8>>,
    /// Processor architecture types, option 93 (RFC 4578 §2.1), in the client's order.
    pub archs: Vec<u16>,
    /// Machine identifier, option 97 of type 0.
    pub uuid: Option<SmbiosUuid>,
    /// Option 97 as received, to be echoed (RFC 4578 §2.3), if of a sensible length.
    pub machine_id: Option<Vec<u8>>,
    /// Host name, option 12, when it is a plain RFC 1123 label.
    pub hostname: Option<String>,
    /// Option 175 was present: iPXE or its relatives.
    pub ipxe_options: bool,
    /// Largest message the client takes, option 57, in bytes with UDP/IP headers.
    pub max_message: Option<u16>,
    /// Relay agent information, option 82, to be echoed byte for byte.
    pub relay_info: Option<Vec<u8>>,
    /// What the machine shall do. Not in the packet: who received it may have
    /// looked the machine up, and says so here; [`BootWord::Agent`] else.
    pub word: BootWord,
}

/// Why bytes are not a request to be considered.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// Shorter than [`MIN_LEN`] or longer than [`MAX_LEN`].
    #[error("{0} bytes; a DHCP packet has {MIN_LEN} to {MAX_LEN}")]
    Length(usize),
    /// `op` is not BOOTREQUEST.
    #[error("op {0}: not a request of a client")]
    NotARequest(u8),
    /// Not Ethernet (htype 1, hlen 6).
    #[error("hardware type {htype} with {hlen}-byte addresses; only Ethernet (1, 6) is served")]
    Hardware {
        /// Hardware type, RFC 1700.
        htype: u8,
        /// Claimed address length.
        hlen: u8,
    },
    /// The hardware address is a group address or all zero.
    #[error("{0} cannot be a client's address")]
    Mac(MacAddr),
    /// Not DHCP options.
    #[error("the magic cookie is missing")]
    Cookie,
    /// Option 53 is missing (plain BOOTP) or not one byte.
    #[error("no message type: a BOOTP client, which is not served")]
    NoMessageType,
    /// Option 53 names a message that clients do not send.
    #[error("message type {0} is not one of a client")]
    MessageType(u8),
    /// Option 82 is longer than one option can be.
    #[error("relay agent information of {0} bytes; at most 255 can be echoed")]
    RelayInfo(usize),
}

impl Request {
    /// Reads a UDP payload received on the server port.
    pub fn parse(packet: &[u8]) -> Result<Self, RequestError> {
        let mac = checked_fixed_part(packet)?;
        let message =
            borrowed::Message::new(packet).map_err(|_| RequestError::Length(packet.len()))?;
        let slice = |range: std::ops::Range<usize>| packet.get(range).unwrap_or_default();
        let options = Options::read(slice(240..packet.len()), slice(108..236), slice(44..108));
        Ok(Self {
            kind: message_kind(&options)?,
            xid: message.xid(),
            hops: message.hops(),
            secs: message.secs(),
            flags: message.flags().into(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            mac,
            requested_ip: options.address(OptionCode::RequestedIpAddress),
            server_id: options.address(OptionCode::ServerIdentifier),
            client_id: client_id(&options),
            parameters: copied(&options, OptionCode::ParameterRequestList),
            vendor_class: copied(&options, OptionCode::ClassIdentifier),
            user_classes: user_classes(options.bytes(OptionCode::UserClass).unwrap_or_default()),
            archs: architectures(&options),
            uuid: machine_uuid(&options),
            machine_id: machine_id(&options),
            hostname: hostname(&options),
            ipxe_options: options.bytes(OptionCode::from(175)).is_some(),
            max_message: options.u16(OptionCode::MaxMessageSize),
            relay_info: relay_info(&options)?,
            word: BootWord::default(),
        })
    }

    /// The client cannot take unicast before it has an address (RFC 2131 §4.1).
    pub fn wants_broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// It came through a relay.
    pub fn relayed(&self) -> bool {
        !self.giaddr.is_unspecified()
    }

    /// The client asks for option `code`, or names no wishes at all.
    pub fn wants(&self, code: OptionCode) -> bool {
        self.parameters.is_empty() || self.asks_for(code)
    }

    /// The client's list names option `code`.
    pub fn asks_for(&self, code: OptionCode) -> bool {
        self.parameters.contains(&u8::from(code))
    }

    /// Who asks, as leases are kept: see [`ClientKey`].
    pub fn key(&self) -> ClientKey {
        ClientKey::of(self.client_id.as_deref(), self.mac)
    }
}

fn checked_fixed_part(packet: &[u8]) -> Result<MacAddr, RequestError> {
    if !(MIN_LEN..=MAX_LEN).contains(&packet.len()) {
        return Err(RequestError::Length(packet.len()));
    }
    let &[op, htype, hlen, ..] = packet else {
        return Err(RequestError::Length(packet.len()));
    };
    if op != 1 {
        return Err(RequestError::NotARequest(op));
    }
    if (htype, hlen) != (1, 6) {
        return Err(RequestError::Hardware { htype, hlen });
    }
    if packet.get(236..240) != Some(&v4::MAGIC[..]) {
        return Err(RequestError::Cookie);
    }
    let octets = packet.get(28..34).and_then(|m| m.try_into().ok());
    let mac = MacAddr(octets.ok_or(RequestError::Length(packet.len()))?);
    let group = mac.0.first().is_some_and(|b| b & 1 != 0);
    if group || mac.0 == [0; 6] {
        Err(RequestError::Mac(mac))
    } else {
        Ok(mac)
    }
}

fn message_kind(options: &Options) -> Result<MessageKind, RequestError> {
    let code = options
        .byte(OptionCode::MessageType)
        .ok_or(RequestError::NoMessageType)?;
    match v4::MessageType::from(code) {
        v4::MessageType::Discover => Ok(MessageKind::Discover),
        v4::MessageType::Request => Ok(MessageKind::Request),
        v4::MessageType::Decline => Ok(MessageKind::Decline),
        v4::MessageType::Release => Ok(MessageKind::Release),
        v4::MessageType::Inform => Ok(MessageKind::Inform),
        _ => Err(RequestError::MessageType(code)),
    }
}

fn copied(options: &Options, code: OptionCode) -> Vec<u8> {
    options.bytes(code).unwrap_or_default().to_vec()
}

fn client_id(options: &Options) -> Option<Vec<u8>> {
    let id = options.bytes(OptionCode::ClientIdentifier)?;
    // RFC 2132 §9.14: at least two bytes.
    (2..=MAX_CLIENT_ID).contains(&id.len()).then(|| id.to_vec())
}

/// RFC 3004 wants `length, text` pairs; iPXE sends its name bare (capture
/// `bios-ipxe-virtio`). Bytes that do not add up as a list are one bare class.
fn user_classes(data: &[u8]) -> Vec<Vec<u8>> {
    if data.is_empty() {
        return Vec::new();
    }
    let mut classes = Vec::new();
    let mut rest = data;
    while let Some((&length, tail)) = rest.split_first() {
        match tail.split_at_checked(usize::from(length)) {
            Some((class, tail)) if length > 0 => {
                classes.push(class.to_vec());
                rest = tail;
            }
            _ => return vec![data.to_vec()],
        }
    }
    classes
}

/// Option 93 is a list; dhcproto's typed form keeps only the first entry.
fn architectures(options: &Options) -> Vec<u16> {
    let data = options
        .bytes(OptionCode::ClientSystemArchitecture)
        .unwrap_or_default();
    data.as_chunks()
        .0
        .iter()
        .map(|pair| u16::from_be_bytes(*pair))
        .collect()
}

/// Option 97: type 0, then 16 bytes whose first three fields are little-endian.
fn machine_uuid(options: &Options) -> Option<SmbiosUuid> {
    match options
        .bytes(OptionCode::ClientMachineIdentifier)?
        .split_first()?
    {
        (0, uuid) => uuid.try_into().ok().map(SmbiosUuid::from_little_endian),
        _ => None,
    }
}

fn machine_id(options: &Options) -> Option<Vec<u8>> {
    let id = options.bytes(OptionCode::ClientMachineIdentifier)?;
    (1..=MAX_MACHINE_ID)
        .contains(&id.len())
        .then(|| id.to_vec())
}

/// A host name is kept only as one harmless label; it ends up in lists and logs.
fn hostname(options: &Options) -> Option<String> {
    let text = std::str::from_utf8(options.bytes(OptionCode::Hostname)?).ok()?;
    let label = text.trim_end_matches('\0').split('.').next()?;
    let plain = label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let edges = label.starts_with('-') || label.ends_with('-');
    (plain && !edges && (1..=63).contains(&label.len())).then(|| label.to_ascii_lowercase())
}

fn relay_info(options: &Options) -> Result<Option<Vec<u8>>, RequestError> {
    match options.bytes(OptionCode::RelayAgentInformation) {
        Some(info) if info.len() > 255 => Err(RequestError::RelayInfo(info.len())),
        info => Ok(info.map(<[u8]>::to_vec)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::tests_support::PacketBuilder;
    use proptest::prelude::*;

    fn packet() -> PacketBuilder {
        PacketBuilder::new(1)
    }

    #[test]
    fn the_fixed_part_is_checked_before_anything_is_decoded() {
        let parse = |edit: fn(&mut Vec<u8>)| {
            let mut bytes = packet().bytes();
            edit(&mut bytes);
            Request::parse(&bytes).map(|_| ())
        };
        assert_eq!(parse(|_| ()), Ok(()));
        assert_eq!(parse(|b| b[0] = 2), Err(RequestError::NotARequest(2)));
        // hlen 200 makes dhcproto's chaddr() panic; it must not get that far.
        assert_eq!(
            parse(|b| b[2] = 200),
            Err(RequestError::Hardware {
                htype: 1,
                hlen: 200
            })
        );
        assert_eq!(
            parse(|b| b[1] = 32),
            Err(RequestError::Hardware { htype: 32, hlen: 6 })
        );
        assert_eq!(parse(|b| b[236] = 0), Err(RequestError::Cookie));
        assert_eq!(parse(|b| b.truncate(239)), Err(RequestError::Length(239)));
        assert_eq!(
            parse(|b| b.resize(1501, 0)),
            Err(RequestError::Length(1501))
        );
        assert_eq!(
            parse(|b| b[28] |= 1),
            Err(RequestError::Mac(MacAddr([0x53, 0x54, 0, 0, 0, 1])))
        );
        assert_eq!(
            parse(|b| b[28..34].fill(0)),
            Err(RequestError::Mac(MacAddr([0; 6])))
        );
        assert_eq!(
            Request::parse(&packet().without_type().bytes()),
            Err(RequestError::NoMessageType)
        );
        assert_eq!(
            Request::parse(&packet().kind(2).bytes()),
            Err(RequestError::MessageType(2))
        );
    }

    #[test]
    fn a_broken_option_hides_none_behind_it() {
        // The owned decoder stops at a host name that is not UTF-8.
        let bytes = packet()
            .option(12, &[0xff, 0xfe])
            .option(93, &[0, 7])
            .option(60, b"PXEClient")
            .bytes();
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.hostname, None);
        assert_eq!(request.archs, [7]);
        assert_eq!(request.vendor_class, b"PXEClient");
    }

    #[test]
    fn long_options_are_joined_wherever_their_parts_lie() {
        let bytes = packet()
            .option(61, &[0, 1, 2])
            .option(60, b"x")
            .option(61, &[3, 4])
            .bytes();
        assert_eq!(
            Request::parse(&bytes).unwrap().client_id,
            Some(vec![0, 1, 2, 3, 4])
        );
    }

    #[test]
    fn overloaded_fields_hold_options() {
        let mut bytes = packet().option(52, &[3]).bytes();
        bytes[108..115].copy_from_slice(&[93, 2, 0, 16, 255, 9, 9]);
        bytes[44..57].copy_from_slice(b"\x3c\x0aHTTPClient\xff");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(
            (request.archs, request.vendor_class),
            (vec![16], b"HTTPClient".to_vec())
        );
        // Without option 52 the same bytes are a file and a server name.
        bytes[240 + 3 + 2] = 0;
        assert_eq!(Request::parse(&bytes).unwrap().archs, Vec::<u16>::new());
    }

    #[test]
    fn options_mean_what_their_sources_say() {
        let bytes = packet()
            .option(77, b"\x04iPXE\x03lab")
            .option(93, &[0, 16, 0, 7, 9])
            .option(
                97,
                &[
                    0, 0xd4, 0xc3, 0xb2, 0xa1, 0xf6, 0xe5, 0x89, 0x47, 0x8a, 0xbc, 0, 0, 0, 0, 0, 1,
                ],
            )
            .option(12, b"Lab-7.example\0")
            .option(82, b"\x01\x02ab")
            .bytes();
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.user_classes, [b"iPXE".to_vec(), b"lab".to_vec()]);
        assert_eq!(request.archs, [16, 7]);
        assert_eq!(
            request.uuid.unwrap().to_string(),
            "a1b2c3d4-e5f6-4789-8abc-000000000001"
        );
        assert_eq!(request.hostname.as_deref(), Some("lab-7"));
        assert_eq!(request.relay_info.as_deref(), Some(&b"\x01\x02ab"[..]));
        assert_eq!(user_classes(b"iPXE"), [b"iPXE".to_vec()]);
        assert_eq!(user_classes(&[2, b'a', b'b', 0]), [vec![2, b'a', b'b', 0]]);
        let hostile = packet().option(12, b"a;reboot").bytes();
        assert_eq!(Request::parse(&hostile).unwrap().hostname, None);
    }

    #[test]
    fn relay_information_too_long_to_echo_is_refused() {
        let bytes = packet().option(82, &[1; 200]).option(82, &[1; 100]).bytes();
        assert_eq!(Request::parse(&bytes), Err(RequestError::RelayInfo(300)));
    }

    proptest! {
        #[test]
        fn hostile_options_never_panic(options in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let mut bytes = packet().bytes();
            bytes.truncate(243);
            bytes.extend(&options);
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert!(request.client_id.is_none_or(|id| id.len() <= MAX_CLIENT_ID));
                prop_assert!(request.archs.len() <= 700);
            }
        }

        #[test]
        fn hostile_packets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Request::parse(&bytes);
            let mut framed = bytes;
            if framed.len() > 240 {
                framed[..3].copy_from_slice(&[1, 1, 6]);
                framed[28] &= 0xfe;
                framed[236..240].copy_from_slice(&[99, 130, 83, 99]);
                let _ = Request::parse(&framed);
            }
        }
    }
}
