//! The installed system's file tree, entered so that nothing can lead out of
//! it: every path is resolved by the kernel with `openat2(RESOLVE_IN_ROOT)`,
//! where `..` and absolute symlinks end at the tree's own top, and the last
//! part of a path that is written is never followed at all.

mod write;

pub use write::Prepared;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

/// Folders whose entries were changed and not yet synced; more than this many
/// open files are not kept.
const MAX_UNSYNCED: usize = 64;

/// Something about a file of the device could not be done.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The system refused.
    #[error("{doing} /{path}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The path on the device, without its leading slash.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Something else stands there.
    #[error("/{path} {why}")]
    InTheWay {
        /// The path on the device, without its leading slash.
        path: String,
        /// What stands there and why that stops us.
        why: &'static str,
    },
}

/// A numeric owner and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Permission bits and owner that a file is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub ids: Ids,
}

/// The top of the installed system.
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    unsynced: RefCell<BTreeMap<(u64, u64), OwnedFd>>,
}

/// An open folder of the installed system.
pub struct Folder<'a> {
    root: &'a Root,
    fd: OwnedFd,
    path: String,
}

impl Root {
    /// Opens the folder where the installed system is mounted.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())
            .map_err(|err| failed("open the installed system at", &path.to_string_lossy(), err))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            unsynced: RefCell::default(),
        })
    }

    /// Where it is mounted, in this program's own view.
    pub fn mounted_at(&self) -> &Path {
        &self.path
    }

    /// The folder at `path` (no leading slash; empty for the top), links in it
    /// followed within the installed system. None where there is nothing.
    pub fn folder(&self, path: &str) -> Result<Option<Folder<'_>>, FsError> {
        match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(Folder {
                root: self,
                fd,
                path: path.to_owned(),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(failed("open", path, err)),
        }
    }

    /// The same, and made where it is missing, with everything above it: 0755,
    /// and owned by `ids`.
    pub fn make_folder(&self, path: &str, ids: Option<Ids>) -> Result<Folder<'_>, FsError> {
        if let Some(found) = self.folder(path)? {
            return Ok(found);
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.make_folder(parent, ids)?.new_folder(name, 0o755, ids)
    }

    /// Whether something is at `path`, links followed within the installed
    /// system.
    pub fn exists(&self, path: &str) -> Result<bool, FsError> {
        match self.resolve(path, OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(err) => Err(failed("look for", path, err)),
        }
    }

    /// The content of a regular file of at most `limit` bytes, and its mode
    /// and owner. None where there is nothing.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<(Vec<u8>, Meta)>, FsError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match self.folder(parent)? {
            Some(folder) => folder.read(name, limit),
            None => Ok(None),
        }
    }

    /// Makes every change of names durable.
    pub fn sync(&self) -> Result<(), FsError> {
        for (_, fd) in std::mem::take(&mut *self.unsynced.borrow_mut()) {
            fs::fsync(fd).map_err(|err| failed("sync a folder of", "", err))?;
        }
        Ok(())
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                // the kernel could not rule out a concurrent rename (openat2(2))
                Err(Errno::AGAIN | Errno::INTR) if tries < 16 => tries += 1,
                result => return result,
            }
        }
    }

    fn mark(&self, folder: &Folder<'_>) -> Result<(), FsError> {
        if self.unsynced.borrow().len() >= MAX_UNSYNCED {
            self.sync()?;
        }
        let stat = fs::fstat(&folder.fd).map_err(|err| failed("look at", &folder.path, err))?;
        let copy = folder
            .fd
            .try_clone()
            .map_err(|err| failed("open", &folder.path, err))?;
        self.unsynced
            .borrow_mut()
            .insert((stat.st_dev, stat.st_ino), copy);
        Ok(())
    }
}

