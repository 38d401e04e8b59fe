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
//! the registry as it is then. No more than a part is in memory at once.

use anyhow::{Context as _, bail};
use groundcrew_core::time::TimeFloor;
use groundcrew_core::{DeviceId, UnixTime};
use groundcrew_registry::device::Tag;
use groundcrew_registry::event::{Actor, Event};
use groundcrew_registry::import::{self, Fault, Importer, MAX_ROWS, RowsPlan};
use groundcrew_registry::{Change, Registry};
use serde::{Deserialize, Serialize};

use super::record::row;
use super::{Blob, ImportRow, ImportView, Inner, Office, Outcome, RefusedRow};
use crate::site::keys;
use crate::store::{self, Commit, StagedParts, Store, Writer};

/// Rows of one part: decided on under one lock and written in one commit, some
/// milliseconds also on slow machines.
pub const PART: usize = 250;

/// How a file is to be registered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTerms {
    /// For rows that bring no tag.
    pub tag: Option<Tag>,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// Rows of a file, at most [`PART`] of them, and the hardware hashes they name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The rows.
    pub rows: Vec<ImportRow>,
    /// Their hashes.
    pub hashes: Vec<Blob>,
}

/// What became of some rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// So many are registered, or would be.
    pub registered: usize,
    /// The others.
    pub refused: Vec<RefusedRow>,
}

/// Whose order it is: what all parts need.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    by: String,
    tag: Option<Tag>,
    at: UnixTime,
}

/// One file at a time.
#[derive(Debug, Default)]
pub(super) struct Underway {
    /// A file that counts was left half registered: the next start goes on.
    cut_off: bool,
}

/// A file that comes in, part by part. Dropped before [`Import::accept`],
/// nothing of it counts.
pub struct Import<'a> {
    work: Work<'a>,
    dry_run: bool,
    rows: u64,
    /// The first part: a short file is registered without being staged.
    first: Vec<ImportRow>,
    staged: Staged<'a>,
    /// The last part's way to the disk: it is awaited while the next one comes.
    behind: Option<Commit>,
}

/// A file that counts, being registered part by part.
pub struct Registering<'a> {
    work: Work<'a>,
    left: Left,
    /// What was registered last, on its way to the disk while the next part is
    /// decided on.
    behind: Option<(Commit, Progress)>,
    /// Whether parts are in the store.
    staged: bool,
    registered: usize,
    refused: usize,
}

/// What of a file is not registered yet.
enum Left {
    Nothing,
    /// A short file.
    Rows(Vec<ImportRow>),
    /// Parts in the store: the next one, and the last.
    Parts(StagedParts, u32, u32),
}

/// What both need.
struct Work<'a> {
    office: &'a Office,
    underway: tokio::sync::MutexGuard<'a, Underway>,
    terms: Terms,
    importer: Importer,
    names: Names,
}

/// Parts in the store that do not count yet; dropped, they are taken away.
struct Staged<'a> {
    writer: &'a Writer,
    parts: u32,
}

impl Staged<'_> {
    /// They count: nobody takes them away.
    fn keep(mut self) -> u32 {
        std::mem::take(&mut self.parts)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Where there is no place, the next file or the next start does it.
        if self.parts > 0
            && let Ok(place) = self.writer.place()
        {
            drop(place.write(vec![store::Change::ImportOver]));
        }
    }
}

