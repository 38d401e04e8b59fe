//! The partition table of a stick: GPT with its protective MBR and the copy at
//! the end of the medium.
//!
//! Source: UEFI Specification 2.10, section 5 ("GUID Partition Table"). Every
//! number read from a medium is checked before it is used; who plugs in a
//! stick need not be its owner.

use std::fmt;
use std::str::FromStr;

/// Bytes of a logical block. Media with others exist and are refused (`device`).
pub const SECTOR: u64 = 512;
/// The table and its header, the protective MBR before them: what lies at the
/// beginning, in sectors. The copy at the end has one sector less.
pub const HEAD_SECTORS: u64 = 34;
/// See [`HEAD_SECTORS`].
pub const TAIL_SECTORS: u64 = 33;

const ENTRIES: usize = 128;
const ENTRY: usize = 128;
const HEADER: usize = 92;
const NAME_UNITS: usize = 36;

/// A GUID, kept in the order in which it is written as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// No GUID: an unused entry.
    pub const NIL: Self = Self([0; 16]);

    /// A GUID of given bits (RFC 9562, version 8: of the user's own making).
    pub const fn custom(mut bits: [u8; 16]) -> Self {
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut bits;
        *version = *version & 0x0f | 0x80;
        *variant = *variant & 0x3f | 0x80;
        Self(bits)
    }

    /// From its text's number, as constants are written.
    pub const fn of(number: u128) -> Self {
        Self(number.to_be_bytes())
    }

    /// The first three fields are little-endian on a medium.
    const fn swapped(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.0;
        let [i, j, k, l, m, n, o, p] = rest;
        [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no GUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a GUID; one looks like 7b1d0e52-4c2c-4e0b-9a51-6f2e4f454d01")]
pub struct NotAGuid;

impl FromStr for Guid {
    type Err = NotAGuid;

    fn from_str(text: &str) -> Result<Self, NotAGuid> {
        let dashes = text.match_indices('-').map(|(at, _)| at);
        if text.len() != 36 || !dashes.eq([8, 13, 18, 23]) {
            return Err(NotAGuid);
        }
        let digits = text.replace('-', "");
        let number = u128::from_str_radix(&digits, 16).map_err(|_| NotAGuid)?;
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        if plain {
            Ok(Self::of(number))
        } else {
            Err(NotAGuid)
        }
    }
}

/// Types of partitions.
pub mod kind {
    use super::Guid;
    /// Where GRUB's core.img lies for a BIOS.
    pub const BIOS_BOOT: Guid = Guid::of(0x21686148_6449_6e6f_744e_656564454649);
    /// What UEFI firmware starts from.
    pub const EFI_SYSTEM: Guid = Guid::of(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
    /// A Linux file system.
    pub const LINUX: Guid = Guid::of(0x0fc63daf_8483_4772_8e79_3d69d8477de4);
    /// Two sectors that remember what copied-back files must not undo.
    pub const ANCHOR: Guid = Guid::of(0x67636e63_7274_8000_a001_67726e646372);
}

/// A partition; its place in [`Table::partitions`] is its number minus one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// One of [`kind`].
    pub kind: Guid,
    /// Its own.
    pub guid: Guid,
    /// First sector.
    pub first: u64,
    /// Sectors, at least one.
    pub sectors: u64,
    /// Name, at most 36 UTF-16 units; the rest is cut off.
    pub name: String,
}

impl Partition {
    /// Where it begins, in bytes.
    pub const fn offset(&self) -> u64 {
        self.first * SECTOR
    }

    /// How long it is, in bytes.
    pub const fn bytes(&self) -> u64 {
        self.sectors * SECTOR
    }

    const fn last(&self) -> u64 {
        self.first + self.sectors - 1
    }
}

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The medium's GUID.
    pub disk: Guid,
    /// Sectors of the medium that the table was made for.
    pub sectors: u64,
    /// At most 128.
    pub partitions: Vec<Partition>,
}

/// Why a table cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// No signature where a header should be.
    #[error("there is no GPT on it")]
    None,
    /// A checksum or a number is wrong.
    #[error("its GPT is damaged: {0}")]
    Damaged(&'static str),
    /// Partitions lie over each other or outside.
    #[error("partition {number} does not fit: {why}")]
    Fit {
        /// Counted from one.
        number: usize,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Table {
    /// The beginning and the end of a medium with this table: sectors 0 to 33,
    /// and the last 33. The boot code of the MBR (440 bytes) is left zero.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<u8>), GptError> {
        self.check()?;
        let mut entries = Vec::with_capacity(ENTRIES * ENTRY);
        for partition in &self.partitions {
            entries.extend_from_slice(&entry(partition));
        }
        entries.resize(ENTRIES * ENTRY, 0);
        let sum = crc32(&entries);
        let last = self.sectors - 1;
        let mut head = protective_mbr(self.sectors);
        head.extend(self.header(1, last, 2, sum));
        head.extend_from_slice(&entries);
        let mut tail = entries;
        tail.extend(self.header(last, 1, last - 32, sum));
        Ok((head, tail))
    }

    fn check(&self) -> Result<(), GptError> {
        if self.sectors < HEAD_SECTORS + TAIL_SECTORS + 1 {
            return Err(GptError::Damaged("the medium is too small for a GPT"));
        }
        if self.partitions.len() > ENTRIES {
            return Err(GptError::Damaged("more than 128 partitions"));
        }
        let mut free = HEAD_SECTORS;
        let end = self.sectors - TAIL_SECTORS;
        for (number, partition) in (1..).zip(&self.partitions) {
            let fit = |why| Err(GptError::Fit { number, why });
            let beyond = partition.first.checked_add(partition.sectors);
            if partition.sectors == 0 {
                return fit("it has no sectors");
            }
            if partition.first < free {
                return fit("it begins before the one before it ends");
            }
            match beyond {
                Some(beyond) if beyond <= end => free = beyond,
                _ => return fit("it ends after the medium's usable part"),
            }
        }
        Ok(())
    }

    fn header(&self, own: u64, other: u64, entries: u64, entries_sum: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"EFI PART");
        out.extend_from_slice(&0x0001_0000_u32.to_le_bytes()); // revision 1.0
        out.extend_from_slice(&(HEADER as u32).to_le_bytes());
        out.extend_from_slice(&[0; 8]); // checksum, set below; reserved
        for lba in [own, other, HEAD_SECTORS, self.sectors - TAIL_SECTORS - 1] {
            out.extend_from_slice(&lba.to_le_bytes());
        }
        out.extend_from_slice(&self.disk.swapped());
        out.extend_from_slice(&entries.to_le_bytes());
        out.extend_from_slice(&(ENTRIES as u32).to_le_bytes());
        out.extend_from_slice(&(ENTRY as u32).to_le_bytes());
        out.extend_from_slice(&entries_sum.to_le_bytes());
        let sum = crc32(&out);
        if let Some(place) = out.get_mut(16..20) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        out.resize(512, 0);
        out
    }

    /// Reads the first [`HEAD_SECTORS`] sectors of a medium.
    pub fn parse(head: &[u8]) -> Result<Self, GptError> {
        let header = head.get(512..1024).ok_or(GptError::None)?;
        if !header.starts_with(b"EFI PART") {
            return Err(GptError::None);
        }
        let damaged = GptError::Damaged;
        let mut plain = header.get(..HEADER).ok_or(GptError::None)?.to_vec();
        let told = u32_at(header, 16);
        if let Some(sum) = plain.get_mut(16..20) {
            sum.fill(0);
        }
        if u32_at(header, 12) != HEADER as u32 || crc32(&plain) != told {
            return Err(damaged("its header's checksum is wrong"));
        }
        let usual = (2, ENTRIES as u32, ENTRY as u32);
        if (u64_at(header, 72), u32_at(header, 80), u32_at(header, 84)) != usual {
            return Err(damaged("its entries lie where no stick has them"));
        }
        let entries = head.get(1024..1024 + ENTRIES * ENTRY);
        let entries = entries.ok_or(damaged("it is cut off"))?;
        if crc32(entries) != u32_at(header, 88) {
            return Err(damaged("its entries' checksum is wrong"));
        }
        let other = u64_at(header, 32).checked_add(1);
        let table = Self {
            disk: guid_at(header, 56),
            sectors: other.ok_or(damaged("its copy lies nowhere"))?,
            partitions: entries
                .chunks_exact(ENTRY)
                .take_while(|entry| guid_at(entry, 0) != Guid::NIL)
                .map(partition)
                .collect::<Option<_>>()
                .ok_or(damaged("a partition ends before it begins"))?,
        };
        table.check()?;
        Ok(table)
    }
}

fn entry(partition: &Partition) -> [u8; ENTRY] {
    let mut out = Vec::with_capacity(ENTRY);
    out.extend_from_slice(&partition.kind.swapped());
    out.extend_from_slice(&partition.guid.swapped());
    out.extend_from_slice(&partition.first.to_le_bytes());
    out.extend_from_slice(&partition.last().to_le_bytes());
    out.extend_from_slice(&[0; 8]); // attributes
    for unit in partition.name.encode_utf16().take(NAME_UNITS) {
        out.extend_from_slice(&unit.to_le_bytes());
    }
    out.resize(ENTRY, 0);
    out.try_into().unwrap_or([0; ENTRY])
}

fn partition(entry: &[u8]) -> Option<Partition> {
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    let units: Vec<u16> = entry
        .get(56..)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes(*pair.first_chunk().unwrap_or(&[0; 2])))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(Partition {
        kind: guid_at(entry, 0),
        guid: guid_at(entry, 16),
        first,
        sectors: last.checked_sub(first)?.checked_add(1)?,
        name: String::from_utf16_lossy(&units),
    })
}

