//! What a technician can ask of a site, and what comes back: the same whether
//! an appliance serves it at this moment (over the control socket) or not.

use groundcrew_core::enroll::Code;
use groundcrew_core::ids::Slug;
use groundcrew_core::{DeviceId, UnixTime};
use groundcrew_registry::device::Tag;
use serde::{Deserialize, Serialize};

use crate::lan::{LeaseView, NetView};

/// Something to do, and for whom the journal says it was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Who asks, as the journal names them.
    pub by: String,
    /// What to do.
    pub command: Command,
}

/// Something to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// All devices.
    ListDevices,
    /// One device.
    ShowDevice(DeviceId),
    /// What a device's agent said last.
    DeviceLog(DeviceId),
    /// Register what a CSV file holds.
    Import {
        /// The file's bytes.
        #[serde(with = "groundcrew_core::encoding::base64")]
        csv: Vec<u8>,
        /// For rows that bring no tag.
        tag: Option<Tag>,
        /// Only say what would happen.
        dry_run: bool,
    },
    /// Let a waiting device in.
    Approve {
        /// Which.
        device: DeviceId,
        /// As both screens show it.
        code: Code,
    },
    /// Refuse a waiting device.
    Reject {
        /// Which.
        device: DeviceId,
        /// Shown on its screen.
        reason: String,
    },
    /// Provision it anew at its next start.
    Reprovision(DeviceId),
    /// The journal's lines.
    Journal,
    /// All leases.
    ListLeases,
    /// Take a lease away.
    ReleaseLease(std::net::Ipv4Addr),
    /// What is served on the devices' network.
    ShowNet,
}

/// What came of a [`Command`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// [`Command::ListDevices`].
    Devices(Vec<DeviceView>),
    /// [`Command::ShowDevice`].
    Device(Box<DeviceView>),
    /// [`Command::DeviceLog`].
    Log(Option<String>),
    /// [`Command::Import`].
    Imported(ImportView),
    /// A change was made; one line says which.
    Done(String),
    /// [`Command::Journal`].
    Journal(Vec<String>),
    /// [`Command::ListLeases`].
    Leases(Vec<LeaseView>),
    /// [`Command::ShowNet`].
    Net(Box<NetView>),
}

/// A device, for people and scripts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// registered, requested, approved, provisioning, provisioned, failed, …
    pub state: String,
    /// Since when.
    pub since: Option<UnixTime>,
    /// The code to compare, while it waits.
    pub code: Option<Code>,
    /// Why it is in this state, where there is something to say.
    pub reason: Option<String>,
    /// Maker.
    pub manufacturer: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// SMBIOS UUID.
    pub uuid: Option<String>,
    /// Network addresses it was seen with.
    pub macs: Vec<String>,
    /// Tag.
    pub tag: Option<Tag>,
    /// The profile it gets.
    pub profile: Option<Slug>,
    /// The bundle it was granted.
    pub bundle: Option<String>,
    /// What its agent is doing, while it works.
    pub progress: Option<String>,
}

/// What became of a CSV file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportView {
    /// Whether anything was written.
    pub dry_run: bool,
    /// Rows that are registered now (or would be).
    pub registered: usize,
    /// The others, and what is wrong with each.
    pub refused: Vec<RefusedRow>,
}

/// A row that was not registered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Line in the file, from 1.
    pub line: u64,
    /// The name users know, such as `ZtdDeviceDuplicated`.
    pub name: String,
    /// What is wrong and what would be right.
    pub reason: String,
}
