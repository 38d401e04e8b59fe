//! SMBIOS tables (DMTF DSP0134) from their raw bytes, as Linux shows them in
//! `/sys/firmware/dmi/tables/{smbios_entry_point,DMI}`. The tables are the
//! firmware vendor's work: lengths lie, strings are missing, and the walk ends
//! at the first thing that cannot be, with what was read until then.

use super::report::Smbios;
use super::uuid::SmbiosUuid;

/// The most bytes of table that are looked at; real ones stay under 64 KiB.
const MAX_TABLE: usize = 1 << 20;

/// The most structures that are looked at.
const MAX_STRUCTURES: usize = 4096;

/// DSP0134 §6.1.3 allowed 64 characters per string until 2.7 and sets no
/// limit since; longer ones are cut here.
const MAX_STRING: usize = 128;

/// Why an entry point was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SmbiosError {
    /// It does not begin with `_SM_`, `_SM3_` or `_DMI_`.
    #[error("not an SMBIOS entry point: expected it to begin with `_SM_`, `_SM3_` or `_DMI_`")]
    Anchor,
    /// It is shorter than its kind needs, or than it says.
    #[error("the SMBIOS entry point is cut off after {0} bytes")]
    Short(usize),
    /// Its bytes do not add up to zero.
    #[error("the SMBIOS entry point's checksum is wrong")]
    Checksum,
}

/// Reads types 0 to 3 out of `table`, by the version that `entry_point` tells.
/// Missing and empty strings are `None`; a UUID of only 00 or FF is `None`
/// (DSP0134 §7.2.1: not present, not set).
pub fn parse(entry_point: &[u8], table: &[u8]) -> Result<Smbios, SmbiosError> {
    let entry = EntryPoint::parse(entry_point)?;
    let table = table
        .get(..entry.table_length.min(MAX_TABLE))
        .unwrap_or(table);
    let mut smbios = Smbios {
        version: Some(entry.version),
        ..Smbios::default()
    };
    let mut seen = [false; 4];
    for structure in (Structures { rest: table }).take(MAX_STRUCTURES) {
        // A second structure of a type belongs to another board or drawer: the
        // first one is the machine's own.
        match seen.get_mut(usize::from(structure.kind)) {
            Some(first) if !*first => *first = true,
            _ => continue,
        }
        match structure.kind {
            0 => bios(&structure, &mut smbios),
            1 => system(&structure, &mut smbios),
            2 => board(&structure, &mut smbios),
            _ => chassis(&structure, &mut smbios),
        }
    }
    Ok(smbios)
}

/// DSP0134 §7.1.
fn bios(structure: &Structure<'_>, smbios: &mut Smbios) {
    smbios.bios_vendor = structure.string_at(4);
    smbios.bios_version = structure.string_at(5);
}

/// DSP0134 §7.2.
fn system(structure: &Structure<'_>, smbios: &mut Smbios) {
    smbios.manufacturer = structure.string_at(4);
    smbios.product = structure.string_at(5);
    smbios.product_version = structure.string_at(6);
    smbios.serial = structure.string_at(7);
    smbios.sku = structure.string_at(0x19);
    smbios.family = structure.string_at(0x1a);
    smbios.uuid = structure
        .formatted
        .get(8..24)
        .and_then(|bytes| bytes.try_into().ok())
        .and_then(|bytes| uuid(bytes, smbios.version));
}

/// From 2.6 on the first three fields are little-endian; older tables are read
/// as they stand, as Linux and dmidecode do. Some older firmware is
/// little-endian nevertheless, so comparisons try both orders.
fn uuid(bytes: [u8; 16], version: Option<(u8, u8)>) -> Option<SmbiosUuid> {
    if bytes == [0; 16] || bytes == [0xff; 16] {
        return None;
    }
    Some(if version >= Some((2, 6)) {
        SmbiosUuid::from_little_endian(bytes)
    } else {
        SmbiosUuid::from_canonical(bytes)
    })
}

