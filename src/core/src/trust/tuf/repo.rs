//! The publisher's side: the next versions of a repository's metadata, signed,
//! as files to write. HQ signs root and targets, the site signs snapshot and
//! timestamp; neither needs the other's keys.
//!
//! Files come in the order in which they must reach the disk: whoever reads
//! timestamp.json, written last, finds everything that it leads to. Target
//! files ([`target_file`]) go before all of them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use serde_json::Map;

use super::check::{consistent_name, next_root, not_below, parse, trusted_root, verify};
use super::client::Trusted;
pub use super::delegated::{delegated_authority, delegated_file};
use super::draft::changed_targets;
pub use super::draft::{Standing, claimed_root, claimed_targets, draft_targets};
use super::error::TufError;
use super::metadata::{
    MetaFile, Role, Root, Snapshot, SpecVersion, TargetFile, Targets, Timestamp, TimestampMeta,
};
pub use super::sign::{Delegation, RoleSpec, RootSpec, add_signatures, draft_root, sign_root};
use super::sign::{believed, credible, next, signed, versioned};
use super::signed::{Authority, Metadata, MetadataError, ThresholdUnmet};
use crate::Verified;
use crate::ids::shown;
use crate::keys::SigningKey;
use crate::time::{Now, UnixTime};

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    /// Below `metadata/` (`2.root.json`), or below `targets/` for
    /// [`target_file`].
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// One change to the list of targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetChange {
    /// Lists this file under this path, or replaces what is listed there.
    Put(String, TargetFile),
    /// Lists the path no longer.
    Remove(String),
    /// Hands paths to other keys, or replaces what is delegated under the name.
    Delegate(Delegation),
    /// Takes a delegation back.
    Undelegate(String),
}

