//! The hardware report: what a device says of itself. All of it is a claim.

use serde::{Deserialize, Serialize};

use super::mac::MacAddr;
use super::uuid::SmbiosUuid;
use crate::digest::Digest;
use crate::encoding::Bytes;

/// What a device says of its hardware. Strings are as the firmware or kernel
/// gives them, trimmed; absent is `None`, junk values are kept (matching
/// judges them).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardwareReport {
    /// SMBIOS strings and ids.
    pub smbios: Smbios,
    /// Network interfaces with hardware behind them, in kernel order.
    pub nics: Vec<Nic>,
    /// Fixed and removable disks, in kernel order.
    pub disks: Vec<Disk>,
    /// Processor.
    pub cpu: Cpu,
    /// Memory the kernel manages, in MiB.
    pub memory_mib: u64,
    /// TPM, where there is one.
    pub tpm: Option<Tpm>,
    /// How the machine was started.
    pub firmware: Firmware,
}

/// The fields of the SMBIOS tables (DMTF DSP0134) that tell machines apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smbios {
    /// Version of the tables, major and minor: it decides the UUID's byte order.
    pub version: Option<(u8, u8)>,
    /// Type 1: manufacturer.
    pub manufacturer: Option<String>,
    /// Type 1: product name.
    pub product: Option<String>,
    /// Type 1: version.
    pub product_version: Option<String>,
    /// Type 1: serial number.
    pub serial: Option<String>,
    /// Type 1: SKU number.
    pub sku: Option<String>,
    /// Type 1: family.
    pub family: Option<String>,
    /// Type 1: UUID, in canonical order.
    pub uuid: Option<SmbiosUuid>,
    /// Type 2: baseboard manufacturer.
    pub board_manufacturer: Option<String>,
    /// Type 2: baseboard product.
    pub board_product: Option<String>,
    /// Type 2: baseboard serial number.
    pub board_serial: Option<String>,
    /// Type 3: chassis type, as its number.
    pub chassis_type: Option<u8>,
    /// Type 3: chassis serial number.
    pub chassis_serial: Option<String>,
    /// Type 3: asset tag.
    pub asset_tag: Option<String>,
    /// Type 0: firmware vendor.
    pub bios_vendor: Option<String>,
    /// Type 0: firmware version.
    pub bios_version: Option<String>,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The kernel's name, such as `eth0`.
    pub name: String,
    /// The permanent address, or the current one where the driver tells none.
    pub mac: MacAddr,
    /// The driver's name, where known.
    pub driver: Option<String>,
    /// `pci`, `usb`, `virtio`, …: what it hangs on.
    pub bus: Option<String>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The kernel's name, such as `nvme0n1`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Model, where the kernel tells it.
    pub model: Option<String>,
    /// Serial number, where the kernel tells it.
    pub serial: Option<String>,
    /// World-wide id (`wwid`, `eui.…`, `naa.…`), where the kernel tells it.
    pub wwid: Option<String>,
    /// NVMe's EUI-64 of the namespace, 16 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eui: Option<String>,
    /// NVMe's NGUID of the namespace, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nguid: Option<String>,
    /// Whether the kernel calls it removable.
    pub removable: bool,
}

/// The processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Brand string.
    pub model: String,
    /// Logical processors.
    pub threads: u32,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Arch::is_x64")]
    pub arch: Arch,
}

/// What a processor runs, as far as Windows and this agent know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// x86-64.
    #[default]
    X64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// Of the machine that this program was built for.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::X64
    };

    /// Windows' `PROCESSOR_ARCHITECTURE`.
    pub const fn windows(self) -> u8 {
        match self {
            Self::X64 => 9,
            Self::Arm64 => 12,
        }
    }

    fn is_x64(&self) -> bool {
        *self == Self::X64
    }
}

/// A TPM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm {
    /// Major version: 1 or 2.
    pub version: u8,
    /// SHA-256 of the raw 256-byte RSA-2048 modulus of the endorsement key,
    /// big-endian: the same value as the 4K hash's offline device id. `None`
    /// where the EK was not read or is of another kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek: Option<Digest>,
    /// That modulus, for the 4K hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modulus: Option<Bytes<256>>,
    /// What else a TPM 2.0 says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<TpmAbout>,
}

impl Tpm {
    /// Takes the endorsement key over.
    pub fn set_ek(&mut self, modulus: Bytes<256>) {
        self.ek = Some(Digest::of(&modulus.0));
        self.modulus = Some(modulus);
    }
}

/// Properties of a TPM 2.0 (TPM 2.0 Library, part 2, section 6.13).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmAbout {
    /// Level of the specification.
    pub level: u32,
    /// Its revision, times 100: 138 is 1.38.
    pub revision: u32,
    /// The maker's four letters, without blanks at the end.
    pub maker: String,
    /// Firmware version, two numbers of the maker's.
    pub firmware: [u32; 2],
}

