//! The files of a boot folder, by name. `site.toml` chooses among them and
//! `image build` makes them.

/// The kernel.
pub const VMLINUZ: &str = "vmlinuz";
/// The initrd.
pub const INITRD: &str = "initrd.img";
/// Kernel, initrd and command line as one EFI program.
pub const UKI: &str = "groundcrew.efi";
/// Starts the system on a UEFI machine's own disk.
pub const OWN_DISK: &str = "local.efi";
/// Says on the screen that the machine is held, and goes on as [`OWN_DISK`].
pub const HELD: &str = "held.efi";
/// iPXE with drivers of its own.
pub const IPXE: &str = "ipxe.efi";
/// iPXE with UEFI's driver.
pub const SNPONLY: &str = "snponly.efi";
/// iPXE with a BIOS's driver.
pub const UNDIONLY: &str = "undionly.kpxe";
/// In every boot folder of x86-64.
pub const ALWAYS: [&str; 6] = [VMLINUZ, INITRD, UNDIONLY, SNPONLY, IPXE, OWN_DISK];
/// Debian's shim, signed by Microsoft.
pub const SHIM: &str = "shimx64.efi";
/// Debian's GRUB for the network, signed by Debian; shim asks for this name.
pub const GRUB: &str = "grubx64.efi";
/// pxelinux, and the library it loads.
pub const PXELINUX: &str = "pxelinux.0";
/// See [`PXELINUX`].
pub const LDLINUX: &str = "ldlinux.c32";
/// [`SHIM`] for 64-bit ARM.
pub const SHIM_ARM64: &str = "shimaa64.efi";
/// [`GRUB`] for 64-bit ARM.
pub const GRUB_ARM64: &str = "grubaa64.efi";

/// shim, and what it starts: whatever has GRUB's name in the folder that shim was
/// loaded from, so each has a folder of its own.
#[derive(Debug)]
pub struct Shim {
    /// shim.
    pub shim: &'static str,
    /// What it starts.
    pub starts: &'static str,
    /// MokManager, which shim starts where the machine does not have the key yet.
    pub mok_manager: &'static str,
}

macro_rules! shim {
    ($folder:literal, $cpu:literal) => {
        Shim {
            shim: concat!($folder, "/shim", $cpu, ".efi"),
            starts: concat!($folder, "/grub", $cpu, ".efi"),
            mok_manager: concat!($folder, "/mm", $cpu, ".efi"),
        }
    };
}

/// shim with the site's own images behind it, for machines that have the site's
/// certificate as a machine owner key.
#[derive(Debug)]
pub struct BehindShim {
    /// The same as [`UKI`].
    pub image: Shim,
    /// The same as [`OWN_DISK`].
    pub own_disk: Shim,
    /// The same as [`HELD`].
    pub held: Shim,
}

/// For x86-64.
pub const BEHIND_SHIM: BehindShim = BehindShim {
    image: shim!("mok", "x64"),
    own_disk: shim!("mok-disk", "x64"),
    held: shim!("mok-held", "x64"),
};
/// For 64-bit ARM.
pub const BEHIND_SHIM_ARM64: BehindShim = BehindShim {
    image: shim!("mok", "aa64"),
    own_disk: shim!("mok-disk", "aa64"),
    held: shim!("mok-held", "aa64"),
};