/// DSP0134 §7.3.
fn board(structure: &Structure<'_>, smbios: &mut Smbios) {
    smbios.board_manufacturer = structure.string_at(4);
    smbios.board_product = structure.string_at(5);
    smbios.board_serial = structure.string_at(7);
}

/// DSP0134 §7.4. The type's top bit says only that there is a lock.
fn chassis(structure: &Structure<'_>, smbios: &mut Smbios) {
    smbios.chassis_type = structure.formatted.get(5).map(|kind| kind & 0x7f);
    smbios.chassis_serial = structure.string_at(7);
    smbios.asset_tag = structure.string_at(8);
}

/// DSP0134 §5.2: what the entry point tells.
struct EntryPoint {
    version: (u8, u8),
    table_length: usize,
}

impl EntryPoint {
    fn parse(bytes: &[u8]) -> Result<Self, SmbiosError> {
        if bytes.starts_with(b"_SM3_") {
            Self::v3(bytes)
        } else if bytes.starts_with(b"_SM_") {
            Self::v2(bytes)
        } else if bytes.starts_with(b"_DMI_") {
            Self::legacy(bytes)
        } else {
            Err(SmbiosError::Anchor)
        }
    }

    fn v3(bytes: &[u8]) -> Result<Self, SmbiosError> {
        let claimed = usize::from(byte(bytes, 6)?);
        add_up(bytes, claimed.max(0x18))?;
        let length = array(bytes, 0x0c).map(u32::from_le_bytes)?;
        Ok(Self {
            version: (byte(bytes, 7)?, byte(bytes, 8)?),
            table_length: usize::try_from(length).unwrap_or(MAX_TABLE),
        })
    }

    fn v2(bytes: &[u8]) -> Result<Self, SmbiosError> {
        // Version 2.1 of the specification gave the length as 0x1e by mistake.
        let claimed = usize::from(byte(bytes, 5)?);
        add_up(bytes, claimed.max(0x1e))?;
        Ok(Self {
            version: (byte(bytes, 6)?, byte(bytes, 7)?),
            table_length: usize::from(array(bytes, 0x16).map(u16::from_le_bytes)?),
        })
    }

    /// The `_DMI_` part alone, which SMBIOS 2.0 had.
    fn legacy(bytes: &[u8]) -> Result<Self, SmbiosError> {
        add_up(bytes, 15)?;
        let revision = byte(bytes, 14)?;
        Ok(Self {
            version: (revision >> 4, revision & 0x0f),
            table_length: usize::from(array(bytes, 6).map(u16::from_le_bytes)?),
        })
    }
}

fn add_up(bytes: &[u8], length: usize) -> Result<(), SmbiosError> {
    let covered = bytes.get(..length).ok_or(SmbiosError::Short(bytes.len()))?;
    let sum = covered.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
    if sum == 0 {
        Ok(())
    } else {
        Err(SmbiosError::Checksum)
    }
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, SmbiosError> {
    let found = bytes.get(at).copied();
    found.ok_or(SmbiosError::Short(bytes.len()))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], SmbiosError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or(SmbiosError::Short(bytes.len()))
}

/// One structure: DSP0134 §6.1.2.
struct Structure<'a> {
    kind: u8,
    /// Header and fixed part; offsets are the specification's.
    formatted: &'a [u8],
    /// The strings, each NUL-terminated, without the final NUL.
    strings: &'a [u8],
}

impl Structure<'_> {
    /// The string whose 1-based number stands at `offset`.
    fn string_at(&self, offset: usize) -> Option<String> {
        let number = usize::from(*self.formatted.get(offset)?);
        let index = number.checked_sub(1)?;
        let raw = self.strings.split(|b| *b == 0).nth(index)?;
        let text: String = String::from_utf8_lossy(raw)
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_STRING)
            .collect();
        (!text.is_empty()).then_some(text)
    }
}

