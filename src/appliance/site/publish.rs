//! The site's TUF repository on disk: loaded, changed by HQ or by the site,
//! written so that a reader never finds a file missing that another names.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use groundcrew_core::UnixTime;
use groundcrew_core::time::Now;
use groundcrew_core::trust::tuf::TargetFile;
use groundcrew_core::trust::tuf::repo::{OnlineExpiry, Repo, RepoFile};

use super::{Site, SiteKeys};
use crate::durable::{self, Access};

const DAY: u64 = 86_400;

/// How long root and targets are valid: HQ may be far.
pub const OFFLINE_LIFETIME: u64 = 2 * 365 * DAY;

/// How long the site's own signatures are valid. The appliance signs anew long
/// before; a device that is shown an older state knows it after this time.
const SNAPSHOT_LIFETIME: u64 = 60 * DAY;
const TIMESTAMP_LIFETIME: u64 = 14 * DAY;

/// Signed anew when less than this is left.
const RENEW_BELOW: u64 = 10 * DAY;

/// Reads the repository; every file's signatures are checked.
pub fn load(site: &Site) -> anyhow::Result<Repo> {
    let metadata = site.trust_dir().join("metadata");
    Repo::load(|name| fs::read(metadata.join(name)).ok())
        .with_context(|| format!("the trust metadata in {}", metadata.display()))
}

/// Held while the repository is changed: the appliance signs anew by itself, and
/// a technician may publish at the same moment.
pub struct Hold(#[allow(dead_code, reason = "the lock lives as long as the file")] fs::File);

/// Waits until nobody else changes the repository.
pub fn hold(site: &Site) -> anyhow::Result<Hold> {
    // The folder itself is locked: there is no file that another user made.
    let path = site.trust_dir();
    let file = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(Hold(file))
}

/// The time to sign with: the clock, where it is not behind what is proven past.
pub fn now(site: &Site, repo: &Repo) -> Now {
    now_by(site, repo, crate::clock::read())
}

/// The same, by a clock that says `clock`.
pub fn now_by(site: &Site, repo: &Repo, clock: UnixTime) -> Now {
    super::time::floor(site, repo.issued_at()).now(clock)
}

/// Writes metadata files in the order they came, each synced before the next.
pub fn write_metadata(site: &Site, files: &[RepoFile]) -> anyhow::Result<()> {
    write_below(&site.trust_dir().join("metadata"), files)
}

fn write_below(folder: &Path, files: &[RepoFile]) -> anyhow::Result<()> {
    for file in files {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        durable::write(&path, &file.bytes, Access::Public)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Writes target files, before the metadata that lists them.
pub fn write_targets(site: &Site, files: &[RepoFile]) -> anyhow::Result<()> {
    write_below(&site.trust_dir().join("targets"), files)
}

/// A target's file, if this site was given it. HQ's list is the same at every
/// site; the files behind it are not.
pub fn target_bytes(site: &Site, path: &str, target: &TargetFile) -> Option<Vec<u8>> {
    let (folder, name) = path.rsplit_once('/')?;
    let name = format!("{}.{name}", target.sha256()?.hex());
    let bytes = fs::read(site.trust_dir().join("targets").join(folder).join(name)).ok()?;
    target.verify(bytes).ok().map(|bytes| bytes.into_inner())
}

/// Until when HQ vouches for the site: the latest time that can be believed. A
/// clock beyond it is wrong, or HQ has to sign anew; a signature dated so would
/// raise devices' time floor past everything that is valid, for good.
pub fn vouched_until(repo: &Repo) -> UnixTime {
    let root = repo.root().expires;
    repo.targets()
        .map_or(root, |targets| root.min(targets.expires))
}

/// The site signs that its repository is current.
pub fn sign_online(site: &Site, repo: &mut Repo, keys: &SiteKeys) -> anyhow::Result<()> {
    let now = now(site, repo);
    let until = vouched_until(repo);
    anyhow::ensure!(
        now.time() < until,
        "the clock stands at {}, after HQ's signatures ended ({until}): set the clock, or have HQ sign anew",
        now.time()
    );
    let expires = OnlineExpiry {
        snapshot: now.time().plus(SNAPSHOT_LIFETIME),
        timestamp: now.time().plus(TIMESTAMP_LIFETIME),
    };
    let files =
        repo.sign_snapshot_and_timestamp(expires, now, &[&keys.snapshot, &keys.timestamp])?;
    write_metadata(site, &files)
}

/// When the site should sign anew: at once if this is not in the future.
pub fn renewal_due(repo: &Repo) -> UnixTime {
    let expires = repo
        .timestamp()
        .map_or(UnixTime::new(0), |timestamp| timestamp.expires);
    UnixTime::new(expires.seconds().saturating_sub(RENEW_BELOW))
}
