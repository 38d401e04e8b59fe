//! Registration from CSV: every shape and encoding that occurs, a verdict for
//! every row, and changes for the good ones. Long files are decided on part by
//! part, each against the registry as it is then.

use std::collections::BTreeMap;
use std::io::Read;

use groundcrew_core::DeviceId;
use groundcrew_core::enroll::Assurance;

use crate::device::{Device, Registration};
use crate::event::{Change, Event};
use crate::index::{Index, Known, Standing};
use crate::matching::{By, Verdict, judge};
use crate::state::Registry;

mod rows;
mod text;

pub use rows::{ImportError, REFUSED, Row, RowFault, Rows, Shape};

/// The most rows of one file.
pub const MAX_ROWS: u64 = 1_000_000;

/// What an import would do.
#[derive(Debug)]
pub struct ImportPlan {
    /// What the file looks like.
    pub shape: Shape,
    /// A verdict for every row, in their order.
    pub verdicts: Vec<RowVerdict>,
    /// What to record, all of it in one batch. Devices that were waiting are
    /// let in by it: look at [`Registry::ungranted`] afterwards.
    pub changes: Vec<Change>,
}

/// What registering some rows would do.
#[derive(Debug)]
pub struct RowsPlan {
    /// What becomes of each, with its line, in their order.
    pub outcomes: Vec<(u64, Outcome)>,
    /// What to record, all of it in one batch, before the next rows are decided on.
    pub changes: Vec<Change>,
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowVerdict {
    /// The line it begins at, from 1.
    pub line: u64,
    /// Its serial number, where it has one.
    pub serial: Option<String>,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is registered.
    Registered {
        /// Under this name.
        device: DeviceId,
    },
    /// It is registered, and as it was waiting already, it is let in.
    LetIn {
        /// Under this name.
        device: DeviceId,
    },
    /// It is not registered.
    Refused(Fault),
}

/// Why a row is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The site knows it.
    #[error("already known here as {device} ({phase})")]
    AlreadyAssigned {
        /// Under which name.
        device: DeviceId,
        /// Its phase.
        phase: &'static str,
    },
    /// An earlier row says the same.
    #[error("the same device as in line {line}")]
    Duplicated {
        /// The earlier row's line.
        line: u64,
    },
    /// Nothing that could ever match.
    #[error("nothing in it tells the device from others{0}")]
    NoIdentity(String),
    /// The row itself is wrong.
    #[error("{0}")]
    Row(#[from] RowFault),
}

impl Fault {
    /// The name that users know from Autopilot, or ours where it has none.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AlreadyAssigned { .. } => "ZtdDeviceAlreadyAssigned",
            Self::Duplicated { .. } => "ZtdDeviceDuplicated",
            Self::NoIdentity(_) => "NoUsableIdentity",
            Self::Row(RowFault::Hash(_)) => "InvalidZtdHardwareHash",
            Self::Row(RowFault::Serial { .. }) => "SerialNumberMismatch",
            Self::Row(
                RowFault::Columns { .. } | RowFault::LineBreak { .. } | RowFault::TooLong(_),
            ) => "InvalidRow",
            Self::Row(RowFault::Spreadsheet(_)) => "InvalidSerialNumber",
            Self::Row(RowFault::Tag(_)) => "InvalidGroupTag",
        }
    }
}

impl ImportPlan {
    /// How many rows are registered.
    pub fn accepted(&self) -> usize {
        let good = |verdict: &&RowVerdict| !matches!(verdict.outcome, Outcome::Refused(_));
        self.verdicts.iter().filter(good).count()
    }
}

/// Reads a file and says what importing it would do. `source` names it for
/// people, `entropy` names new devices, `progress` hears of every row.
pub fn plan<R: Read>(
    registry: &Registry,
    bytes: R,
    source: &str,
    entropy: &mut dyn FnMut() -> [u8; 5],
    progress: &mut dyn FnMut(u64),
) -> Result<ImportPlan, ImportError> {
    let rows = Rows::new(bytes, source)?;
    let shape = rows.shape;
    let mut importer = Importer::default();
    let mut changes = Vec::new();
    let mut verdicts = Vec::new();
    for (count, row) in (1..).zip(rows) {
        if count > MAX_ROWS {
            return Err(ImportError::TooMany(MAX_ROWS));
        }
        let Row {
            line,
            serial,
            content,
            ..
        } = row?;
        let outcome = match content {
            Ok(registration) => {
                importer.decide(registry, line, registration, entropy, &mut changes)?
            }
            Err(fault) => Outcome::Refused(fault.into()),
        };
        verdicts.push(RowVerdict {
            line,
            serial,
            outcome,
        });
        progress(count);
    }
    Ok(ImportPlan {
        shape,
        verdicts,
        changes,
    })
}

/// The text of a file in any encoding that occurs.
pub fn to_utf8(bytes: impl Read) -> std::io::Result<String> {
    let mut all = Vec::new();
    text::Utf8::new(bytes)?.read_to_end(&mut all)?;
    Ok(text::field(&all))
}

