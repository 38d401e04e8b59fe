//! The registry: every device of a site, as the fold of its journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use groundcrew_core::hardware::Identity;
use groundcrew_core::ids::Slug;
use groundcrew_core::{DeviceId, SiteId, UnixTime};

use crate::device::{Device, Lobby, Pending, Phase};
use crate::event::{Change, Event};
use crate::index::{Index, Known, Standing};
use crate::journal::{Chain, Damage, Entry};
use crate::junk::Junk;
use crate::matching::{self, MatchResult};

mod decide;
mod resume;
mod step;
mod technician;

pub use decide::{Answer, ApproveError, Decided, ReceiptError, SAME_FAILURES, TechnicianError};
pub use step::Impossible;
use step::{Happening, Place};

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
#[derive(Clone, Debug)]
pub struct Registry {
    site: SiteId,
    junk: &'static Junk,
    limits: Limits,
    devices: BTreeMap<DeviceId, Arc<Device>>,
    index: Index,
    /// Strangers who wait, by the order in which they asked.
    lobby: BTreeSet<(u64, DeviceId)>,
    /// The last place that was given in the lobby.
    order: u64,
    /// How many devices each standing rule has let in.
    by_rule: BTreeMap<Slug, u32>,
    /// How many devices hold a grant or held one to its end.
    granted: usize,
    chain: Chain,
}

/// What the store is to write, in this order and together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A line of the journal.
    Entry(Box<Entry>),
    /// A request that waits, in place of the device's one before.
    Waits(Waiting),
    /// The device has no such request any more.
    WaitsNoMore(DeviceId),
}

