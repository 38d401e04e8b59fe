//! Out of a registry and into it again, without its journal.

use std::collections::BTreeMap;
use std::sync::Arc;

use groundcrew_core::ids::Slug;

use super::Registry;
use crate::device::Device;
use crate::journal::Chain;
use crate::snapshot::Frozen;

impl Registry {
    /// The registry at this moment, to be written while it moves on.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            site: self.site.clone(),
            chain: self.chain,
            by_rule: self.by_rule.clone(),
            devices: self.devices.values().map(Arc::clone).collect(),
        }
    }

    /// Takes a device of a snapshot in.
    pub(crate) fn restore(&mut self, mut device: Device) {
        self.enter(&mut device);
        if let Some(order) = device.place() {
            self.lobby.insert((order, device.id.clone()));
        }
        self.granted += usize::from(device.was_granted());
        self.devices.insert(device.id.clone(), Arc::new(device));
    }

    /// The journal goes on from `chain`.
    pub(crate) fn resumed(mut self, chain: Chain, by_rule: BTreeMap<Slug, u32>) -> Self {
        (self.chain, self.by_rule) = (chain, by_rule);
        self
    }
}