impl<'a> Folder<'a> {
    /// The path on the device, without its leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is called `name` here; a link is not followed.
    pub fn look(&self, name: &str) -> Result<Option<Stat>, FsError> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(self.failed("look at", name, err)),
        }
    }

    /// Opens the regular file `name`. None where there is nothing.
    pub fn file(&self, name: &str) -> Result<Option<(File, Stat)>, FsError> {
        // NONBLOCK: opening a FIFO must not wait for a writer
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(self.in_the_way(name, "is a symlink, not a file")),
            Err(err) => return Err(self.failed("open", name, err)),
        };
        let stat = fs::fstat(&fd).map_err(|err| self.failed("look at", name, err))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.in_the_way(name, "is not a regular file"));
        }
        Ok(Some((File::from(fd), stat)))
    }

    /// Reads the regular file `name` of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<(Vec<u8>, Meta)>, FsError> {
        let Some((file, stat)) = self.file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|err| self.failed("read", name, err))?;
        if bytes.len() as u64 > limit {
            return Err(self.in_the_way(name, "is larger than such a file can be"));
        }
        Ok(Some((bytes, meta(&stat))))
    }

    /// The folder `name`; a link is not followed.
    pub fn folder(&self, name: &str) -> Result<Folder<'a>, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(self.in_the_way(name, "is not a folder"));
            }
            Err(err) => return Err(self.failed("open", name, err)),
        };
        Ok(Folder {
            root: self.root,
            fd,
            path: self.below(name),
        })
    }

    /// Makes the folder `name`, which must not exist.
    pub fn new_folder(
        &self,
        name: &str,
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<Folder<'a>, FsError> {
        match fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(self.in_the_way(
                    name,
                    "is in the way of a folder (a file, or a link to nowhere)",
                ));
            }
            Err(err) => return Err(self.failed("make the folder", name, err)),
        }
        let made = self.folder(name)?;
        let stat = fs::fstat(&made.fd).map_err(|err| self.failed("look at", name, err))?;
        let ids = ids.unwrap_or(meta(&stat).ids);
        made.set_meta(Meta { mode, ids })?;
        self.root.mark(self)?;
        Ok(made)
    }

    /// Gives this folder a mode and an owner.
    pub fn set_meta(&self, wanted: Meta) -> Result<(), FsError> {
        set_meta(&self.fd, wanted)
            .map_err(|err| failed("set mode and owner of", &self.path, err))?;
        self.root.mark(self)
    }

    /// Gives the existing file `name` a mode and an owner.
    pub fn set_file_meta(&self, name: &str, wanted: Meta) -> Result<(), FsError> {
        let Some((file, _)) = self.file(name)? else {
            return Err(self.in_the_way(name, "is gone"));
        };
        set_meta(&file, wanted).map_err(|err| self.failed("set mode and owner of", name, err))?;
        file.sync_all()
            .map_err(|err| self.failed("sync", name, err))
    }

    /// The names in this folder, at most `limit`.
    pub fn names(&self, limit: usize) -> Result<Vec<String>, FsError> {
        let dir = fs::Dir::read_from(&self.fd).map_err(|err| failed("list", &self.path, err))?;
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry.map_err(|err| failed("list", &self.path, err))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if names.len() >= limit {
                return Err(FsError::InTheWay {
                    path: self.path.clone(),
                    why: "holds more files than expected",
                });
            }
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    /// Writes out the whole file system that this folder is on: faster than
    /// syncing many files one by one.
    pub fn sync_file_system(&self) -> Result<(), FsError> {
        fs::syncfs(&self.fd).map_err(|err| failed("sync the disk of", &self.path, err))
    }

    /// The device number of the file system that this folder is on.
    pub fn device(&self) -> Result<u64, FsError> {
        Ok(fs::fstat(&self.fd)
            .map_err(|err| failed("look at", &self.path, err))?
            .st_dev)
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        }
    }

    fn failed(&self, doing: &'static str, name: &str, err: impl Into<io::Error>) -> FsError {
        failed(doing, &self.below(name), err)
    }

    /// An error that says what stands at `name`.
    pub fn in_the_way(&self, name: &str, why: &'static str) -> FsError {
        FsError::InTheWay {
            path: self.below(name),
            why,
        }
    }
}

/// Mode and owner as they are.
pub fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        ids: Ids {
            uid: stat.st_uid,
            gid: stat.st_gid,
        },
    }
}

