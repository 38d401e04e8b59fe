//! From a decision to bytes and a destination.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{self, DhcpOption, DhcpOptions, OptionCode, UnknownOption};
use dhcproto::{Encodable, Encoder};
use groundcrew_core::hardware::MacAddr;

use super::boot::BootOffer;
use super::subnet::Subnet;
use super::wire::Request;

/// BOOTP relays and old clients drop anything shorter (RFC 1542 §2.1).
const MIN_REPLY: usize = 300;
const END: u8 = 255;

/// A message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// An address is on offer.
    Offer,
    /// The address is the client's, or its parameters in answer to INFORM.
    Ack,
    /// The client must begin again.
    Nak,
}

/// Where a reply goes (RFC 2131 §4.1). Ports: 67 to a relay, else 68.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// UDP to the relay's address, port 67.
    Relay(Ipv4Addr),
    /// UDP to an address the client already uses, port 68.
    Unicast(Ipv4Addr),
    /// UDP to 255.255.255.255, port 68, out of the interface it came in by.
    Broadcast,
    /// UDP back to where the question came from, out of port 4011.
    Back(SocketAddrV4),
    /// To a client that does not answer ARP yet: a frame to `mac` carrying UDP
    /// to `ip`, port 68. Where frames cannot be sent, broadcast serves as well.
    L2 {
        /// The frame's destination.
        mac: MacAddr,
        /// The address being given.
        ip: Ipv4Addr,
    },
}

/// A reply ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it says.
    pub kind: ReplyKind,
    /// Where it goes.
    pub destination: Destination,
    /// The address it gives; 0.0.0.0 in a NAK and in an answer to INFORM.
    pub yiaddr: Ipv4Addr,
    /// It tells only what to boot, beside another server.
    pub proxied: bool,
    /// It offers an address on this wire that the client does not hold: ask by
    /// ARP first ([`conflict`](super::conflict)).
    pub fresh: bool,
    /// A client that showed nothing but one exchange holds it: offer it only if ARP
    /// was asked, and found nobody.
    pub held: bool,
    /// The UDP payload, at least 300 bytes.
    pub bytes: Vec<u8>,
}

/// What a ProxyDHCP reply is made of.
pub(super) struct ProxyDraft<'a> {
    pub kind: ReplyKind,
    pub server: Ipv4Addr,
    /// `None` in an offer that only sends the client to port 4011.
    pub boot: Option<&'a BootOffer>,
    /// Option 60.
    pub vendor_class: &'static str,
    /// Option 43.
    pub vendor_options: Option<&'static [u8]>,
    /// Where a question on port 4011 came from.
    pub back_to: Option<SocketAddrV4>,
}

/// What a reply is made of.
pub(super) struct Draft<'a> {
    pub kind: ReplyKind,
    pub yiaddr: Ipv4Addr,
    /// Seconds; `None` in NAKs and in answers to INFORM (RFC 2131 table 3).
    pub lease_seconds: Option<u32>,
    pub boot: Option<&'a BootOffer>,
    /// Option 12, where the client asks for it.
    pub hostname: Option<&'a str>,
    /// Option 56, the reason of a NAK.
    pub message: Option<&'static str>,
}

