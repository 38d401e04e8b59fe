//! The SMBIOS system UUID, in one canonical order.

use std::fmt;
use std::str::FromStr;

/// An SMBIOS UUID in canonical order: the order of its text form. SMBIOS from
/// 2.6 on stores the first three fields little-endian (DSP0134 §7.2.1), PXE
/// option 97 and older tables may or may not, so comparisons across sources
/// use [`SmbiosUuid::same_machine`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SmbiosUuid([u8; 16]);

impl SmbiosUuid {
    /// From bytes in the order of the text form.
    pub const fn from_canonical(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From bytes whose first three fields are little-endian: an SMBIOS table
    /// from version 2.6 on, the 4K hash, and what PXE option 97 usually holds.
    pub const fn from_little_endian(bytes: [u8; 16]) -> Self {
        Self(swapped(bytes))
    }

    /// Bytes in the order of the text form.
    pub const fn canonical(&self) -> &[u8; 16] {
        &self.0
    }

    /// Bytes with the first three fields little-endian.
    pub const fn little_endian(&self) -> [u8; 16] {
        swapped(self.0)
    }

    /// Equal in either byte order: firmware and loaders disagree about it.
    pub fn same_machine(&self, other: &Self) -> bool {
        self.0 == other.0 || self.0 == swapped(other.0)
    }

    /// The same value for both byte orders: a key for look-ups.
    pub fn order_free(&self) -> [u8; 16] {
        self.0.min(swapped(self.0))
    }
}

const fn swapped(b: [u8; 16]) -> [u8; 16] {
    [
        b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13],
        b[14], b[15],
    ]
}

/// Text that is not a UUID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a UUID: it looks like 4c4c4544-0042-3510-8052-b4c04f4d3132")]
pub struct UuidError(String);

impl fmt::Display for SmbiosUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let hyphen = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{byte:02x}")?;
        }
        Ok(())
    }
}

crate::text_form::text_form!(SmbiosUuid);

impl FromStr for SmbiosUuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || UuidError(crate::ids::shown(text));
        let bare = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        let hex: String = bare.chars().filter(|c| *c != '-').collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .map_err(|_| wrong())?;
        Ok(Self(bytes.try_into().map_err(|_| wrong())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_s_example() {
        let stored = [
            0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd,
            0xee, 0xff,
        ];
        let uuid = SmbiosUuid::from_little_endian(stored);
        assert_eq!(uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(uuid.little_endian(), stored);
        assert_eq!("{00112233-4455-6677-8899-AABBCCDDEEFF}".parse(), Ok(uuid));
        let other = SmbiosUuid::from_canonical(stored);
        assert_ne!(uuid, other);
        assert!(uuid.same_machine(&other));
        assert_eq!(uuid.order_free(), other.order_free());
    }
}
