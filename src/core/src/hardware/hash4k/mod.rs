//! Autopilot's "4K hardware hash", read and written without Windows.
//!
//! It is no hash but a container: `OA`, a length, records of type, length and
//! data, then `CS` and a SHA-256 over everything before, zeros up to 3000 bytes,
//! and base64 of all that. The checksum has no key: it proves that nothing was
//! cut or mistyped, not who wrote it.
//!
//! Layout: worked out from published hashes of Windows 10 16299 to Windows 11
//! 26100 and their checksums; record names follow `oa3tool /DecodeHwHash`.

mod convert;
mod graphics;
mod record;
mod words;

use data_encoding::BASE64;

use crate::digest::Digest;

pub use graphics::GraphicsMemory;
pub use record::{
    Chassis, CpuTopology, Display, DisplaySize, IdSource, Memory, NetworkAdapter, OfflineDeviceId,
    Record, TextKind, Tool, ToolVersion, WINDOWS_EPOCH,
};
pub use words::Difference;

/// The bytes of a container that Windows emits; base64 makes 4000 characters.
pub const CONTAINER: usize = 3000;

/// The characters of a container that Windows emits.
pub const TEXT: usize = 4000;

/// The longest text that is read: twice what Windows emits.
const MAX_TEXT: usize = 2 * TEXT;

/// The most records that are read; real hashes have about thirty.
const MAX_RECORDS: usize = 512;

const HEADER: [u8; 2] = *b"OA";
const TRAILER: [u8; 4] = [b'C', b'S', 36, 0];

/// A hardware hash: its records in their order. Types may repeat (disks, NICs)
/// and are not sorted. What is not understood is kept as it stands, so that
/// decoding and encoding give the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HardwareHash {
    /// The records, in order.
    pub records: Vec<Record>,
}

/// Why a hardware hash was refused. Importers know it as `InvalidZtdHardwareHash`.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HashError {
    /// No text at all.
    #[error("the hardware hash is empty")]
    Empty,
    /// Longer than anything Windows makes.
    #[error(
        "the hardware hash has {0} characters; one has {TEXT}, and at most {MAX_TEXT} are read"
    )]
    TooLong(usize),
    /// A character that base64 does not have.
    #[error("the hardware hash is not base64: character {at} is not one of A-Z a-z 0-9 + /")]
    Base64 {
        /// Position, from 1.
        at: usize,
    },
    /// It does not begin with `OA`.
    #[error("not a hardware hash: it does not begin with `OA` (`T0E` in base64)")]
    Header,
    /// It ends before its length says.
    #[error("the hardware hash is cut off: it tells of {expected} bytes and has {found}")]
    CutOff {
        /// Bytes up to the end of the checksum.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// A record that does not fit.
    #[error("the hardware hash is damaged: the record at byte {at} does not fit")]
    Record {
        /// Offset of the record.
        at: usize,
    },
    /// More records than any real hash has.
    #[error("the hardware hash has more than {MAX_RECORDS} records")]
    TooMany,
    /// No `CS` where the length says it is.
    #[error("the hardware hash is cut off or damaged: no checksum at byte {at}")]
    Trailer {
        /// Offset where it should be.
        at: usize,
    },
    /// The checksum is not that of the content.
    #[error("the hardware hash is damaged: its checksum does not match its content")]
    Checksum,
    /// Something after the checksum.
    #[error("the hardware hash is damaged: byte {at}, after its checksum, is not zero")]
    Padding {
        /// Offset of the byte.
        at: usize,
    },
    /// Too many records to fit in a container.
    #[error("the records take {0} bytes and do not fit in a hardware hash of {CONTAINER}")]
    Full(usize),
}

impl HardwareHash {
    /// Reads the text form: base64, padded, unpadded or with its trailing `A`s
    /// (zero bytes) cut, blanks at the ends ignored.
    pub fn from_text(text: &str) -> Result<Self, HashError> {
        let text = text.trim().trim_end_matches('=');
        if text.is_empty() {
            return Err(HashError::Empty);
        }
        if text.len() > MAX_TEXT {
            return Err(HashError::TooLong(text.len()));
        }
        // First to 4000 characters, then decode: what is missing at the end is
        // zeros, and a text of any length becomes whole groups of four.
        let whole = text.len().max(TEXT).next_multiple_of(4);
        let mut padded = String::with_capacity(whole);
        padded.push_str(text);
        padded.extend(std::iter::repeat_n('A', whole - text.len()));
        let bytes = BASE64
            .decode(padded.as_bytes())
            .map_err(|e| HashError::Base64 { at: e.position + 1 })?;
        Self::from_bytes(&bytes)
    }

    /// Reads the container and verifies its checksum.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HashError> {
        if !bytes.starts_with(&HEADER) {
            return Err(HashError::Header);
        }
        let total = u16_at(bytes, 2).ok_or(HashError::Header)?;
        let expected = total + TRAILER.len() + 32;
        let cut_off = HashError::CutOff {
            expected,
            found: bytes.len(),
        };
        let content = bytes.get(..total).ok_or(cut_off)?;
        let tail = bytes.get(total..).unwrap_or_default();
        let sum = tail
            .strip_prefix(&TRAILER)
            .ok_or(HashError::Trailer { at: total })?;
        let (sum, padding) = sum.split_first_chunk::<32>().ok_or(HashError::CutOff {
            expected,
            found: bytes.len(),
        })?;
        if Digest::of(content).as_bytes() != sum {
            return Err(HashError::Checksum);
        }
        if let Some(at) = padding.iter().position(|b| *b != 0) {
            return Err(HashError::Padding { at: expected + at });
        }
        let records = read_records(content)?;
        Ok(Self { records })
    }

    /// Writes the container: 3000 bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HashError> {
        let mut bytes = vec![HEADER[0], HEADER[1], 0, 0];
        for record in &self.records {
            let data = record.data();
            let length = u16::try_from(data.len() + 4).map_err(|_| HashError::Full(data.len()))?;
            bytes.extend(record.kind().to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(data);
        }
        let needed = bytes.len() + TRAILER.len() + 32;
        let total = u16::try_from(bytes.len()).ok();
        let total = total
            .filter(|_| needed <= CONTAINER)
            .ok_or(HashError::Full(needed))?;
        if let Some(place) = bytes.get_mut(2..4) {
            place.copy_from_slice(&total.to_le_bytes());
        }
        let sum = Digest::of(&bytes);
        bytes.extend(TRAILER);
        bytes.extend(sum.as_bytes());
        bytes.resize(CONTAINER, 0);
        Ok(bytes)
    }

    /// Writes the text form: 4000 characters of base64, which need no padding.
    pub fn to_text(&self) -> Result<String, HashError> {
        Ok(BASE64.encode(&self.to_bytes()?))
    }
}

fn read_records(content: &[u8]) -> Result<Vec<Record>, HashError> {
    let mut records = Vec::new();
    let mut at = 4;
    while at < content.len() {
        let damaged = HashError::Record { at };
        let (Some(kind), Some(length)) = (u16_at(content, at), u16_at(content, at + 2)) else {
            return Err(damaged);
        };
        let data = content.get(at + 4..at + length).ok_or(damaged)?;
        if records.len() == MAX_RECORDS {
            return Err(HashError::TooMany);
        }
        let kind = u16::try_from(kind).unwrap_or(u16::MAX);
        records.push(Record::read(kind, data));
        at += length;
    }
    Ok(records)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..)?.first_chunk::<2>()?;
    Some(usize::from(u16::from_le_bytes(*pair)))
}

#[cfg(test)]
mod tests;