impl TpmAbout {
    /// Takes the maker's letters over; what is none is left out.
    pub fn set_maker(&mut self, letters: [u8; 4]) {
        let printable = letters.into_iter().filter(|b| (0x20..0x7f).contains(b));
        let text: String = printable.map(char::from).collect();
        self.maker = text.trim().to_owned();
    }
}

/// How the machine was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Firmware {
    /// Legacy BIOS, or not known.
    #[default]
    Bios,
    /// UEFI.
    Uefi {
        /// Whether Secure Boot was on.
        secure_boot: bool,
    },
}

/// The most NICs, and the most disks, a report may name.
pub const MAX_PARTS: usize = 32;

/// The longest text in a report, in bytes.
pub const MAX_TEXT: usize = 256;

/// The most bytes of text in a report, all together.
pub const MAX_ALL_TEXT: usize = 8 * 1024;

/// A report larger than any real machine's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// Too many NICs or disks.
    #[error("the report names {found} {what}; at most {MAX_PARTS} are read")]
    Parts {
        /// `NICs` or `disks`.
        what: &'static str,
        /// How many there are.
        found: usize,
    },
    /// One text is too long.
    #[error("the report holds a text of {0} bytes; at most {MAX_TEXT} are read")]
    Text(usize),
    /// All texts together are too long.
    #[error("the report holds {0} bytes of text; at most {MAX_ALL_TEXT} are read")]
    AllText(usize),
    /// A TPM whose key and its digest contradict each other.
    #[error("the report's TPM key is not the one that its digest names")]
    Ek,
}

impl HardwareReport {
    /// Refuses a report that would cost its reader more memory than any real
    /// machine's: it comes from the network, before anybody was let in.
    pub fn check_size(&self) -> Result<(), ReportError> {
        for (what, found) in [("NICs", self.nics.len()), ("disks", self.disks.len())] {
            if found > MAX_PARTS {
                return Err(ReportError::Parts { what, found });
            }
        }
        if let Some(tpm) = &self.tpm
            && let Some(modulus) = &tpm.modulus
            && tpm.ek != Some(Digest::of(&modulus.0))
        {
            return Err(ReportError::Ek);
        }
        let mut all = 0;
        for text in self.texts() {
            if text.len() > MAX_TEXT {
                return Err(ReportError::Text(text.len()));
            }
            all += text.len();
        }
        if all > MAX_ALL_TEXT {
            return Err(ReportError::AllText(all));
        }
        Ok(())
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let nics = self.nics.iter().flat_map(|nic| {
            let optional = [&nic.driver, &nic.bus].into_iter().flatten();
            std::iter::once(&nic.name).chain(optional)
        });
        let disks = self.disks.iter().flat_map(|disk| {
            let optional = [
                &disk.model,
                &disk.serial,
                &disk.wwid,
                &disk.eui,
                &disk.nguid,
            ]
            .into_iter()
            .flatten();
            std::iter::once(&disk.name).chain(optional)
        });
        let smbios = self.smbios.texts();
        let tpm = self.tpm.as_ref().and_then(|tpm| tpm.about.as_ref());
        let tpm = tpm.map(|about| &about.maker);
        let all = nics.chain(disks).chain(smbios).chain(tpm);
        all.chain(std::iter::once(&self.cpu.model))
            .map(String::as_str)
    }
}

impl Smbios {
    fn texts(&self) -> impl Iterator<Item = &String> {
        [
            &self.manufacturer,
            &self.product,
            &self.product_version,
            &self.serial,
            &self.sku,
            &self.family,
            &self.board_manufacturer,
            &self.board_product,
            &self.board_serial,
            &self.chassis_serial,
            &self.asset_tag,
            &self.bios_vendor,
            &self.bios_version,
        ]
        .into_iter()
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded() {
        let mut report = HardwareReport::default();
        report.smbios.serial = Some("x".repeat(MAX_TEXT));
        assert_eq!(report.check_size(), Ok(()));
        report.smbios.serial = Some("x".repeat(MAX_TEXT + 1));
        assert_eq!(report.check_size(), Err(ReportError::Text(MAX_TEXT + 1)));
        report.smbios.serial = None;
        let nic = Nic {
            name: "x".repeat(MAX_TEXT),
            mac: MacAddr([0; 6]),
            driver: Some("y".repeat(MAX_TEXT)),
            bus: None,
        };
        report.nics = vec![nic.clone(); 17];
        assert_eq!(report.check_size(), Err(ReportError::AllText(17 * 512)));
        let mut tpm = Tpm::default();
        tpm.set_ek(Bytes([7; 256]));
        let mut forged = HardwareReport {
            tpm: Some(tpm.clone()),
            ..HardwareReport::default()
        };
        assert_eq!(forged.check_size(), Ok(()));
        tpm.ek = Some(Digest::of(b"another's"));
        forged.tpm = Some(tpm);
        assert_eq!(forged.check_size(), Err(ReportError::Ek));
        report.nics = vec![nic; 33];
        assert!(matches!(
            report.check_size(),
            Err(ReportError::Parts { found: 33, .. })
        ));
    }
}
