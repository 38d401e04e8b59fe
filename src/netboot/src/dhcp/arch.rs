//! The one table of client architectures.
//!
//! Source: RFC 4578 §2.1 and IANA's "Processor Architecture Types" registry
//! (DHCPv6 parameters), with the errata that swapped 7 and 9.

use std::fmt;

/// What kind of firmware calls, which decides what can be run and how a machine
/// is sent to its own disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// PC BIOS with PXE ROM.
    Bios,
    /// UEFI.
    Efi,
    /// Neither; nothing is offered.
    Other,
}

/// Which loader a row of the table gets; file names are settings, see
/// [`Loaders`](super::Loaders).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loader {
    /// iPXE for a PXE ROM's UNDI driver.
    BiosPxe,
    /// iPXE as x86-64 UEFI application, by TFTP.
    EfiX64,
    /// iPXE as x86-64 UEFI application, by HTTP Boot.
    EfiX64Http,
    /// iPXE as arm64 UEFI application, by TFTP.
    EfiArm64,
    /// iPXE as arm64 UEFI application, by HTTP Boot.
    EfiArm64Http,
}

/// A row of the registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// The number in option 93.
    pub id: u16,
    /// The registry's name.
    pub name: &'static str,
    /// Its kind of firmware.
    pub platform: Platform,
    /// What it can load from us; `None`: known, not served.
    pub loader: Option<Loader>,
    /// It loads by HTTP, and only with option 60 = `HTTPClient`.
    pub http: bool,
}

impl Arch {
    /// The row of a number, if the registry has one.
    pub fn by_id(id: u16) -> Option<&'static Self> {
        // The table is dense and in order, which a test holds.
        ARCHITECTURES.get(usize::from(id))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (arch {})", self.name, self.id)
    }
}

const fn row(
    id: u16,
    name: &'static str,
    platform: Platform,
    loader: Option<Loader>,
    http: bool,
) -> Arch {
    Arch {
        id,
        name,
        platform,
        loader,
        http,
    }
}

const fn other(id: u16, name: &'static str) -> Arch {
    row(id, name, Platform::Other, None, false)
}

const fn efi(id: u16, name: &'static str, loader: Option<Loader>) -> Arch {
    row(id, name, Platform::Efi, loader, false)
}

const fn efi_http(id: u16, name: &'static str, loader: Option<Loader>) -> Arch {
    row(id, name, Platform::Efi, loader, true)
}

/// Every assigned number, by number.
pub static ARCHITECTURES: [Arch; 42] = [
    row(0, "x86 BIOS", Platform::Bios, Some(Loader::BiosPxe), false),
    other(1, "NEC/PC98"),
    efi(2, "Itanium UEFI", None),
    other(3, "DEC Alpha"),
    other(4, "Arc x86"),
    other(5, "Intel Lean Client"),
    efi(6, "x86 UEFI", None),
    efi(7, "x86-64 UEFI", Some(Loader::EfiX64)),
    efi(8, "XScale UEFI", None),
    // `quirk::ARCH_9_IS_X64`.
    efi(9, "UEFI byte code or x86-64 UEFI", Some(Loader::EfiX64)),
    efi(10, "ARM 32-bit UEFI", None),
    efi(11, "ARM 64-bit UEFI", Some(Loader::EfiArm64)),
    other(12, "PowerPC Open Firmware"),
    other(13, "PowerPC ePAPR"),
    other(14, "POWER OPAL v3"),
    efi_http(15, "x86 UEFI HTTP", None),
    efi_http(16, "x86-64 UEFI HTTP", Some(Loader::EfiX64Http)),
    efi_http(17, "UEFI byte code HTTP", None),
    efi_http(18, "ARM 32-bit UEFI HTTP", None),
    efi_http(19, "ARM 64-bit UEFI HTTP", Some(Loader::EfiArm64Http)),
    row(20, "x86 BIOS HTTP", Platform::Bios, None, true),
    other(21, "ARM 32-bit U-Boot"),
    other(22, "ARM 64-bit U-Boot"),
    row(23, "ARM 32-bit U-Boot HTTP", Platform::Other, None, true),
    row(24, "ARM 64-bit U-Boot HTTP", Platform::Other, None, true),
    efi(25, "RISC-V 32-bit UEFI", None),
    efi_http(26, "RISC-V 32-bit UEFI HTTP", None),
    efi(27, "RISC-V 64-bit UEFI", None),
    efi_http(28, "RISC-V 64-bit UEFI HTTP", None),
    efi(29, "RISC-V 128-bit UEFI", None),
    efi_http(30, "RISC-V 128-bit UEFI HTTP", None),
    other(31, "s390 Basic"),
    other(32, "s390 Extended"),
    efi(33, "MIPS 32-bit UEFI", None),
    efi(34, "MIPS 64-bit UEFI", None),
    efi(35, "Sunway 32-bit UEFI", None),
    efi(36, "Sunway 64-bit UEFI", None),
    efi(37, "LoongArch 32-bit UEFI", None),
    efi_http(38, "LoongArch 32-bit UEFI HTTP", None),
    efi(39, "LoongArch 64-bit UEFI", None),
    efi_http(40, "LoongArch 64-bit UEFI HTTP", None),
    other(41, "ARM rpiboot"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_own_row() {
        for (place, arch) in ARCHITECTURES.iter().enumerate() {
            assert_eq!(usize::from(arch.id), place, "{}", arch.name);
            assert_eq!(arch.http, arch.name.ends_with("HTTP"), "{}", arch.name);
        }
        assert_eq!(Arch::by_id(42), None);
        assert_eq!(
            Arch::by_id(16).unwrap().to_string(),
            "x86-64 UEFI HTTP (arch 16)"
        );
    }
}
