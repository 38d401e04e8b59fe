//! A first packet on the well-known port, read into a checked request.

use tftpd::{ErrorCode, OptionType, Packet};

use super::error_packet;
use crate::path::{BootPath, PathError};

/// RFC 2347: a request fits into 512 bytes; some room for long names.
const MAX_REQUEST: usize = 1024;
const RRQ: [u8; 2] = [0, 1];
const ERROR: [u8; 2] = [0, 5];

/// A read request that may be served. Options are as asked, not yet limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The file meant.
    pub path: BootPath,
    /// `blksize`, 8 to 65464 (RFC 2348).
    pub block_size: Option<u16>,
    /// `windowsize`, 1 to 65535 (RFC 7440).
    pub window: Option<u16>,
    /// `timeout` in seconds, 1 to 255 (RFC 2349).
    pub timeout: Option<u8>,
    /// `tsize` was asked (RFC 2349).
    pub transfer_size: bool,
}

/// Why a first packet starts no transfer.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing that begins a transfer; no answer, so that nobody can use us to
    /// send packets at others.
    #[error("not a request")]
    NotARequest,
    /// Longer than any honest request.
    #[error("a request of {0} bytes; at most {MAX_REQUEST} are read")]
    TooLong(usize),
    /// A request that cannot be read.
    #[error("a malformed read request")]
    Malformed,
    /// A write request.
    #[error("writing is not allowed")]
    Write,
    /// A mode other than octet.
    #[error("mode {0} is not served: ask for octet")]
    Mode(&'static str),
    /// A name that means no file in the boot tree.
    #[error("{0}")]
    Path(#[from] PathError),
}

impl Refusal {
    /// The ERROR packet to answer with, if any.
    pub fn packet(&self) -> Option<Vec<u8>> {
        let code = match self {
            Self::NotARequest | Self::TooLong(_) => return None,
            Self::Malformed | Self::Mode(_) => ErrorCode::IllegalOperation,
            Self::Write | Self::Path(_) => ErrorCode::AccessViolation,
        };
        Some(error_packet(code, &self.to_string()))
    }
}

/// The longest retransmission timeout that is agreed to, in seconds. Loaders ask
/// for 1 to 5; one that asked for 255 would keep a place for an hour of silence.
const MAX_TIMEOUT: u64 = 10;

/// Reads a packet received on the well-known port.
pub fn parse_request(packet: &[u8]) -> Result<ReadRequest, Refusal> {
    if packet.starts_with(&ERROR) {
        return Err(Refusal::NotARequest);
    }
    if packet.len() > MAX_REQUEST {
        return Err(Refusal::TooLong(packet.len()));
    }
    let parsed = Packet::deserialize(packet);
    match parsed {
        Ok(Packet::Rrq {
            filename,
            mode,
            options,
        }) => {
            check_mode(&mode)?;
            let mut request = ReadRequest::plain(BootPath::from_tftp(&filename)?);
            for option in options {
                request.take(option.option, option.value);
            }
            Ok(request)
        }
        Ok(Packet::Wrq { .. }) => Err(Refusal::Write),
        Err(_) if packet.starts_with(&RRQ) => Err(Refusal::Malformed),
        _ => Err(Refusal::NotARequest),
    }
}

/// netascii would change line ends, which ruins loaders; saying so beats sending
/// bytes that are not what the mode promises.
fn check_mode(mode: &str) -> Result<(), Refusal> {
    if mode.eq_ignore_ascii_case("octet") {
        Ok(())
    } else if mode.eq_ignore_ascii_case("netascii") {
        Err(Refusal::Mode("netascii"))
    } else {
        Err(Refusal::Mode("mail or unknown"))
    }
}

impl ReadRequest {
    /// A request without options.
    pub fn plain(path: BootPath) -> Self {
        Self {
            path,
            block_size: None,
            window: None,
            timeout: None,
            transfer_size: false,
        }
    }

    /// An option out of its range counts as not asked (RFC 2347: the server
    /// leaves it out of the OACK); the first of a repeated one counts.
    fn take(&mut self, option: OptionType, value: u64) {
        match option {
            OptionType::BlockSize if (8..=65464).contains(&value) && self.block_size.is_none() => {
                self.block_size = u16::try_from(value).ok();
            }
            OptionType::WindowSize if value >= 1 && self.window.is_none() => {
                self.window = u16::try_from(value).ok();
            }
            OptionType::Timeout if (1..=MAX_TIMEOUT).contains(&value) && self.timeout.is_none() => {
                self.timeout = u8::try_from(value).ok();
            }
            OptionType::TransferSize => self.transfer_size = true,
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn firmware_requests_are_read() {
        // Capture uefi-pxe-virtio, OVMF's first request.
        let ovmf = b"\0\x01ipxe.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0";
        let request = parse_request(ovmf).unwrap();
        assert_eq!(request.path.as_str(), "ipxe.efi");
        assert_eq!(
            (request.block_size, request.window, request.transfer_size),
            (Some(1468), Some(4), true)
        );
        let grub = b"\0\x01/grub/grub.cfg\0OCTET\0blksize\x001024\0tsize\x000\0";
        assert_eq!(parse_request(grub).unwrap().path.as_str(), "grub/grub.cfg");
    }

    #[test]
    fn refusals_say_why_or_stay_silent() {
        let text = |packet: &[u8]| parse_request(packet).unwrap_err().to_string();
        assert_eq!(text(b"\0\x02x\0octet\0"), "writing is not allowed");
        assert_eq!(
            text(b"\0\x01x\0netascii\0"),
            "mode netascii is not served: ask for octet"
        );
        assert_eq!(
            text(b"\0\x01../x\0octet\0"),
            "the path has a component that begins with a dot"
        );
        assert_eq!(
            text(b"\0\x01x\0octet\0blksize\0many\0"),
            "a malformed read request"
        );
        assert_eq!(text(b"\0\x01x"), "a malformed read request");
        let refused = parse_request(b"\0\x02x\0octet\0")
            .unwrap_err()
            .packet()
            .unwrap();
        assert_eq!(refused, b"\0\x05\0\x02writing is not allowed\0");
        for silent in [
            &b"\0\x05\0\0x\0"[..],
            b"\0\x04\0\x01",
            b"\0\x03\0\x01x",
            b"",
            b"\0",
        ] {
            assert_eq!(
                parse_request(silent).unwrap_err().packet(),
                None,
                "{silent:?}"
            );
        }
    }

    #[test]
    fn options_out_of_range_count_as_not_asked() {
        let request = parse_request(
            b"\0\x01x\0octet\0blksize\x004\0windowsize\x0070000\0timeout\x00255\0blksize\x00512\0blksize\x001024\0",
        )
        .unwrap();
        assert_eq!(
            request,
            ReadRequest {
                block_size: Some(512),
                ..ReadRequest::plain(request.path.clone())
            }
        );
    }

    proptest! {
        #[test]
        fn hostile_requests_never_panic(body in proptest::collection::vec(any::<u8>(), 0..600), op in 0u8..8) {
            let mut packet = vec![0, op];
            packet.extend(&body);
            let _ = parse_request(&packet);
            let _ = parse_request(&body);
        }
    }
}
