//! The site's registry on disk: SQLite in WAL mode with full sync, one writer
//! thread that commits in batches.
//!
//! Memory moves first; the answer to whoever caused a change waits for
//! [`Commit`]. Because one channel orders all changes and a batch is one
//! transaction, what is on disk is always a prefix of what memory went
//! through. A commit that fails ends the process: an appliance that cannot
//! remember must not answer.

mod schema;
mod wal;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use groundcrew_core::dsse::Envelope;
use groundcrew_core::hardware::MacAddr;
use groundcrew_core::{DeviceId, Digest};
use groundcrew_netboot::dhcp::Lease;
use groundcrew_registry::device::Lobby;
use groundcrew_registry::state::Waiting;
use rusqlite::{Connection, Transaction};
use tokio::sync::{mpsc, oneshot};

use crate::once::Once;

/// Changes that may wait for the writer. Past it, requests are turned away.
const QUEUE: usize = 16 * 1024;

/// Changes, and commits, between two checkpoints of the write-ahead log. A commit
/// writes a handful of pages, so that both stay inside [`wal::ROOM`].
const CHECKPOINT_EVERY: usize = 4096;
const CHECKPOINT_COMMITS: usize = 1024;

/// The most changes one transaction takes: bounds the wait for its sync.
const BATCH: usize = 2048;

/// An open registry that nobody writes to yet. Holds the site's lock: one
/// process at a time.
pub struct Store {
    db: Connection,
    path: PathBuf,
    _lock: File,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A journal line, at its sequence number.
    Journal {
        /// From 1, without gaps.
        seq: u64,
        /// The entry as one line of JSON.
        line: String,
    },
    /// A lease, in place of what was kept for its address.
    PutLease(Lease),
    /// No lease for this address any more.
    DropLease(std::net::Ipv4Addr),
    /// A device's signed grant, in place of the one before.
    Grant {
        /// Whose.
        device: DeviceId,
        /// The signed grant.
        envelope: Envelope,
    },
    /// A device's signed receipt, in place of the one before. Its grant is done with.
    Receipt {
        /// Whose.
        device: DeviceId,
        /// The signed receipt.
        envelope: Envelope,
    },
    /// A signature under the journal, at its line.
    Checkpoint {
        /// The line it signs.
        seq: u64,
        /// The signed checkpoint.
        envelope: Envelope,
    },
    /// A request that waits for a decision, in place of the device's one before.
    Waits {
        /// Whose.
        device: DeviceId,
        /// Its place among those that wait.
        lobby: Lobby,
        /// What it asks, JSON.
        request: String,
    },
    /// The device has no such request any more.
    WaitsNoMore(DeviceId),
    /// Rows of a file that is about to be registered. Part 0 is the order itself:
    /// once it is there, all of the file counts.
    ImportPart {
        /// From 1, and 0 last.
        part: u32,
        /// JSON.
        rows: String,
    },
    /// The rows of this part are in the journal.
    ImportPartDone(u32),
    /// All of them are, or none counts.
    ImportOver,
    /// No checkpoint counts any more: the key that signed them is not the site's.
    ForgetCheckpoints,
    /// An order for a device's next boot, in place of the one before.
    PutOnce {
        /// The device's card.
        mac: MacAddr,
        /// What.
        once: Once,
    },
    /// The order for a device's next boot was carried out or taken back.
    DropOnce(MacAddr),
    /// The grant of a device that was taken out of service is worth nothing.
    DropGrant(DeviceId),
    /// A hardware hash, kept for export: content, so one that is there stays.
    Hash {
        /// Digest of the whole container.
        digest: Digest,
        /// The container without the zeros at its end.
        bytes: Vec<u8>,
    },
    /// A device's last words, in place of the ones before.
    DeviceLog {
        /// Whose.
        device: DeviceId,
        /// Text.
        text: String,
    },
}

impl Store {
    /// Makes an empty registry; refuses one that exists.
    pub fn create(path: &Path) -> anyhow::Result<()> {
        if path.exists() {
            bail!("{} exists already", path.display());
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        schema::prepare(&Connection::open(path)?).context("making an empty registry")?;
        crate::durable::sync_folder_of(path)?;
        Ok(())
    }

    /// Opens the registry and takes the site's lock.
    ///
    /// # Errors
    /// Another process serves the site, or the file is not a registry.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let lock = lock(path)?;
        if !path.exists() {
            bail!(
                "{} is missing: is this a site folder? `groundcrew init` makes one",
                path.display()
            );
        }
        let db = Connection::open(path).with_context(|| format!("opening {}", path.display()))?;
        schema::prepare(&db).with_context(|| format!("reading {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self {
            db,
            path,
            _lock: lock,
        })
    }

    /// Hands over the journal's lines after line `seq`, one at a time.
    pub fn journal_after(
        &self,
        seq: u64,
        each: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        schema::each_journal_line(&self.db, seq, each)
    }

