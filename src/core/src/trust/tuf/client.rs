//! The client workflow (specification 5.1 to 5.7) as a machine without I/O:
//! [`Client::poll`] says which file it needs, [`Client::feed`] takes its bytes.
//!
//! ```text
//! loop { match client.poll() { Fetch(file) => client.feed(get(file))?, Done => break } }
//! store(client.trusted())      // also after an error: what was accepted stays accepted
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::{
    announced, by, consistent_name, exactly, next_root, not_below, not_listed, parse,
    percent_encoded, trusted_root, unexpired, verify,
};
use super::error::TufError;
use super::metadata::{MetaFile, RoleKeys, Root, Snapshot, TargetFile, Targets, Timestamp};
use super::search::Search;
use super::signed::{Authority, Metadata, Unverified};
use crate::Verified;
use crate::ids::shown;
use crate::time::{Now, UnixTime};

/// One update of one repository's metadata.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) now: UnixTime,
    pub(super) limits: Limits,
    minimum: MinimumVersions,
    root: Verified<Metadata<Root>>,
    /// Roots accepted since the one this client started from, oldest first.
    newer_roots: Vec<Vec<u8>>,
    timestamp: Option<Verified<Metadata<Timestamp>>>,
    pub(super) snapshot: Option<Verified<Metadata<Snapshot>>>,
    pub(super) targets: Option<Verified<Metadata<Targets>>>,
    /// What was stored at the last update, taken up where it still holds.
    pub(super) stored: Trusted,
    pub(super) search: Search,
    step: Step,
}

/// Metadata files as they were received, for the disk of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    /// The root to start from.
    pub root: Vec<u8>,
    /// Newer roots in order, as an earlier update accepted them. They are
    /// verified again, so a disk cannot plant one.
    pub newer_roots: Vec<Vec<u8>>,
    /// The last timestamp.json.
    pub timestamp: Option<Vec<u8>>,
    /// The last snapshot.json.
    pub snapshot: Option<Vec<u8>>,
    /// The last targets.json.
    pub targets: Option<Vec<u8>>,
    /// The last files of delegated roles, by role name.
    pub delegated: BTreeMap<String, Vec<u8>>,
}

/// The most that one update accepts; lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one root.json.
    pub root: u64,
    /// Of timestamp.json.
    pub timestamp: u64,
    /// Of snapshot.json.
    pub snapshot: u64,
    /// Of one targets file.
    pub targets: u64,
    /// New root files in one update.
    pub roots: u32,
    /// Roles visited while looking for one target.
    pub delegations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root: 512_000,
            timestamp: 16_384,
            snapshot: 2_000_000,
            targets: 5_000_000,
            roots: 256,
            delegations: 32,
        }
    }
}

/// Versions below which metadata is refused even by a client that remembers
/// nothing; 0 demands none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinimumVersions {
    /// Of the root that the update ends with.
    pub root: u64,
    /// Of timestamp.json.
    pub timestamp: u64,
    /// Of snapshot.json.
    pub snapshot: u64,
    /// Of targets.json.
    pub targets: u64,
}

/// What the client needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Bytes of this file, or word that it does not exist.
    Fetch(Fetch),
    /// Nothing: the metadata is current and the searches are answered.
    Done,
}

/// A file of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Relative to the metadata's base, percent-encoded: `7.snapshot.json`.
    pub path: String,
    /// Read no more than this many bytes.
    pub max_len: u64,
}

/// The repository answered that it does not have the file (HTTP 404 or 403).
/// A connection that failed is no answer: feed nothing then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFound;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Root { fetched: u32 },
    Timestamp,
    Snapshot,
    Targets,
    Ready,
}

impl Client {
    /// Begins an update. `now` is the time for the whole of it (5.1); the root
    /// in `stored` is trusted by being there (5.2), everything else in it is
    /// verified before it counts.
    pub fn new(
        stored: Trusted,
        now: Now,
        limits: Limits,
        minimum: MinimumVersions,
    ) -> Result<Self, TufError> {
        let root = trusted_root(&stored.root)?;
        let mut client = Self {
            now: now.time(),
            limits,
            minimum,
            root,
            newer_roots: Vec::new(),
            timestamp: None,
            snapshot: None,
            targets: None,
            search: Search::default(),
            stored: Trusted::default(),
            step: Step::Root { fetched: 0 },
        };
        // Roots of earlier updates go the way of fetched ones. One that does
        // not hold ends the chain: the repository is asked for it instead.
        for bytes in &stored.newer_roots {
            if client.accept_root(bytes).is_err() {
                break;
            }
        }
        client.step = Step::Root { fetched: 0 };
        client.stored = stored;
        Ok(client)
    }

