//! Links on the way to a folder that is to be written into.
//!
//! What a user of the installed system links to must not become what root
//! writes into: with `~/.config` a link to `/etc/profile.d`, a step for a file in
//! that user's `~/.config` would hand them a place in `/etc`. So a link that
//! lies in a user's folder is followed only to a folder of the same user.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::{FsError, Root, failed};

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A walk from the top, one name at a time: nothing but names and `..` below
/// the top, so it cannot leave.
struct Walk<'a> {
    root: &'a Root,
    path: &'a str,
    /// The folders gone through below the top.
    at: Vec<OwnedFd>,
    /// The names still to go, the next one last.
    left: Vec<Vec<u8>>,
    /// Users whose links were followed.
    led_by: Vec<u32>,
    links: usize,
}

/// The folder at `path`, links followed. None where there is nothing.
pub(super) fn follow(root: &Root, path: &str) -> Result<Option<OwnedFd>, FsError> {
    let mut walk = Walk {
        root,
        path,
        at: Vec::new(),
        left: Vec::new(),
        led_by: Vec::new(),
        links: 0,
    };
    walk.push(path.as_bytes());
    while let Some(name) = walk.left.pop() {
        match name.as_slice() {
            b"" | b"." => {}
            b".." => drop(walk.at.pop()),
            name => {
                if !walk.enter(name)? {
                    return Ok(None);
                }
            }
        }
    }
    walk.end().map(Some)
}

impl Walk<'_> {
    fn push(&mut self, path: &[u8]) {
        let names = path.rsplit(|byte| *byte == b'/');
        self.left.extend(names.map(<[u8]>::to_vec));
    }

    fn here(&self) -> &OwnedFd {
        self.at.last().unwrap_or(&self.root.fd)
    }

    /// One name further; false where there is nothing.
    fn enter(&mut self, name: &[u8]) -> Result<bool, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(self.here(), name, flags, Mode::empty()) {
            Ok(fd) => self.at.push(fd),
            Err(Errno::NOENT) => return Ok(false),
            Err(err @ (Errno::NOTDIR | Errno::LOOP)) => self.link(name, err)?,
            Err(err) => return Err(self.failed(err)),
        }
        Ok(true)
    }

    fn link(&mut self, name: &[u8], otherwise: Errno) -> Result<(), FsError> {
        let target = match fs::readlinkat(self.here(), name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(Errno::INVAL) => return Err(self.failed(otherwise)),
            Err(err) => return Err(self.failed(err)),
        };
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.failed(Errno::LOOP));
        }
        self.led_by.push(self.owner(self.here())?);
        if target.starts_with(b"/") {
            self.at.clear();
        }
        self.push(&target);
        Ok(())
    }

    fn end(mut self) -> Result<OwnedFd, FsError> {
        let trusted = [0, self.owner(&self.root.fd)?];
        let owner = self.owner(self.here())?;
        let may = |by: &u32| trusted.contains(by) || *by == owner;
        if !self.led_by.iter().all(may) {
            return Err(FsError::InTheWay {
                path: self.path.to_owned(),
                why: "goes through a user's link into a folder that is not that user's: remove the link",
            });
        }
        let copied = self.root.fd.as_fd();
        match self.at.pop() {
            Some(fd) => Ok(fd),
            None => copied
                .try_clone_to_owned()
                .map_err(|err| failed("open", self.path, err)),
        }
    }

    fn owner(&self, folder: &OwnedFd) -> Result<u32, FsError> {
        let stat = fs::fstat(folder).map_err(|err| self.failed(err))?;
        Ok(stat.st_uid)
    }

    fn failed(&self, err: Errno) -> FsError {
        failed("open", self.path, err)
    }
}
