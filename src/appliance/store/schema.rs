//! The tables, and the only SQL there is.

use std::net::Ipv4Addr;

use groundcrew_core::dsse::Envelope;
use groundcrew_core::hardware::MacAddr;
use groundcrew_core::{DeviceId, Digest, UnixTime};
use groundcrew_netboot::dhcp::{Lease, LeaseState};
use groundcrew_registry::device::Lobby;
use groundcrew_registry::state::Waiting;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::Change;
use crate::once::Once;

/// Raised with every change of the tables; a registry of a later version is
/// refused rather than misread.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE journal (
  seq  INTEGER PRIMARY KEY,   -- from 1, without gaps
  line TEXT NOT NULL          -- the entry, one line of JSON, hash-chained
) STRICT;
CREATE TABLE lease (
  ip       TEXT PRIMARY KEY,
  client   TEXT NOT NULL,     -- mac:… or id:…
  mac      TEXT NOT NULL,
  uuid     TEXT,
  hostname TEXT,
  expires  INTEGER NOT NULL,  -- seconds since 1970
  state    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE grant_ (        -- devices at work
  device   TEXT PRIMARY KEY,
  envelope TEXT NOT NULL       -- DSSE
) STRICT, WITHOUT ROWID;
CREATE TABLE receipt (       -- the last one of each device
  device   TEXT PRIMARY KEY,
  envelope TEXT NOT NULL       -- DSSE
) STRICT, WITHOUT ROWID;
CREATE TABLE device_log (
  device TEXT PRIMARY KEY,
  text   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Tables that came later and that an older program does not miss.
const LATER_TABLES: &str = "
CREATE TABLE IF NOT EXISTS hash (
  digest TEXT PRIMARY KEY,     -- of the whole container
  bytes  BLOB NOT NULL         -- without the zeros at its end
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boot_once (
  mac  TEXT PRIMARY KEY,
  what TEXT NOT NULL           -- menu, agent, disk, memtest, shell
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoint (
  seq      INTEGER PRIMARY KEY, -- the journal line it signs
  envelope TEXT NOT NULL        -- DSSE
) STRICT;
CREATE TABLE IF NOT EXISTS waiting ( -- requests that nobody decided on
  device  TEXT PRIMARY KEY,
  place   INTEGER NOT NULL,     -- grows with every request
  at      INTEGER NOT NULL,     -- seconds since 1970
  request TEXT NOT NULL         -- JSON, as the journal will have it
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS import ( -- of one file that is being registered
  part INTEGER PRIMARY KEY,     -- from 1; 0 is there once all are, and then they count
  rows TEXT NOT NULL            -- JSON
) STRICT;
";

/// Sets the connection up and makes the tables where there are none.
pub fn prepare(db: &Connection) -> anyhow::Result<()> {
    db.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit returns after its sync, so that an answer survives a power cut.
    db.pragma_update(None, "synchronous", "FULL")?;
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => {
            let transaction = db.unchecked_transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            transaction.commit()?;
        }
        VERSION => {}
        later => anyhow::bail!(
            "it was written by a later groundcrew (form {later}, this one knows {VERSION})"
        ),
    }
    db.execute_batch(LATER_TABLES)?;
    Ok(())
}

/// Leaves checkpoints to [`checkpoint`].
pub fn never_checkpoint_at_commit(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "wal_autocheckpoint", 0)
}

/// Folds the write-ahead log into the database as far as nobody is in the way.
pub fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

pub fn each_journal_line(
    db: &Connection,
    after: u64,
    mut each: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut statement = db.prepare("SELECT line FROM journal WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query([i64::try_from(after).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        each(row.get_ref(0)?.as_str()?)?;
    }
    Ok(())
}

pub fn checkpoints(db: &Connection) -> rusqlite::Result<Vec<(u64, Envelope)>> {
    // A reader makes no tables, and no writer of this version may have been here.
    let there = "SELECT count(*) FROM sqlite_master WHERE name = 'checkpoint'";
    if db.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    db.prepare("SELECT seq, envelope FROM checkpoint ORDER BY seq")?
        .query_map([], |row| {
            let (seq, envelope): (i64, String) = (row.get(0)?, row.get(1)?);
            let envelope =
                serde_json::from_str(&envelope).map_err(|_| unreadable(1, "a checkpoint"))?;
            Ok((u64::try_from(seq).unwrap_or(0), envelope))
        })?
        .collect()
}

pub fn waiting(db: &Connection) -> rusqlite::Result<Vec<Waiting>> {
    db.prepare("SELECT device, place, at, request FROM waiting ORDER BY place")?
        .query_map([], |row| {
            let (order, at): (i64, i64) = (row.get(1)?, row.get(2)?);
            let request: String = row.get(3)?;
            let request = serde_json::from_str(&request)
                .map_err(|_| unreadable(3, "a request that waits"))?;
            Ok(Waiting {
                device: parsed(row, 0)?,
                lobby: Lobby {
                    order: u64::try_from(order).unwrap_or(0),
                    at: UnixTime::new(u64::try_from(at).unwrap_or(0)),
                },
                request,
            })
        })?
        .collect()
}

/// The parts that are left of an import; 0 is its order.
pub fn import_parts(db: &Connection) -> rusqlite::Result<Vec<u32>> {
    db.prepare("SELECT part FROM import ORDER BY part")?
        .query_map([], |row| row.get(0))?
        .collect()
}

pub fn import_part(db: &Connection, part: u32) -> rusqlite::Result<String> {
    db.prepare_cached("SELECT rows FROM import WHERE part = ?1")?
        .query_row([part], |row| row.get(0))
}

pub fn last_journal_line(db: &Connection) -> rusqlite::Result<Option<String>> {
    let last = "SELECT line FROM journal ORDER BY seq DESC LIMIT 1";
    db.query_row(last, [], |row| row.get(0)).optional()
}

pub fn journal_line(db: &Connection, seq: u64) -> rusqlite::Result<Option<String>> {
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    db.query_row("SELECT line FROM journal WHERE seq = ?1", [seq], |row| {
        row.get(0)
    })
    .optional()
}

pub fn hash(db: &Connection, digest: &Digest) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT bytes FROM hash WHERE digest = ?1")?
        .query_row([digest.to_string()], |row| row.get(0))
        .optional()
}

pub fn leases(db: &Connection) -> rusqlite::Result<Vec<Lease>> {
    db.prepare("SELECT ip, client, mac, uuid, hostname, expires, state FROM lease")?
        .query_map([], lease)?
        .collect()
}

pub fn once(db: &Connection) -> rusqlite::Result<Vec<(MacAddr, Once)>> {
    db.prepare("SELECT mac, what FROM boot_once")?
        .query_map([], |row| {
            let once = Once::from_word(&row.get::<_, String>(1)?);
            let once = once.ok_or_else(|| unreadable(1, "an order for one boot"))?;
            Ok((parsed(row, 0)?, once))
        })?
        .collect()
}

pub fn grants(db: &Connection) -> rusqlite::Result<Vec<(DeviceId, Envelope)>> {
    db.prepare("SELECT device, envelope FROM grant_")?
        .query_map([], |row| {
            let envelope: String = row.get(1)?;
            Ok((
                parsed(row, 0)?,
                serde_json::from_str(&envelope).map_err(|_| unreadable(1, "a grant"))?,
            ))
        })?
        .collect()
}

pub fn device_log(db: &Connection, device: &DeviceId) -> rusqlite::Result<Option<String>> {
    db.query_row(
        "SELECT text FROM device_log WHERE device = ?1",
        [device.as_str()],
        |row| row.get(0),
    )
    .optional()
}

pub fn apply(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Journal { seq, line } => {
            // INSERT, never REPLACE: a line that is there stays.
            transaction
                .prepare_cached("INSERT INTO journal (seq, line) VALUES (?1, ?2)")?
                .execute(params![i64::try_from(*seq).unwrap_or(i64::MAX), line])
        }
        Change::PutLease(lease) => transaction
            .prepare_cached("INSERT OR REPLACE INTO lease (ip, client, mac, uuid, hostname, expires, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                lease.ip.to_string(),
                lease.key.to_string(),
                lease.mac.to_string(),
                lease.uuid.map(|uuid| uuid.to_string()),
                lease.hostname,
                i64::try_from(lease.expires_at.seconds()).unwrap_or(i64::MAX),
                lease.state.as_str(),
            ]),
        Change::DropLease(ip) => {
            transaction.prepare_cached("DELETE FROM lease WHERE ip = ?1")?.execute([ip.to_string()])
        }
        Change::Checkpoint { seq, envelope } => transaction
            .prepare_cached("INSERT OR IGNORE INTO checkpoint (seq, envelope) VALUES (?1, ?2)")?
            .execute(params![i64::try_from(*seq).unwrap_or(i64::MAX), json(envelope)?]),
        Change::Waits { device, lobby, request } => transaction
            .prepare_cached("INSERT OR REPLACE INTO waiting (device, place, at, request) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                device.as_str(),
                i64::try_from(lobby.order).unwrap_or(i64::MAX),
                i64::try_from(lobby.at.seconds()).unwrap_or(i64::MAX),
                request,
            ]),
        Change::WaitsNoMore(device) => {
            transaction.prepare_cached("DELETE FROM waiting WHERE device = ?1")?.execute([device.as_str()])
        }
        Change::ImportPart { part, rows } => transaction
            .prepare_cached("INSERT INTO import (part, rows) VALUES (?1, ?2)")?
            .execute(params![part, rows]),
        Change::ImportPartDone(part) => {
            transaction.prepare_cached("DELETE FROM import WHERE part = ?1")?.execute([part])
        }
        Change::ImportOver => transaction.prepare_cached("DELETE FROM import")?.execute([]),
        Change::ForgetCheckpoints => transaction.prepare_cached("DELETE FROM checkpoint")?.execute([]),
        Change::PutOnce { mac, once } => transaction
            .prepare_cached("INSERT OR REPLACE INTO boot_once (mac, what) VALUES (?1, ?2)")?
            .execute(params![mac.to_string(), once.word()]),
        Change::DropOnce(mac) => transaction
            .prepare_cached("DELETE FROM boot_once WHERE mac = ?1")?
            .execute([mac.to_string()]),
        Change::DropGrant(device) => {
            transaction.prepare_cached("DELETE FROM grant_ WHERE device = ?1")?.execute([device.as_str()])
        }
        Change::Hash { digest, bytes } => transaction
            .prepare_cached("INSERT OR IGNORE INTO hash (digest, bytes) VALUES (?1, ?2)")?
            .execute(params![digest.to_string(), bytes]),
        Change::DeviceLog { device, text } => transaction
            .prepare_cached("INSERT OR REPLACE INTO device_log (device, text) VALUES (?1, ?2)")?
            .execute(params![device.as_str(), text]),
        Change::Grant { device, envelope } => transaction
            .prepare_cached("INSERT OR REPLACE INTO grant_ (device, envelope) VALUES (?1, ?2)")?
            .execute(params![device.as_str(), json(envelope)?]),
        Change::Receipt { device, envelope } => {
            transaction.prepare_cached("DELETE FROM grant_ WHERE device = ?1")?.execute([device.as_str()])?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO receipt (device, envelope) VALUES (?1, ?2)")?
                .execute(params![device.as_str(), json(envelope)?])
        }
    }
    .map(drop)
}

fn json(envelope: &Envelope) -> rusqlite::Result<String> {
    serde_json::to_string(envelope)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Lease> {
    let expires: i64 = row.get(5)?;
    Ok(Lease {
        ip: parsed::<Ipv4Addr>(row, 0)?,
        key: parsed(row, 1)?,
        mac: parsed(row, 2)?,
        uuid: if row.get_ref(3)?.data_type() == Type::Null {
            None
        } else {
            Some(parsed(row, 3)?)
        },
        hostname: row.get(4)?,
        expires_at: UnixTime::new(u64::try_from(expires).unwrap_or(0)),
        state: LeaseState::from_word(&row.get::<_, String>(6)?)
            .ok_or_else(|| unreadable(6, "a lease's state"))?,
    })
}

fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    row.get::<_, String>(column)?
        .parse()
        .map_err(|_| unreadable(column, "a lease's field"))
}

fn unreadable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        Type::Text,
        format!("{what} does not parse").into(),
    )
}