fn set_meta(file: impl AsFd, wanted: Meta) -> Result<(), Errno> {
    let found = meta(&fs::fstat(&file)?);
    if found.ids != wanted.ids {
        let (uid, gid) = (Uid::from_raw(wanted.ids.uid), Gid::from_raw(wanted.ids.gid));
        fs::fchown(&file, Some(uid), Some(gid))?;
    }
    // after the owner: a change of owner clears the set-id bits
    if found != wanted {
        fs::fchmod(&file, Mode::from_raw_mode(wanted.mode))?;
    }
    Ok(())
}

fn failed(doing: &'static str, path: &str, err: impl Into<io::Error>) -> FsError {
    FsError::Io {
        doing,
        path: path.to_owned(),
        source: err.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::write::temporary_name;
    use super::*;
    use std::os::unix::fs::symlink;

    fn ids() -> Ids {
        Ids {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        }
    }

    #[test]
    fn links_in_the_installed_system_end_at_its_own_top() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("etc")).unwrap();
        let inside = tempfile::tempdir().unwrap();
        let root = Root::open(inside.path()).unwrap();
        symlink(outside.path(), inside.path().join("absolute")).unwrap();
        symlink("../../../../../../..", inside.path().join("up")).unwrap();
        symlink("/proc/self/root", inside.path().join("magic")).unwrap();
        symlink("loop", inside.path().join("loop")).unwrap();
        assert!(root.folder("absolute/etc").unwrap().is_none());
        assert!(root.make_folder("absolute/etc", None).is_err());
        let up = root.make_folder("up/made", None).unwrap();
        up.write(
            "x",
            Meta {
                mode: 0o600,
                ids: ids(),
            },
            b"x",
        )
        .unwrap();
        assert!(inside.path().join("made/x").exists());
        assert!(root.folder("magic/etc").unwrap().is_none());
        assert!(root.folder("loop/x").is_err());
        assert_eq!(
            std::fs::read_dir(outside.path().join("etc"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn the_last_part_is_never_followed() {
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "safe").unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(&victim, inside.path().join("file")).unwrap();
        symlink(&victim, inside.path().join(temporary_name("file"))).unwrap();
        let root = Root::open(inside.path()).unwrap();
        let top = root.folder("").unwrap().unwrap();
        assert!(top.read("file", 10).is_err());
        top.write(
            "file",
            Meta {
                mode: 0o644,
                ids: ids(),
            },
            b"new",
        )
        .unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"safe");
        assert!(
            inside
                .path()
                .join("file")
                .symlink_metadata()
                .unwrap()
                .is_file()
        );
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let inside = tempfile::tempdir().unwrap();
        let root = Root::open(inside.path()).unwrap();
        let top = root.folder("").unwrap().unwrap();
        let meta = Meta {
            mode: 0o644,
            ids: ids(),
        };
        drop(top.prepare("a", meta, |_| Ok(())).unwrap());
        assert!(
            top.prepare("b", meta, |_| Err(io::Error::other("full")))
                .is_err()
        );
        assert_eq!(top.names(9).unwrap(), Vec::<String>::new());
        top.write(
            &"n".repeat(255),
            Meta {
                mode: 0o4711,
                ids: ids(),
            },
            b"long",
        )
        .unwrap();
        let stat = top.look(&"n".repeat(255)).unwrap().unwrap();
        assert_eq!(super::meta(&stat).mode, 0o4711);
    }

    #[test]
    fn a_fifo_does_not_stop_us() {
        let inside = tempfile::tempdir().unwrap();
        fs::mknodat(
            fs::CWD,
            inside.path().join("fifo"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let root = Root::open(inside.path()).unwrap();
        assert!(root.read("fifo", 10).is_err());
    }

    #[test]
    fn removing_a_tree_spares_what_links_point_to() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(inside.path().join("t/u")).unwrap();
        symlink(outside.path(), inside.path().join("t/u/link")).unwrap();
        let root = Root::open(inside.path()).unwrap();
        root.folder("").unwrap().unwrap().remove_all("t").unwrap();
        assert!(outside.path().join("keep").exists() && !inside.path().join("t").exists());
    }
}
