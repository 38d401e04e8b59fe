//! A unified kernel image: systemd's stub with kernel, initrd and command line
//! inside, so that one signature covers them all
//! (UAPI group, "Unified Kernel Image").

use super::SecureError;
use super::pe::Image;

/// What goes into the image.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// systemd's EFI stub.
    pub stub: &'a [u8],
    /// What `os-release` says; shown by boot menus.
    pub os_release: &'a str,
    /// The kernel's whole command line. With Secure Boot nothing can add to it.
    pub command_line: &'a str,
    /// The kernel, an EFI program itself.
    pub kernel: &'a [u8],
    /// The initrd.
    pub initrd: &'a [u8],
}

/// Puts it together, unsigned. The kernel must be for the stub's machine.
pub fn uki(parts: &Parts<'_>) -> Result<Vec<u8>, SecureError> {
    let stub = Image::parse(parts.stub.to_vec())?;
    let kernel = Image::parse(parts.kernel.to_vec())
        .map_err(|_| SecureError::Pe("the kernel has no EFI stub"))?;
    match (stub.machine(), kernel.machine()) {
        (Some(stub), Some(kernel)) if stub == kernel => (),
        _ => {
            return Err(SecureError::Pe(
                "stub and kernel are for different machines",
            ));
        }
    }
    // The stub finds them by name; their order does not matter to it.
    let image = stub.with_sections(&[
        (".osrel", parts.os_release.as_bytes()),
        (".cmdline", parts.command_line.as_bytes()),
        (".linux", parts.kernel),
        (".initrd", parts.initrd),
    ])?;
    Ok(image.aligned().bytes().to_vec())
}
