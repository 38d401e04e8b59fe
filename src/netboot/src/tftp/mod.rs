//! TFTP, read only, as conversations without a socket.
//!
//! The well-known port hears requests: [`parse_request`], then [`Admission`]
//! says whether a transfer is begun, is a repeat, or is one too many. Each
//! transfer is a [`Transfer`] on a port of its own:
//!
//! ```text
//! loop {
//!     match transfer.poll(now) {
//!         Step::Send(packet)   => send packet
//!         Step::Window(window) => window.write(bytes of the file, &mut buffer); send, one segment per window.segment()
//!         Step::Wait(until)    => receive until then: transfer.received(packet, now)
//!         Step::Done(end)      => break
//!     }
//! }
//! ```
//!
//! Memory: a transfer keeps no file bytes. What is read per step is at most
//! [`Limits::window`] times [`Limits::block_size`], whatever the peer asks for.
//!
//! RFC 1350 (protocol), 2347 (options), 2348 (blksize), 2349 (tsize, timeout),
//! 7440 (windowsize), 1123 §4.2.3.1 (no answer to a repeated ACK).

mod admission;
mod request;
mod transfer;

pub use admission::{Admission, Admit, Caps};
pub use request::{ReadRequest, Refusal, parse_request};
pub use transfer::{End, Step, Transfer, Window};

use std::time::Duration;

pub use tftpd::ErrorCode;
use tftpd::Packet;

/// The well-known port (RFC 1350 §4).
pub const PORT: u16 = 69;

/// What a transfer may use, whatever its peer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest block in bytes, 512 to 65464. 1468 fills an Ethernet frame
    /// without fragments.
    pub block_size: u16,
    /// Most blocks sent without an ACK, 1 to 65535.
    pub window: u16,
    /// First retransmission timeout until a round trip was measured, and the
    /// longest one; a client's `timeout` option takes its place.
    pub timeout: Duration,
    /// Retransmissions in a row without progress before giving up.
    pub retries: u8,
    /// The whole transfer may last so long.
    pub lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            block_size: 1468,
            window: 64,
            timeout: Duration::from_secs(1),
            retries: 12,
            lifetime: Duration::from_secs(3600),
        }
    }
}

/// An ERROR packet. Texts name no path of the server.
pub fn error_packet(code: ErrorCode, message: &str) -> Vec<u8> {
    let packet = Packet::Error {
        code,
        msg: message.replace('\0', " "),
    };
    packet.serialize().unwrap_or_default()
}