impl Reply {
    /// Builds the answer to `request`, signed as `server` (option 54).
    pub(super) fn build(
        request: &Request,
        subnet: &Subnet,
        server: Ipv4Addr,
        draft: &Draft<'_>,
    ) -> Self {
        let destination = destination(request, draft);
        let mut message = v4::Message::new_with_id(
            request.xid,
            if draft.kind == ReplyKind::Ack {
                request.ciaddr
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            draft.yiaddr,
            Ipv4Addr::UNSPECIFIED,
            request.giaddr,
            &request.mac.0,
        );
        message.set_opcode(v4::Opcode::BootReply);
        message.set_flags(v4::Flags::from(flags(request, draft.kind)));
        let mut options = server_options(server, draft);
        // RFC 6842: who sent a client identifier gets it back, in a NAK too.
        if let Some(id) = &request.client_id {
            options.insert(DhcpOption::ClientIdentifier(id.clone()));
        }
        if draft.kind != ReplyKind::Nak {
            add_network(&mut options, request, subnet, draft.lease_seconds);
            if let Some(name) = draft
                .hostname
                .filter(|_| request.asks_for(OptionCode::Hostname))
            {
                options.insert(DhcpOption::Hostname(name.to_owned()));
            }
            if let Some(boot) = draft.boot {
                add_boot(&mut message, &mut options, request, subnet, boot);
            }
        }
        message.set_opts(options);
        let bytes = finish(&message, request.relay_info.as_deref());
        Self {
            kind: draft.kind,
            destination,
            yiaddr: draft.yiaddr,
            proxied: false,
            fresh: false,
            held: false,
            bytes,
        }
    }

    /// Builds a ProxyDHCP answer: no address, options 53, 54, 60 and 97, and the
    /// file. `siaddr` is set for everybody: see
    /// [`NEXT_SERVER_SET`](super::client::quirk::NEXT_SERVER_SET).
    pub(super) fn proxy(request: &Request, draft: &ProxyDraft<'_>) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = v4::Message::new_with_id(
            request.xid,
            none,
            none,
            draft.server,
            request.giaddr,
            &request.mac.0,
        );
        message.set_opcode(v4::Opcode::BootReply);
        message.set_flags(v4::Flags::from(request.flags));
        let mut options = identity_options(draft.kind, draft.server);
        options.insert(DhcpOption::ClassIdentifier(
            draft.vendor_class.as_bytes().to_vec(),
        ));
        if let Some(id) = &request.client_id {
            options.insert(DhcpOption::ClientIdentifier(id.clone()));
        }
        if let Some(id) = &request.machine_id {
            options.insert(DhcpOption::ClientMachineIdentifier(id.clone()));
        }
        if let Some(data) = draft.vendor_options {
            options.insert(DhcpOption::VendorExtensions(data.to_vec()));
        }
        if let Some(boot) = draft.boot {
            add_file(&mut message, &mut options, boot);
        }
        message.set_opts(options);
        Self {
            kind: draft.kind,
            destination: match draft.back_to {
                Some(from) => Destination::Back(from),
                None if request.relayed() => Destination::Relay(request.giaddr),
                // There is no address yet that a unicast could go to.
                None => Destination::Broadcast,
            },
            yiaddr: none,
            proxied: true,
            fresh: false,
            held: false,
            bytes: finish(&message, request.relay_info.as_deref()),
        }
    }
}

/// A TFTP file's name fits the `file` field, which every ROM reads; a URL for
/// iPXE or HTTP Boot goes to option 67.
fn add_file(message: &mut v4::Message, options: &mut DhcpOptions, boot: &BootOffer) {
    if boot.tftp_server_name && boot.file.len() < 128 {
        message.set_fname_str(&boot.file);
        return;
    }
    let mut file = boot.file.clone().into_bytes();
    if boot.nul {
        file.push(0);
    }
    options.insert(DhcpOption::BootfileName(file));
}

/// RFC 2131 §4.1, and §4.3.2 for a NAK through a relay: the relay must broadcast
/// it, because the client may not have the address it believes to have.
fn flags(request: &Request, kind: ReplyKind) -> u16 {
    if kind == ReplyKind::Nak && request.relayed() {
        request.flags | 0x8000
    } else {
        request.flags
    }
}

fn destination(request: &Request, draft: &Draft<'_>) -> Destination {
    if request.relayed() {
        Destination::Relay(request.giaddr)
    } else if draft.kind == ReplyKind::Nak {
        Destination::Broadcast
    } else if !request.ciaddr.is_unspecified() {
        Destination::Unicast(request.ciaddr)
    } else if request.wants_broadcast() {
        Destination::Broadcast
    } else {
        Destination::L2 {
            mac: request.mac,
            ip: draft.yiaddr,
        }
    }
}

fn identity_options(kind: ReplyKind, server: Ipv4Addr) -> DhcpOptions {
    let mut options = DhcpOptions::new();
    options.insert(DhcpOption::MessageType(match kind {
        ReplyKind::Offer => v4::MessageType::Offer,
        ReplyKind::Ack => v4::MessageType::Ack,
        ReplyKind::Nak => v4::MessageType::Nak,
    }));
    options.insert(DhcpOption::ServerIdentifier(server));
    options
}

fn server_options(server: Ipv4Addr, draft: &Draft<'_>) -> DhcpOptions {
    let mut options = identity_options(draft.kind, server);
    if let Some(text) = draft.message {
        options.insert(DhcpOption::Message(text.to_owned()));
    }
    options
}

