//! What the network is to say to a machine that boots: by its SMBIOS serial
//! number and UUID, whichever NIC asks. This is a convenience, not a proof:
//! who owns the LAN owns the boot.

use groundcrew_core::enroll::BundleRef;
use groundcrew_core::hardware::identity::clean;
use groundcrew_core::hardware::{Identity, MacAddr, SmbiosUuid};
use groundcrew_core::{DeviceId, UnixTime};

use crate::device::{Device, Phase};
use crate::index::{Holders, Index, Key, Slot};
use crate::junk::Usable;
use crate::state::Registry;

/// What a machine is to do at boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootState {
    /// Start the agent: the device is expected, waits, or is at work.
    Provision {
        /// The device.
        device: DeviceId,
    },
    /// Start its own disk: it is provisioned.
    OwnDisk {
        /// The device.
        device: DeviceId,
        /// Since when.
        since: UnixTime,
        /// With what.
        bundle: BundleRef,
    },
    /// Provisioning stopped; nobody asked for another try.
    Failed {
        /// The device.
        device: DeviceId,
        /// Since when.
        since: UnixTime,
        /// Why.
        reason: String,
    },
    /// A technician refused it.
    Rejected {
        /// The device.
        device: DeviceId,
        /// Since when.
        since: UnixTime,
        /// Why.
        reason: String,
    },
    /// It is held until a technician releases it.
    Held {
        /// The device.
        device: DeviceId,
        /// Since when.
        since: UnixTime,
        /// Why.
        reason: String,
    },
    /// Nobody the site knows.
    Unknown,
}

impl BootState {
    /// The device it is, if the site knows it.
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Provision { device }
            | Self::OwnDisk { device, .. }
            | Self::Failed { device, .. }
            | Self::Held { device, .. }
            | Self::Rejected { device, .. } => Some(device),
            Self::Unknown => None,
        }
    }
}

impl Registry {
    /// The state of the machine with this serial number and UUID as the loader
    /// tells them, the UUID in whichever byte order. Junk counts as not told.
    /// The MAC address counts only where neither of the others is told.
    pub fn lookup_boot(
        &self,
        serial: Option<&str>,
        uuid: Option<SmbiosUuid>,
        mac: Option<MacAddr>,
    ) -> BootState {
        self.booting(serial, uuid, mac)
            .map_or(BootState::Unknown, state)
    }

    /// The device itself, by the same rules.
    pub fn booting(
        &self,
        serial: Option<&str>,
        uuid: Option<SmbiosUuid>,
        mac: Option<MacAddr>,
    ) -> Option<&Device> {
        let mut told = Identity {
            serial: serial.and_then(clean),
            uuid,
            ..Identity::default()
        };
        told.set_macs(mac);
        let usable = self.junk().usable(&told);
        find(self.index(), &usable)
            .and_then(|slot| self.index().known(slot))
            .and_then(|known| self.device(&known.device))
    }
}

/// The only device that agrees in what is told and contradicts nothing of it.
fn find(index: &Index, told: &Usable) -> Option<Slot> {
    let holders = |key: Key| match index.holders(&key) {
        // Two admitted machines may share one value and differ in the other.
        Holders::Some(slots) | Holders::Shared(slots) => slots,
    };
    let uuid = told.uuid.map(|uuid| holders(Key::Uuid(uuid.order_free())));
    let serial = told.serial.clone().map(|s| holders(Key::Serial(s)));
    let fits = |slot: &Slot| {
        index.known(*slot).is_some_and(|known| {
            let known = &known.usable;
            let other_uuid = matches!((&told.uuid, &known.uuid),
                (Some(a), Some(b)) if !a.same_machine(b));
            let other_serial = matches!((&told.serial, &known.serial),
                (Some(a), Some(b)) if a != b);
            !other_uuid && !other_serial
        })
    };
    let mut slots = match (uuid, serial) {
        (Some(uuid), Some(serial)) => [uuid, serial].concat(),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => {
            let macs = told.macs.iter().copied();
            macs.flat_map(|mac| holders(Key::Mac(mac))).collect()
        }
    };
    slots.retain(fits);
    slots.sort_unstable();
    slots.dedup();
    strongest(index, &slots)
}

/// Strangers may claim any serial number, so they never stand in the way of a
/// device that was registered or let in, nor a registration in the way of one
/// that was let in.
fn strongest(index: &Index, slots: &[Slot]) -> Option<Slot> {
    let standing = |slot: &Slot| index.known(*slot).map(|known| known.standing);
    let best = slots.iter().filter_map(standing).max()?;
    let mut best = slots.iter().filter(|slot| standing(slot) == Some(best));
    let first = best.next();
    first.filter(|_| best.next().is_none()).copied()
}

fn state(device: &Device) -> BootState {
    let (device, phase, again) = (
        device.id.clone(),
        &device.phase,
        device.reprovision.is_some(),
    );
    match phase {
        Phase::Provisioned { bundle, since, .. } if !again => BootState::OwnDisk {
            device,
            since: *since,
            bundle: bundle.clone(),
        },
        Phase::Failed { reason, since, .. } if !again => BootState::Failed {
            device,
            since: *since,
            reason: reason.clone(),
        },
        Phase::Held { reason, since, .. } => BootState::Held {
            device,
            since: *since,
            reason: reason.clone(),
        },
        Phase::Rejected { reason, since } => BootState::Rejected {
            device,
            since: *since,
            reason: reason.clone(),
        },
        _ => BootState::Provision { device },
    }
}