    /// What is needed next. Asking again gives the same answer.
    pub fn poll(&self) -> Poll {
        let fetch = |path: String, max_len| Poll::Fetch(Fetch { path, max_len });
        match self.step {
            // 5.3.3
            Step::Root { .. } => {
                let next = self.root.content().version.get().saturating_add(1);
                fetch(format!("{next}.root.json"), self.limits.root)
            }
            // 5.4.1
            Step::Timestamp => fetch("timestamp.json".to_owned(), self.limits.timestamp),
            // 5.5.1
            Step::Snapshot => match &self.timestamp {
                Some(timestamp) => {
                    let meta = &timestamp.content().meta.snapshot;
                    self.file("snapshot", meta, self.limits.snapshot)
                }
                None => Poll::Done,
            },
            // 5.6.1
            Step::Targets => match self.listed("targets") {
                Ok(meta) => self.file("targets", meta, self.limits.targets),
                Err(_) => Poll::Done,
            },
            Step::Ready => self.poll_search(),
        }
    }

    /// Takes the answer to the last [`Client::poll`]. After an error the client
    /// asks for the same file again; what it trusted before, it still trusts.
    pub fn feed(&mut self, answer: Result<&[u8], NotFound>) -> Result<(), TufError> {
        let Poll::Fetch(Fetch { path, max_len }) = self.poll() else {
            return Err(TufError::NotAsked);
        };
        let bytes = match (answer, self.step) {
            (Ok(bytes), _) => bytes,
            (Err(NotFound), Step::Root { .. }) => return self.end_of_roots(),
            (Err(NotFound), _) => return Err(TufError::Missing(shown(&path))),
        };
        if bytes.len() as u64 > max_len {
            let role = self.wanted_role();
            let limit = max_len;
            return Err(TufError::TooLarge { role, limit });
        }
        match self.step {
            Step::Root { fetched } => {
                self.accept_root(bytes)?;
                let fetched = fetched.saturating_add(1);
                self.step = Step::Root { fetched };
                // 5.3.3: after Y root files on to 5.3.10; the next update
                // takes the chain up again.
                if fetched >= self.limits.roots {
                    return self.end_of_roots();
                }
                Ok(())
            }
            Step::Timestamp => self.accept_timestamp(bytes),
            Step::Snapshot => {
                let snapshot = self.checked_snapshot(bytes)?;
                self.set_snapshot(snapshot);
                Ok(())
            }
            Step::Targets => {
                self.targets = Some(self.checked_targets(bytes)?);
                self.step = Step::Ready;
                Ok(())
            }
            Step::Ready => self.feed_search(bytes),
        }
    }

    /// What to write to the disk: everything accepted so far, and what was
    /// stored before and was not replaced.
    pub fn trusted(&self) -> Trusted {
        let mut trusted = self.stored.clone();
        trusted.newer_roots.clone_from(&self.newer_roots);
        // Before the roots are known, what was stored was not judged yet.
        if !matches!(self.step, Step::Root { .. }) {
            trusted.timestamp = self.timestamp.as_ref().map(|m| m.bytes().to_vec());
            trusted.snapshot = self.snapshot.as_ref().map(|m| m.bytes().to_vec());
        }
        if let Some(targets) = &self.targets {
            trusted.targets = Some(targets.bytes().to_vec());
        }
        trusted
    }

    /// Whether all four top-level roles are current.
    pub fn is_current(&self) -> bool {
        self.step == Step::Ready
    }

    /// What is signed of the target `path`. `None` before the update is done;
    /// delegated roles are asked after [`Client::want`].
    pub fn target(&self, path: &str) -> Option<&TargetFile> {
        let top = self.targets.as_ref().filter(|_| self.is_current())?;
        let listed = top.content().targets.get(path);
        listed.or_else(|| self.found(path))
    }

    /// Where the target lies below the repository's `targets/`:
    /// `sites/HASH.ID.json`. `None` where [`Client::target`] knows none.
    pub fn consistent_target_path(&self, path: &str) -> Option<String> {
        let target = self.target(path)?;
        // 5.7.3
        Some(if self.root().consistent_snapshot {
            consistent_name(path, target)
        } else {
            path.to_owned()
        })
    }

    /// The root trusted now.
    pub fn root(&self) -> &Root {
        self.root.content()
    }

