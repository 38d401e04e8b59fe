//! A stick that is only read, to save what it knows: one that is write-protected
//! or takes no writes any more, too. Nothing on it is changed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use groundcrew_core::SiteId;

use super::bring::{There, is_blob};
use super::build::{Progress, Tell};
use super::device::{self, Access, Claim};
use super::ext4::Ext4;
use super::gpt::{Guid, HEAD_SECTORS, Partition, SECTOR, Table, kind};
use super::vault::Vault;
use super::{file, plan, transaction};
use crate::site::Site;

/// A stick, as an image or a medium, that is read.
#[derive(Debug)]
pub struct Reader {
    ext4: Ext4,
    _claim: Claim,
    _copy: Option<tempfile::TempDir>,
}

impl Reader {
    /// Opens an image file, or a medium that nobody uses. What a pulled stick
    /// left half-written is finished on a copy below `room`, where there is
    /// room for all that the stick holds.
    pub fn open(path: &Path, room: &Path, tell: &mut Tell<'_>) -> anyhow::Result<Self> {
        Self::held(path, room, tell).map_err(|error| device::failing(error, path))
    }

    fn held(path: &Path, room: &Path, tell: &mut Tell<'_>) -> anyhow::Result<Self> {
        let claim = Claim::take(path, Access::Reading)?;
        let table = table(claim.file(), path)?;
        let data = data(&table)?;
        let there = Ext4::at(path, data.offset());
        let (ext4, copy) = if there.needs_recovery()? {
            tell(Progress::Part(
                "copying what the stick holds: it was pulled, and is put in order on the copy",
            ));
            let copy = tempfile::tempdir_in(room)?;
            let file = copy.path().join("data");
            let medium = claim.file();
            let mut told = |done, of| tell(Progress::Bytes { done, of });
            transaction::settled_copy(&there, data.bytes(), medium, &file, &mut told)?;
            (Ext4::at(&file, 0), Some(copy))
        } else {
            (there, None)
        };
        Ok(Self {
            ext4,
            _claim: claim,
            _copy: copy,
        })
    }

    /// Copies the site's folder out, without keys, into `to`, which is made.
    /// Bundles that the medium does not give any more are left out, and named.
    pub fn copy_out(&self, to: &Path, tell: &mut Tell<'_>) -> anyhow::Result<Saved> {
        let copied = self.copied(to, tell);
        copied.map_err(|error| device::failing(error, self.ext4.file()))
    }

    fn copied(&self, to: &Path, tell: &mut Tell<'_>) -> anyhow::Result<Saved> {
        for folder in ["trust", "blobs", "sources", "boot", "keys"] {
            fs::create_dir_all(to.join(folder))?;
        }
        let root = format!("/{}/", file::SITE);
        let mut files = There::below(&self.ext4, root.trim_end_matches('/'))?.files;
        let boot = format!("{root}boot/");
        files.retain(|path, _| !path.starts_with(&boot));
        let of = files.values().sum();
        room_for_copy(to, of)?;
        tell(Progress::Part("copying the stick's site"));
        let (mut done, mut left_out) = (0, Vec::new());
        for (path, bytes) in files {
            let place = to.join(path.strip_prefix(&root).unwrap_or(&path));
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder)?;
            }
            if self.saved(&path, &place)? {
                done += bytes;
            } else {
                left_out.push(path);
            }
            tell(Progress::Bytes { done, of });
        }
        Ok(Saved {
            site: Site::at(to),
            left_out,
        })
    }

    /// Copies a file out. `false`: a bundle's, and the medium does not give it.
    fn saved(&self, path: &str, place: &Path) -> anyhow::Result<bool> {
        let dumped = self.ext4.dump(path, place);
        if !is_blob(path) {
            return dumped.map(|()| true);
        }
        if dumped.is_ok() && is_named(place)? {
            return Ok(true);
        }
        let _ = fs::remove_file(place);
        Ok(false)
    }
}

/// Once as files and once packed. A full disk here must not be taken for a
/// medium that cannot be read.
fn room_for_copy(to: &Path, bytes: u64) -> anyhow::Result<()> {
    let stat = rustix::fs::statvfs(to)?;
    let (free, needed) = (stat.f_bavail * stat.f_frsize, 2 * bytes);
    ensure!(
        free >= needed,
        "{} MiB are needed beside the backup's file and {} MiB are free: name a file on a larger disk",
        needed.div_ceil(1 << 20),
        free >> 20
    );
    Ok(())
}

/// Whether a blob is what its name says. Where a medium gives no block, a copy
/// of it has zeros.
fn is_named(blob: &Path) -> anyhow::Result<bool> {
    let (_, sha256) = plan::sha256_of(blob)?;
    let name = blob.file_name().and_then(|name| name.to_str());
    Ok(name == Some(&data_encoding::HEXLOWER.encode(&sha256)))
}

/// What was copied out of a stick.
#[derive(Debug)]
pub struct Saved {
    /// The site's folder.
    pub site: Site,
    /// Paths on the stick that could not be read.
    pub left_out: Vec<String>,
}

/// The table of a medium that is a stick.
pub fn table(medium: &File, path: &Path) -> anyhow::Result<Table> {
    let mut head = vec![0; (HEAD_SECTORS * SECTOR) as usize];
    let no_stick = || format!("{} is no groundcrew stick", path.display());
    medium.read_exact_at(&mut head, 0).with_context(no_stick)?;
    let table = Table::parse(&head).with_context(no_stick)?;
    let kinds: Vec<Guid> = table.partitions.iter().map(|one| one.kind).collect();
    ensure!(
        kinds == [kind::BIOS_BOOT, kind::EFI_SYSTEM, kind::ANCHOR, kind::LINUX],
        "{}: its partitions are others",
        no_stick()
    );
    Ok(table)
}

/// The data partition.
pub fn data(table: &Table) -> anyhow::Result<&Partition> {
    table.partitions.last().context("no data partition")
}

/// Whose stick it is.
pub fn site(ext4: &Ext4) -> anyhow::Result<SiteId> {
    let scratch = tempfile::tempdir()?;
    let vault = scratch.path().join(file::VAULT);
    ext4.dump(&format!("/{}", file::VAULT), &vault)?;
    Ok(Vault::read(&fs::read(vault)?)?.site().clone())
}

/// Copies what lies below a folder of the stick to `to`.
pub fn copy_folder(ext4: &Ext4, folder: &str, to: &Path) -> anyhow::Result<()> {
    for path in There::below(ext4, folder)?.files.into_keys() {
        let below: PathBuf = path.trim_start_matches('/').into();
        let place = to.join(below);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        ext4.dump(&path, &place)?;
    }
    Ok(())
}
