//! The network boot loaders, as Debian packages them.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ImageError, names};

/// Real ones have 40 KB to 4 MB.
const MAX_LOADER: u64 = 8 << 20;

/// Loaders that are wanted together, and the packages that have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderSet {
    /// iPXE: in every boot folder.
    Ipxe,
    /// shim and GRUB, both signed.
    Shim,
    /// pxelinux.
    Pxelinux,
}

/// One loader: its name in the boot folder, its file's name, where that lies,
/// and how it must begin.
struct Row(&'static str, &'static str, &'static [&'static str], Form);

const IPXE: [Row; 3] = [
    Row("ipxe.efi", "ipxe.efi", IPXE_PLACES, Form::Efi),
    Row("snponly.efi", "snponly.efi", IPXE_PLACES, Form::Efi),
    Row("undionly.kpxe", "undionly.kpxe", IPXE_PLACES, Form::Bios),
];
const IPXE_PLACES: &[&str] = &["/usr/lib/ipxe", "/boot"];
const SHIM: [Row; 2] = [
    Row(
        names::SHIM,
        "shimx64.efi.signed",
        &["/usr/lib/shim"],
        Form::Efi,
    ),
    Row(
        names::GRUB,
        "grubnetx64.efi.signed",
        &["/usr/lib/grub/x86_64-efi-signed"],
        Form::Efi,
    ),
];
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
    fn rows(self) -> &'static [Row] {
        match self {
            Self::Ipxe => &IPXE,
            Self::Shim => &SHIM,
            Self::Pxelinux => &PXELINUX,
        }
    }

    fn packages(self) -> &'static str {
        match self {
            Self::Ipxe => "ipxe",
            Self::Shim => "shim-signed grub-efi-amd64-signed",
            Self::Pxelinux => "pxelinux syslinux-common",
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    /// PE for x86-64.
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

/// All loaders of a set, from the named folders first, then from its packages.
pub(super) fn find(set: LoaderSet, extra: &[PathBuf]) -> Result<Vec<Loader>, ImageError> {
    find_in(set, |places| {
        let own = places.iter().map(PathBuf::from);
        extra.iter().cloned().chain(own).collect()
    })
}

/// `places_of`: where to look, by where the package has the file.
fn find_in(
    set: LoaderSet,
    places_of: impl Fn(&[&str]) -> Vec<PathBuf>,
) -> Result<Vec<Loader>, ImageError> {
    let (mut missing, mut looked, mut loaders) = (Vec::new(), Vec::new(), Vec::new());
    for Row(name, file, places, form) in set.rows() {
        let places = places_of(places);
        let found = places.iter().map(|place| place.join(file));
        match found.into_iter().find(|path| path.is_file()) {
            Some(path) => loaders.push(Loader {
                name,
                content: read(&path, *form)?,
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
        packages: set.packages(),
    })
}

fn read(path: &Path, form: Form) -> Result<Vec<u8>, ImageError> {
    let size = fs::metadata(path).map_err(ImageError::at(path))?.len();
    let bad = |why: &'static str| ImageError::BadLoader {
        path: path.to_owned(),
        why,
    };
    if size == 0 || size > MAX_LOADER {
        return Err(bad("its size is not that of a boot loader"));
    }
    let content = fs::read(path).map_err(ImageError::at(path))?;
    match form {
        Form::Efi if !is_efi_x86_64(&content) => Err(bad("it is not an EFI program for x86-64")),
        _ => Ok(content),
    }
}

/// PE: `MZ`, at 0x3c the offset of `PE\0\0`, then the machine.
fn is_efi_x86_64(content: &[u8]) -> bool {
    let at = content
        .get(0x3c..)
        .and_then(|c| c.first_chunk())
        .map(|c| u32::from_le_bytes(*c));
    let header = at.and_then(|at| content.get(usize::try_from(at).ok()?..));
    content.starts_with(b"MZ") && header.is_some_and(|h| h.starts_with(b"PE\0\0\x64\x86"))
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

    #[test]
    fn a_missing_loader_says_what_to_install() {
        let folder = loaders_folder();
        assert_eq!(
            find_in(LoaderSet::Ipxe, |_| vec![folder.path().to_owned()])
                .unwrap()
                .len(),
            3
        );
        fs::remove_file(folder.path().join("snponly.efi")).unwrap();
        let error = find_in(LoaderSet::Ipxe, |_| vec![folder.path().to_owned()])
            .unwrap_err()
            .to_string();
        for part in ["snponly.efi", "apt-get install ipxe", "--ipxe-dir"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("undionly"));
    }

    #[test]
    fn a_file_that_is_no_loader_is_refused() {
        let folder = loaders_folder();
        fs::write(folder.path().join("ipxe.efi"), b"<html>not found</html>").unwrap();
        let error = find_in(LoaderSet::Ipxe, |_| vec![folder.path().to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("not an EFI program"), "{error}");
    }
}
