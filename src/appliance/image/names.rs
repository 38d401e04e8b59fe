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

/// shim with the site's own images behind it, for machines that have the site's
/// certificate as a machine owner key. shim starts what has GRUB's name in the
/// folder that it was loaded from, so each image has a folder of its own.
#[derive(Debug)]
pub struct BehindShim {
    /// shim, for the site's image.
    pub shim: &'static str,
    /// The same as [`UKI`].
    pub image: &'static str,
    /// MokManager, which shim starts where the machine does not have the key yet.
    pub mok_manager: &'static str,
    /// shim, for the own disk.
    pub shim_own_disk: &'static str,
    /// The same as [`OWN_DISK`].
    pub own_disk: &'static str,
    /// shim, for a machine that is held.
    pub shim_held: &'static str,
    /// The same as [`HELD`].
    pub held: &'static str,
}

/// For x86-64.
pub const BEHIND_SHIM: BehindShim = BehindShim {
    shim: "mok/shimx64.efi",
    image: "mok/grubx64.efi",
    mok_manager: "mok/mmx64.efi",
    shim_own_disk: "mok-disk/shimx64.efi",
    own_disk: "mok-disk/grubx64.efi",
    shim_held: "mok-held/shimx64.efi",
    held: "mok-held/grubx64.efi",
};
/// For 64-bit ARM.
pub const BEHIND_SHIM_ARM64: BehindShim = BehindShim {
    shim: "mok/shimaa64.efi",
    image: "mok/grubaa64.efi",
    mok_manager: "mok/mmaa64.efi",
    shim_own_disk: "mok-disk/shimaa64.efi",
    own_disk: "mok-disk/grubaa64.efi",
    shim_held: "mok-held/shimaa64.efi",
    held: "mok-held/grubaa64.efi",
};
