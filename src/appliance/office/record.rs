//! The way of a change: into memory, into the queue to the disk, into the log.

use groundcrew_core::UnixTime;
use groundcrew_registry::Change;
use groundcrew_registry::checkpoint::{self, Checkpoint};
use groundcrew_registry::state::Record;

use super::{Inner, Office};
use crate::site::SiteKeys;
use crate::store::{self, Store};

impl Office {
    /// Folds changes into memory and returns the rows that must be committed
    /// before anybody is answered.
    pub(super) fn record(
        &self,
        inner: &mut Inner,
        now: UnixTime,
        changes: Vec<Change>,
    ) -> Vec<store::Change> {
        let records = self.fold(inner, now, changes);
        records.iter().for_each(tell);
        self.rows(inner, now, records)
    }

    /// The same without a line in the log for each: of what comes by the
    /// hundred thousand.
    pub(super) fn record_quietly(
        &self,
        inner: &mut Inner,
        now: UnixTime,
        changes: Vec<Change>,
    ) -> Vec<store::Change> {
        let records = self.fold(inner, now, changes);
        self.rows(inner, now, records)
    }

    fn fold(&self, inner: &mut Inner, now: UnixTime, changes: Vec<Change>) -> Vec<Record> {
        match inner.registry.record(now, changes) {
            Ok(records) => records,
            Err(error) => {
                // Memory went further than the journal can follow.
                tracing::error!(
                    "the registry contradicts itself, so nothing more is answered: {error}"
                );
                std::process::exit(1);
            }
        }
    }

    fn rows(&self, inner: &mut Inner, now: UnixTime, records: Vec<Record>) -> Vec<store::Change> {
        inner.floor.raise(now);
        self.changed();
        let mut rows: Vec<store::Change> = records.into_iter().map(row).collect();
        if checkpoint::due(inner.registry.chain().seq(), inner.signed, now) {
            rows.extend(self.checkpoint(inner, now));
        }
        rows
    }

    pub(super) fn checkpoint(&self, inner: &mut Inner, now: UnixTime) -> Vec<store::Change> {
        let chain = inner.registry.chain();
        match Checkpoint::of(&self.name, chain, now).sign(&self.keys.journal) {
            Ok(envelope) => {
                inner.signed = Some((chain.seq(), now));
                vec![store::Change::Checkpoint {
                    seq: chain.seq(),
                    envelope,
                }]
            }
            Err(error) => {
                tracing::error!("cannot sign the journal: {error}");
                Vec::new()
            }
        }
    }
}

fn tell(record: &Record) {
    match record {
        Record::Entry(entry) => {
            tracing::info!(device = %entry.device(), by = %entry.actor(), "{}", entry.event().name());
        }
        Record::Waits(waiting) => {
            let cause = waiting.request.cause.as_ref().map(ToString::to_string);
            tracing::info!(device = %waiting.device, "waits: {}", cause.unwrap_or_default());
        }
        Record::WaitsNoMore(_) => {}
    }
}

/// What the registry wants written, as the store writes it.
pub(super) fn row(record: Record) -> store::Change {
    match record {
        Record::Entry(entry) => store::Change::Journal {
            seq: entry.seq(),
            line: entry.into_line(),
        },
        Record::Waits(waiting) => store::Change::Waits {
            device: waiting.device,
            lobby: waiting.lobby,
            // Serialising into text fails on no such type.
            request: serde_json::to_string(&waiting.request).unwrap_or_default(),
        },
        Record::WaitsNoMore(device) => store::Change::WaitsNoMore(device),
    }
}

/// The line that was signed last, and when; only this site's own signature counts.
pub(super) fn last_checkpoint(
    store: &Store,
    keys: &SiteKeys,
) -> anyhow::Result<Option<(u64, UnixTime)>> {
    let key = keys.journal.public();
    let last = store.checkpoints()?.pop();
    let last = last.and_then(|(_, envelope)| envelope.verify::<Checkpoint>(&key).ok());
    Ok(last.map(|checkpoint| (checkpoint.seq, checkpoint.at)))
}
