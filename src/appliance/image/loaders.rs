//! The network boot loaders: iPXE as Debian packages it.

use std::fs;
use std::path::{Path, PathBuf};

use super::ImageError;

/// Where Debian's package `ipxe` puts them.
const PLACES: [&str; 2] = ["/usr/lib/ipxe", "/boot"];
/// Real ones have 70 KB to 1 MB.
const MAX_LOADER: u64 = 8 << 20;

/// What each loader is for and how its file must begin.
const LOADERS: [(&str, Form); 3] = [
    ("ipxe.efi", Form::Efi),
    ("snponly.efi", Form::Efi),
    ("undionly.kpxe", Form::Bios),
];

#[derive(Clone, Copy)]
enum Form {
    /// PE for x86-64.
    Efi,
    /// Raw code that a BIOS's PXE jumps into; it has no magic.
    Bios,
}

/// A loader, read and checked.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) name: &'static str,
    pub(super) content: Vec<u8>,
}

/// All loaders, from the named folders first, then from the package's own.
pub(super) fn find(extra: &[PathBuf]) -> Result<Vec<Loader>, ImageError> {
    let own = PLACES.iter().map(PathBuf::from);
    find_in(&extra.iter().cloned().chain(own).collect::<Vec<_>>())
}

fn find_in(places: &[PathBuf]) -> Result<Vec<Loader>, ImageError> {
    let mut missing = Vec::new();
    let mut loaders = Vec::new();
    for (name, form) in LOADERS {
        match places
            .iter()
            .map(|place| place.join(name))
            .find(|path| path.is_file())
        {
            Some(path) => loaders.push(Loader {
                name,
                content: read(&path, form)?,
            }),
            None => missing.push(name),
        }
    }
    if missing.is_empty() {
        return Ok(loaders);
    }
    let places = places
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>();
    Err(ImageError::NoLoader {
        names: missing.join(", "),
        places: places.join(", "),
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
        assert_eq!(find_in(&[folder.path().to_owned()]).unwrap().len(), 3);
        fs::remove_file(folder.path().join("snponly.efi")).unwrap();
        let error = find_in(&[folder.path().to_owned()])
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
        let error = find_in(&[folder.path().to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("not an EFI program"), "{error}");
    }
}
