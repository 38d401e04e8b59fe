//! A stick that exists, seen from the machine where it is built: what lies on
//! it is compared, brought up to date, and copied out. Nothing is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::SiteId;
use serde::Serialize;

use super::build::{self, Progress, Tell};
use super::device::Medium;
use super::ext4::{Ext4, Rights, Script};
use super::file;
use super::gpt::{Guid, HEAD_SECTORS, SECTOR, Table, kind};
use super::grub;
use super::plan::{self, DataFile};
use super::start::StartParts;
use super::steps::Steps;
use super::transaction;
use super::vault::Vault;
use crate::site::{Site, SiteKeys, publish};

/// How often the site may have signed on the stick since it was built: weekly
/// for decades.
const MAX_SIGNATURES: u64 = 2000;

/// A stick, as an image or a medium.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    table: Table,
    ext4: Ext4,
    site: SiteId,
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Synced {
    /// Files that were written.
    pub written: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were the same already.
    pub same: usize,
    /// Blobs that no bundle names any more.
    pub removed: usize,
    /// Bytes that went to the medium: the files, what the file system says of
    /// them, and that once more in its journal.
    pub moved: u64,
}

impl Kept {
    /// Opens an image file, or a medium that nobody uses. What a pulled stick
    /// left half-written is finished first.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let metadata =
            fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        if !metadata.is_file() {
            Medium::examine(path)?;
        }
        let mut head = vec![0; (HEAD_SECTORS * SECTOR) as usize];
        let no_stick = || format!("{} is no groundcrew stick", path.display());
        File::open(path)?
            .read_exact_at(&mut head, 0)
            .with_context(no_stick)?;
        let table = Table::parse(&head).with_context(no_stick)?;
        let kinds: Vec<Guid> = table.partitions.iter().map(|one| one.kind).collect();
        ensure!(
            kinds == [kind::BIOS_BOOT, kind::EFI_SYSTEM, kind::ANCHOR, kind::LINUX],
            "{}: its partitions are others",
            no_stick()
        );
        let data = table.partitions.last().context("no data partition")?;
        let ext4 = Ext4::at(path, data.offset());
        transaction::settle(&ext4, data.bytes())?;
        let scratch = tempfile::tempdir()?;
        let vault = scratch.path().join(file::VAULT);
        ext4.dump(&format!("/{}", file::VAULT), &vault)?;
        let site = Vault::read(&fs::read(vault)?)?.site().clone();
        Ok(Self {
            path: path.to_owned(),
            table,
            ext4,
            site,
        })
    }

    /// Whose stick it is.
    pub const fn site(&self) -> &SiteId {
        &self.site
    }

    /// First sector and bytes of the place for the next GRUB's core.img.
    pub fn bios_boot(&self) -> anyhow::Result<(u64, u64)> {
        let place = self.table.partitions.first();
        let place = place.context("a stick has four partitions")?;
        let mut mbr = [0; SECTOR as usize];
        File::open(&self.path)?.read_exact_at(&mut mbr, 0)?;
        Ok(grub::other_place(&mbr, place.first, place.bytes()))
    }

    fn is_of(&self, site: &Site) -> anyhow::Result<()> {
        let name = site.settings()?.site;
        ensure!(
            name == self.site,
            "{} is a stick of the site {}, and {} is the site {name}",
            self.path.display(),
            self.site,
            site.dir().display()
        );
        Ok(())
    }

    /// Brings bundles, trust and settings of the site's folder to the stick.
    /// Blobs are told apart by their names, which are their digests.
    pub fn sync(&self, site: &Site, tell: &mut Tell<'_>) -> anyhow::Result<Synced> {
        self.is_of(site)?;
        tell(Progress::Part("comparing"));
        self.sign_after_the_stick(site)?;
        let here = plan::content(site)?;
        let there = self.files(&format!("/{}", file::SITE))?;
        let mut done = Synced::default();
        let wanted = here.iter().filter(|one| plan::is_synced(&one.path));
        let mut script = Script::default();
        let mut folders: BTreeSet<String> = there.keys().flat_map(|path| parents(path)).collect();
        let scratch = tempfile::tempdir()?;
        for one in wanted {
            if self.has(one, &there, scratch.path())? {
                done.same += 1;
                continue;
            }
            ensure!(
                plan::sha256_of(&one.from)?.1 == one.sha256,
                "{} was changed: it is not the blob that its name says",
                one.from.display()
            );
            for folder in parents(&one.path) {
                if folders.insert(folder.clone()) && self.ext4.list(&folder)?.is_empty() {
                    script.folder(&folder)?;
                }
            }
            match there.contains_key(&one.path) {
                true => script.replace(&one.from, &one.path, one.rights)?,
                false => script.file(&one.from, &one.path, one.rights)?,
            }
            (done.written, done.bytes) = (done.written + 1, done.bytes + one.bytes);
        }
        let names: BTreeSet<&str> = here.iter().map(|one| one.path.as_str()).collect();
        for path in there
            .keys()
            .filter(|path| is_blob(path) && !names.contains(path.as_str()))
        {
            script.remove(path)?;
            done.removed += 1;
        }
        self.room_for(done.bytes)?;
        if !script.is_empty() {
            let steps = self.prepared(script)?;
            done.moved = steps.bytes();
            self.carry_out(&steps, tell)?;
        }
        Ok(done)
    }

    /// Puts a newer program, kernel and menu onto the stick; its state, its
    /// vault and its ids stay.
    pub fn update(&self, parts: &StartParts, tell: &mut Tell<'_>) -> anyhow::Result<()> {
        self.is_of(&parts.site)?;
        let mut script = Script::default();
        let root = format!("/{}/boot", file::SITE);
        let there = self.files(&root)?;
        let here = plan::content(&parts.site)?;
        let mut bytes = 0;
        for one in here.iter().filter(|one| one.path.starts_with(&root)) {
            match there.contains_key(&one.path) {
                true => script.replace(&one.from, &one.path, one.rights)?,
                false => script.file(&one.from, &one.path, one.rights)?,
            }
            bytes += one.bytes;
        }
        self.room_for(bytes)?;
        let mut steps = self.prepared(script)?;
        steps.then(build::update(parts, &self.table, &File::open(&self.path)?)?);
        self.carry_out(&steps, tell)
    }

    /// Copies the site's folder out, without keys, into `to`, which is made.
    pub fn copy_out(&self, to: &Path) -> anyhow::Result<Site> {
        let root = format!("/{}", file::SITE);
        for folder in ["", "trust", "blobs", "sources", "boot", "keys"] {
            fs::create_dir_all(to.join(folder))?;
        }
        let wanted =
            |path: &str| !path.starts_with(&format!("{root}/boot/")) && !path.ends_with(".sock");
        for path in self.files(&root)?.keys().filter(|path| wanted(path)) {
            let below = path
                .strip_prefix(&root)
                .unwrap_or(path)
                .trim_start_matches('/');
            let place = to.join(below);
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder)?;
            }
            self.ext4.dump(path, &place)?;
        }
        Ok(Site::at(to))
    }

    /// Puts a registry that was copied out of another stick of this site onto
    /// this one, in place of its own.
    pub fn put_registry(&self, site: &Site) -> anyhow::Result<()> {
        self.is_of(site)?;
        let root = format!("/{}", file::SITE);
        let there = self.files(&root)?;
        let mut script = Script::default();
        for name in ["registry.db-wal", "registry.db-shm"] {
            let path = format!("{root}/{name}");
            if there.contains_key(&path) {
                script.remove(&path)?;
            }
        }
        let registry = site.registry_file();
        let (bytes, _) = plan::sha256_of(&registry)?;
        self.room_for(bytes)?;
        script.replace(&registry, &format!("{root}/registry.db"), Rights::Secret)?;
        let steps = self.prepared(script)?;
        self.carry_out(&steps, &mut |_| {})
    }

    /// The steps that change the data partition: all of it or nothing.
    fn prepared(&self, script: Script) -> anyhow::Result<Steps> {
        let data = self.table.partitions.last().context("no data partition")?;
        transaction::steps(&self.ext4, data.bytes(), script)
    }

    /// Writes, reads back, and looks at the file system as a whole.
    fn carry_out(&self, steps: &Steps, tell: &mut Tell<'_>) -> anyhow::Result<()> {
        let medium = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let of = steps.bytes();
        tell(Progress::Part("writing"));
        steps.carry_out(&medium, &mut |done| tell(Progress::Bytes { done, of }))?;
        tell(Progress::Part("reading it back"));
        build::forget(&medium)?;
        steps.verify(&medium)?;
        self.ext4.check().map(drop)
    }

    /// The appliance on the stick signs by itself that its repository is
    /// current. What comes from the folder must be newer than that, or devices
    /// that saw it refuse it as a rollback.
    fn sign_after_the_stick(&self, site: &Site) -> anyhow::Result<()> {
        let scratch = tempfile::tempdir()?;
        let name = "timestamp.json";
        let file = scratch.path().join(name);
        self.ext4
            .dump(&format!("/{}/trust/metadata/{name}", file::SITE), &file)?;
        let ours = fs::read(site.trust_dir().join("metadata").join(name))?;
        let theirs = fs::read(&file)?;
        if ours == theirs {
            return Ok(());
        }
        let signed: serde_json::Value = serde_json::from_slice(&theirs)?;
        let there = signed
            .pointer("/signed/version")
            .and_then(serde_json::Value::as_u64);
        let there = there.context("the stick's timestamp has no version")?;
        let _hold = publish::hold(site)?;
        let mut repo = publish::load(site)?;
        let keys = SiteKeys::read(&site.keys_dir())?;
        let version = |repo: &groundcrew_core::trust::tuf::Repo| {
            repo.timestamp()
                .map_or(0, |timestamp| timestamp.version.get())
        };
        if there.saturating_sub(version(&repo)) > MAX_SIGNATURES {
            bail!(
                "the stick's timestamp has version {there}, which no stick reaches; build it anew"
            );
        }
        while version(&repo) <= there {
            publish::sign_online(site, &mut repo, &keys)?;
        }
        Ok(())
    }

    fn has(
        &self,
        one: &DataFile,
        there: &BTreeMap<String, u64>,
        scratch: &Path,
    ) -> anyhow::Result<bool> {
        if there.get(&one.path) != Some(&one.bytes) {
            return Ok(false);
        }
        if is_blob(&one.path) {
            return Ok(true);
        }
        let copy = scratch.join("compared");
        self.ext4.dump(&one.path, &copy)?;
        let (_, sha256) = plan::sha256_of(&copy)?;
        fs::remove_file(copy)?;
        Ok(sha256 == one.sha256)
    }

    fn room_for(&self, bytes: u64) -> anyhow::Result<()> {
        let free = self.ext4.free()?;
        ensure!(
            bytes + bytes / 16 + (4 << 20) <= free,
            "{} MiB are needed on the stick and {} MiB are free; a stick that was never started has \
             not grown yet: start it once, or build it anew",
            bytes >> 20,
            free >> 20
        );
        Ok(())
    }

    /// Files below a folder with their sizes.
    fn files(&self, folder: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut found = BTreeMap::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in self.ext4.list(&folder)? {
                let path = format!("{folder}/{}", entry.name);
                match entry.kind {
                    super::ext4::Kind::Folder => open.push(path),
                    super::ext4::Kind::File => drop(found.insert(path, entry.bytes)),
                    super::ext4::Kind::Other => {}
                }
            }
        }
        Ok(found)
    }
}

fn is_blob(path: &str) -> bool {
    path.strip_prefix(&format!("/{}/blobs/", file::SITE))
        .is_some()
}

/// The folders above a path, the highest first: `/a/b/c` has `/a` and `/a/b`.
fn parents(path: &str) -> Vec<String> {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .filter(|at| *at > 0);
    ends.filter_map(|at| path.get(..at))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_from_the_top() {
        assert_eq!(parents("/a/b/c"), ["/a", "/a/b"]);
        assert!(parents("/a").is_empty());
    }
}
