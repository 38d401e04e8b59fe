//! The hardware report: what a device says of itself. All of it is a claim.

use serde::{Deserialize, Serialize};

use super::mac::MacAddr;
use super::uuid::SmbiosUuid;

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
}

/// A TPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm {
    /// Major version: 1 or 2.
    pub version: u8,
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
