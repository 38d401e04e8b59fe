//! Which machine this is: the fields that stay while disks, memory and plugged
//! NICs come and go, in one canonical form, whatever source they came from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::mac::MacAddr;
use super::report::HardwareReport;
use super::uuid::SmbiosUuid;
use crate::digest::{Digest, DigestError};

/// What Windows writes into a hash for an SMBIOS string that is not there.
const NO_STRING: &str = "SMBIOS_STRING_INDEX_0";

/// The most characters of a text that are kept.
const MAX_TEXT: usize = 128;

/// The most MAC addresses that are kept.
pub const MAX_MACS: usize = 32;

/// The fields that tell machines apart. Texts are canonical (see [`clean`]);
/// junk values are kept, matching judges them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// SHA-256 of the modulus of the TPM's RSA-2048 endorsement key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ek: Option<Digest>,
    /// System UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<SmbiosUuid>,
    /// System serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// System manufacturer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// System product name, which people call the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Permanent MAC addresses, sorted. A hint only: never in the digest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
}

impl Identity {
    /// Version 1 of the digest: UUID in the order-free form, serial number,
    /// manufacturer and product. The EK is left out: the TPM can be switched
    /// off in the firmware's set-up, and the name must outlive that.
    pub fn digest(&self) -> IdentityDigest {
        let label: &[u8] = b"groundcrew identity 1";
        let uuid = self.uuid.map(|uuid| uuid.order_free());
        let uuid = uuid.as_ref().map_or(&[][..], |bytes| bytes.as_slice());
        let key = |text: &Option<String>| text.as_deref().map(text_key).unwrap_or_default();
        let serial = self.serial.as_deref().map(serial_key).unwrap_or_default();
        IdentityDigest(Digest::of_parts(&[
            label,
            uuid,
            serial.as_bytes(),
            key(&self.manufacturer).as_bytes(),
            key(&self.product).as_bytes(),
        ]))
    }

    /// This identity with what it lacks taken from `other`, and the MAC
    /// addresses of both.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.ek = self.ek.or(other.ek);
        self.uuid = self.uuid.or(other.uuid);
        self.serial = self.serial.or_else(|| other.serial.clone());
        self.manufacturer = self.manufacturer.or_else(|| other.manufacturer.clone());
        self.product = self.product.or_else(|| other.product.clone());
        self.set_macs(other.macs.iter().copied().chain(self.macs.clone()));
        self
    }

    /// Sets the MAC addresses: sorted, each once, none that is a group's or
    /// nobody's, at most [`MAX_MACS`].
    pub fn set_macs(&mut self, macs: impl IntoIterator<Item = MacAddr>) {
        let real = |mac: &MacAddr| mac.0 != [0; 6] && mac.0[0] & 1 == 0;
        self.macs = macs.into_iter().filter(real).collect();
        self.macs.sort_unstable();
        self.macs.dedup();
        self.macs.truncate(MAX_MACS);
    }
}

impl From<&HardwareReport> for Identity {
    /// NICs on USB are left out: one dongle serves many machines.
    fn from(report: &HardwareReport) -> Self {
        let smbios = &report.smbios;
        let mut identity = Self {
            ek: report.tpm.as_ref().and_then(|tpm| tpm.ek),
            uuid: smbios.uuid,
            serial: smbios.serial.as_deref().and_then(clean),
            manufacturer: smbios.manufacturer.as_deref().and_then(clean),
            product: smbios.product.as_deref().and_then(clean),
            macs: Vec::new(),
        };
        let stays = report
            .nics
            .iter()
            .filter(|nic| nic.bus.as_deref() != Some("usb"));
        identity.set_macs(stays.map(|nic| nic.mac));
        identity
    }
}

/// A text in canonical form: trimmed, inner blanks single, no control
/// characters, at most 128 characters; `None` where nothing is left, and for
/// Windows' spelling of "no such string".
pub fn clean(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len().min(MAX_TEXT));
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
    if let Some((end, _)) = out.char_indices().nth(MAX_TEXT) {
        out.truncate(end);
    }
    (!out.is_empty() && out != NO_STRING).then_some(out)
}

