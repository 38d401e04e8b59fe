//! Files below a mounted system, never outside it: every path is resolved by
//! the kernel as if the system's root were `/` (`openat2(2)`,
//! `RESOLVE_IN_ROOT`), so no symlink on the disk leads into the boot image.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The root of a mounted system.
#[derive(Debug)]
pub struct Rooted {
    root: OwnedFd,
    path: PathBuf,
}

impl Rooted {
    /// Opens the directory that is to be `/`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let path = path.to_owned();
        Ok(Self { root, path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    /// A regular file's content, if it is not longer than `limit`.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        // NONBLOCK: a FIFO of that name must not hold us.
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{path} is not a file")));
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!(
                "{path} is longer than {limit} bytes"
            )));
        }
        Ok(bytes)
    }

    /// Whether something is there, behind all symlinks.
    pub fn exists(&self, path: &str) -> bool {
        self.at(path, OFlags::PATH).is_ok()
    }

    /// Makes a directory and those above it, and opens it.
    pub fn directory(&self, path: &str, mode: u32) -> io::Result<Directory> {
        let mut below = self.at(".", OFlags::DIRECTORY)?;
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far = format!("{so_far}/{part}");
            match rustix::fs::mkdirat(&below, part, Mode::from_raw_mode(mode)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            below = self.at(&so_far, OFlags::DIRECTORY)?;
        }
        Ok(Directory(below))
    }
}

/// An open directory to write state into.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Writes a file so that after a power cut there is the old one or the
    /// new one: temporary name, sync, rename, sync the directory.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let part = format!(".{name}.part");
        let _ = rustix::fs::unlinkat(&self.0, &part, rustix::fs::AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, &part, flags, Mode::from_raw_mode(mode))?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.0, &part, &self.0, name)?;
        rustix::fs::fsync(&self.0)?;
        Ok(())
    }

    /// A path that leads here for as long as this is open, whatever symlinks
    /// stand on the disk.
    pub fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn no_symlink_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        std::fs::write(root.join("usr/lib/os-release"), "ID=debian").unwrap();
        symlink("/usr/lib/os-release", root.join("etc/os-release")).unwrap();
        symlink(&outside, root.join("var")).unwrap();
        symlink("../../outside/secret", root.join("etc/up")).unwrap();
        let rooted = Rooted::open(&root).unwrap();
        assert_eq!(rooted.read("/etc/os-release", 100).unwrap(), b"ID=debian");
        assert!(rooted.read("/etc/os-release", 3).is_err());
        assert!(rooted.read("/etc/up", 100).is_err());
        assert!(rooted.read("/etc", 100).is_err());
        assert!(rooted.directory("/var/lib/groundcrew", 0o700).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn state_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let rooted = Rooted::open(dir.path()).unwrap();
        let state = rooted.directory("var/lib/groundcrew", 0o700).unwrap();
        state.write("sign.pem", b"old", 0o600).unwrap();
        state.write("sign.pem", b"new", 0o600).unwrap();
        let path = dir.path().join("var/lib/groundcrew/sign.pem");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }
}
