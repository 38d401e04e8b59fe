//! A stick that exists, seen from the machine where it is built: what lies on
//! it is compared, brought up to date, and copied out. Nothing is mounted.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::trust::charter::Charter;
use serde::Serialize;

use super::anchor::{self, Anchor};
use super::bring::{self, There, is_blob};
use super::build::{self, Progress, Tell};
use super::device::{self, Access, Claim};
use super::ext4::{Ext4, Rights, Script};
use super::gpt::{SECTOR, Table, kind};
use super::plan::{self, DataFile};
use super::start::StartParts;
use super::steps::Steps;
use super::transaction;
use super::{file, grub, reader};
use crate::site::{Site, SiteKeys, charter, publish};
use crate::store;

/// How often the site may have signed on the stick since it was built: weekly
/// for decades.
const MAX_SIGNATURES: u64 = 2000;

/// A stick, as an image or a medium.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    claim: Claim,
    table: Table,
    ext4: Ext4,
    site: SiteId,
}

/// What a sync or an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Synced {
    /// Files that were written.
    pub written: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were the same already.
    pub same: usize,
    /// Files that are gone here: blobs that no bundle names any more, say.
    pub removed: usize,
    /// Bytes that went to the medium: the files, what the file system says of
    /// them, and that once more in its journal.
    pub moved: u64,
    /// Entries of the folder's journal that the stick's does not have: devices
    /// registered in the folder after it was built, say. None are brought.
    pub apart: u64,
}

