//! ProxyDHCP: what to boot, beside the server that gives the addresses
//! (PXE 2.1 §2.2.3, RFC 4578; captures `proxy-*`).
//!
//! An offer on port 67 carries no address, so no client mistakes it for a lease.
//! UEFI firmware then asks port 4011 for the file; BIOS ROMs and iPXE take the
//! file from the offer; HTTP Boot takes the URL from the offer.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::arch::Platform;
use super::boot::BootService;
use super::client::BootClient;
use super::reply::{ProxyDraft, Reply, ReplyKind};
use super::server::{Ignored, Verdict};
use super::wire::{MessageKind, Request};

/// The port of the boot service proper.
pub const PXE_PORT: u16 = 4011;

/// By which door a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Port 67.
    Dhcp,
    /// Port 4011, from this address and port; the answer goes back there.
    Pxe(SocketAddrV4),
}

/// Option 43 for BIOS clients ([`quirk::USE_THIS_FILE`](crate::quirk::USE_THIS_FILE)), byte for byte as recorded in `proxy-bios-ipxe`:
/// discovery control 8 (take the file of this offer, ask nobody else), an empty
/// menu prompt that is not waited for, end.
const USE_THIS_FILE: [u8; 10] = [6, 1, 8, 10, 4, 0, b'P', b'X', b'E', 255];

/// Answers as the ProxyDHCP server at `me`.
pub fn answer(boot: &BootService, me: Ipv4Addr, request: &Request, via: Via) -> Verdict {
    let client = BootClient::of(request);
    let Some(offer) = boot.offer_for(&client, request.word, false) else {
        return Verdict::Ignored(Ignored::NothingToBoot);
    };
    let kind = match (via, request.kind) {
        (Via::Dhcp, MessageKind::Discover) => ReplyKind::Offer,
        (Via::Pxe(_), MessageKind::Request | MessageKind::Inform) => ReplyKind::Ack,
        // REQUEST, RELEASE and so on are the address server's business.
        _ => return Verdict::Ignored(Ignored::NotTheAddressServer),
    };
    if let Some(other) = request.server_id.filter(|server| *server != me) {
        return Verdict::Ignored(Ignored::OtherServer(other));
    }
    if let Via::Pxe(from) = via
        && !may_be_answered(from)
    {
        return Verdict::Ignored(Ignored::NoAddress);
    }
    // `quirk::NO_VENDOR_OPTIONS`.
    let bare = kind == ReplyKind::Offer
        && matches!(client, BootClient::Pxe(arch) if arch.platform == Platform::Efi);
    let bios = client.platform() == Some(Platform::Bios);
    Verdict::Reply(Reply::proxy(
        request,
        &ProxyDraft {
            kind,
            server: me,
            boot: (!bare).then_some(&offer),
            vendor_class: offer.vendor_class.unwrap_or("PXEClient"),
            vendor_options: bios.then_some(&USE_THIS_FILE),
            back_to: match via {
                Via::Dhcp => None,
                Via::Pxe(from) => Some(from),
            },
        },
    ))
}

/// Not to where a forged source would make one packet many.
fn may_be_answered(from: SocketAddrV4) -> bool {
    let ip = from.ip();
    !(ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || ip.is_loopback())
        && from.port() != 0
}
