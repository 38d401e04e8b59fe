//! What is written: beside its place, then renamed over it; never half, never
//! through a link.

use std::fs::File;
use std::io;

use groundcrew_core::Digest;
use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Folder, FsError, Ids, Meta, meta, set_meta};

/// A new file that has its content, mode and owner, but not yet its name.
/// Dropped before [`Prepared::commit`], it is removed again.
pub struct Prepared<'f, 'a> {
    folder: &'f Folder<'a>,
    file: Option<File>,
    temporary: String,
    name: String,
}

impl<'a> Folder<'a> {
    /// Writes a file whole: made beside, filled, synced, then renamed over
    /// what has the name.
    pub fn write(&self, name: &str, wanted: Meta, bytes: &[u8]) -> Result<(), FsError> {
        let fill = |file: &mut File| io::Write::write_all(file, bytes);
        let prepared = self.prepare(name, wanted, fill)?;
        prepared.sync()?;
        prepared.commit()
    }

    /// Makes a file beside its place and fills it.
    pub fn prepare<'f>(
        &'f self,
        name: &str,
        wanted: Meta,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Prepared<'f, 'a>, FsError> {
        let temporary = temporary_name(name);
        self.remove_leftover(&temporary)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|err| self.failed("create a file beside", name, err))?;
        let mut prepared = Prepared {
            folder: self,
            file: Some(File::from(fd)),
            temporary,
            name: name.to_owned(),
        };
        if let Some(file) = &mut prepared.file {
            fill(file).map_err(|err| self.failed("write", name, err))?;
            set_meta(&*file, wanted)
                .map_err(|err| self.failed("set mode and owner of", name, err))?;
        }
        Ok(prepared)
    }

    /// Takes a file from another folder of the same file system as what `name`
    /// is to become. None where it is another file system.
    pub fn adopt<'f>(
        &'f self,
        from: &Folder<'_>,
        from_name: &str,
        name: &str,
        wanted: Meta,
    ) -> Result<Option<Prepared<'f, 'a>>, FsError> {
        let Some((file, _)) = from.file(from_name)? else {
            return Err(from.in_the_way(from_name, "is gone"));
        };
        let temporary = temporary_name(name);
        match fs::renameat(&from.fd, from_name, &self.fd, &temporary) {
            Ok(()) => {}
            Err(Errno::XDEV) => return Ok(None),
            Err(err) => return Err(self.failed("create a file beside", name, err)),
        }
        let prepared = Prepared {
            folder: self,
            file: Some(file),
            temporary,
            name: name.to_owned(),
        };
        if let Some(file) = &prepared.file {
            set_meta(file, wanted)
                .map_err(|err| self.failed("set mode and owner of", name, err))?;
        }
        Ok(Some(prepared))
    }

    /// Makes the symlink `name`, in place of a link or file of that name.
    pub fn symlink(&self, name: &str, target: &str, ids: Ids) -> Result<(), FsError> {
        let temporary = temporary_name(name);
        self.remove_leftover(&temporary)?;
        fs::symlinkat(target, &self.fd, &temporary)
            .map_err(|err| self.failed("make the link", name, err))?;
        let done = self
            .chown_link(&temporary, ids)
            .and_then(|()| self.rename(&temporary, name));
        if done.is_err() {
            let _ = fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
        }
        done
    }

    /// Where the symlink `name` points. None where there is no symlink.
    pub fn link_target(&self, name: &str) -> Result<Option<Vec<u8>>, FsError> {
        match fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(err) => Err(self.failed("read the link", name, err)),
        }
    }

    /// Sets the owner of `name` itself, a link included.
    pub fn chown_link(&self, name: &str, ids: Ids) -> Result<(), FsError> {
        if self.look(name)?.is_some_and(|stat| meta(&stat).ids == ids) {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
        fs::chownat(
            &self.fd,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|err| self.failed("set the owner of", name, err))
    }

    /// Renames within this folder, over what has the name.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FsError> {
        fs::renameat(&self.fd, from, &self.fd, to)
            .map_err(|err| self.failed("put in place", to, err))?;
        self.root.mark(self)
    }

    fn remove_leftover(&self, temporary: &str) -> Result<(), FsError> {
        match fs::unlinkat(&self.fd, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Not ours: whoever owns this folder put it there.
            Err(Errno::ISDIR) => self.remove_all(temporary),
            Err(err) => Err(self.failed("remove what was left of", temporary, err)),
        }
    }
}

impl Prepared<'_, '_> {
    /// Makes the content durable.
    pub fn sync(&self) -> Result<(), FsError> {
        let file = self.file.as_ref().map_or(Ok(()), File::sync_all);
        file.map_err(|err| self.folder.failed("sync", &self.name, err))
    }

    /// Gives it its name. Its content must be durable by then.
    pub fn commit(mut self) -> Result<(), FsError> {
        self.folder.rename(&self.temporary, &self.name)?;
        self.file = None;
        self.temporary.clear();
        Ok(())
    }
}

impl Prepared<'_, '_> {
    /// Gives it its name already, and returns it to be filled: for files that
    /// nobody else looks at.
    pub fn commit_open(mut self) -> Result<File, FsError> {
        let file = self.file.take();
        let missing = || self.folder.in_the_way(&self.name, "is closed");
        let file = file.ok_or_else(missing)?;
        self.commit()?;
        Ok(file)
    }
}

impl Drop for Prepared<'_, '_> {
    fn drop(&mut self) {
        if !self.temporary.is_empty() {
            let _ = fs::unlinkat(&self.folder.fd, &self.temporary, AtFlags::empty());
        }
    }
}

/// What a file is called until it has its name.
pub(super) fn temporary_name(name: &str) -> String {
    if name.len() <= 200 {
        return format!(".{name}.groundcrew-tmp");
    }
    format!(".{}.groundcrew-tmp", Digest::of(name.as_bytes()).hex())
}