    /// One line of the journal.
    pub fn line(&self, seq: u64) -> anyhow::Result<Option<String>> {
        schema::journal_line(&self.db, seq).context("reading the journal")
    }

    /// The requests that wait for a decision, in their order.
    pub fn waiting(&self) -> anyhow::Result<Vec<Waiting>> {
        schema::waiting(&self.db).context("reading the requests that wait")
    }

    /// The parts that are left of an import that a crash came into.
    pub fn import_parts(&self) -> anyhow::Result<Vec<u32>> {
        schema::import_parts(&self.db).context("reading an import that was begun")
    }

    /// One part of it; 0 is its order.
    pub fn import_part(&self, part: u32) -> anyhow::Result<String> {
        schema::import_part(&self.db, part).context("reading an import that was begun")
    }

    /// The signed checkpoints, each with its line.
    pub fn checkpoints(&self) -> anyhow::Result<Vec<(u64, Envelope)>> {
        schema::checkpoints(&self.db).context("reading the checkpoints")
    }

    /// All leases, expired ones too.
    pub fn leases(&self) -> anyhow::Result<Vec<Lease>> {
        schema::leases(&self.db).context("reading the leases")
    }

    /// The orders that wait for a boot.
    pub fn once(&self) -> anyhow::Result<Vec<(MacAddr, Once)>> {
        schema::once(&self.db).context("reading the orders for one boot")
    }

    /// The signed grants of devices that have sent no receipt yet.
    pub fn grants(&self) -> anyhow::Result<Vec<(DeviceId, Envelope)>> {
        schema::grants(&self.db).context("reading the grants")
    }

    /// Writes changes in one synced transaction, for commands that run while
    /// nothing is served.
    pub fn write(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        let transaction = self.db.transaction()?;
        for change in changes {
            schema::apply(&transaction, change)?;
        }
        transaction.commit().context("writing the registry")
    }

    /// Makes the commits to come faster, where the disk has room for that.
    pub fn make_room(&self) {
        if let Err(error) = wal::make_room(&self.db, &self.path) {
            tracing::warn!(
                "the registry's log gets no room in advance, so answers take longer: {error:#}"
            );
        }
    }

    /// Gives the registry to its writer thread.
    pub fn start(self) -> anyhow::Result<Writer> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (written, grown) = std::sync::mpsc::sync_channel(1);
        let beside = Connection::open(&self.path).context("opening the registry once more")?;
        schema::never_checkpoint_at_commit(&self.db)?;
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let spawned = thread("store").spawn(move || write_until_closed(self, receiver, &written));
        spawned.context("starting the store's thread")?;
        let spawned = thread("checkpoint").spawn(move || checkpoint_when_grown(&beside, &grown));
        spawned.context("starting the store's second thread")?;
        Ok(Writer { sender })
    }
}

/// The parts of a file that are staged. Reads beside the writer.
pub struct StagedParts(Connection);

impl StagedParts {
    /// Opens the registry once more.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self(reader(path)?))
    }

    /// One part, as it was staged.
    pub fn part(&self, part: u32) -> anyhow::Result<String> {
        schema::import_part(&self.0, part).context("reading a part of an import")
    }
}

/// What a device's agent said last. Reads beside the writer.
pub fn device_log(path: &Path, device: &DeviceId) -> anyhow::Result<Option<String>> {
    schema::device_log(&reader(path)?, device).context("reading a device's log")
}

/// Hands over the journal's lines from the first on, as far as they are
/// committed. Reads beside the writer, and holds one line at a time.
pub fn each_journal_line(
    path: &Path,
    each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    schema::each_journal_line(&reader(path)?, 0, each)
}

/// The signed checkpoints. Reads beside the writer.
pub fn checkpoints(path: &Path) -> anyhow::Result<Vec<Envelope>> {
    let all = checkpoints_by_line(path)?;
    Ok(all.into_iter().map(|(_, envelope)| envelope).collect())
}

/// The signed checkpoints, each with the line it says it signs.
pub fn checkpoints_by_line(path: &Path) -> anyhow::Result<Vec<(u64, Envelope)>> {
    schema::checkpoints(&reader(path)?).context("reading the checkpoints")
}

/// Copies a registry at one moment, beside its writer. `to` must not exist.
pub fn snapshot(path: &Path, to: &Path) -> anyhow::Result<()> {
    let to = to.to_str().context("the path of a backup must be UTF-8")?;
    reader(path)?
        .execute("VACUUM INTO ?1", [to])
        .context("copying the registry")?;
    Ok(())
}

/// Whether SQLite finds a registry whole.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let answer: String =
        reader(path)?.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    anyhow::ensure!(answer == "ok", "the registry is damaged: {answer}");
    Ok(())
}

/// The journal's last line, read beside a running writer.
pub fn last_journal_line(path: &Path) -> anyhow::Result<Option<String>> {
    schema::last_journal_line(&reader(path)?).context("reading the journal")
}

/// One line of the journal. Reads beside the writer.
pub fn journal_line(path: &Path, seq: u64) -> anyhow::Result<Option<String>> {
    schema::journal_line(&reader(path)?, seq).context("reading the journal")
}

