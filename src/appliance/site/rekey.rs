//! New keys for a site: made here, named by HQ in the site's next root and
//! charter, in force from the moment the courier brings them. The private keys
//! never leave the appliance; HQ gets a file with the public ones.
//!
//! ```text
//! keys/                                  keys.next/ made     (`trust rekey`)
//! HQ signs, the courier comes back: keys/ -> keys.old/, keys.next/ -> keys/
//! metadata written, journal and grants signed anew, keys.old/ deleted
//! ```
//! A crash on the way is mended by importing the same file once more.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::Grant;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::{Digest, SiteId};
use groundcrew_registry::checkpoint::{Checkpoint, Verifier};
use groundcrew_registry::journal::Walk;
use serde::{Deserialize, Serialize};

use super::{Site, SiteKeys, publish};
use crate::durable;
use crate::store::{Change, Store};

/// The public halves of a site's keys, for HQ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKeys {
    /// Whose.
    pub site: SiteId,
    /// The TLS key's `SubjectPublicKeyInfo`.
    pub tls: Digest,
    /// Signs grants.
    pub grant: PublicKey,
    /// Signs the journal.
    pub journal: PublicKey,
    /// Signs snapshots.
    pub snapshot: PublicKey,
    /// Signs timestamps.
    pub timestamp: PublicKey,
}

impl PublicKeys {
    /// Those of `keys`.
    pub fn of(site: &SiteId, keys: &SiteKeys) -> Self {
        Self {
            site: site.clone(),
            tls: keys.tls_key_digest(),
            grant: keys.grant.public(),
            journal: keys.journal.public(),
            snapshot: keys.snapshot.public(),
            timestamp: keys.timestamp.public(),
        }
    }

    /// Reads what [`PublicKeys::write`] wrote.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is not what `groundcrew trust rekey` writes",
                path.display()
            )
        })
    }

    /// Writes the file for HQ.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        durable::write(path, &text, durable::Access::Public)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// For two people to compare over the telephone: nobody changed the file
    /// on its way. 80 bits in groups.
    pub fn fingerprint(&self) -> anyhow::Result<String> {
        let hex = Digest::of(&serde_json::to_vec(self)?).hex();
        let groups: Vec<&str> = (0..5).filter_map(|n| hex.get(n * 4..n * 4 + 4)).collect();
        Ok(groups.join("-"))
    }
}

fn next_dir(site: &Site) -> PathBuf {
    site.dir().join("keys.next")
}

fn old_dir(site: &Site) -> PathBuf {
    site.dir().join("keys.old")
}

/// Makes new keys beside the ones in force, or takes up those made before.
pub fn request(site: &Site) -> anyhow::Result<PublicKeys> {
    let name = site.settings()?.site;
    let dir = next_dir(site);
    if !dir.exists() {
        let draft = tempfile::Builder::new()
            .prefix(".groundcrew-keys-")
            .tempdir_in(site.dir())?;
        SiteKeys::create(draft.path())?;
        fs::set_permissions(draft.path(), fs::Permissions::from_mode(0o700))?;
        fs::rename(draft.keep(), &dir)?;
        durable::sync_folder_of(&dir)?;
    }
    Ok(PublicKeys::of(&name, &SiteKeys::read(&dir)?))
}

/// New keys that wait for HQ.
pub fn waiting(site: &Site) -> anyhow::Result<Option<SiteKeys>> {
    let dir = next_dir(site);
    dir.exists().then(|| SiteKeys::read(&dir)).transpose()
}

/// Goes on where a crash came between the two renames of [`swap`].
pub fn recover(site: &Site) -> anyhow::Result<()> {
    if !site.keys_dir().exists() && next_dir(site).exists() {
        fs::rename(next_dir(site), site.keys_dir())?;
        durable::sync_folder_of(&site.keys_dir())?;
    }
    Ok(())
}

/// Whether keys were swapped, and what they signed was not signed anew yet.
pub fn unfinished(site: &Site) -> bool {
    old_dir(site).exists()
}

/// The new keys are in force.
pub fn swap(site: &Site) -> anyhow::Result<()> {
    ensure!(
        !old_dir(site).exists(),
        "an earlier change of keys is not over: import its courier's file first"
    );
    fs::rename(site.keys_dir(), old_dir(site))?;
    fs::rename(next_dir(site), site.keys_dir())?;
    durable::sync_folder_of(&site.keys_dir())
        .with_context(|| format!("syncing {}", site.dir().display()))
}

/// What the old keys signed and still counts is signed anew, and they are
/// deleted. Nothing to do where there are none. A word where the journal did
/// not hold by the old key.
pub fn finish(site: &Site, store: &mut Store) -> anyhow::Result<Option<String>> {
    let dir = old_dir(site);
    if !dir.exists() {
        return Ok(None);
    }
    let (old, new) = (SiteKeys::read(&dir)?, SiteKeys::read(&site.keys_dir())?);
    let name = site.settings()?.site;
    let (changes, doubt) = signed_anew(site, &name, store, &old, &new)?;
    store.write(&changes)?;
    fs::remove_dir_all(&dir).with_context(|| format!("deleting {}", dir.display()))?;
    Ok(doubt)
}

fn signed_anew(
    site: &Site,
    name: &SiteId,
    store: &Store,
    old: &SiteKeys,
    new: &SiteKeys,
) -> anyhow::Result<(Vec<Change>, Option<String>)> {
    let mut changes = vec![Change::ForgetCheckpoints];
    let checkpoints: Vec<Envelope> = store.checkpoints()?.into_iter().map(|c| c.1).collect();
    let doubt = holds(name, &checkpoints, store, old).err();
    let mut walk = Walk::new(name);
    let mut whole = true;
    store.journal_after(0, |line| {
        whole = whole && walk.line(line).is_ok();
        Ok(())
    })?;
    // A damaged journal gets no signature: it would say that it is whole.
    let chain = walk.chain();
    if whole && chain.seq() > 0 {
        let at = publish::now(site, &publish::load(site)?).time();
        let envelope = Checkpoint::of(name, chain, at).sign(&new.journal)?;
        let seq = chain.seq();
        changes.push(Change::Checkpoint { seq, envelope });
    }
    for (device, envelope) in store.grants()? {
        // A grant that no key of ours signed is nothing to keep.
        if let Ok(grant) = envelope.verify::<Grant>(&old.grant.public()) {
            let envelope = Envelope::sign(&grant.into_inner(), &new.grant)?;
            changes.push(Change::Grant { device, envelope });
        }
    }
    Ok((changes, doubt.map(|error| format!("{error:#}"))))
}

fn holds(
    name: &SiteId,
    checkpoints: &[Envelope],
    store: &Store,
    old: &SiteKeys,
) -> anyhow::Result<()> {
    let mut verifier = Verifier::new(name, checkpoints, &old.journal.public())?;
    store.journal_after(0, |line| Ok(verifier.line(line)?))?;
    verifier.finish()?;
    Ok(())
}
