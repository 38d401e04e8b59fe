//! Who asks: plain client, PXE ROM, UEFI, HTTP Boot, iPXE.

use std::fmt;

use super::arch::{Arch, Platform};
use super::wire::Request;
pub use crate::quirk;
pub use crate::quirk::Quirk;

/// A client as far as booting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootClient {
    /// Wants an address, loads nothing from us.
    Plain,
    /// PXE firmware: loads a file by TFTP.
    Pxe(&'static Arch),
    /// UEFI HTTP Boot: loads a URL.
    HttpBoot(&'static Arch),
    /// iPXE is running: gets the URL of its text.
    Ipxe(&'static Arch),
    /// Wants to boot, but nothing here fits; it gets an address only.
    Unsupported(Unsupported),
}

/// Why a client that wants to boot is offered nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// Neither option 93 nor the vendor class names an architecture.
    NoArchitecture,
    /// A number the registry does not have.
    Unassigned(u16),
    /// A known architecture without loader.
    NoLoader(&'static Arch),
    /// See [`quirk::RASPBERRY_PI_ARCH_0`].
    RaspberryPi,
}

impl BootClient {
    /// Classifies a request.
    pub fn of(request: &Request) -> Self {
        let http = request.vendor_class.starts_with(b"HTTPClient");
        let pxe = request.vendor_class.starts_with(b"PXEClient");
        let ipxe = is_ipxe(request);
        if !http && !pxe && !ipxe {
            return Self::Plain;
        }
        match architecture(request) {
            Err(why) => Self::Unsupported(why),
            Ok(arch) if ipxe => Self::Ipxe(arch),
            Ok(_) if raspberry_pi(request) => Self::Unsupported(Unsupported::RaspberryPi),
            Ok(arch) if arch.loader.is_none() || arch.http != http => {
                Self::Unsupported(Unsupported::NoLoader(arch))
            }
            Ok(arch) if http => Self::HttpBoot(arch),
            Ok(arch) => Self::Pxe(arch),
        }
    }

    /// The kind of firmware, where it is known.
    pub fn platform(&self) -> Option<Platform> {
        self.arch().map(|arch| arch.platform)
    }

    /// Its row of the table, where it is given a loader.
    pub fn arch(&self) -> Option<&'static Arch> {
        match self {
            Self::Pxe(arch) | Self::HttpBoot(arch) | Self::Ipxe(arch) => Some(arch),
            Self::Plain | Self::Unsupported(_) => None,
        }
    }
}

/// [`quirk::BARE_USER_CLASS`]: the parser has already made one class of it.
/// Option 175 says the same where a build sets another user class.
fn is_ipxe(request: &Request) -> bool {
    request.ipxe_options || request.user_classes.iter().any(|c| c == b"iPXE")
}

/// The first served architecture of option 93, else its first, else the one in
/// the vendor class `PXEClient:Arch:00007:...` (RFC 4578 §2.1, PXE 2.1 §2.2.3).
fn architecture(request: &Request) -> Result<&'static Arch, Unsupported> {
    let known = || request.archs.iter().filter_map(|&id| Arch::by_id(id));
    if let Some(arch) = known()
        .find(|a| a.loader.is_some())
        .or_else(|| known().next())
    {
        return Ok(arch);
    }
    if let Some(&id) = request.archs.first() {
        return Err(Unsupported::Unassigned(id));
    }
    let id = vendor_class_arch(&request.vendor_class).ok_or(Unsupported::NoArchitecture)?;
    Arch::by_id(id).ok_or(Unsupported::Unassigned(id))
}

fn vendor_class_arch(class: &[u8]) -> Option<u16> {
    let mut fields = std::str::from_utf8(class).ok()?.split(':');
    fields.find(|f| *f == "Arch")?;
    fields.next()?.parse().ok()
}

/// The prefixes assigned to Raspberry Pi boards.
const RASPBERRY_PI: [[u8; 3]; 6] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0xd8, 0x3a, 0xdd],
    [0x28, 0xcd, 0xc1],
    [0x2c, 0xcf, 0x67],
];

fn raspberry_pi(request: &Request) -> bool {
    request.archs == [0]
        && RASPBERRY_PI
            .iter()
            .any(|oui| request.mac.0.starts_with(oui))
}

impl fmt::Display for BootClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("plain DHCP"),
            Self::Pxe(arch) => write!(f, "PXE, {arch}"),
            Self::HttpBoot(arch) => write!(f, "HTTP Boot, {arch}"),
            Self::Ipxe(arch) => write!(f, "iPXE, {arch}"),
            Self::Unsupported(why) => write!(f, "not bootable here: {why}"),
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArchitecture => f.write_str("it names no architecture"),
            Self::Unassigned(id) => write!(f, "architecture {id} is not assigned"),
            Self::NoLoader(arch) => write!(f, "no loader for {arch}"),
            Self::RaspberryPi => f.write_str("a Raspberry Pi, which calls itself x86 BIOS"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::tests_support::PacketBuilder;

    fn client(packet: &PacketBuilder) -> String {
        BootClient::of(&Request::parse(&packet.bytes()).unwrap()).to_string()
    }

    #[test]
    fn clients_are_told_apart() {
        let packet = || PacketBuilder::new(1);
        let pxe = |arch: &[u8]| {
            packet()
                .option(60, b"PXEClient:Arch:00000:UNDI:002001")
                .option(93, arch)
        };
        assert_eq!(client(&packet().option(60, b"udhcp 1.35.0")), "plain DHCP");
        // No ROM for a recorded one: QEMU's announces itself as iPXE.
        assert_eq!(client(&pxe(&[0, 0])), "PXE, x86 BIOS (arch 0)");
        assert_eq!(client(&pxe(&[0, 6, 0, 7])), "PXE, x86-64 UEFI (arch 7)");
        assert_eq!(
            client(&pxe(&[0, 7]).option(77, b"iPXE")),
            "iPXE, x86-64 UEFI (arch 7)"
        );
        assert_eq!(
            client(&pxe(&[0, 0]).option(175, &[1])),
            "iPXE, x86 BIOS (arch 0)"
        );
        let http = packet().option(60, b"HTTPClient:Arch:00016:UNDI:003000");
        assert_eq!(
            client(&http.option(93, &[0, 16])),
            "HTTP Boot, x86-64 UEFI HTTP (arch 16)"
        );
        assert_eq!(
            client(&packet().option(60, b"PXEClient:Arch:00011:UNDI:003000")),
            "PXE, ARM 64-bit UEFI (arch 11)"
        );
    }

    #[test]
    fn what_cannot_boot_here_says_why() {
        let pxe = || PacketBuilder::new(1).option(60, b"PXEClient");
        assert_eq!(
            client(&pxe()),
            "not bootable here: it names no architecture"
        );
        assert_eq!(
            client(&pxe().option(93, &[9, 9])),
            "not bootable here: architecture 2313 is not assigned"
        );
        assert_eq!(
            client(&pxe().option(93, &[0, 6])),
            "not bootable here: no loader for x86 UEFI (arch 6)"
        );
        let pi = PacketBuilder::with_mac([0xdc, 0xa6, 0x32, 1, 2, 3])
            .option(60, b"PXEClient")
            .option(93, &[0, 0]);
        assert_eq!(
            client(&pi),
            "not bootable here: a Raspberry Pi, which calls itself x86 BIOS"
        );
    }
}
