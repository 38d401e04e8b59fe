//! Registering what a CSV file holds: all of it or nothing, and nobody waits
//! for it longer than for one part.
//!
//! ```text
//! parts 1, 2, … into the store, one commit each     a crash here: nothing counts
//! part 0, the order itself                          from here on all of it counts
//! each part: decided, journaled and dropped, one commit each
//!                                                   a crash here: the next start goes on
//! ```
//! Between two parts others are served, so each part is decided on anew against
//! the registry as it is then.

use groundcrew_core::time::TimeFloor;
use groundcrew_core::{DeviceId, UnixTime};
use groundcrew_registry::device::Tag;
use groundcrew_registry::event::{Actor, Event};
use groundcrew_registry::import::{self, Fault, Importer, RowsPlan};
use groundcrew_registry::{Change, Registry};
use serde::{Deserialize, Serialize};

use super::record::row;
use super::{ImportRow, ImportView, Inner, Office, Outcome, RefusedRow};
use crate::site::keys;
use crate::store::{self, Store};

/// Rows that are decided on under one lock and written in one commit: some
/// milliseconds, also on slow machines.
const PART: usize = 250;

/// Parts that are staged in one commit: a megabyte.
const TOGETHER: usize = 8;

/// Whose order it is: what all parts need.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    by: String,
    tag: Option<Tag>,
    at: UnixTime,
}

impl Office {
    pub(super) async fn import(
        &self,
        rows: Vec<ImportRow>,
        tag: Option<Tag>,
        dry_run: bool,
        by: &str,
    ) -> anyhow::Result<Outcome> {
        let _only = self.importing.lock().await;
        let at = self.credible_now(&self.lock())?;
        let by = by.to_owned();
        let terms = Terms { by, tag, at };
        let parts = parts(rows);
        let staged = !dry_run && parts.len() > 1;
        if staged {
            self.stage(&parts, &terms).await?;
        }
        let mut names = Names::new()?;
        let mut importer = Importer::default();
        let mut view = ImportView {
            dry_run,
            registered: 0,
            refused: Vec::new(),
        };
        for (part, rows) in (1..).zip(parts) {
            let place = self.writer.place_in_time().await;
            let commit = {
                let mut inner = self.lock();
                let rows = rows.into_iter().map(|row| (row.line, row.registration));
                let plan = importer.plan(&inner.registry, rows, &mut || names.next())?;
                view.add(&plan);
                if dry_run {
                    None
                } else {
                    let mut rows = self.take_in(&mut inner, plan, &terms);
                    if staged {
                        rows.push(store::Change::ImportPartDone(part));
                    }
                    Some(place.write(rows))
                }
            };
            match commit {
                Some(commit) => commit.done().await,
                None => tokio::task::yield_now().await,
            }
        }
        if staged {
            let over = vec![store::Change::ImportOver];
            let place = self.writer.place_in_time().await;
            place.write(over).done().await;
        }
        if !dry_run {
            let (good, bad) = (view.registered, view.refused.len());
            tracing::info!(by = %terms.by, "import: {good} devices registered, {bad} rows refused");
        }
        Ok(Outcome::Imported(view))
    }

    /// Brings all parts to disk before the first one counts.
    async fn stage(&self, parts: &[Vec<ImportRow>], terms: &Terms) -> anyhow::Result<()> {
        // Whoever was stopped while staging left parts that do not count.
        let over = vec![store::Change::ImportOver];
        self.writer.place_in_time().await.write(over).done().await;
        let mut number = 0;
        for parts in parts.chunks(TOGETHER) {
            let mut changes = Vec::with_capacity(TOGETHER);
            for rows in parts {
                number += 1;
                let (part, rows) = (number, serde_json::to_string(rows)?);
                changes.push(store::Change::ImportPart { part, rows });
            }
            self.writer
                .place_in_time()
                .await
                .write(changes)
                .done()
                .await;
        }
        let rows = serde_json::to_string(terms)?;
        let order = vec![store::Change::ImportPart { part: 0, rows }];
        self.writer.place_in_time().await.write(order).done().await;
        Ok(())
    }

