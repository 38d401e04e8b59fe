//! Debian packages whose files are read without installing them: loaders for
//! another processor than this machine's.

use std::fs;
use std::path::{Path, PathBuf};

use super::deb::{Deb, Kind};
use super::{Arch, ImageError};
use crate::durable::{self, Access};

/// GRUB has 280 modules, the largest of 600 KB.
const MAX_MODULE: u64 = 4 << 20;

/// The packages' files, as they were named.
#[derive(Clone, Debug, Default)]
pub struct Packages(Vec<PathBuf>);

impl Packages {
    /// These files; they are opened when something is looked for.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self(files)
    }

    /// The content of the first file that would be installed as `path`.
    pub(super) fn read(
        &self,
        arch: Arch,
        path: &Path,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let mut found = None;
        for deb in &self.0 {
            let wrap = ImageError::deb(deb);
            let package = Deb::open(deb, arch).map_err(&wrap)?;
            package.for_each(&wrap, &mut |entry| {
                if found.is_none() && entry.kind == Kind::File && installs(&entry.path, path) {
                    found = Some(entry.read(limit).map_err(&wrap)?);
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Puts the files right below the folder `prefix` (`usr/lib/x/`) into a new folder.
    pub(super) fn unpack(&self, arch: Arch, prefix: &str, to: &Path) -> Result<(), ImageError> {
        fs::create_dir_all(to).map_err(ImageError::at(to))?;
        for deb in &self.0 {
            let wrap = ImageError::deb(deb);
            let package = Deb::open(deb, arch).map_err(&wrap)?;
            package.for_each(&wrap, &mut |entry| {
                let name = entry.path.strip_prefix(prefix).unwrap_or_default();
                if name.is_empty() || name.contains('/') || entry.kind != Kind::File {
                    return Ok(());
                }
                let path = to.join(name);
                let content = entry.read(MAX_MODULE).map_err(&wrap)?;
                durable::write(&path, &content, Access::Public).map_err(ImageError::at(&path))
            })?;
        }
        Ok(())
    }
}

fn installs(entry: &str, path: &Path) -> bool {
    path.strip_prefix("/")
        .is_ok_and(|path| Path::new(entry) == path)
}

#[cfg(test)]
mod tests {
    use super::super::deb::tests::{deb_of, file};
    use super::*;

    #[test]
    fn files_are_read_where_the_package_would_put_them() {
        let folder = tempfile::tempdir().unwrap();
        let deb = folder.path().join("a.deb");
        let items = [
            file("./usr/lib/x/one.efi", b"1"),
            file("./usr/lib/x/deep/two.efi", b"2"),
            file("./usr/lib/xy.efi", b"3"),
        ];
        fs::write(&deb, deb_of(&items)).unwrap();
        let packages = Packages::new(vec![deb]);
        let read = |path: &str| packages.read(Arch::Amd64, Path::new(path), 10);
        assert_eq!(read("/usr/lib/x/one.efi").unwrap(), Some(b"1".to_vec()));
        assert_eq!(read("/usr/lib/x/two.efi").unwrap(), None);
        let to = folder.path().join("out");
        packages.unpack(Arch::Amd64, "usr/lib/x/", &to).unwrap();
        let names: Vec<_> = fs::read_dir(&to).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let error = packages
            .read(Arch::Arm64, Path::new("/usr/lib/xy.efi"), 10)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is a package for amd64, not for arm64"),
            "{error}"
        );
    }
}
