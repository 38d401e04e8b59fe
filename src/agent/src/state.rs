//! What a device keeps in `/var/lib/groundcrew` of its installed system.

use std::io;
use std::path::PathBuf;

use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::Grant;
use rustix::fs::FileType;
use serde::Serialize;

use crate::enroll::Keys;
use crate::root::{Folder, FsError, Ids, Meta, Root};
use crate::trust::Memory;

/// The folder, below the system's root.
const DIRECTORY: &str = "var/lib/groundcrew";
const STAGING: &str = "staging";
/// More blobs than any bundle has.
const MAX_STAGED: usize = 1 << 16;
const MEMORY: &str = "trusted.json";
const MAX_MEMORY: u64 = 16 << 20;
const SIGN_KEY: &str = "sign.pem";
const SEAL_KEY: &str = "seal.key";
const MAX_KEY: u64 = 4096;

/// What the disk remembers of trust; nothing, if there is nothing readable.
pub fn recall(root: &Root) -> Memory {
    read(root, MEMORY, MAX_MEMORY)
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// The keys of an earlier start that was granted, if they lie here whole.
pub fn recall_keys(root: &Root) -> Option<Keys> {
    Keys::saved(
        &read(root, SIGN_KEY, MAX_KEY)?,
        &read(root, SEAL_KEY, MAX_KEY)?,
    )
}

fn read(root: &Root, name: &str, limit: u64) -> Option<Vec<u8>> {
    let found = root.read(&format!("{DIRECTORY}/{name}"), limit).ok()?;
    found.map(|(bytes, _)| bytes)
}

/// The folder, open for writing. What a method has saved is there after a
/// power cut, and so is the folder itself.
#[derive(Debug)]
pub struct State<'a> {
    root: &'a Root,
    folder: Folder<'a>,
}

impl<'a> State<'a> {
    /// Opens (and makes) it; only root may look inside.
    pub fn open(root: &'a Root) -> Result<Self, FsError> {
        let folder = root.make_folder(DIRECTORY, 0o700, None)?;
        root.sync()?;
        Ok(Self { root, folder })
    }

    /// A folder in it for a download that is resumed after a power cut. What
    /// the disk holds there is nothing but folders and files: the download opens
    /// paths in this program's own view, where a link would lead out.
    pub fn staging(&self) -> Result<PathBuf, FsError> {
        let mut blobs = real_folder(&self.folder, STAGING)?;
        for name in ["blobs", "sha256"] {
            blobs = real_folder(&blobs, name)?;
        }
        for name in blobs.names(MAX_STAGED)? {
            let found = blobs.look(&name)?.map(|stat| stat.st_mode);
            if found.map(FileType::from_raw_mode) != Some(FileType::RegularFile) {
                blobs.remove_all(&name)?;
            }
        }
        Ok(self.folder.proc_path().join(STAGING))
    }

    /// The keys, from now on this device's. 0600.
    pub fn save_keys(&self, keys: &Keys) -> io::Result<()> {
        self.write(SIGN_KEY, keys.sign.to_pem().as_bytes())?;
        self.write(SEAL_KEY, format!("{}\n", keys.seal_secret()).as_bytes())
    }

    /// The grant, as it came, and in clear for people and scripts.
    pub fn save_grant(&self, envelope: &Envelope, grant: &Grant) -> io::Result<()> {
        self.save_json("grant.dsse.json", envelope)?;
        self.save_json("grant.json", grant)
    }

    /// The receipt, as it is sent.
    pub fn save_receipt(&self, envelope: &Envelope) -> io::Result<()> {
        self.save_json("receipt.dsse.json", envelope)
    }

    /// What to be stricter by at the next start.
    pub fn save_memory(&self, memory: &Memory) -> io::Result<()> {
        self.save_json(MEMORY, memory)
    }

    /// The agent's log of this start.
    pub fn save_log(&self, log: &str) -> io::Result<()> {
        self.write("agent.log", log.as_bytes())
    }

    fn save_json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (mode, ids) = (0o600, Ids::own());
        self.folder.write(name, Meta { mode, ids }, bytes)?;
        Ok(self.root.sync()?)
    }
}

/// The folder `name`, made where there is none; anything else there goes.
fn real_folder<'a>(above: &Folder<'a>, name: &str) -> Result<Folder<'a>, FsError> {
    let found = above.look(name)?.map(|stat| stat.st_mode);
    if found.map(FileType::from_raw_mode) == Some(FileType::Directory) {
        return above.folder(name);
    }
    above.remove_all(name)?;
    above.new_folder(name, 0o700, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    fn inode(path: &Path) -> (u64, u64) {
        let found = std::fs::metadata(path).unwrap();
        (found.dev(), found.ino())
    }

    #[test]
    fn a_power_cut_takes_neither_the_folder_nor_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let state = State::open(&root).unwrap();
        // A new folder is there once the one above it was synced: all of them.
        let synced = root.synced();
        for above in ["", "var", "var/lib"] {
            assert!(synced.contains(&inode(&dir.path().join(above))), "/{above}");
        }
        state.save_log("first").unwrap();
        assert_eq!(root.synced(), [inode(&dir.path().join(DIRECTORY))]);
        state.save_log("second").unwrap();
        assert_eq!(root.synced().len(), 1, "each by itself");
        assert_eq!(root.unsynced(), 0);
    }

    #[test]
    fn state_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(recall_keys(&root).is_none());
        let state = State::open(&root).unwrap();
        let mode = |path: &str| {
            let found = std::fs::metadata(dir.path().join(path)).unwrap();
            found.permissions().mode() & 0o777
        };
        assert_eq!((mode("var/lib"), mode(DIRECTORY)), (0o755, 0o700));
        state.save_log("old").unwrap();
        state.save_log("new").unwrap();
        let path = format!("{DIRECTORY}/agent.log");
        let bytes = std::fs::read(dir.path().join(&path)).unwrap();
        assert_eq!((bytes.as_slice(), mode(&path)), (&b"new"[..], 0o600));
        let all = std::fs::read_dir(dir.path().join(DIRECTORY)).unwrap();
        assert_eq!(all.count(), 1);
    }

    #[test]
    fn no_symlink_leads_a_download_out() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "safe").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let state = State::open(&root).unwrap();
        let own = dir.path().join(DIRECTORY);
        symlink(outside.path(), own.join("staging")).unwrap();
        let blobs = state.staging().unwrap().join("blobs/sha256");
        std::fs::write(blobs.join("begun.part"), "half").unwrap();
        symlink(&victim, blobs.join("f00.part")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, blobs.join("f00"), 0o600.into()).unwrap();
        state.staging().unwrap();
        let left = std::fs::read_dir(own.join("staging/blobs/sha256")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["begun.part"]);
        assert_eq!(std::fs::read(&victim).unwrap(), b"safe");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_symlink_leads_state_out() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, inside.join("var")).unwrap();
        assert!(State::open(&Root::open(&inside).unwrap()).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