impl Office {
    /// Begins a file.
    ///
    /// # Errors
    /// Another one is being registered, or nobody knows what time it is.
    pub fn import_file(&self, terms: FileTerms, by: String) -> anyhow::Result<Import<'_>> {
        let underway = self.importing.try_lock().context(
            "another file is being imported at this moment; try again when that is done",
        )?;
        self.begin(underway, terms, by)
    }

    /// The rows of one order.
    pub(super) async fn import(
        &self,
        rows: Vec<ImportRow>,
        terms: FileTerms,
        by: String,
    ) -> anyhow::Result<Outcome> {
        let dry_run = terms.dry_run;
        let mut import = self.begin(self.importing.lock().await, terms, by)?;
        let mut all = Progress::default();
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let rows = rows.by_ref().take(PART).collect();
            let hashes = Vec::new();
            all.add(import.add(Part { rows, hashes }).await?);
        }
        let mut registering = import.accept().await?;
        while let Some(more) = registering.next().await? {
            all.add(more);
        }
        Ok(Outcome::Imported(ImportView {
            dry_run,
            registered: all.registered,
            refused: all.refused,
        }))
    }

    fn begin<'a>(
        &'a self,
        underway: tokio::sync::MutexGuard<'a, Underway>,
        terms: FileTerms,
        by: String,
    ) -> anyhow::Result<Import<'a>> {
        if underway.cut_off {
            bail!(
                "an import stopped half way; restart the appliance, which goes on with it, and then import this file"
            );
        }
        let at = self.credible_now(&self.lock())?;
        let tag = terms.tag;
        Ok(Import {
            work: Work {
                office: self,
                underway,
                terms: Terms { by, tag, at },
                importer: Importer::default(),
                names: Names::new()?,
            },
            dry_run: terms.dry_run,
            rows: 0,
            first: Vec::new(),
            staged: Staged {
                writer: &self.writer,
                parts: 0,
            },
            behind: None,
        })
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

impl<'a> Import<'a> {
    /// Takes in some rows. What a dry run would do is said at once; else the
    /// verdicts come when the file is registered.
    ///
    /// # Errors
    /// Too many rows, a damaged hash; nothing of the file counts then.
    pub async fn add(&mut self, part: Part) -> anyhow::Result<Progress> {
        let Part { rows, hashes } = part;
        self.rows += rows.len() as u64;
        if rows.len() > PART || self.rows > MAX_ROWS {
            bail!("a file has at most {MAX_ROWS} rows, and a part of it {PART}");
        }
        if self.dry_run {
            return self.work.judge(rows);
        }
        let mut changes = hashes
            .iter()
            .map(super::devices::kept_hash)
            .collect::<anyhow::Result<Vec<_>>>()?;
        if self.staged.parts == 0 && self.first.is_empty() {
            self.first = rows;
        } else {
            if self.staged.parts == 0 {
                // Whoever was stopped while staging left parts that do not count.
                changes.push(store::Change::ImportOver);
                let first = std::mem::take(&mut self.first);
                changes.push(self.stage(&first)?);
            }
            changes.push(self.stage(&rows)?);
        }
        let place = self.work.office.writer.place_in_time().await;
        let commit = place.write(changes);
        // Nothing is promised yet, so only memory says how far this runs ahead.
        if let Some(before) = self.behind.replace(commit) {
            before.done().await;
        }
        Ok(Progress::default())
    }

    fn stage(&mut self, rows: &[ImportRow]) -> anyhow::Result<store::Change> {
        self.staged.parts += 1;
        let rows = serde_json::to_string(rows)?;
        Ok(store::Change::ImportPart {
            part: self.staged.parts,
            rows,
        })
    }

    /// From here on all of the file counts, whatever happens to this process.
    pub async fn accept(self) -> anyhow::Result<Registering<'a>> {
        let mut work = self.work;
        let parts = self.staged.parts;
        let left = match (self.dry_run, parts) {
            (true, _) => Left::Nothing,
            (false, 0) => Left::Rows(self.first),
            (false, last) => {
                let staged = StagedParts::open(&work.office.registry_file)?;
                let rows = serde_json::to_string(&work.terms)?;
                let order = vec![store::Change::ImportPart { part: 0, rows }];
                let place = work.office.writer.place_in_time().await;
                work.underway.cut_off = true;
                self.staged.keep();
                place.write(order).done().await;
                Left::Parts(staged, 1, last)
            }
        };
        Ok(Registering {
            work,
            staged: matches!(left, Left::Parts(..)),
            left,
            behind: None,
            registered: 0,
            refused: 0,
        })
    }
}

