//! The installed system's file tree, entered so that nothing can lead out of
//! it: every path is resolved by the kernel with `openat2(RESOLVE_IN_ROOT)`,
//! where `..` and absolute symlinks end at the tree's own top, and the last
//! part of a path that is written is never followed at all.
//!
//! Paths have no leading slash. What was named (a file, a folder, a link) lasts
//! through a power cut once [`Root::sync`] has returned, and not before.

mod links;
mod remove;
mod write;

pub use write::Prepared;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

/// Folders whose entries were changed and not yet synced; more than this many
/// open files are not kept.
const MAX_UNSYNCED: usize = 64;

/// How a file is opened to be read. NONBLOCK: opening a FIFO must not wait for
/// a writer.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

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

impl From<FsError> for io::Error {
    fn from(error: FsError) -> Self {
        Self::other(error)
    }
}

/// A numeric owner and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Ids {
    /// Whom files of this program belong to.
    pub fn own() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
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
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    unsynced: RefCell<BTreeMap<Inode, OwnedFd>>,
    /// Every folder that was synced, in order.
    #[cfg(test)]
    synced: RefCell<Vec<Inode>>,
}

/// Device and inode: which folder it is, whatever it is called.
type Inode = (u64, u64);

/// An open folder of the installed system.
#[derive(Debug)]
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
            #[cfg(test)]
            synced: RefCell::default(),
        })
    }

    /// Where it is mounted, in this program's own view.
    pub fn mounted_at(&self) -> &Path {
        &self.path
    }

    /// The folder at `path` (no leading slash; empty for the top), links in it
    /// followed within the installed system, as far as whoever made them may
    /// write there too (see `links`). None where there is nothing.
    pub fn folder(&self, path: &str) -> Result<Option<Folder<'_>>, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let found = match self.resolve_how(path, flags, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => links::follow(self, path)?,
            Err(Errno::NOENT) => None,
            Ok(fd) => Some(fd),
            Err(err) => return Err(failed("open", path, err)),
        };
        Ok(found.map(|fd| Folder {
            root: self,
            fd,
            path: path.to_owned(),
        }))
    }

    /// The same, and made where it is missing, with `mode`; what is missing
    /// above it is made too, with 0755. `ids` owns what is made; none: whoever
    /// the system says. A folder that is there stays as it is.
    pub fn make_folder(
        &self,
        path: &str,
        mode: u32,
        ids: Option<Ids>,
    ) -> Result<Folder<'_>, FsError> {
        if let Some(found) = self.folder(path)? {
            return Ok(found);
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.make_folder(parent, 0o755, ids)?
            .new_folder(name, mode, ids)
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
    /// and owner; links are followed within the installed system. None where
    /// there is nothing.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<(Vec<u8>, Meta)>, FsError> {
        match self.resolve(path, READ) {
            Ok(fd) => content(fd, path, limit).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(failed("open", path, err)),
        }
    }

    /// Makes every change of names durable. One folder that fails keeps none
    /// of the others from it; the first failure is told.
    pub fn sync(&self) -> Result<(), FsError> {
        let mut done = Ok(());
        for (_inode, fd) in std::mem::take(&mut *self.unsynced.borrow_mut()) {
            let synced = fs::fsync(fd).map_err(|err| failed("sync a folder of", "", err));
            #[cfg(test)]
            self.synced.borrow_mut().push(_inode);
            done = done.and(synced);
        }
        done
    }

    /// Which folders were synced since this was last asked, in order.
    #[cfg(test)]
    pub(crate) fn synced(&self) -> Vec<Inode> {
        self.synced.take()
    }

    /// How many folders wait to be synced.
    #[cfg(test)]
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.borrow().len()
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve_how(path, flags, ResolveFlags::NO_MAGICLINKS)
    }

    fn resolve_how(&self, path: &str, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let how = how | ResolveFlags::IN_ROOT;
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
        let copy = folder
            .fd
            .try_clone()
            .map_err(|err| failed("open", &folder.path, err))?;
        self.unsynced.borrow_mut().insert(folder.inode()?, copy);
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
        let flags = READ | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(self.in_the_way(name, "is a symlink, not a file")),
            Err(err) => return Err(self.failed("open", name, err)),
        };
        regular(fd, &self.below(name)).map(Some)
    }

    /// Reads the regular file `name` of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<(Vec<u8>, Meta)>, FsError> {
        let Some((file, _)) = self.file(name)? else {
            return Ok(None);
        };
        content(file.into(), &self.below(name), limit).map(Some)
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
        // Its mode from the start, as far as it lets nobody in before the owner
        // is set: a power cut in between must not leave /usr/local shut.
        match fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode & 0o755)) {
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

    /// A path that leads here for as long as this is open, whatever symlinks
    /// stand on the disk.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    fn inode(&self) -> Result<Inode, FsError> {
        let stat = fs::fstat(&self.fd).map_err(|err| failed("look at", &self.path, err))?;
        Ok((stat.st_dev, stat.st_ino))
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

/// The file behind `fd`, if it is one.
fn regular(fd: OwnedFd, path: &str) -> Result<(File, Stat), FsError> {
    let stat = fs::fstat(&fd).map_err(|err| failed("look at", path, err))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FsError::InTheWay {
            path: path.to_owned(),
            why: "is not a regular file",
        });
    }
    Ok((File::from(fd), stat))
}

/// All of a regular file of at most `limit` bytes.
fn content(fd: OwnedFd, path: &str, limit: u64) -> Result<(Vec<u8>, Meta), FsError> {
    let (file, stat) = regular(fd, path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|err| failed("read", path, err))?;
    if bytes.len() as u64 > limit {
        return Err(FsError::InTheWay {
            path: path.to_owned(),
            why: "is larger than such a file can be",
        });
    }
    Ok((bytes, meta(&stat)))
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
mod tests;
