//! Removing a folder whatever was put into it: any depth, any number, any name.
//! No recursion and no list: users of the installed system may have planted it,
//! and PID 1 must not run out of stack, memory or descriptors.

use std::ffi::CStr;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Folder, FsError};

impl Folder<'_> {
    /// Removes `name` and, if it is a folder, all that is in it; links are
    /// removed, not followed. Nothing there is fine.
    pub fn remove_all(&self, name: &str) -> Result<(), FsError> {
        let Some(stat) = self.look(name)? else {
            return Ok(());
        };
        let failed = |err| self.failed("remove", name, err);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(failed);
        }
        let folder = self.folder(name)?;
        folder.empty().map_err(failed)?;
        fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(failed)
    }

    /// What is in a folder inside is brought up here first, so that nothing is
    /// ever deeper than that.
    fn empty(&self) -> Result<(), Errno> {
        let mut brought = 0_u64;
        self.each(&mut |name| {
            match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                done => return done,
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = Folder {
                root: self.root,
                fd: fs::openat(&self.fd, name, flags, Mode::empty())?,
                path: String::new(),
            };
            inner.each(
                &mut |below| match fs::unlinkat(&inner.fd, below, AtFlags::empty()) {
                    Err(Errno::ISDIR) => inner.bring_up(below, self, &mut brought),
                    done => done,
                },
            )?;
            fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
        })
    }

    /// Hands every entry to `remove`, until none is left: entries may be passed
    /// over while others go.
    fn each(&self, remove: &mut dyn FnMut(&CStr) -> Result<(), Errno>) -> Result<(), Errno> {
        loop {
            let mut seen = false;
            for entry in fs::Dir::read_from(&self.fd)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                seen = true;
                match remove(name) {
                    // It was told twice.
                    Ok(()) | Err(Errno::NOENT) => {}
                    failed => return failed,
                }
            }
            if !seen {
                return Ok(());
            }
        }
    }

    fn bring_up(&self, name: &CStr, to: &Folder<'_>, brought: &mut u64) -> Result<(), Errno> {
        loop {
            *brought += 1;
            match fs::renameat(&self.fd, name, &to.fd, format!(".{brought}")) {
                // A name that is taken.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                done => return done,
            }
        }
    }
}