/// Those of these hardware hashes that are kept. Reads beside the writer.
pub fn hashes(
    path: &Path,
    digests: impl IntoIterator<Item = Digest>,
) -> anyhow::Result<HashMap<Digest, Vec<u8>>> {
    let db = reader(path)?;
    let mut found = HashMap::new();
    for digest in digests {
        let bytes = schema::hash(&db, &digest).context("reading a hardware hash")?;
        found.extend(bytes.map(|bytes| (digest, bytes)));
    }
    Ok(found)
}

/// The leases, read beside a running appliance or without one.
pub fn leases(path: &Path) -> anyhow::Result<Vec<Lease>> {
    schema::leases(&reader(path)?).context("reading the leases")
}

fn reader(path: &Path) -> anyhow::Result<Connection> {
    Ok(Connection::open_with_flags(
        path,
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )?)
}

/// Locks the site's folder: there is no lock file that another user made.
fn lock(path: &Path) -> anyhow::Result<File> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let context = || {
        format!(
            "{}: is this a site folder? `groundcrew init` makes one",
            folder.display()
        )
    };
    let file = File::open(folder).with_context(context)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another groundcrew works on this site right now; let it finish or stop it")
        }
        Err(error) => Err(error).with_context(|| format!("locking {}", folder.display())),
    }
}

/// A change's place in the order of things, to be awaited before answering.
#[must_use = "an answer may go out only after the commit"]
pub struct Commit(oneshot::Receiver<()>);

impl Commit {
    /// Returns when the change is on disk.
    pub async fn done(self) {
        // The writer drops the sender only when the process is going down;
        // then nobody may be answered any more.
        if self.0.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The queue to the disk is full: the disk is slower than the requests.
#[derive(Debug, thiserror::Error)]
#[error("the disk does not keep up with the requests; try again in a moment")]
pub struct Busy;

/// A handle to the writer thread.
#[derive(Clone)]
pub struct Writer {
    sender: mpsc::Sender<Batch>,
}

struct Batch {
    changes: Vec<Change>,
    done: oneshot::Sender<()>,
}

/// A kept place in the queue. Taken before memory moves, so that a full queue
/// refuses the request while nothing has happened yet.
pub struct Place(mpsc::OwnedPermit<Batch>);

impl Writer {
    /// Keeps a place in the queue.
    pub fn place(&self) -> Result<Place, Busy> {
        self.sender
            .clone()
            .try_reserve_owned()
            .map(Place)
            .map_err(|_| Busy)
    }

    /// Waits for a place in the queue: for work that cannot be refused half way.
    pub async fn place_in_time(&self) -> Place {
        match self.sender.clone().reserve_owned().await {
            Ok(permit) => Place(permit),
            // The writer ended, and the process with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns when everything queued before is on disk.
    pub async fn flush(&self) {
        let (done, receiver) = oneshot::channel();
        if let Ok(permit) = self.sender.reserve().await {
            permit.send(Batch {
                changes: Vec::new(),
                done,
            });
            Commit(receiver).done().await;
        }
    }
}

impl Place {
    /// Queues changes; they are committed together or not at all.
    pub fn write(self, changes: Vec<Change>) -> Commit {
        let (done, receiver) = oneshot::channel();
        self.0.send(Batch { changes, done });
        Commit(receiver)
    }
}

fn write_until_closed(
    mut store: Store,
    mut queue: mpsc::Receiver<Batch>,
    grown: &std::sync::mpsc::SyncSender<()>,
) {
    let mut batches = Vec::new();
    let (mut since, mut commits) = (0, 0);
    while queue.blocking_recv_many(&mut batches, BATCH) > 0 {
        if let Err(error) = commit(&mut store.db, &batches) {
            tracing::error!("cannot write the registry, so nothing more is answered: {error}");
            std::process::exit(1);
        }
        commits += 1;
        for batch in batches.drain(..) {
            since += batch.changes.len();
            // Whoever asked may have gone away; the change stands.
            let _ = batch.done.send(());
        }
        let grew = since >= CHECKPOINT_EVERY || commits >= CHECKPOINT_COMMITS;
        if grew && grown.try_send(()).is_ok() {
            (since, commits) = (0, 0);
        }
    }
}

/// Moves the write-ahead log into the database, beside the writer: at a commit
/// it would make one answer in a thousand wait for several syncs.
fn checkpoint_when_grown(db: &Connection, grown: &std::sync::mpsc::Receiver<()>) {
    while grown.recv().is_ok() {
        if let Err(error) = schema::checkpoint(db) {
            // The log only grows until the next try.
            tracing::warn!("the registry's write-ahead log could not be folded in: {error}");
        }
    }
}

fn commit(db: &mut Connection, batches: &[Batch]) -> rusqlite::Result<()> {
    let transaction: Transaction<'_> =
        db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for change in batches.iter().flat_map(|batch| &batch.changes) {
        schema::apply(&transaction, change)?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests;
