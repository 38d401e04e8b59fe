//! `local.efi` and `held.efi`: start the system on a UEFI machine's own disk. GRUB
//! images made by Debian's `grub-mkimage` with our script inside.

use std::path::Path;
use std::process::Command;

use super::packages::Packages;
use super::{Arch, ImageError};

const OWN_DISK: &str = include_str!("../../../image/local.cfg");
const HELD: &str = include_str!("../../../image/held.cfg");

/// What the machine's user is told before its own disk starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// Which loader is started.
    Nothing,
    /// That the machine is held, and how it is released.
    Held,
}

impl Says {
    fn script(self) -> String {
        match self {
            Self::Nothing => OWN_DISK.to_owned(),
            Self::Held => format!("{HELD}{OWN_DISK}"),
        }
    }
}

/// What the scripts use, and the partition tables and file system of disks that
/// UEFI boots from.
const MODULES: [&str; 17] = [
    "part_gpt",
    "part_msdos",
    "fat",
    "chain",
    "search",
    "search_fs_file",
    "normal",
    "test",
    "minicmd",
    "echo",
    "memdisk",
    "tar",
    "configfile",
    "sleep",
    "smbios",
    "boot",
    // Under Secure Boot GRUB starts nothing that none of its verifiers looked
    // at. This one measures into a TPM, if there is one, and refuses nothing:
    // what is chained is started by firmware, which checks it against its db.
    // Nothing else can be loaded: there is no `linux`, no menu and no prompt.
    "tpm",
];

/// Builds it for a processor, from GRUB's modules where their package is
/// installed, or out of its file. `sbat`: GRUB's revocation level, without which
/// shim does not start it. The same GRUB gives the same bytes.
pub(super) fn build(
    arch: Arch,
    packages: &Packages,
    sbat: Option<&[u8]>,
    says: Says,
) -> Result<Vec<u8>, ImageError> {
    let folder = tempfile::tempdir().map_err(ImageError::at(&std::env::temp_dir()))?;
    let installed = Path::new("/usr/lib/grub").join(arch.grub());
    let modules = if installed.is_dir() {
        installed
    } else {
        let unpacked = folder.path().join(arch.grub());
        packages.unpack(arch, &format!("usr/lib/grub/{}/", arch.grub()), &unpacked)?;
        unpacked
    };
    let (memdisk, out) = (
        folder.path().join("memdisk.tar"),
        folder.path().join("out.efi"),
    );
    // An embedded configuration (-c) is read by GRUB's rescue parser, which has
    // no `if`; one found in a memory disk is read by the normal one.
    let script = tar_of(&says.script()).map_err(ImageError::at(&memdisk))?;
    std::fs::write(&memdisk, script).map_err(ImageError::at(&memdisk))?;
    let level = folder.path().join("sbat.csv");
    if let Some(sbat) = sbat {
        std::fs::write(&level, sbat).map_err(ImageError::at(&level))?;
    }
    run(arch, &modules, &memdisk, sbat.map(|_| &*level), &out)?;
    std::fs::read(&out).map_err(ImageError::at(&out))
}

fn run(
    arch: Arch,
    modules: &Path,
    memdisk: &Path,
    sbat: Option<&Path>,
    out: &Path,
) -> Result<(), ImageError> {
    let mut command = Command::new("grub-mkimage");
    command
        .args([
            "--format",
            arch.grub(),
            // What it starts is checked by whoever started it: firmware, or shim
            // in firmware's place.
            "--disable-shim-lock",
            "--prefix",
            "(memdisk)/boot/grub",
            "--memdisk",
        ])
        .arg(memdisk);
    if let Some(sbat) = sbat {
        command.arg("--sbat").arg(sbat);
    }
    command.arg("--directory").arg(modules);
    command.arg("--output").arg(out).args(MODULES);
    let failed = |reason: String| ImageError::NoGrub {
        reason,
        package: arch.grub_package(),
    };
    let output = command
        .output()
        .map_err(|error| failed(format!("grub-mkimage: {error}")))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(
            String::from_utf8_lossy(&output.stderr)
                .trim()
                .chars()
                .take(300)
                .collect(),
        ))
    }
}

fn tar_of(script: &str) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(script.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "boot/grub/grub.cfg", script.as_bytes())?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_each_time() {
        for says in [Says::Nothing, Says::Held] {
            let made = || build(Arch::Amd64, &Packages::default(), None, says);
            let (first, second) = (made().unwrap(), made().unwrap());
            assert_eq!(first, second);
            assert!(first.starts_with(b"MZ") && first.len() < 2 << 20);
        }
    }

    #[test]
    fn a_held_machine_s_screen_fits_and_names_what_to_do() {
        let script = Says::Held.script();
        let said: Vec<&str> = script
            .lines()
            .filter_map(|line| line.strip_prefix("echo \"groundcrew: "))
            .collect();
        assert!(said.iter().all(|line| line.len() <= 66), "{said:#?}");
        for order in ["boot list", "boot explain", "boot release"] {
            assert!(said.iter().any(|line| line.contains(order)), "{order}");
        }
        assert!(script.ends_with(OWN_DISK));
    }
}
