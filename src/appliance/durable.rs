//! The only way state is written to a file: temporary file beside the target,
//! sync, rename, sync of the folder. A crash leaves the old bytes or the new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mode 0644.
    Public,
    /// Mode 0600: keys, and whatever lets somebody act as the site.
    Secret,
}

impl Access {
    const fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Secret => 0o600,
        }
    }
}

/// Replaces `path` with `bytes`.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let temporary = beside(path);
    let result =
        write_synced(&temporary, bytes, access).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The write failed; a stray temporary file is all that could be left.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    sync_folder_of(path)
}

/// Replaces `path` with what `fill` writes.
pub fn write_with(
    path: &Path,
    access: Access,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = beside(path);
    let result = fill_synced(&temporary, access, fill).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // As above.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    sync_folder_of(path)
}

/// Creates `path` with `bytes`; an existing file is an error, never replaced.
pub fn create(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let temporary = beside(path);
    let result =
        write_synced(&temporary, bytes, access).and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    result?;
    sync_folder_of(path)
}

fn write_synced(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    fill_synced(path, access, |file| file.write_all(bytes))
}

fn fill_synced(
    path: &Path,
    access: Access,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(access.mode())
            .open(path)
    };
    let mut file = match open() {
        // Of a process with this number that a power cut ended: no other has it now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()?
        }
        opened => opened?,
    };
    fill(&mut file)?;
    file.sync_all()
}

/// Makes a rename or a new entry in `path`'s folder outlast a power cut.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, b"one", Access::Public).unwrap();
        write(&path, b"two", Access::Secret).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn create_never_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create(&path, b"one", Access::Secret).unwrap();
        assert_eq!(
            create(&path, b"two", Access::Secret).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