/// When the site's files cease to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnlineExpiry {
    /// Of snapshot.json.
    pub snapshot: UnixTime,
    /// Of timestamp.json.
    pub timestamp: UnixTime,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RepoError {
    /// A stored or received file does not hold.
    #[error(transparent)]
    Tuf(#[from] TufError),
    /// The content cannot be written as canonical JSON.
    #[error("the {role} content cannot be signed: {reason}")]
    Content {
        /// The role.
        role: &'static str,
        /// Why.
        reason: MetadataError,
    },
    /// Thresholds that cannot be met.
    #[error("the {role} role has {keys} different keys and threshold {threshold}: use 1 to {keys}")]
    Threshold {
        /// The role.
        role: &'static str,
        /// How many different keys it has.
        keys: usize,
        /// The threshold asked for.
        threshold: u32,
    },
    /// The keys at hand are too few, or of another role.
    #[error("the keys at hand cannot sign {role}: {reason}")]
    Keys {
        /// The role.
        role: &'static str,
        /// How many signatures there would be.
        reason: ThresholdUnmet,
    },
    /// The clock stands before something that is proven past.
    #[error("the time is not known, only that it is not before {0}: set the clock before signing")]
    TimeUnknown(UnixTime),
    /// It would be refused the moment it is published.
    #[error("the {role} file would expire at {expires}, and it is {now}")]
    AlreadyExpired {
        /// The role.
        role: &'static str,
        /// The expiry asked for.
        expires: UnixTime,
        /// The time.
        now: UnixTime,
    },
    /// A target path that is no safe relative path.
    #[error("`{0}` is not a target path: use segments of letters, digits and . _ - + joined by /")]
    Path(String),
    /// Nothing is listed there.
    #[error("no target `{0}` is listed")]
    NoTarget(String),
    /// The version counter is spent.
    #[error("the {0} version cannot be raised any more")]
    VersionSpent(&'static str),
    /// HQ's targets do not hand anything to this role.
    #[error("HQ's targets delegate nothing to `{0}`")]
    NotDelegated(String),
    /// HQ has not signed any targets yet.
    #[error("there is no targets.json yet: HQ signs one first")]
    NoTargets,
    /// A file that an index of this repository names is not there.
    #[error("{0} is missing in the repository")]
    Missing(String),
}

/// A repository's metadata as its publisher holds it.
#[derive(Clone, Debug)]
pub struct Repo {
    root: Verified<Metadata<Root>>,
    /// The roots before it, oldest first.
    older_roots: Vec<Verified<Metadata<Root>>>,
    targets: Option<Verified<Metadata<Targets>>>,
    snapshot: Option<Verified<Metadata<Snapshot>>>,
    timestamp: Option<Verified<Metadata<Timestamp>>>,
    /// Targets files of delegated roles, by the role's name.
    pub(super) delegated: BTreeMap<String, Verified<Metadata<Targets>>>,
}

/// A target's file: its bytes under the name that clients ask for, below
/// `targets/`. To be written before the metadata that lists it.
pub fn target_file(path: &str, bytes: Vec<u8>) -> Result<RepoFile, RepoError> {
    check_path(path)?;
    let path = consistent_name(path, &TargetFile::of(&bytes));
    Ok(RepoFile { path, bytes })
}

impl Repo {
    /// A repository of nothing but its first root.
    pub fn new(root: &[u8]) -> Result<Self, RepoError> {
        Self::open(&Trusted {
            root: root.to_vec(),
            ..Trusted::default()
        })
    }

    /// Takes up stored files. Each must be signed as some root of the chain
    /// demands (an older one, where keys were rotated since); expiry does not
    /// matter to the publisher, who is about to sign anew.
    pub fn open(stored: &Trusted) -> Result<Self, RepoError> {
        let mut repo = Self {
            root: trusted_root(&stored.root)?,
            older_roots: Vec::new(),
            targets: None,
            snapshot: None,
            timestamp: None,
            delegated: BTreeMap::new(),
        };
        for bytes in &stored.newer_roots {
            repo.import_root(bytes)?;
        }
        let (targets, snapshot) = (stored.targets.as_deref(), stored.snapshot.as_deref());
        repo.targets = repo.held(targets, Root::targets_authority)?;
        repo.snapshot = repo.held(snapshot, Root::snapshot_authority)?;
        repo.timestamp = repo.held(stored.timestamp.as_deref(), Root::timestamp_authority)?;
        for (name, bytes) in &stored.delegated {
            // One whose delegation changed since is not this repository's any more.
            if let Err(error @ RepoError::NoTargets) = repo.import_delegated(name, bytes) {
                return Err(error);
            }
        }
        Ok(repo)
    }

    /// Takes up a repository from its files: `read` gives the content of a
    /// path below `metadata/`, or nothing where there is none.
    pub fn load(mut read: impl FnMut(&str) -> Option<Vec<u8>>) -> Result<Self, RepoError> {
        let missing = |path: &str| RepoError::Missing(path.to_owned());
        let mut stored = Trusted {
            root: read("1.root.json").ok_or_else(|| missing("1.root.json"))?,
            ..Trusted::default()
        };
        for version in 2..u64::MAX {
            match read(&format!("{version}.root.json")) {
                Some(bytes) => stored.newer_roots.push(bytes),
                None => break,
            }
        }
        stored.timestamp = read("timestamp.json");
        if let Some(bytes) = &stored.timestamp {
            // Only to find the names: `open` checks what they hold.
            let timestamp = parse::<Timestamp>("timestamp", bytes)?;
            let path = format!(
                "{}.snapshot.json",
                timestamp.claimed().meta.snapshot.version
            );
            let bytes = read(&path).ok_or_else(|| missing(&path))?;
            let snapshot = parse::<Snapshot>("snapshot", &bytes)?;
            if let Some(meta) = snapshot.claimed().meta.get("targets.json") {
                let path = format!("{}.targets.json", meta.version);
                stored.targets = Some(read(&path).ok_or_else(|| missing(&path))?);
            }
            // A role that is delegated no longer stays in snapshots for good, or
            // clients would take its absence for a rollback; its file may be gone.
            for (file, meta) in &snapshot.claimed().meta {
                let role = file.strip_suffix(".json").filter(|role| *role != "targets");
                let bytes = role.and_then(|role| read(&format!("{}.{role}.json", meta.version)));
                if let (Some(role), Some(bytes)) = (role, bytes) {
                    stored.delegated.insert(role.to_owned(), bytes);
                }
            }
            stored.snapshot = Some(bytes);
        }
        Self::open(&stored)
    }

    /// Signs the next targets.json, at HQ. It replaces the one held; the site
    /// must sign a snapshot before clients see it.
    pub fn sign_targets(
        &mut self,
        changes: &[TargetChange],
        expires: UnixTime,
        now: Now,
        keys: &[&SigningKey],
    ) -> Result<RepoFile, RepoError> {
        credible(now, Targets::TYPE, expires)?;
        let next = changed_targets(self.targets(), changes, expires)?;
        let bytes = signed(&next, &[self.root().targets_authority()], keys)?;
        self.import_targets(&bytes)
    }

    /// Takes over a targets.json that HQ signed, at the site.
    pub fn import_targets(&mut self, bytes: &[u8]) -> Result<RepoFile, RepoError> {
        let root = self.root();
        let new = parse::<Targets>("targets", bytes)?;
        let new = verify("targets", new, &root.targets_authority(), || {
            format!("root version {}", root.version)
        })?;
        let known = self.targets().map_or(0, |old| old.version.get());
        let found = new.content().version.get();
        not_below("targets", found, known, "this repository")?;
        let file = versioned(new.content(), bytes.to_vec());
        self.targets = Some(new);
        self.forget_undelegated();
        Ok(file)
    }

    /// Takes over the next root that HQ signed. The site then signs snapshot
    /// and timestamp, which the new root's keys must be able to.
    pub fn import_root(&mut self, bytes: &[u8]) -> Result<RepoFile, RepoError> {
        let next = next_root(self.root(), bytes)?;
        let file = versioned(next.content(), bytes.to_vec());
        self.older_roots
            .push(std::mem::replace(&mut self.root, next));
        Ok(file)
    }

    /// Signs timestamp.json, and before it a snapshot where targets changed or
    /// the old one would not outlive the timestamp, at the site.
    pub fn sign_snapshot_and_timestamp(
        &mut self,
        expires: OnlineExpiry,
        now: Now,
        keys: &[&SigningKey],
    ) -> Result<Vec<RepoFile>, RepoError> {
        let time = credible(now, Timestamp::TYPE, expires.timestamp)?;
        let mut files = Vec::new();
        if !self.snapshot_holds(expires.timestamp) {
            credible(now, Snapshot::TYPE, expires.snapshot)?;
            let next = self.next_snapshot(expires.snapshot)?;
            let bytes = signed(&next, &[self.root().snapshot_authority()], keys)?;
            files.push(versioned(&next, bytes.clone()));
            let authority = self.root().snapshot_authority();
            self.snapshot = Some(believed(&bytes, &authority)?);
        }
        let next = self.next_timestamp(expires.timestamp, time)?;
        let authority = self.root().timestamp_authority();
        let bytes = signed(&next, &[authority], keys)?;
        self.timestamp = Some(believed(&bytes, &authority)?);
        files.push(RepoFile {
            path: "timestamp.json".to_owned(),
            bytes,
        });
        Ok(files)
    }

    /// The newest root.
    pub fn root(&self) -> &Root {
        self.root.content()
    }

    /// The targets held, if HQ has signed any.
    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref().map(|m| m.content())
    }

    /// The snapshot held.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(|m| m.content())
    }

    /// The timestamp held.
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(|m| m.content())
    }

    /// When the site signed its timestamp: proof that this time is past.
    pub fn issued_at(&self) -> Option<UnixTime> {
        self.timestamp()?.issued_at
    }

    /// The newest root's file.
    pub fn root_bytes(&self) -> &[u8] {
        self.root.bytes()
    }

    /// The file of the targets held.
    pub fn targets_bytes(&self) -> Option<&[u8]> {
        self.targets.as_ref().map(|m| m.bytes())
    }

    /// A stored file, believed if one of the chain's roots demands its keys.
    fn held<T: Role>(
        &self,
        bytes: Option<&[u8]>,
        authority: impl Fn(&Root) -> Authority<'_>,
    ) -> Result<Option<Verified<Metadata<T>>>, RepoError> {
        let Some(bytes) = bytes else { return Ok(None) };
        let file = parse::<T>(T::TYPE, bytes)?;
        let mut older = self.older_roots.iter().rev().map(|m| m.content());
        let fits = |root: &&Root| file.check(&authority(root)).is_ok();
        // Where none fits, the error tells what the newest root demands.
        let newest = Some(self.root()).filter(fits);
        let root = newest.or_else(|| older.find(fits)).unwrap_or(self.root());
        let by = || format!("root version {}", root.version);
        Ok(Some(verify(T::TYPE, file, &authority(root), by)?))
    }

    fn targets_meta(&self) -> Option<MetaFile> {
        let targets = self.targets.as_ref()?;
        Some(MetaFile::of(targets.content().version, targets.bytes()))
    }

    /// Whether the snapshot held can stay for a timestamp that ends then.
    fn snapshot_holds(&self, until: UnixTime) -> bool {
        let Some(snapshot) = &self.snapshot else {
            return false;
        };
        let authority = self.root().snapshot_authority();
        let content = snapshot.content();
        content.expires >= until
            && content.meta.get("targets.json") == self.targets_meta().as_ref()
            && self
                .delegated_meta()
                .all(|(file, meta)| content.meta.get(&file) == Some(&meta))
            && believed::<Snapshot>(snapshot.bytes(), &authority).is_ok()
    }

    fn next_snapshot(&self, expires: UnixTime) -> Result<Snapshot, RepoError> {
        let listed = self.targets_meta().ok_or(RepoError::NoTargets)?;
        let mut snapshot = match self.snapshot() {
            Some(old) => Snapshot {
                version: next("snapshot", old.version)?,
                expires,
                ..old.clone()
            },
            None => Snapshot {
                spec_version: SpecVersion::default(),
                version: NonZeroU64::MIN,
                expires,
                meta: BTreeMap::new(),
                extra: Map::new(),
            },
        };
        snapshot.meta.insert("targets.json".to_owned(), listed);
        snapshot.meta.extend(self.delegated_meta());
        Ok(snapshot)
    }

    fn next_timestamp(&self, expires: UnixTime, now: UnixTime) -> Result<Timestamp, RepoError> {
        let snapshot = self.snapshot.as_ref().ok_or(RepoError::NoTargets)?;
        let (version, extra) = match self.timestamp() {
            Some(old) => (next("timestamp", old.version)?, old.extra.clone()),
            None => (NonZeroU64::MIN, Map::new()),
        };
        Ok(Timestamp {
            spec_version: SpecVersion::default(),
            version,
            expires,
            meta: TimestampMeta {
                snapshot: MetaFile::of(snapshot.content().version, snapshot.bytes()),
            },
            issued_at: Some(now),
            extra,
        })
    }
}

pub(super) fn check_path(path: &str) -> Result<(), RepoError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.chars().all(good);
    if path.len() <= 200 && path.split('/').all(segment) {
        Ok(())
    } else {
        Err(RepoError::Path(shown(path)))
    }
}
