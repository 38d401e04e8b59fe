//! The network boot loaders, as Debian packages them.

use std::fs;
use std::path::{Path, PathBuf};

use super::packages::Packages;
use super::{Arch, ImageError, names, secure};

/// Real ones have 40 KB to 4 MB.
const MAX_LOADER: u64 = 8 << 20;

/// Loaders that are wanted together, and the packages that have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderSet {
    /// iPXE: in every boot folder.
    Ipxe,
    /// shim and GRUB, both signed.
    Shim,
    /// shim and MokManager, for the site's own images.
    BehindShim,
    /// pxelinux.
    Pxelinux,
}

/// One loader: its name in the boot folder, its file's name, where that lies,
/// and how it must begin.
struct Row(&'static str, &'static str, &'static [&'static str], Form);

const IPXE: [Row; 3] = [
    Row(names::IPXE, "ipxe.efi", IPXE_PLACES, Form::Efi),
    Row(names::SNPONLY, "snponly.efi", IPXE_PLACES, Form::Efi),
    Row(names::UNDIONLY, "undionly.kpxe", IPXE_PLACES, Form::Bios),
];
/// Debian's build for ARM has all drivers in one, for PXE and HTTP Boot.
const IPXE_ARM64: [Row; 1] = [Row(names::IPXE, "ipxe-arm64.efi", IPXE_PLACES, Form::Efi)];
const SHIM_PLACES: &[&str] = &["/usr/lib/shim"];
const SHIM_ARM64: [Row; 2] = [
    Row(
        names::SHIM_ARM64,
        "shimaa64.efi.signed",
        SHIM_PLACES,
        Form::Efi,
    ),
    Row(
        names::GRUB_ARM64,
        "grubnetaa64.efi.signed",
        &["/usr/lib/grub/arm64-efi-signed"],
        Form::Efi,
    ),
];
const IPXE_PLACES: &[&str] = &["/usr/lib/ipxe", "/boot"];
const SHIM: [Row; 2] = [
    Row(names::SHIM, "shimx64.efi.signed", SHIM_PLACES, Form::Efi),
    Row(
        names::GRUB,
        "grubnetx64.efi.signed",
        &["/usr/lib/grub/x86_64-efi-signed"],
        Form::Efi,
    ),
];
const BEHIND_SHIM: [Row; 6] = behind_shim(
    &names::BEHIND_SHIM,
    "shimx64.efi.signed",
    "mmx64.efi.signed",
);
const BEHIND_SHIM_ARM64: [Row; 6] = behind_shim(
    &names::BEHIND_SHIM_ARM64,
    "shimaa64.efi.signed",
    "mmaa64.efi.signed",
);
/// A machine may lack the key whichever of them it is sent to.
const fn behind_shim(
    names::BehindShim {
        image,
        own_disk,
        held,
    }: &names::BehindShim,
    shim: &'static str,
    mok_manager: &'static str,
) -> [Row; 6] {
    [
        Row(image.shim, shim, SHIM_PLACES, Form::Efi),
        Row(image.mok_manager, mok_manager, SHIM_PLACES, Form::Efi),
        Row(own_disk.shim, shim, SHIM_PLACES, Form::Efi),
        Row(own_disk.mok_manager, mok_manager, SHIM_PLACES, Form::Efi),
        Row(held.shim, shim, SHIM_PLACES, Form::Efi),
        Row(held.mok_manager, mok_manager, SHIM_PLACES, Form::Efi),
    ]
}
const PXELINUX: [Row; 2] = [
    Row(
        names::PXELINUX,
        "pxelinux.0",
        &["/usr/lib/PXELINUX"],
        Form::Bios,
    ),
    Row(
        names::LDLINUX,
        "ldlinux.c32",
        &["/usr/lib/syslinux/modules/bios"],
        Form::Bios,
    ),
];

impl LoaderSet {
    fn rows(self, arch: Arch) -> &'static [Row] {
        match (self, arch) {
            (Self::Ipxe, Arch::Amd64) => &IPXE,
            (Self::Ipxe, Arch::Arm64) => &IPXE_ARM64,
            (Self::Shim, Arch::Amd64) => &SHIM,
            (Self::Shim, Arch::Arm64) => &SHIM_ARM64,
            (Self::BehindShim, Arch::Amd64) => &BEHIND_SHIM,
            (Self::BehindShim, Arch::Arm64) => &BEHIND_SHIM_ARM64,
            (Self::Pxelinux, Arch::Amd64) => &PXELINUX,
            // It is for BIOS, which no ARM machine has.
            (Self::Pxelinux, Arch::Arm64) => &[],
        }
    }

    fn packages(self, arch: Arch) -> &'static str {
        match (self, arch) {
            (Self::Ipxe, Arch::Amd64) => "ipxe",
            (Self::Ipxe, Arch::Arm64) => "ipxe (of Debian 13 or newer; it is for all machines)",
            (Self::Shim, Arch::Amd64) => "shim-signed grub-efi-amd64-signed",
            (Self::Shim, Arch::Arm64) => "shim-signed:arm64 grub-efi-arm64-signed:arm64",
            (Self::BehindShim, Arch::Amd64) => "shim-signed shim-helpers-amd64-signed",
            (Self::BehindShim, Arch::Arm64) => "shim-signed:arm64 shim-helpers-arm64-signed:arm64",
            (Self::Pxelinux, _) => "pxelinux syslinux-common",
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    /// PE for the image's processor.
    Efi,
    /// Raw code that a BIOS's PXE jumps into, or that such code loads.
    Bios,
}

