//! Room for the write-ahead log before anything is written to it.
//!
//! A log that grows makes every sync write the file's new size through the file
//! system's journal as well; into blocks that are there already, a commit is one
//! write. SQLite keeps the file when it starts the log again from its beginning,
//! and a log that was never begun, all zeros, is an empty one to it
//! (<https://sqlite.org/fileformat2.html#walformat>: the header's magic).

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::Connection;

/// Bytes: more than is written between two checkpoints.
pub const ROOM: usize = 16 * 1024 * 1024;

/// Empties the log of the registry at `path` and makes room. `db` is the only
/// connection that writes.
///
/// # Errors
/// The disk is full, or the log is in use; then it grows as it is written.
pub fn make_room(db: &Connection, path: &Path) -> anyhow::Result<()> {
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    anyhow::ensure!(busy == 0, "somebody reads the registry at this moment");
    let log = log_of(path);
    let mut file = OpenOptions::new()
        .write(true)
        .open(&log)
        .with_context(|| format!("opening {}", log.display()))?;
    // Not what the checkpoint left: then it is no room but a log.
    anyhow::ensure!(file.metadata()?.len() == 0, "the log is not empty");
    // Written, not only allocated: an unwritten block costs the journal, too.
    let zeros = vec![0; 256 * 1024];
    for _ in 0..ROOM / zeros.len() {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(())
}

/// SQLite's own name for it.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}