impl Registering<'_> {
    /// Registers the next rows; none are left where it says nothing.
    ///
    /// # Errors
    /// Something that only a restart mends; the next start goes on.
    pub async fn next(&mut self) -> anyhow::Result<Option<Progress>> {
        loop {
            // The disk may be faster than this: others come first all the same.
            tokio::task::yield_now().await;
            let ahead = match self.take()? {
                Some((rows, part)) => Some(self.work.register(rows, part).await?),
                None => None,
            };
            let last = ahead.is_none();
            match std::mem::replace(&mut self.behind, ahead) {
                Some((commit, progress)) => {
                    commit.done().await;
                    self.registered += progress.registered;
                    self.refused += progress.refused.len();
                    if last {
                        self.end().await;
                    }
                    return Ok(Some(progress));
                }
                None if last => return Ok(None),
                None => {}
            }
        }
    }

    /// The next rows, and which part they are.
    fn take(&mut self) -> anyhow::Result<Option<(Vec<ImportRow>, Option<u32>)>> {
        Ok(match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::Nothing => None,
            Left::Rows(rows) => Some((rows, None)),
            Left::Parts(staged, part, last) => {
                let rows = serde_json::from_str(&staged.part(part)?)?;
                if part < last {
                    self.left = Left::Parts(staged, part + 1, last);
                }
                Some((rows, Some(part)))
            }
        })
    }

    async fn end(&mut self) {
        if self.staged {
            let place = self.work.office.writer.place_in_time().await;
            place.write(vec![store::Change::ImportOver]).done().await;
            self.work.underway.cut_off = false;
        }
        let (good, bad) = (self.registered, self.refused);
        tracing::info!(by = %self.work.terms.by, "import: {good} devices registered, {bad} rows refused");
    }
}

impl Work<'_> {
    /// What registering rows would do.
    fn judge(&mut self, rows: Vec<ImportRow>) -> anyhow::Result<Progress> {
        let office = self.office;
        let inner = office.lock();
        Ok(Progress::of(&self.plan(&inner, rows)?))
    }

    fn plan(&mut self, inner: &Inner, rows: Vec<ImportRow>) -> anyhow::Result<RowsPlan> {
        let rows = rows.into_iter().map(|row| (row.line, row.registration));
        let names = &mut self.names;
        Ok(self
            .importer
            .plan(&inner.registry, rows, &mut || names.next())?)
    }

    /// Registers rows in one commit, and drops the part they were staged in.
    async fn register(
        &mut self,
        rows: Vec<ImportRow>,
        part: Option<u32>,
    ) -> anyhow::Result<(Commit, Progress)> {
        let office = self.office;
        let place = office.writer.place_in_time().await;
        let mut inner = office.lock();
        let plan = self.plan(&inner, rows)?;
        let progress = Progress::of(&plan);
        let mut rows = office.take_in(&mut inner, plan, &self.terms);
        self.importer.recorded();
        rows.extend(part.map(store::Change::ImportPartDone));
        Ok((place.write(rows), progress))
    }
}

impl Progress {
    fn of(plan: &RowsPlan) -> Self {
        let refused: Vec<RefusedRow> = plan.outcomes.iter().filter_map(refused).collect();
        Self {
            registered: plan.outcomes.len() - refused.len(),
            refused,
        }
    }

    /// This, and what came after it.
    pub fn add(&mut self, more: Self) {
        self.registered += more.registered;
        self.refused.extend(more.refused);
    }
}

/// Carries an import to its end that the last process did not. What was let in
/// by it gets its grant when it asks.
pub(super) fn resume(
    store: &mut Store,
    registry: &mut Registry,
    floor: &mut TimeFloor,
) -> anyhow::Result<()> {
    let left = store.import_parts()?;
    if left.is_empty() {
        return Ok(());
    }
    let mut left = left.into_iter();
    let Some(0) = left.next() else {
        return store.write(&[store::Change::ImportOver]);
    };
    let terms: Terms = serde_json::from_str(&store.import_part(0)?)?;
    floor.raise(terms.at);
    let mut names = Names::new()?;
    let mut importer = Importer::default();
    let mut registered = 0;
    for part in left {
        let rows: Vec<ImportRow> = serde_json::from_str(&store.import_part(part)?)?;
        let rows = rows.into_iter().map(|row| (row.line, row.registration));
        let plan = importer.plan(registry, rows, &mut || names.next())?;
        let records = registry.record(terms.at, changes(plan, &terms))?;
        importer.recorded();
        registered += records.len();
        let mut rows: Vec<store::Change> = records.into_iter().map(row).collect();
        rows.push(store::Change::ImportPartDone(part));
        store.write(&rows)?;
    }
    tracing::info!(by = %terms.by, "an import that was cut off is complete: {registered} more lines in the journal");
    store.write(&[store::Change::ImportOver])
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