/// The structures of a table, until its end marker (type 127), its end, or the
/// first one that is cut off.
struct Structures<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Structure<'a>> {
        let (&kind, &length) = (self.rest.first()?, self.rest.get(1)?);
        if kind == 127 || length < 4 {
            return None;
        }
        let (formatted, tail) = self.rest.split_at_checked(usize::from(length))?;
        let end = tail.windows(2).position(|pair| pair == [0, 0])?;
        let strings = tail.get(..end)?;
        self.rest = tail.get(end + 2..)?;
        Some(Structure {
            kind,
            formatted,
            strings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../../../tests/fixtures/hardware/", $name)).as_slice()
        };
    }

    #[test]
    fn reads_a_table_of_3_x() {
        let s = parse(
            fixture!("smbios-3.entry.bin"),
            fixture!("smbios-3.table.bin"),
        )
        .unwrap();
        assert_eq!(s.version, Some((3, 2)));
        assert_eq!(s.manufacturer.as_deref(), Some("Example Corp"));
        assert_eq!(s.product.as_deref(), Some("Model One"));
        assert_eq!(s.serial.as_deref(), Some("SYNTH-0001"));
        assert_eq!(s.sku.as_deref(), Some("SKU-1"));
        assert_eq!(s.family.as_deref(), Some("Examples"));
        assert_eq!(s.board_serial.as_deref(), Some("BOARD-0001"));
        assert_eq!(s.asset_tag.as_deref(), Some("ASSET-7"));
        assert_eq!(s.chassis_type, Some(10));
        assert_eq!(s.bios_version.as_deref(), Some("1.2.3"));
        assert_eq!(
            s.uuid.unwrap().to_string(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
    }

    #[test]
    fn the_version_decides_the_uuid_s_order() {
        let table = fixture!("smbios-3.table.bin");
        let old = parse(fixture!("smbios-2.4.entry.bin"), table).unwrap();
        let new = parse(fixture!("smbios-2.8.entry.bin"), table).unwrap();
        assert_eq!((old.version, new.version), (Some((2, 4)), Some((2, 8))));
        let (old, new) = (old.uuid.unwrap(), new.uuid.unwrap());
        assert_eq!(new.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(old.to_string(), "33221100-5544-7766-8899-aabbccddeeff");
        assert!(old.same_machine(&new));
    }

    #[test]
    fn what_is_missing_is_none() {
        let s = parse(
            fixture!("smbios-2.8.entry.bin"),
            fixture!("smbios-bare.table.bin"),
        )
        .unwrap();
        assert_eq!(s.serial, None, "string number 0");
        assert_eq!(s.product, None, "only blanks");
        assert_eq!(s.uuid, None, "all FF");
        assert_eq!(s.sku, None, "the structure is older than the field");
        assert_eq!(s.board_product, None, "a string number beyond the set");
    }

    #[test]
    fn a_bad_entry_point_is_refused() {
        let good = fixture!("smbios-3.entry.bin");
        assert_eq!(parse(b"_SMX_", &[]), Err(SmbiosError::Anchor));
        assert_eq!(parse(&good[..20], &[]), Err(SmbiosError::Short(20)));
        let mut bad = good.to_vec();
        bad[8] ^= 1;
        assert_eq!(parse(&bad, &[]), Err(SmbiosError::Checksum));
    }

    proptest! {
        #[test]
        fn a_cut_or_changed_table_never_panics(
            cut in 0usize..600, flips in proptest::collection::vec((0usize..600, any::<u8>()), 0..8),
        ) {
            let mut table = fixture!("smbios-3.table.bin").to_vec();
            for (at, value) in flips {
                if let Some(byte) = table.get_mut(at) { *byte = value; }
            }
            table.truncate(cut);
            prop_assert!(parse(fixture!("smbios-3.entry.bin"), &table).is_ok());
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            anchor in prop_oneof!["_SM_", "_SM3_", "_DMI_", ".{0,3}"],
            entry in proptest::collection::vec(any::<u8>(), 0..40),
            table in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = parse(&[anchor.as_bytes(), &entry].concat(), &table);
        }
    }
}