/// A request that waits for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Whose.
    pub device: DeviceId,
    /// Its place.
    pub lobby: Lobby,
    /// What it asks.
    pub request: Box<Pending>,
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
            order: 0,
            by_rule: BTreeMap::new(),
            granted: 0,
        }
    }

    /// Folds in the next entry of the journal, as at start.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), RecordError> {
        let mut chain = self.chain;
        chain.follow(entry).map_err(|damage| RecordError::Damaged {
            line: entry.seq(),
            damage,
        })?;
        self.fold(Happening::from(entry))?;
        self.chain = chain;
        Ok(())
    }

    /// Makes changes happen, in their order: memory moves, and what the store
    /// is to write comes back. Commit it before anything is answered.
    ///
    /// A request that waits for a decision is not journaled: strangers could
    /// make the journal grow without end. It is a row of its own until somebody
    /// decides; then the journal has the request and the decision.
    ///
    /// The changes must be decided on this very state. An error means that they
    /// were not: nothing of the refused change is folded in, but what came
    /// before it in the batch is, so end the process and start from the store.
    pub fn record(
        &mut self,
        now: UnixTime,
        changes: Vec<Change>,
    ) -> Result<Vec<Record>, RecordError> {
        let mut records = Vec::with_capacity(changes.len());
        for change in changes {
            self.record_one(now, change, &mut records)?;
        }
        Ok(records)
    }

    fn record_one(
        &mut self,
        now: UnixTime,
        change: Change,
        records: &mut Vec<Record>,
    ) -> Result<(), RecordError> {
        let before = self.device(&change.device);
        let lobby = before.and_then(|device| device.lobby);
        match &change.event {
            Event::Requested { request } if request.cause.is_some() => {
                let order = self.order.max(self.chain.seq()) + 1;
                let lobby = Lobby { order, at: now };
                let request = request.clone();
                let waiting = self.wait(Waiting {
                    device: change.device,
                    lobby,
                    request,
                })?;
                records.push(Record::Waits(waiting));
                return Ok(());
            }
            Event::Withdrawn { .. } if before.is_some_and(Device::is_unwritten) => {
                let line = self.chain.seq();
                self.fold(Happening::of(&change, now, Place::Line(line)))?;
                records.push(Record::WaitsNoMore(change.device));
                return Ok(());
            }
            _ => {}
        }
        let superseded = matches!(change.event, Event::Requested { .. });
        if lobby.is_some() {
            let pending = before.and_then(|device| device.pending.clone());
            if let Some(request) = pending.filter(|_| !superseded) {
                // A change that cannot be must leave no request behind.
                let place = Place::Line(self.chain.seq() + 1);
                step::step(before, Happening::of(&change, now, place))
                    .map_err(|why| self.impossible(&change.device, &change.event, why))?;
                let event = Event::Requested { request };
                let asked = Change::by_device(&change.device, event);
                records.push(Record::Entry(Box::new(self.seal(now, asked)?)));
            }
            records.push(Record::WaitsNoMore(change.device.clone()));
        }
        records.push(Record::Entry(Box::new(self.seal(now, change)?)));
        Ok(())
    }

    fn seal(&mut self, now: UnixTime, change: Change) -> Result<Entry, RecordError> {
        let mut chain = self.chain;
        let entry = chain.seal(now, change)?;
        self.fold(Happening::from(&entry))?;
        self.chain = chain;
        Ok(entry)
    }

    /// Takes in a request that waits, as at start after the journal.
    pub fn wait(&mut self, waiting: Waiting) -> Result<Waiting, RecordError> {
        let request = waiting.request.clone();
        self.fold(Happening {
            device: &waiting.device,
            actor: &crate::event::Actor::Device,
            event: &Event::Requested { request },
            at: waiting.lobby.at,
            place: Place::Lobby(waiting.lobby),
        })?;
        self.order = self.order.max(waiting.lobby.order);
        Ok(waiting)
    }

    fn fold(&mut self, it: Happening<'_>) -> Result<(), RecordError> {
        let id = it.device;
        let before = self.devices.get(id).map(Arc::as_ref);
        let mut after = step::step(before, it).map_err(|why| self.impossible(id, it.event, why))?;
        let granted_before = before.is_some_and(Device::was_granted);
        let place = |device: &Device| device.place().map(|order| (order, device.id.clone()));
        if let Some(place) = before.and_then(place) {
            self.lobby.remove(&place);
        }
        if let Some(place) = after.as_ref().and_then(place) {
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
                self.enter(device);
            }
        }
        if let Event::Approved {
            rule: Some(rule), ..
        } = it.event
        {
            *self.by_rule.entry(rule.clone()).or_default() += 1;
        }
        self.granted += usize::from(after.as_ref().is_some_and(Device::was_granted));
        self.granted -= usize::from(granted_before);
        match after {
            Some(device) => self.devices.insert(id.clone(), Arc::new(device)),
            None => self.devices.remove(id),
        };
        Ok(())
    }

    fn impossible(&self, device: &DeviceId, event: &Event, why: Impossible) -> RecordError {
        RecordError::Impossible {
            line: self.chain.seq() + 1,
            device: device.clone(),
            event: event.name(),
            why,
        }
    }

    fn enter(&mut self, device: &mut Device) {
        device.slot = standing(device).map(|standing| {
            self.index.insert(Known {
                device: device.id.clone(),
                usable: self.junk.usable(&device.identity),
                standing,
            })
        });
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
        self.devices.get(id).map(Arc::as_ref)
    }

    /// Every device, by name.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = &Device> {
        self.devices.values().map(Arc::as_ref)
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

    /// How many devices have a grant, or answered one and are in service still:
    /// what a charter counts.
    pub const fn granted_devices(&self) -> usize {
        self.granted
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

impl<'a> Happening<'a> {
    fn of(change: &'a Change, at: UnixTime, place: Place) -> Self {
        Self {
            device: &change.device,
            actor: &change.actor,
            event: &change.event,
            at,
            place,
        }
    }
}

impl<'a> From<&'a Entry> for Happening<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            device: entry.device(),
            actor: entry.actor(),
            event: entry.event(),
            at: entry.at(),
            place: Place::Line(entry.seq()),
        }
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