/// The form in which two texts are compared: canonical, case aside.
pub fn text_key(text: &str) -> String {
    clean(text).unwrap_or_default().to_uppercase()
}

/// The form in which two serial numbers are compared: as [`text_key`], and
/// without blanks and periods, which Intune drops from corporate identifiers.
pub fn serial_key(serial: &str) -> String {
    let mut key = text_key(serial);
    key.retain(|c| c != ' ' && c != '.');
    key
}

/// A versioned name for a machine: `id1:` and 64 hex characters. Never a secret
/// and never a proof: everything in it is printed on the box.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityDigest(Digest);

impl fmt::Display for IdentityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id1:{}", self.0.hex())
    }
}

crate::text_form::text_form!(IdentityDigest);

/// Text that is not an [`IdentityDigest`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an identity digest of version 1: expected `id1:` and 64 lower-case hex characters")]
pub struct IdentityDigestError;

impl From<DigestError> for IdentityDigestError {
    fn from(_: DigestError) -> Self {
        Self
    }
}

impl FromStr for IdentityDigest {
    type Err = IdentityDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("id1:").ok_or(IdentityDigestError)?;
        Ok(Self(Digest::from_hex(hex)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::report::{Disk, Nic, Tpm};

    fn report() -> HardwareReport {
        let mut report = HardwareReport::default();
        report.smbios.uuid = Some("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap());
        report.smbios.serial = Some(" SYNTH  0001 ".into());
        report.smbios.manufacturer = Some("Example Corp".into());
        report.smbios.product = Some("Model One".into());
        report
    }

    #[test]
    fn what_comes_and_goes_is_not_in_the_digest() {
        let before = Identity::from(&report()).digest();
        let mut changed = report();
        changed.tpm = Some(Tpm {
            version: 2,
            ek: Some(Digest::of(b"ek")),
            ..Tpm::default()
        });
        changed.disks.push(Disk {
            name: "sda".into(),
            size: 1,
            model: None,
            serial: Some("D1".into()),
            wwid: None,
            eui: None,
            nguid: None,
            removable: false,
        });
        changed.nics.push(Nic {
            name: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            driver: None,
            bus: Some("pci".into()),
        });
        assert_eq!(Identity::from(&changed).digest(), before);
        changed.smbios.serial = Some("synth 0001".into());
        assert_eq!(Identity::from(&changed).digest(), before, "spelling");
        changed.smbios.serial = Some("SYNTH 0002".into());
        assert_ne!(Identity::from(&changed).digest(), before);
    }

    #[test]
    fn the_digest_of_version_1_never_changes() {
        // Computed with hashlib from the definition above; it names devices in
        // journals, so a change needs a new version.
        assert_eq!(
            Identity::from(&report()).digest().to_string(),
            "id1:7e16e125489b9f83b89121a937d1a5da98c520f96d00113e6693a4d6b888cdc8"
        );
        let text = Identity::default().digest().to_string();
        assert_eq!(text.parse::<IdentityDigest>().unwrap().to_string(), text);
        assert!("id2:00".parse::<IdentityDigest>().is_err());
    }

    #[test]
    fn dongles_and_groups_are_no_identity() {
        let nic = |last, bus: &str| Nic {
            name: "eth".into(),
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            driver: None,
            bus: Some(bus.into()),
        };
        let mut report = report();
        report.nics = vec![
            nic(9, "pci"),
            nic(1, "usb"),
            nic(3, "virtio"),
            nic(9, "pci"),
        ];
        let mut group = nic(1, "pci");
        group.mac.0[0] = 1;
        report.nics.push(group);
        let macs = Identity::from(&report).macs;
        assert_eq!(
            macs,
            [MacAddr([2, 0, 0, 0, 0, 3]), MacAddr([2, 0, 0, 0, 0, 9])]
        );
    }

    #[test]
    fn texts_have_one_form() {
        assert_eq!(clean(" a \t b\0"), Some("a b".into()));
        assert_eq!(clean("SMBIOS_STRING_INDEX_0"), None);
        assert_eq!(clean(" \0 "), None);
        assert_eq!(clean(&"ä".repeat(300)).unwrap().chars().count(), 128);
        assert_eq!(serial_key("vm-ware. 56 4d"), "VM-WARE564D");
    }
}
