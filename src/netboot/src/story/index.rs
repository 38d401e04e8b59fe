//! Who is whom: from each name to the story of the device that has it. A name
//! leaves with the story that had it, or when its device has another: what
//! strangers say must not stay behind.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::Ipv4Addr;

use groundcrew_core::DeviceId;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::device::Names;
use super::recorder::StoryId;

/// UUIDs that several machines claim; more are not told apart.
const MAX_CONTESTED: usize = 64;

/// The names of all stories.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_mac: HashMap<MacAddr, StoryId>,
    by_uuid: HashMap<[u8; 16], StoryId>,
    by_serial: HashMap<String, StoryId>,
    by_ip: HashMap<Ipv4Addr, StoryId>,
    by_device: HashMap<DeviceId, StoryId>,
    /// UUIDs that name no machine.
    contested: BTreeSet<[u8; 16]>,
}

impl Index {
    /// The story has these names: the last one to say so counts. An older
    /// address may be somebody else's by now.
    pub(super) fn enter(&mut self, id: StoryId, names: &Names) {
        self.by_mac.extend(names.macs.iter().map(|mac| (*mac, id)));
        let mut ips = names.ips.iter();
        self.by_ip.extend(ips.next().map(|ip| (*ip, id)));
        for ip in ips {
            self.by_ip.entry(*ip).or_insert(id);
        }
        if let Some(uuid) = names.uuid.filter(|uuid| !self.is_contested(uuid)) {
            self.by_uuid.insert(uuid.order_free(), id);
        }
        if let Some(serial) = &names.serial {
            self.by_serial.insert(serial.to_lowercase(), id);
        }
        if let Some(device) = &names.device {
            self.by_device.insert(device.clone(), id);
        }
    }

    /// The story has these names no more.
    pub(super) fn leave(&mut self, id: StoryId, names: &Names) {
        for mac in &names.macs {
            forget(&mut self.by_mac, mac, id);
        }
        for ip in &names.ips {
            forget(&mut self.by_ip, ip, id);
        }
        if let Some(uuid) = names.uuid {
            forget(&mut self.by_uuid, &uuid.order_free(), id);
        }
        if let Some(serial) = &names.serial {
            forget(&mut self.by_serial, &serial.to_lowercase(), id);
        }
        if let Some(device) = &names.device {
            forget(&mut self.by_device, device, id);
        }
    }

    /// From now on it names nobody. `false`: too many do.
    pub(super) fn contest(&mut self, uuid: &SmbiosUuid) -> bool {
        let room = self.contested.len() < MAX_CONTESTED;
        if room {
            self.contested.insert(uuid.order_free());
            self.by_uuid.remove(&uuid.order_free());
        }
        room
    }

    pub(super) fn is_contested(&self, uuid: &SmbiosUuid) -> bool {
        self.contested.contains(&uuid.order_free())
    }

    pub(super) fn mac(&self, mac: MacAddr) -> Option<StoryId> {
        self.by_mac.get(&mac).copied()
    }

    pub(super) fn ip(&self, ip: Ipv4Addr) -> Option<StoryId> {
        self.by_ip.get(&ip).copied()
    }

    pub(super) fn uuid(&self, uuid: &SmbiosUuid) -> Option<StoryId> {
        self.by_uuid.get(&uuid.order_free()).copied()
    }

    pub(super) fn serial(&self, serial: &str) -> Option<StoryId> {
        self.by_serial.get(&serial.to_lowercase()).copied()
    }

    pub(super) fn device(&self, device: &DeviceId) -> Option<StoryId> {
        self.by_device.get(device).copied()
    }

    /// How many names there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let addresses = self.by_mac.len() + self.by_ip.len();
        addresses + self.by_uuid.len() + self.by_serial.len() + self.by_device.len()
    }
}

fn forget<K: Hash + Eq>(index: &mut HashMap<K, StoryId>, key: &K, id: StoryId) {
    if index.get(key) == Some(&id) {
        index.remove(key);
    }
}