/// Mask, broadcast address and times always, the rest where the client asks (RFC 2131 §4.3.1).
fn add_network(options: &mut DhcpOptions, request: &Request, subnet: &Subnet, lease: Option<u32>) {
    options.insert(DhcpOption::SubnetMask(subnet.mask()));
    if let Some(seconds) = lease {
        options.insert(DhcpOption::AddressLeaseTime(seconds));
        options.insert(DhcpOption::Renewal(seconds / 2));
        options.insert(DhcpOption::Rebinding(seconds / 8 * 7));
    }
    // iPXE does not ask for it; every recorded answer that booted it has it.
    options.insert(DhcpOption::BroadcastAddr(subnet.broadcast()));
    if let Some(router) = subnet
        .router()
        .filter(|_| request.wants(OptionCode::Router))
    {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !subnet.dns().is_empty() && request.wants(OptionCode::DomainNameServer) {
        options.insert(DhcpOption::DomainNameServer(subnet.dns().to_vec()));
    }
    if let Some(domain) = subnet
        .domain()
        .filter(|_| request.wants(OptionCode::DomainName))
    {
        options.insert(DhcpOption::DomainName(domain.to_owned()));
    }
    if !subnet.ntp().is_empty() && request.asks_for(OptionCode::NtpServers) {
        options.insert(DhcpOption::NtpServers(subnet.ntp().to_vec()));
    }
    if !subnet.search().is_empty() && request.asks_for(OptionCode::DomainSearch) {
        options.insert(DhcpOption::Unknown(UnknownOption::new(
            OptionCode::DomainSearch,
            search_list(subnet.search()),
        )));
    }
}

/// RFC 3397: names as in DNS, here without compression.
fn search_list(domains: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for domain in domains {
        for label in domain.split('.') {
            // A label of a checked domain has 1 to 63 bytes.
            bytes.push(u8::try_from(label.len()).unwrap_or(0));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
    }
    bytes
}

/// `siaddr` is set for every booting client: [`NEXT_SERVER_SET`](super::client::quirk::NEXT_SERVER_SET).
/// Option 43 is in none of these: without option 60 = PXEClient no firmware
/// wants it, and EDK2 behaves differently once it is there.
fn add_boot(
    message: &mut v4::Message,
    options: &mut DhcpOptions,
    request: &Request,
    subnet: &Subnet,
    boot: &BootOffer,
) {
    message.set_siaddr(subnet.server());
    // ROMs that do not ask for option 67 read the `file` field. Its 128 bytes
    // need a closing NUL; set_fname_str would panic above that.
    if boot.vendor_class.is_none() && boot.file.len() < 128 {
        message.set_fname_str(&boot.file);
    }
    let mut file = boot.file.clone().into_bytes();
    if boot.nul {
        file.push(0);
    }
    options.insert(DhcpOption::BootfileName(file));
    if let Some(class) = boot.vendor_class {
        options.insert(DhcpOption::ClassIdentifier(class.as_bytes().to_vec()));
    }
    if boot.tftp_server_name && request.asks_for(OptionCode::TFTPServerName) {
        options.insert(DhcpOption::TFTPServerName(
            subnet.server().to_string().into_bytes(),
        ));
    }
    if let Some(data) = &boot.ipxe_options {
        options.insert(DhcpOption::Unknown(UnknownOption::new(
            OptionCode::from(175),
            data.clone(),
        )));
    }
}

/// Encodes, puts option 82 last and unchanged (RFC 3046 §2.2; dhcproto would sort
/// its sub-options and drop those it cannot read), and pads.
fn finish(message: &v4::Message, relay_info: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    // Into a growing vector nothing can fail but an option this module does not use.
    if message.encode(&mut Encoder::new(&mut bytes)).is_err() {
        debug_assert!(false, "a reply of ours does not encode");
    }
    if let Some(info) = relay_info {
        if bytes.last() == Some(&END) {
            bytes.pop();
        }
        // `Request` holds no more than 255 bytes of it.
        bytes.extend([
            u8::from(OptionCode::RelayAgentInformation),
            u8::try_from(info.len()).unwrap_or(u8::MAX),
        ]);
        bytes.extend(info.iter().take(usize::from(u8::MAX)));
        bytes.push(END);
    }
    if bytes.len() < MIN_REPLY {
        bytes.resize(MIN_REPLY, 0);
    }
    bytes
}

impl fmt::Display for ReplyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offer => "OFFER",
            Self::Ack => "ACK",
            Self::Nak => "NAK",
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(ip) => write!(f, "relay {ip}"),
            Self::Unicast(ip) => write!(f, "{ip}"),
            Self::Back(from) => write!(f, "{from}"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::L2 { mac, ip } => write!(f, "{ip} at {mac}"),
        }
    }
}
