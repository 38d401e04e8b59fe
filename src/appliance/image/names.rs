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
