//! Registering what a CSV file holds: one plan, one batch, all or nothing.

use groundcrew_registry::device::Tag;
use groundcrew_registry::event::{Actor, Event};
use groundcrew_registry::import::{self, Fault};

use super::{ImportRow, ImportView, Office, Outcome, RefusedRow};
use crate::site::keys;

impl Office {
    pub(super) async fn import(
        &self,
        rows: Vec<ImportRow>,
        tag: Option<Tag>,
        dry_run: bool,
        by: &str,
    ) -> anyhow::Result<Outcome> {
        let mut names = Names::new()?;
        let place = self.writer.place()?;
        let (view, commit) = {
            let mut inner = self.lock();
            let now = self.credible_now(&inner)?;
            let rows = rows.into_iter().map(|row| (row.line, row.registration));
            let import::RowsPlan { outcomes, changes } =
                import::plan_rows(&inner.registry, rows, &mut || names.next())?;
            let refused: Vec<RefusedRow> = outcomes.iter().filter_map(refused).collect();
            let view = ImportView {
                dry_run,
                registered: outcomes.len() - refused.len(),
                refused,
            };
            if dry_run || changes.is_empty() {
                return Ok(Outcome::Imported(view));
            }
            let mut changes = changes;
            for change in &mut changes {
                change.actor = Actor::Technician(by.to_owned());
                if let Event::Registered { registration } = &mut change.event
                    && registration.tag.is_none()
                {
                    registration.tag.clone_from(&tag);
                }
            }
            let mut rows = self.record(&mut inner, now, changes);
            rows.extend(self.grant_all(&mut inner, now));
            (view, place.write(rows))
        };
        commit.done().await;
        Ok(Outcome::Imported(view))
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
