//! The ways in which real firmware differs from the book: one table, each entry
//! with what is done, why, and what proves it. What is done stands where it is
//! done, and names its entry here.

/// A way in which real firmware differs from the book.
#[derive(Debug, PartialEq, Eq)]
pub struct Quirk {
    /// Its name in logs.
    pub name: &'static str,
    /// What is done, and why.
    pub reason: &'static str,
    /// What shows it.
    pub proof: Proof,
}

/// What shows that firmware does so.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// A capture of `tests/fixtures/captures`.
    Capture(&'static str),
    /// Public reports only; no such machine was here.
    Reported,
}

const fn seen(name: &'static str, capture: &'static str, reason: &'static str) -> Quirk {
    Quirk {
        name,
        reason,
        proof: Proof::Capture(capture),
    }
}

const fn reported(name: &'static str, reason: &'static str) -> Quirk {
    Quirk {
        name,
        reason,
        proof: Proof::Reported,
    }
}

/// Option 60 in the reply to HTTP Boot.
pub const HTTP_CLIENT_ECHO: Quirk = seen(
    "http-client-echo",
    "uefi-httpboot-no-opt60",
    "UEFI HTTP Boot goes on only if the reply says option 60 = HTTPClient",
);
/// `siaddr` is always set.
pub const NEXT_SERVER_SET: Quirk = seen(
    "next-server-set",
    "proxy-bios-ipxe-siaddr0",
    "iPXE ends in \"Nothing to boot\" when siaddr is 0.0.0.0, even with a full URL",
);
/// iPXE's user class has no length byte.
pub const BARE_USER_CLASS: Quirk = seen(
    "bare-user-class",
    "bios-ipxe-virtio",
    "iPXE sends option 77 as the bare text iPXE instead of RFC 3004's list",
);
/// Option 175.176 in the reply to iPXE.
pub const NO_PROXY_WAIT: Quirk = seen(
    "no-proxy-wait",
    "bios-ipxe-virtio",
    "iPXE waits about 3 s for ProxyDHCP offers unless option 175 sub-option 176 says there are none",
);
/// The boot file name carries a NUL.
pub const FILE_NAME_NUL: Quirk = seen(
    "file-name-nul",
    "uefi-pxe-virtio",
    "PXE firmware may write a NUL behind option 67 into its copy of the packet; room is made for it",
);
/// No option 60 = PXEClient from the server that gives the address.
pub const NO_PXE_CLASS: Quirk = seen(
    "no-pxe-class",
    "uefi-pxe-virtio",
    "option 60 = PXEClient turns an offer into a PXE offer that needs option 43 and may lead to port 4011",
);
/// A bare ProxyDHCP offer to UEFI: no option 43, no file.
pub const NO_VENDOR_OPTIONS: Quirk = seen(
    "no-vendor-options",
    "proxy-uefi-pxe",
    "EDK2 takes a proxy offer without option 43 and asks port 4011; with option 43 it walks PXE's menus instead",
);
/// Option 43 in a ProxyDHCP offer to a BIOS ROM: use this file.
pub const USE_THIS_FILE: Quirk = seen(
    "use-this-file",
    "proxy-bios-ipxe",
    "BIOS ROMs and iPXE take the file of a proxy offer if option 43 says discovery control 8, and then need no port 4011",
);
/// Paths with slashes too many or none.
pub const DOUBLED_SLASHES: Quirk = seen(
    "doubled-slashes",
    "uefi-secureboot-shim-grub",
    "shim asks for //grubx64.efi and GRUB for /grub/grub.cfg: slashes are collapsed before a file is looked for",
);
/// Option 97's byte order.
pub const UUID_ORDER: Quirk = seen(
    "uuid-order",
    "uefi-pxe-virtio",
    "option 97 carries the UUID's first three fields little-endian, other tools print them as they lie: both orders are one machine",
);
/// A transfer that ends in an error on purpose.
pub const SIZE_PROBE: Quirk = seen(
    "size-probe",
    "uefi-pxe-virtio",
    "EDK2 asks for tsize and ends that transfer with ERROR 8, then asks again: an ERROR from the peer is an end, not a failure",
);
/// One router advertisement.
pub const NO_ROUTER_WAIT: Quirk = seen(
    "no-router-wait",
    "bios-ipxe-virtio-nora",
    "iPXE waits 13 s for an IPv6 router; one advertisement with lifetime 0 ends the wait",
);
/// Raspberry Pi boot ROMs.
pub const RASPBERRY_PI_ARCH_0: Quirk = reported(
    "raspberry-pi-arch-0",
    "a Raspberry Pi announces architecture 0 (x86 BIOS) and cannot run its loader: it gets an address only",
);
/// Architecture 9 for x86-64.
pub const ARCH_9_IS_X64: Quirk = reported(
    "arch-9-is-x64",
    "RFC 4578 as printed calls 9 EFI x86-64 and 7 EFI BC; older firmware follows the print, so 9 gets the x86-64 loader",
);
/// Some HP firmware.
pub const PROXY_OFFER_IGNORED: Quirk = reported(
    "proxy-offer-ignored",
    "some HP UEFI firmware takes no bare proxy offer and never asks port 4011: where a device stays silent after it, give the addresses from here",
);
/// Docks and dongles.
pub const SHARED_MAC: Quirk = reported(
    "shared-mac",
    "docks and USB adapters carry one hardware address from machine to machine: it names a device only where UUID and serial are not told",
);

/// All of them.
pub static ALL: [&Quirk; 16] = [
    &HTTP_CLIENT_ECHO,
    &NEXT_SERVER_SET,
    &BARE_USER_CLASS,
    &NO_PROXY_WAIT,
    &FILE_NAME_NUL,
    &NO_PXE_CLASS,
    &NO_VENDOR_OPTIONS,
    &USE_THIS_FILE,
    &DOUBLED_SLASHES,
    &UUID_ORDER,
    &SIZE_PROBE,
    &NO_ROUTER_WAIT,
    &RASPBERRY_PI_ARCH_0,
    &ARCH_9_IS_X64,
    &PROXY_OFFER_IGNORED,
    &SHARED_MAC,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_and_unique() {
        let names: BTreeSet<_> = ALL.iter().map(|quirk| quirk.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(name.bytes().all(plain), "{name}");
        }
    }
}