impl Kept {
    /// Opens an image file, or a medium that nobody uses, and holds it. What a
    /// pulled stick left half-written is finished first.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::held(path).map_err(|error| device::failing(error, path))
    }

    fn held(path: &Path) -> anyhow::Result<Self> {
        let claim = Claim::take(path, Access::Writing)?;
        let table = reader::table(claim.file(), path)?;
        let data = reader::data(&table)?;
        let ext4 = Ext4::at(path, data.offset());
        transaction::settle(&ext4, data.bytes(), claim.file())?;
        let site = reader::site(&ext4)?;
        Ok(Self {
            path: path.to_owned(),
            claim,
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
        self.claim.file().read_exact_at(&mut mbr, 0)?;
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

    /// Whether a folder's site has the keys that are in the stick's vault: those
    /// of the charter beside it. `trust rekey` gives a site others.
    fn has_keys_of(&self, site: &Site) -> anyhow::Result<bool> {
        let scratch = tempfile::tempdir()?;
        let trust = format!("/{}/trust", file::SITE);
        reader::copy_folder(&self.ext4, &trust, scratch.path())?;
        let there = charter::read(&Site::at(scratch.path().join(file::SITE)), &self.site);
        let there = there.context("reading the stick's charter")?;
        let here = charter::read(site, &self.site)?;
        let keys = |of: &Charter| (of.tls_key, of.grant_key, of.journal_key);
        Ok(keys(&there) == keys(&here))
    }

    /// New trust beside an old vault would be a stick that no device believes.
    fn ensure_same_keys(&self, site: &Site) -> anyhow::Result<()> {
        ensure!(
            self.has_keys_of(site)?,
            "the site {} was given other keys (`trust rekey`) after {} was built, and its vault has \
             the former ones: nothing was written. `groundcrew stick backup` keeps what it did; then \
             build it anew",
            self.site,
            self.path.display()
        );
        Ok(())
    }

    /// Brings bundles, trust and settings of the site's folder to the stick.
    /// Blobs are told apart by their names, which are their digests.
    pub fn sync(&self, site: &Site, tell: &mut Tell<'_>) -> anyhow::Result<Synced> {
        self.is_of(site)?;
        tell(Progress::Part("comparing"));
        self.ensure_same_keys(site)?;
        self.sign_after_the_stick(site)?;
        let here = plan::content(site)?;
        let wanted: Vec<&DataFile> = here.iter().filter(|f| plan::is_synced(&f.path)).collect();
        let there = There::below(&self.ext4, &format!("/{}", file::SITE))?;
        let sources = format!("/{}/sources/", file::SITE);
        // What the stick wrote itself stays, its signatures among it.
        let goes = |path: &str| is_blob(path) || path.starts_with(&sources);
        let (script, mut done) = bring::script(&self.ext4, &there, &wanted, goes)?;
        done.apart = self.apart(site, &there)?;
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
    pub fn update(&self, parts: &mut StartParts, tell: &mut Tell<'_>) -> anyhow::Result<Synced> {
        self.is_of(&parts.site)?;
        tell(Progress::Part("comparing"));
        self.ensure_same_keys(&parts.site)?;
        let root = format!("/{}/boot/", file::SITE);
        let here = plan::content(&parts.site)?;
        let wanted: Vec<&DataFile> = here.iter().filter(|f| f.path.starts_with(&root)).collect();
        let there = There::below(&self.ext4, &format!("/{}", file::SITE))?;
        let goes = |path: &str| path.starts_with(&root);
        let (script, mut done) = bring::script(&self.ext4, &there, &wanted, goes)?;
        self.room_for(done.bytes)?;
        let mut steps = match script.is_empty() {
            true => Steps::default(),
            false => self.prepared(script)?,
        };
        steps.then(build::update(parts, &self.table, self.claim.file())?);
        done.moved = steps.bytes();
        self.carry_out(&steps, tell)?;
        Ok(done)
    }

    /// Puts a registry that was copied out of another stick of this site onto
    /// this one, in place of its own.
    pub fn put_registry(&self, site: &Site, tell: &mut Tell<'_>) -> anyhow::Result<()> {
        self.is_of(site)?;
        tell(Progress::Part("comparing"));
        let registry = site.registry_file();
        ensure!(
            self.has_keys_of(site)?,
            "the backup is of a time when the site {} had other keys (`trust rekey`): its journal \
             and grants are signed by those, and {} has the new ones; nothing was written. Keep the \
             backup: `groundcrew restore` and `journal verify` read it",
            self.site,
            self.path.display()
        );
        self.ensure_goes_on(&registry)?;
        let root = format!("/{}", file::SITE);
        let there = There::below(&self.ext4, &root)?.files;
        let mut script = Script::default();
        for name in ["registry.db-wal", "registry.db-shm"] {
            let path = format!("{root}/{name}");
            if there.contains_key(&path) {
                script.remove(&path)?;
            }
        }
        let (bytes, _) = plan::sha256_of(&registry)?;
        self.room_for(bytes)?;
        script.replace(&registry, &format!("{root}/registry.db"), Rights::Secret)?;
        let steps = self.prepared(script)?;
        self.carry_out(&steps, tell)
    }

    /// What the stick checks when it starts, by its anchor, before it is given a
    /// journal.
    fn ensure_goes_on(&self, registry: &Path) -> anyhow::Result<()> {
        let mut places = self.table.partitions.iter();
        let place = places.find(|one| one.kind == kind::ANCHOR);
        let place = place.context("the stick has no anchor; build it anew")?;
        let mut sectors = vec![0; anchor::LENGTH];
        let medium = self.claim.file();
        medium.read_exact_at(&mut sectors, place.offset())?;
        let head_at = |entries| {
            let line = store::journal_line(registry, entries).ok().flatten();
            line.map(|line| plan::line_digest(&line))
        };
        let anchor = Anchor::read(&sectors);
        if anchor.goes_on(head_at).is_ok() {
            return Ok(());
        }
        bail!(
            "{} has a journal of {} entries from which the backup does not go on: it would refuse it \
             at its next start, and nothing was written. `groundcrew restore BACKUP --site NEWDIR` \
             makes a folder of the backup; put the site's keys into it, and `image build` and `stick \
             build` with that folder make a stick that goes on from there",
            self.path.display(),
            anchor.entries
        )
    }

    /// How many entries of the folder's journal the stick's does not have.
    fn apart(&self, site: &Site, there: &There) -> anyhow::Result<u64> {
        let scratch = tempfile::tempdir()?;
        for name in ["registry.db", "registry.db-wal"] {
            let path = format!("/{}/{name}", file::SITE);
            if there.files.contains_key(&path) {
                self.ext4.dump(&path, &scratch.path().join(name))?;
            }
        }
        let mut on_stick = Vec::new();
        store::each_journal_line(&scratch.path().join("registry.db"), |line| {
            on_stick.push(plan::line_digest(line));
            Ok(())
        })?;
        let (mut common, mut entries) = (0, 0);
        store::each_journal_line(&site.registry_file(), |line| {
            let same = common == entries && on_stick.get(entries) == Some(&plan::line_digest(line));
            (common, entries) = (common + usize::from(same), entries + 1);
            Ok(())
        })?;
        Ok((entries - common) as u64)
    }

    /// The steps that change the data partition: all of it or nothing.
    fn prepared(&self, script: Script) -> anyhow::Result<Steps> {
        transaction::steps(&self.ext4, reader::data(&self.table)?.bytes(), script)
    }

    /// Writes, reads back, and looks at the file system as a whole.
    fn carry_out(&self, steps: &Steps, tell: &mut Tell<'_>) -> anyhow::Result<()> {
        let done = self.written(steps, tell);
        done.map_err(|error| device::failing(error, &self.path))
    }

    fn written(&self, steps: &Steps, tell: &mut Tell<'_>) -> anyhow::Result<()> {
        let medium = self.claim.file();
        let of = steps.bytes();
        tell(Progress::Part("writing"));
        steps.carry_out(medium, &mut |done| tell(Progress::Bytes { done, of }))?;
        tell(Progress::Part("reading it back"));
        build::forget(medium)?;
        steps.verify(medium)?;
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
}
