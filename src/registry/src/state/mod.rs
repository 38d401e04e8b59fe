//! The registry: every device of a site, as the fold of its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use groundcrew_core::hardware::Identity;
use groundcrew_core::ids::Slug;
use groundcrew_core::{DeviceId, SiteId, UnixTime};

use crate::device::{Device, Phase};
use crate::event::{Change, Event};
use crate::index::{Index, Known, Standing};
use crate::journal::{Chain, Damage, Entry};
use crate::junk::Junk;
use crate::matching::{self, MatchResult};

mod decide;
mod step;
mod technician;

pub use decide::{Answer, ApproveError, Decided, ReceiptError, SAME_FAILURES, TechnicianError};
pub use step::Impossible;

/// How much strangers may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unknown devices that may wait at once; the one that asked longest ago
    /// makes room for the next.
    pub waiting: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { waiting: 10_000 }
    }
}

/// Every device of a site. Decisions (`&self`) return [`Change`]s; only
/// [`Registry::record`] and [`Registry::apply`] change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    site: SiteId,
    junk: &'static Junk,
    limits: Limits,
    devices: BTreeMap<DeviceId, Box<Device>>,
    index: Index,
    /// Strangers by the journal line of their last request, oldest first.
    lobby: BTreeSet<(u64, DeviceId)>,
    /// How many devices each standing rule has let in.
    by_rule: BTreeMap<Slug, u32>,
    chain: Chain,
}

/// An entry that does not fit the state.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The chain does not go on with it.
    #[error("journal line {line}: {damage}")]
    Damaged {
        /// The line's number.
        line: u64,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The event cannot have happened.
    #[error("journal line {line}: {device} cannot be {event}: {why}")]
    Impossible {
        /// The line's number.
        line: u64,
        /// The device.
        device: DeviceId,
        /// The event's name.
        event: &'static str,
        /// Why not.
        why: Impossible,
    },
    /// The event cannot be written.
    #[error("an event cannot be written: {0}")]
    Written(#[from] serde_json::Error),
}

impl Registry {
    /// A site's registry before its first event.
    pub fn new(site: SiteId, limits: Limits) -> Self {
        Self {
            chain: Chain::new(&site),
            site,
            junk: Junk::built_in(),
            limits,
            devices: BTreeMap::new(),
            index: Index::default(),
            lobby: BTreeSet::new(),
            by_rule: BTreeMap::new(),
        }
    }

    /// Folds in the next entry of the journal, as at start.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), RecordError> {
        let mut chain = self.chain;
        chain.follow(entry).map_err(|damage| RecordError::Damaged {
            line: entry.seq(),
            damage,
        })?;
        self.fold(entry)?;
        self.chain = chain;
        Ok(())
    }

    /// Makes changes happen, in their order: memory moves, and the entries for
    /// the store come back. Commit them before anything is answered.
    ///
    /// The changes must be decided on this very state. An error means that they
    /// were not: nothing of the refused change is folded in, but what came
    /// before it in the batch is, so end the process and start from the store.
    pub fn record(
        &mut self,
        now: UnixTime,
        changes: Vec<Change>,
    ) -> Result<Vec<Entry>, RecordError> {
        let mut entries = Vec::with_capacity(changes.len());
        for change in changes {
            let mut chain = self.chain;
            let entry = chain.seal(now, change)?;
            self.fold(&entry)?;
            self.chain = chain;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn fold(&mut self, entry: &Entry) -> Result<(), RecordError> {
        let id = entry.device();
        let before = self.devices.get(id).map(Box::as_ref);
        let mut after = step::step(before, entry).map_err(|why| RecordError::Impossible {
            line: entry.seq(),
            device: id.clone(),
            event: entry.event().name(),
            why,
        })?;
        let lobby = |device: &Device| {
            let seq = device.last_request;
            let seq = seq.filter(|_| device.is_stranger() && device.pending.is_some());
            seq.map(|seq| (seq, device.id.clone()))
        };
        if let Some(place) = before.and_then(lobby) {
            self.lobby.remove(&place);
        }
        if let Some(place) = after.as_ref().and_then(lobby) {
            self.lobby.insert(place);
        }
        let same = before
            .zip(after.as_ref())
            .is_some_and(|(b, a)| b.identity == a.identity && standing(b) == standing(a));
        if !same {
            if let Some(slot) = before.and_then(|device| device.slot) {
                self.index.remove(slot);
            }
            if let Some(device) = &mut after {
                device.slot = standing(device).map(|standing| {
                    self.index.insert(Known {
                        device: id.clone(),
                        usable: self.junk.usable(&device.identity),
                        standing,
                    })
                });
            }
        }
        if let Event::Approved {
            rule: Some(rule), ..
        } = entry.event()
        {
            *self.by_rule.entry(rule.clone()).or_default() += 1;
        }
        match after {
            Some(device) => self.devices.insert(id.clone(), Box::new(device)),
            None => self.devices.remove(id),
        };
        Ok(())
    }

    /// The site.
    pub const fn site(&self) -> &SiteId {
        &self.site
    }

    /// Where the journal stands.
    pub const fn chain(&self) -> Chain {
        self.chain
    }

    /// A device by its name.
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id).map(Box::as_ref)
    }

    /// Every device, by name.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = &Device> {
        self.devices.values().map(Box::as_ref)
    }

    /// Every device whose name comes after `id`, by name.
    pub fn devices_after(&self, id: Option<&DeviceId>) -> impl Iterator<Item = &Device> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.devices.range::<DeviceId, _>((from, Bound::Unbounded));
        range.map(|(_, device)| device.as_ref())
    }

    /// Strangers who wait, the one that asked longest ago first.
    pub fn lobby(&self) -> impl Iterator<Item = &Device> {
        self.lobby.iter().filter_map(|(_, id)| self.device(id))
    }

    /// Devices that were let in and whose grant is not signed: what is left to
    /// do after an approval, an import or a restart.
    pub fn ungranted(&self) -> impl Iterator<Item = &Device> {
        self.devices().filter(|d| d.phase == Phase::Approved)
    }

    /// Who a machine is, and why.
    pub fn explain(&self, identity: &Identity) -> MatchResult {
        matching::match_device(identity, &self.index, self.junk)
    }

    /// What counts as junk here.
    pub const fn junk(&self) -> &'static Junk {
        self.junk
    }

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }
}

/// How firmly a device stands in the index; `None` takes it out.
fn standing(device: &Device) -> Option<Standing> {
    match device.phase {
        Phase::Retired { .. } => None,
        _ if device.admitted.is_some() => Some(Standing::Admitted),
        _ if device.registration.is_some() => Some(Standing::Registered),
        _ => Some(Standing::Waiting),
    }
}

/// Cuts foreign text to what a list can show.
pub(crate) fn bounded(text: &str) -> String {
    text.chars().take(500).collect()
}

impl Change {
    fn by_device(device: &DeviceId, event: Event) -> Self {
        Self {
            device: device.clone(),
            actor: crate::event::Actor::Device,
            event,
        }
    }

    pub(crate) fn by_site(device: &DeviceId, event: Event) -> Self {
        Self {
            device: device.clone(),
            actor: crate::event::Actor::Site,
            event,
        }
    }
}

#[cfg(test)]
mod tests;
