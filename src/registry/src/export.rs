//! Registrations as a file that Intune imports: ANSI, CRLF, no quotes, the exact
//! header, at most 500 rows (Microsoft's `add-devices.md`).

use groundcrew_core::hardware::hash4k::HardwareHash;
use serde::{Deserialize, Serialize};

use crate::device::Device;

/// The most rows of one file.
pub const ROWS: usize = 500;

/// The header, to the letter: Intune minds its case.
pub const HEADER: &str =
    "Device Serial Number,Windows Product ID,Hardware Hash,Group Tag,Assigned User";

/// What one row is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRow {
    /// Serial number, for people: the hash holds it too.
    pub serial: String,
    /// Windows product id.
    pub product_id: String,
    /// The hardware hash's text.
    pub hash: String,
    /// Group tag.
    pub tag: String,
    /// Assigned user.
    pub user: String,
}

/// Why a device cannot be a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportFault {
    /// A text that would need quotes or Unicode.
    #[error(
        "its {what} `{text}` has a comma, a quote or a character that ANSI has not, which Intune refuses"
    )]
    Text {
        /// Which.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// The hash cannot be written.
    #[error("{0}")]
    Hash(#[from] groundcrew_core::hardware::hash4k::HashError),
}

impl ExportRow {
    /// A device's row with its hash.
    pub fn new(device: &Device, hash: &HardwareHash) -> Result<Self, ExportFault> {
        let registration = device.registration.as_ref();
        let tag = device.tag.as_ref().map(ToString::to_string);
        let user = registration.and_then(|registration| registration.user.clone());
        let product_id = registration.and_then(|registration| registration.product_id.clone());
        let serial = device
            .identity
            .serial
            .clone()
            .filter(|serial| plain(serial));
        Ok(Self {
            serial: serial.unwrap_or_default(),
            product_id: product_id.filter(|id| plain(id)).unwrap_or_default(),
            hash: hash.to_text()?,
            tag: needed("tag", tag)?,
            user: needed("assigned user", user)?,
        })
    }
}

fn needed(what: &'static str, text: Option<String>) -> Result<String, ExportFault> {
    match text {
        Some(text) if !plain(&text) => {
            let text = groundcrew_core::ids::shown(&text);
            Err(ExportFault::Text { what, text })
        }
        text => Ok(text.unwrap_or_default()),
    }
}

/// Whether a text can stand in the file as it is.
fn plain(text: &str) -> bool {
    !text.contains([',', '"']) && text.chars().all(|c| ansi(c).is_some())
}

/// The characters that Windows-1252 shares with Unicode.
fn ansi(c: char) -> Option<u8> {
    u8::try_from(u32::from(c))
        .ok()
        .filter(|byte| matches!(byte, 0x20..=0x7e | 0xa0..))
}

/// The bytes of one file.
pub fn file(rows: &[ExportRow]) -> Vec<u8> {
    let mut text = format!("{HEADER}\r\n");
    for row in rows {
        let fields = [&row.serial, &row.product_id, &row.hash, &row.tag, &row.user];
        text.push_str(&fields.map(String::as_str).join(","));
        text.push_str("\r\n");
    }
    text.chars()
        .map(|c| {
            if matches!(c, '\r' | '\n') {
                c as u8
            } else {
                ansi(c).unwrap_or(b'?')
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::Rows;
    use groundcrew_core::hardware::hash4k::{Record, TextKind};

    fn row(serial: &str, tag: &str) -> ExportRow {
        let hash = HardwareHash {
            records: vec![Record::Text(TextKind::Serial, serial.into())],
        };
        ExportRow {
            serial: serial.into(),
            product_id: String::new(),
            hash: hash.to_text().unwrap(),
            tag: tag.into(),
            user: String::new(),
        }
    }

    #[test]
    fn what_is_exported_is_imported_again() {
        let rows = [row("SYNTH-0001", "Büro"), row("SYNTH-0002", "")];
        let bytes = file(&rows);
        let header = format!("{HEADER}\r\nSYNTH-0001,,T0E");
        assert!(
            bytes.starts_with(header.as_bytes()),
            "exact header, CRLF, no BOM"
        );
        assert!(!bytes.contains(&b'"') && bytes.ends_with(b",,\r\n") && bytes.contains(&0xfc));
        let read: Vec<_> = Rows::new(&bytes[..], "x")
            .unwrap()
            .map(|row| row.unwrap().content.unwrap())
            .collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].tag.as_ref().unwrap().as_str(), "Büro");
        assert_eq!(read[1].identity.serial.as_deref(), Some("SYNTH-0002"));
    }

    #[test]
    fn what_needs_quotes_or_unicode_is_named() {
        assert_eq!(needed("tag", None), Ok(String::new()));
        for bad in ["a,b", "a\"b", "Łódź", "a\nb"] {
            assert!(matches!(
                needed("tag", Some(bad.into())),
                Err(ExportFault::Text { what: "tag", .. })
            ));
        }
    }
}