/// An import that goes on part by part: remembers the rows of the file so far.
#[derive(Debug, Default)]
pub struct Importer {
    /// The good rows that the registry does not know yet.
    file: Index,
    /// Where each device of the file stands in it.
    lines: BTreeMap<DeviceId, u64>,
}

impl Importer {
    /// Says what registering the next rows would do at `registry`, each with
    /// its line. `entropy` names new devices.
    ///
    /// # Errors
    /// No free name was found.
    pub fn plan(
        &mut self,
        registry: &Registry,
        rows: impl IntoIterator<Item = (u64, Registration)>,
        entropy: &mut dyn FnMut() -> [u8; 5],
    ) -> Result<RowsPlan, ImportError> {
        let (mut outcomes, mut changes) = (Vec::new(), Vec::new());
        for (line, registration) in rows {
            let outcome = self.decide(registry, line, registration, entropy, &mut changes)?;
            outcomes.push((line, outcome));
        }
        Ok(RowsPlan { outcomes, changes })
    }

    /// The changes planned so far are recorded: the registry knows those rows now,
    /// and need not be told twice.
    pub fn recorded(&mut self) {
        self.file = Index::default();
    }

    fn decide(
        &mut self,
        registry: &Registry,
        line: u64,
        registration: Registration,
        entropy: &mut dyn FnMut() -> [u8; 5],
        changes: &mut Vec<Change>,
    ) -> Result<Outcome, ImportError> {
        let junk = registry.junk();
        let usable = junk.usable(&registration.identity);
        let nothing = usable.ek.is_none()
            && usable.uuid.is_none()
            && usable.serial.is_none()
            && usable.macs.is_empty();
        if nothing {
            let reason = junk.serial(&registration.identity);
            let reason = reason.map(|reason| format!(": its serial number is {reason}"));
            let fault = Fault::NoIdentity(reason.unwrap_or_default());
            return Ok(Outcome::Refused(fault));
        }
        if let Some(earlier) = same_device(&judge(&usable, &self.file)) {
            let line = self.lines.get(earlier).copied().unwrap_or_default();
            return Ok(Outcome::Refused(Fault::Duplicated { line }));
        }
        let verdict = judge(&usable, registry.index());
        let known = same_device(&verdict).and_then(|id| registry.device(id));
        // A stranger that claims to be several machines is one of them at most.
        if let Some(line) = known.and_then(|known| self.lines.get(&known.id)) {
            let fault = Fault::Duplicated { line: *line };
            return Ok(Outcome::Refused(fault));
        }
        let (device, let_in) = match known {
            Some(device) if let Some(&line) = self.lines.get(&device.id) => {
                return Ok(Outcome::Refused(Fault::Duplicated { line }));
            }
            Some(device) if device.is_stranger() => match &verdict {
                Verdict::Known { .. } => (device.id.clone(), approval(device)),
                _ => (self.fresh_name(registry, entropy)?, None),
            },
            Some(device) => {
                let fault = Fault::AlreadyAssigned {
                    device: device.id.clone(),
                    phase: device.phase.name(),
                };
                return Ok(Outcome::Refused(fault));
            }
            None => (self.fresh_name(registry, entropy)?, None),
        };
        self.lines.insert(device.clone(), line);
        self.file.insert(Known {
            device: device.clone(),
            usable,
            standing: Standing::Registered,
        });
        let registration = Box::new(registration);
        let registered = Change::by_site(&device, Event::Registered { registration });
        changes.push(registered);
        Ok(match let_in {
            None => Outcome::Registered { device },
            Some(approved) => {
                changes.push(approved);
                Outcome::LetIn { device }
            }
        })
    }

    fn fresh_name(
        &self,
        registry: &Registry,
        entropy: &mut dyn FnMut() -> [u8; 5],
    ) -> Result<DeviceId, ImportError> {
        for _ in 0..16 {
            let id = DeviceId::new(registry.site(), entropy());
            if registry.device(&id).is_none() && !self.lines.contains_key(&id) {
                return Ok(id);
            }
        }
        Err(ImportError::Names)
    }
}

/// The device that a row already is. A MAC address in common says nothing (docks
/// and dongles), nor does a UUID under another serial number.
fn same_device(verdict: &Verdict) -> Option<&DeviceId> {
    match verdict {
        Verdict::Hint { by: By::Mac, .. }
        | Verdict::Changed { by: By::Uuid, .. }
        | Verdict::Unknown => None,
        Verdict::Ambiguous { devices } => devices.first(),
        _ => verdict.device(),
    }
}

/// Lets in a stranger who waits and turns out to be expected.
fn approval(device: &Device) -> Option<Change> {
    let pending = device.pending.as_ref()?;
    let approved = Event::Approved {
        sign_key: pending.sign_key,
        assurance: Assurance::Claimed,
        rule: None,
    };
    Some(Change::by_site(&device.id, approved))
}

#[cfg(test)]
mod tests;