/// One partition of type 0xee over everything, so that a program that knows
/// no GPT takes the medium for full. It is not marked active: UEFI 2.10 section
/// 5.2.3 forbids it, and there is firmware that then ignores the medium.
fn protective_mbr(sectors: u64) -> Vec<u8> {
    let covered = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    let mut out = vec![0; 446];
    out.extend_from_slice(&[0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&covered.to_le_bytes());
    out.resize(510, 0);
    out.extend_from_slice(&[0x55, 0xaa]);
    out
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    let raw = bytes.get(at..).and_then(|b| b.first_chunk::<16>());
    Guid(Guid(*raw.unwrap_or(&[0; 16])).swapped())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let raw = bytes.get(at..).and_then(|b| b.first_chunk());
    u32::from_le_bytes(*raw.unwrap_or(&[0; 4]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let raw = bytes.get(at..).and_then(|b| b.first_chunk());
    u64::from_le_bytes(*raw.unwrap_or(&[0; 8]))
}

/// CRC-32 as Ethernet, zip and GPT have it (reflected, polynomial 0xedb88320).
/// Bit by bit: 17 KB are summed twice in a stick's life.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let part = |first, sectors, name: &str| Partition {
            kind: kind::LINUX,
            guid: Guid::custom([first as u8; 16]),
            first,
            sectors,
            name: name.to_owned(),
        };
        Table {
            disk: Guid::custom([7; 16]),
            sectors: 8192,
            partitions: vec![part(2048, 2048, "one"), part(4096, 2048, "zwei ä")],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (head, tail) = table().encode().unwrap();
        assert_eq!(
            (head.len() as u64, tail.len() as u64),
            (HEAD_SECTORS * SECTOR, TAIL_SECTORS * SECTOR)
        );
        assert_eq!(Table::parse(&head).unwrap(), table());
    }

    #[test]
    fn checksums_and_text_are_the_standard_ones() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        assert_eq!(kind::EFI_SYSTEM.to_string(), text);
        assert_eq!(text.parse(), Ok(kind::EFI_SYSTEM));
        // The UEFI specification's own bytes of that GUID.
        assert_eq!(
            kind::EFI_SYSTEM.swapped()[..8],
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]
        );
        for bad in [
            "",
            "c12a7328f81f11d2ba4b00a0c93ec93b",
            "+12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        ] {
            assert_eq!(bad.parse::<Guid>(), Err(NotAGuid), "{bad}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let wrong = |change: &dyn Fn(&mut Table)| {
            let mut table = table();
            change(&mut table);
            table.encode().unwrap_err()
        };
        let overlap = wrong(&|t| t.partitions[1].first = 4095);
        assert!(matches!(overlap, GptError::Fit { number: 2, .. }));
        let beyond = wrong(&|t| t.partitions[1].sectors = 8192 - 4096 - 32);
        assert!(matches!(beyond, GptError::Fit { number: 2, .. }));
        assert!(matches!(wrong(&|t| t.sectors = 40), GptError::Damaged(_)));
        assert!(matches!(
            wrong(&|t| t.partitions[0].sectors = u64::MAX),
            GptError::Fit { number: 1, .. }
        ));
    }

    proptest::proptest! {
        #[test]
        fn a_changed_bit_is_seen_and_nothing_panics(at in 512usize..1024 + 256, bit in 0u8..8) {
            let (mut head, _) = table().encode().unwrap();
            head[at] ^= 1 << bit;
            // Behind the header's 92 bytes the sector is padding.
            let counts = !(512 + HEADER..1024).contains(&at);
            proptest::prop_assert_eq!(Table::parse(&head).is_err(), counts);
        }

        #[test]
        fn noise_is_no_table(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048)) {
            proptest::prop_assert!(Table::parse(&noise).is_err());
        }
    }
}