/// A loader, read and checked.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) name: &'static str,
    pub(super) content: Vec<u8>,
}

/// All loaders of a set, from the named folders first, then from where its
/// packages are installed, then out of the packages' files.
pub(super) fn find(
    set: LoaderSet,
    arch: Arch,
    extra: &[PathBuf],
    packages: &Packages,
) -> Result<Vec<Loader>, ImageError> {
    find_in(set, arch, packages, |places| {
        let own = places.iter().map(PathBuf::from);
        extra.iter().cloned().chain(own).collect()
    })
}

/// `places_of`: where to look, by where the package has the file.
fn find_in(
    set: LoaderSet,
    arch: Arch,
    packages: &Packages,
    places_of: impl Fn(&[&str]) -> Vec<PathBuf>,
) -> Result<Vec<Loader>, ImageError> {
    let (mut missing, mut looked, mut loaders) = (Vec::new(), Vec::new(), Vec::new());
    for Row(name, file, places, form) in set.rows(arch) {
        let (inside, places) = (places, places_of(places));
        let mut found = places.iter().map(|place| place.join(file));
        let (path, content) = match found.find(|path| path.is_file()) {
            Some(path) => (path.clone(), Some(read(&path)?)),
            None => packed(arch, packages, inside, file)?,
        };
        match content {
            Some(content) => loaders.push(Loader {
                name,
                content: checked(&path, content, *form, arch)?,
            }),
            None => {
                missing.push(*file);
                looked.extend(places.iter().map(|place| place.display().to_string()));
            }
        }
    }
    if missing.is_empty() {
        return Ok(loaders);
    }
    looked.sort();
    looked.dedup();
    Err(ImageError::NoLoader {
        names: missing.join(", "),
        places: looked.join(", "),
        packages: set.packages(arch),
    })
}

/// A loader out of a package's file, and the name it has there.
fn packed(
    arch: Arch,
    packages: &Packages,
    places: &[&str],
    file: &str,
) -> Result<(PathBuf, Option<Vec<u8>>), ImageError> {
    for place in places {
        let path = Path::new(place).join(file);
        let content = packages.read(arch, &path, MAX_LOADER)?;
        if content.is_some() {
            return Ok((path, content));
        }
    }
    Ok((PathBuf::from(file), None))
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let size = fs::metadata(path).map_err(ImageError::at(path))?.len();
    if size > MAX_LOADER {
        return Err(bad(path, NO_SIZE));
    }
    fs::read(path).map_err(ImageError::at(path))
}

const NO_SIZE: &str = "its size is not that of a boot loader";

fn bad(path: &Path, why: &'static str) -> ImageError {
    ImageError::BadLoader {
        path: path.to_owned(),
        why,
    }
}

fn checked(path: &Path, content: Vec<u8>, form: Form, arch: Arch) -> Result<Vec<u8>, ImageError> {
    match form {
        _ if content.is_empty() => Err(bad(path, NO_SIZE)),
        Form::Efi if !secure::is_for(&content, arch.pe()) => Err(bad(
            path,
            match arch {
                Arch::Amd64 => "it is not an EFI program for x86-64",
                Arch::Arm64 => "it is not an EFI program for 64-bit ARM",
            },
        )),
        _ => Ok(content),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder with the three loaders in their least form.
    pub(in crate::image) fn loaders_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut efi = vec![0; 0x40];
        efi[..2].copy_from_slice(b"MZ");
        efi[0x3c] = 0x40;
        efi.extend_from_slice(b"PE\0\0\x64\x86");
        fs::write(folder.path().join("ipxe.efi"), &efi).unwrap();
        fs::write(folder.path().join("snponly.efi"), &efi).unwrap();
        fs::write(folder.path().join("undionly.kpxe"), b"code").unwrap();
        folder
    }

    fn at(folder: &tempfile::TempDir) -> Result<Vec<Loader>, ImageError> {
        let places = |_: &[&str]| vec![folder.path().to_owned()];
        find_in(LoaderSet::Ipxe, Arch::Amd64, &Packages::default(), places)
    }

    #[test]
    fn a_missing_loader_says_what_to_install() {
        let folder = loaders_folder();
        assert_eq!(at(&folder).unwrap().len(), 3);
        fs::remove_file(folder.path().join("snponly.efi")).unwrap();
        let error = at(&folder).unwrap_err().to_string();
        for part in ["snponly.efi", "apt-get install ipxe", "--ipxe-dir"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("undionly"));
    }

    #[test]
    fn a_file_that_is_no_loader_is_refused() {
        let folder = loaders_folder();
        fs::write(folder.path().join("ipxe.efi"), b"<html>not found</html>").unwrap();
        let error = at(&folder).unwrap_err().to_string();
        assert!(error.contains("not an EFI program"), "{error}");
    }
}