    /// The timestamp trusted now.
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(|m| m.content())
    }

    /// The snapshot trusted now.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(|m| m.content())
    }

    /// The top-level targets trusted now.
    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref().map(|m| m.content())
    }

    /// When the site signed its timestamp: proof that this time is past, to
    /// raise a time floor with. A time after the timestamp's or the root's own
    /// expiry is no proof: a stolen site key could else move a device's floor
    /// to the year 9999 for good, past everything HQ will ever sign.
    pub fn issued_at(&self) -> Option<UnixTime> {
        let timestamp = self.timestamp()?;
        timestamp
            .issued_at
            .filter(|time| *time <= timestamp.expires && *time <= self.root().expires)
    }

    /// When the first of the four files expires, once all are there.
    pub fn expires(&self) -> Option<UnixTime> {
        let online = self.timestamp()?.expires.min(self.snapshot()?.expires);
        Some(online.min(self.targets()?.expires).min(self.root().expires))
    }

    // 5.3.4 to 5.3.8, 5.3.11
    fn accept_root(&mut self, bytes: &[u8]) -> Result<(), TufError> {
        let new = next_root(self.root(), bytes)?;
        // 5.3.11: what keys signed that are no longer trusted is forgotten, in
        // order to recover from a fast-forward attack.
        if online_keys_rotated(self.root(), new.content()) {
            self.stored.timestamp = None;
            self.stored.snapshot = None;
        }
        // 5.3.7, 5.3.8
        self.newer_roots.push(bytes.to_vec());
        self.root = new;
        Ok(())
    }

    // 5.3.10, 5.3.11, and what is stored of the other roles
    fn end_of_roots(&mut self) -> Result<(), TufError> {
        let root = self.root.content();
        not_below("root", root.version.get(), self.minimum.root, "the image")?;
        unexpired("root", root, self.now)?;
        // Stored files count if the root of today still vouches for them; this
        // also completes 5.3.11 where an earlier update was interrupted.
        let stored = self.stored.timestamp.as_deref();
        self.timestamp = stored.and_then(|bytes| {
            let file = Unverified::<Timestamp>::parse(bytes).ok()?;
            file.verify(&root.timestamp_authority()).ok()
        });
        let stored = self.stored.snapshot.as_deref();
        self.snapshot = stored.and_then(|bytes| {
            let file = Unverified::<Snapshot>::parse(bytes).ok()?;
            file.verify(&root.snapshot_authority()).ok()
        });
        self.step = Step::Timestamp;
        Ok(())
    }

    // 5.4.2 to 5.4.5
    fn accept_timestamp(&mut self, bytes: &[u8]) -> Result<(), TufError> {
        let root = self.root.content();
        let new = parse::<Timestamp>("timestamp", bytes)?;
        let authority = root.timestamp_authority();
        let new = verify("timestamp", new, &authority, || by("root", root))?;
        let found = new.content().version.get();
        // 5.4.3.1
        let known = self.timestamp().map_or(0, |old| old.version.get());
        not_below("timestamp", found, known, "the last update")?;
        not_below("timestamp", found, self.minimum.timestamp, "the image")?;
        if let Some(old) = self.timestamp().filter(|_| found == known) {
            // The same version: the file that is already trusted stays.
            unexpired("timestamp", old, self.now)?;
            self.begin_snapshot();
            return Ok(());
        }
        // 5.4.3.2
        let (announced, known) = (
            new.content().meta.snapshot.version.get(),
            self.timestamp()
                .map_or(0, |old| old.meta.snapshot.version.get()),
        );
        not_below("snapshot", announced, known, "the last update")?;
        not_below("snapshot", announced, self.minimum.snapshot, "the image")?;
        // 5.4.4, 5.4.5
        unexpired("timestamp", new.content(), self.now)?;
        self.timestamp = Some(new);
        self.begin_snapshot();
        Ok(())
    }

    /// Fetches the snapshot, unless the stored one is the one announced.
    fn begin_snapshot(&mut self) {
        self.step = Step::Snapshot;
        let stored = self.snapshot.as_ref().map(|m| m.bytes().to_vec());
        if let Some(Ok(snapshot)) = stored.map(|bytes| self.checked_snapshot(&bytes)) {
            self.set_snapshot(snapshot);
        }
    }

    // 5.5.2 to 5.5.6
    fn checked_snapshot(&self, bytes: &[u8]) -> Result<Verified<Metadata<Snapshot>>, TufError> {
        let root = self.root.content();
        let timestamp = self.timestamp().ok_or(TufError::NotAsked)?;
        let meta = &timestamp.meta.snapshot;
        // 5.5.2
        announced("snapshot", meta, bytes, || by("timestamp", timestamp))?;
        // 5.5.3
        let new = parse::<Snapshot>("snapshot", bytes)?;
        let authority = root.snapshot_authority();
        let new = verify("snapshot", new, &authority, || by("root", root))?;
        // 5.5.4
        exactly("snapshot", new.content(), meta, || {
            by("timestamp", timestamp)
        })?;
        // 5.5.5
        for (file, old) in self.snapshot().iter().flat_map(|old| &old.meta) {
            let listed = new.content().meta.get(file);
            let listed = listed.ok_or_else(|| not_listed(new.content(), file))?;
            let role = file.strip_suffix(".json").unwrap_or(file);
            let (found, known) = (listed.version.get(), old.version.get());
            not_below(role, found, known, "the last update")?;
        }
        let targets = new.content().meta.get("targets.json");
        let targets = targets.ok_or_else(|| not_listed(new.content(), "targets.json"))?;
        let (found, minimum) = (targets.version.get(), self.minimum.targets);
        not_below("targets", found, minimum, "the image")?;
        // 5.5.6
        unexpired("snapshot", new.content(), self.now)?;
        Ok(new)
    }

    // 5.5.7, and targets that are stored already
    fn set_snapshot(&mut self, snapshot: Verified<Metadata<Snapshot>>) {
        self.snapshot = Some(snapshot);
        self.step = Step::Targets;
        let stored = self.stored.targets.as_deref();
        if let Some(Ok(targets)) = stored.map(|bytes| self.checked_targets(bytes)) {
            self.targets = Some(targets);
            self.step = Step::Ready;
        }
    }

    // 5.6.2 to 5.6.5
    fn checked_targets(&self, bytes: &[u8]) -> Result<Verified<Metadata<Targets>>, TufError> {
        let root = self.root.content();
        self.checked_delegate("targets", bytes, &root.targets_authority(), || {
            by("root", root)
        })
    }

    /// The checks of 5.6.2 to 5.6.5, for targets and every delegated role.
    pub(super) fn checked_delegate(
        &self,
        role: &str,
        bytes: &[u8],
        authority: &Authority<'_>,
        delegator: impl Fn() -> String,
    ) -> Result<Verified<Metadata<Targets>>, TufError> {
        let meta = self.listed(role)?;
        let snapshot = || {
            self.snapshot()
                .map_or_else(String::new, |s| by("snapshot", s))
        };
        announced(role, meta, bytes, snapshot)?;
        let new = parse::<Targets>(role, bytes)?;
        let new = verify(role, new, authority, delegator)?;
        exactly(role, new.content(), meta, snapshot)?;
        unexpired(role, new.content(), self.now)?;
        Ok(new)
    }

    /// What the trusted snapshot says of a role's file.
    pub(super) fn listed(&self, role: &str) -> Result<&MetaFile, TufError> {
        let snapshot = self.snapshot().ok_or(TufError::NotAsked)?;
        let file = format!("{role}.json");
        let meta = snapshot.meta.get(&file);
        meta.ok_or_else(|| not_listed(snapshot, &file))
    }

    /// How to fetch a role's file: its announced length, but never more than
    /// the limit, which a stolen key could else set as it likes.
    pub(super) fn file(&self, role: &str, meta: &MetaFile, limit: u64) -> Poll {
        let name = percent_encoded(role);
        let path = if self.root().consistent_snapshot {
            format!("{}.{name}.json", meta.version)
        } else {
            format!("{name}.json")
        };
        let max_len = meta.length.unwrap_or(limit).min(limit);
        Poll::Fetch(Fetch { path, max_len })
    }

    fn wanted_role(&self) -> String {
        match self.step {
            Step::Root { .. } => "root".to_owned(),
            Step::Timestamp => "timestamp".to_owned(),
            Step::Snapshot => "snapshot".to_owned(),
            Step::Targets => "targets".to_owned(),
            Step::Ready => self.search_role(),
        }
    }
}

/// Whether a key that could sign timestamps or snapshots no longer can.
fn online_keys_rotated(old: &Root, new: &Root) -> bool {
    let lost =
        |old: &RoleKeys, new: &RoleKeys| old.keyids.iter().any(|id| !new.keyids.contains(id));
    lost(&old.roles.timestamp, &new.roles.timestamp)
        || lost(&old.roles.snapshot, &new.roles.snapshot)
}
