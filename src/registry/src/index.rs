//! Which devices hold which value: every look-up is O(log n).

use std::collections::BTreeSet;

use groundcrew_core::hardware::MacAddr;
use groundcrew_core::{DeviceId, Digest};

use crate::junk::Usable;

/// A device's place in the index.
pub type Slot = u32;

/// A value held by more devices than this tells none of them apart, and nobody
/// counts further.
const CROWD: usize = 32;

/// A value that tells machines apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Endorsement key's digest.
    Ek(Digest),
    /// UUID in the order-free form.
    Uuid([u8; 16]),
    /// Serial number as compared.
    Serial(Box<str>),
    /// Permanent MAC address.
    Mac(MacAddr),
}

/// How firmly the site knows a device, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Asked, and nobody decided for it.
    Waiting,
    /// Known beforehand, never let in.
    Registered,
    /// Let in at least once.
    Admitted,
}

/// A device as matching sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The device.
    pub device: DeviceId,
    /// What it is compared by.
    pub usable: Usable,
    /// How firmly it is known.
    pub standing: Standing,
}

/// Who holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holders {
    /// These; at most one of them was admitted.
    Some(Vec<Slot>),
    /// Two or more admitted machines (some of them are named), or a crowd: the
    /// value says nothing about any of them.
    Shared(Vec<Slot>),
}

/// Values to devices, devices to values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    values: BTreeSet<(Key, Standing, Slot)>,
    slots: Vec<Option<Known>>,
    free: Vec<Slot>,
}

impl Index {
    /// Takes a device in.
    pub fn insert(&mut self, known: Known) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).unwrap_or(Slot::MAX)
        });
        for key in keys(&known.usable) {
            self.values.insert((key, known.standing, slot));
        }
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(known);
        }
        slot
    }

    /// Takes a device out.
    pub fn remove(&mut self, slot: Slot) {
        let known = self.slots.get_mut(slot as usize).and_then(Option::take);
        if let Some(known) = known {
            for key in keys(&known.usable) {
                self.values.remove(&(key, known.standing, slot));
            }
            self.free.push(slot);
        }
    }

    /// The device in a slot.
    pub fn known(&self, slot: Slot) -> Option<&Known> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Who holds `key`. However many strangers claim a value, they neither hide
    /// nor demote the devices that the site knows.
    pub fn holders(&self, key: &Key) -> Holders {
        let waiting = self.with(key, Standing::Waiting);
        let registered = self.with(key, Standing::Registered);
        let admitted = self.with(key, Standing::Admitted);
        let shared = admitted.len() > 1 || registered.len() > CROWD;
        let slots = [admitted, registered, waiting].concat();
        if shared {
            Holders::Shared(slots)
        } else {
            Holders::Some(slots)
        }
    }

    /// Every value with its holders, whatever their slots.
    #[cfg(test)]
    pub fn content(&self) -> BTreeSet<(Key, Standing, DeviceId)> {
        let value = |(key, standing, slot): &(Key, Standing, Slot)| {
            let known = self.known(*slot)?;
            Some((key.clone(), *standing, known.device.clone()))
        };
        self.values.iter().filter_map(value).collect()
    }

    fn with(&self, key: &Key, standing: Standing) -> Vec<Slot> {
        let first = (key.clone(), standing, 0);
        let last = (key.clone(), standing, Slot::MAX);
        let range = self.values.range(first..=last);
        range.map(|(.., slot)| *slot).take(CROWD + 1).collect()
    }
}

fn keys(usable: &Usable) -> impl Iterator<Item = Key> + '_ {
    let ek = usable.ek.map(Key::Ek);
    let uuid = usable.uuid.map(|uuid| Key::Uuid(uuid.order_free()));
    let serial = usable.serial.clone().map(Key::Serial);
    let macs = usable.macs.iter().copied().map(Key::Mac);
    ek.into_iter().chain(uuid).chain(serial).chain(macs)
}