    fn take_in(&self, inner: &mut Inner, plan: RowsPlan, terms: &Terms) -> Vec<store::Change> {
        // The order was given at a credible time, and is carried out to its end.
        let now = self.credible_now(inner).unwrap_or(terms.at);
        let let_in = let_in(&plan);
        let mut rows = self.record_quietly(inner, now, changes(plan, terms));
        rows.extend(self.grant_each(inner, now, &let_in));
        rows
    }
}

/// Carries an import to its end that the last process did not. What was let in
/// by it gets its grant when it asks.
pub(super) fn resume(
    store: &mut Store,
    registry: &mut Registry,
    floor: &mut TimeFloor,
) -> anyhow::Result<()> {
    let left = store.import()?;
    if left.is_empty() {
        return Ok(());
    }
    let mut left = left.into_iter();
    let Some((0, terms)) = left.next() else {
        return store.write(&[store::Change::ImportOver]);
    };
    let terms: Terms = serde_json::from_str(&terms)?;
    floor.raise(terms.at);
    let mut names = Names::new()?;
    let mut importer = Importer::default();
    let mut registered = 0;
    for (part, rows) in left {
        let rows: Vec<ImportRow> = serde_json::from_str(&rows)?;
        let rows = rows.into_iter().map(|row| (row.line, row.registration));
        let plan = importer.plan(registry, rows, &mut || names.next())?;
        let records = registry.record(terms.at, changes(plan, &terms))?;
        registered += records.len();
        let mut rows: Vec<store::Change> = records.into_iter().map(row).collect();
        rows.push(store::Change::ImportPartDone(part));
        store.write(&rows)?;
    }
    tracing::info!(by = %terms.by, "an import that was cut off is complete: {registered} more lines in the journal");
    store.write(&[store::Change::ImportOver])
}

fn parts(mut rows: Vec<ImportRow>) -> Vec<Vec<ImportRow>> {
    let mut parts = Vec::with_capacity(rows.len().div_ceil(PART));
    while rows.len() > PART {
        let start = (rows.len() - 1) / PART * PART;
        parts.push(rows.split_off(start));
    }
    parts.push(rows);
    parts.reverse();
    parts
}

fn let_in(plan: &RowsPlan) -> Vec<DeviceId> {
    let device = |(_, outcome): &(u64, import::Outcome)| match outcome {
        import::Outcome::LetIn { device } => Some(device.clone()),
        _ => None,
    };
    plan.outcomes.iter().filter_map(device).collect()
}

fn changes(plan: RowsPlan, terms: &Terms) -> Vec<Change> {
    let mut changes = plan.changes;
    for change in &mut changes {
        change.actor = Actor::Technician(terms.by.clone());
        if let Event::Registered { registration } = &mut change.event
            && registration.tag.is_none()
        {
            registration.tag.clone_from(&terms.tag);
        }
    }
    changes
}

impl ImportView {
    fn add(&mut self, plan: &RowsPlan) {
        let before = self.refused.len();
        self.refused
            .extend(plan.outcomes.iter().filter_map(refused));
        self.registered += plan.outcomes.len() - (self.refused.len() - before);
    }
}

fn refused((line, outcome): &(u64, import::Outcome)) -> Option<RefusedRow> {
    match outcome {
        import::Outcome::Refused(fault) => Some(RefusedRow::new(*line, fault)),
        import::Outcome::Registered { .. } | import::Outcome::LetIn { .. } => None,
    }
}

impl RefusedRow {
    /// A row and what is wrong with it.
    pub fn new(line: u64, fault: &Fault) -> Self {
        Self {
            line,
            name: fault.name().to_owned(),
            reason: fault.to_string(),
        }
    }
}

/// Random names for devices, drawn from the kernel a block at a time.
struct Names {
    block: [u8; 5000],
    next: usize,
}

impl Names {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            block: keys::random()?,
            next: 0,
        })
    }

    fn next(&mut self) -> [u8; 5] {
        if self.next + 5 > self.block.len() {
            // It gave random bytes a moment ago; a name that comes twice is refused later.
            self.block = keys::random().unwrap_or(self.block);
            self.next = 0;
        }
        let mut name = [0; 5];
        name.copy_from_slice(self.block.get(self.next..self.next + 5).unwrap_or(&[0; 5]));
        self.next += 5;
        name
    }
}
