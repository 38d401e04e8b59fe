//! What a technician can ask of a site, and what comes back: the same whether
//! an appliance serves it at this moment (over the control socket) or not.

use std::collections::BTreeMap;

use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::Code;
use groundcrew_core::hardware::{Identity, IdentityDigest};
use groundcrew_core::ids::Slug;
use groundcrew_core::{DeviceId, SiteId, UnixTime};
use groundcrew_registry::device::{Registration, Tag};
use groundcrew_registry::export::ExportRow;
use serde::{Deserialize, Serialize};

use super::FileTerms;
use crate::flight::{StoryLine, StoryView};
use crate::lan::{LeaseView, NetView};
use crate::once::Once;
use crate::page::PageCode;

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
    /// Devices by their names, a page at a time: see [`every_device`].
    ListDevices {
        /// As for [`Command::FindDevices`].
        text: String,
        /// Only those in this phase.
        phase: Option<String>,
        /// The last one of the page before.
        after: Option<DeviceId>,
    },
    /// Some of the devices, those that need somebody first.
    FindDevices {
        /// In their id, serial number, maker, model, tag, code or MAC address.
        text: String,
        /// Only those in this phase.
        phase: Option<String>,
        /// Leave out the first ones.
        skip: usize,
        /// At most so many.
        limit: usize,
    },
    /// What opens the status page.
    PageCode {
        /// Make a new code, and let everybody out.
        renew: bool,
    },
    /// One device.
    ShowDevice(DeviceId),
    /// What a device's agent said last.
    DeviceLog(DeviceId),
    /// Keep hardware hashes, before [`Command::Import`] names them.
    KeepHashes(Vec<Blob>),
    /// Register a few rows, all of them or none. Files come by
    /// [`super::Office::import_file`].
    Import {
        /// The rows.
        rows: Vec<ImportRow>,
        /// How.
        terms: FileTerms,
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
    /// All leases.
    ListLeases,
    /// Take a lease away.
    ReleaseLease(std::net::Ipv4Addr),
    /// What is served on the devices' network.
    ShowNet,
    /// Keep a device from going on.
    Hold {
        /// Which.
        device: DeviceId,
        /// Why; its screen shows it.
        reason: String,
    },
    /// Let a held device go on.
    Release(DeviceId),
    /// The devices that booted, or tried to.
    ListBoots {
        /// With neighbours on the network that never asked to boot.
        all: bool,
    },
    /// What happened to a device: by MAC, UUID, serial number, address or id.
    ExplainBoot(String),
    /// Boot something else once, or (`None`) no longer.
    BootOnce {
        /// Which device, as for [`Command::ExplainBoot`].
        device: String,
        /// What.
        once: Option<Once>,
    },
    /// Release a device that is held for failing again and again; `None`: all of them.
    ReleaseBoot(Option<String>),
    /// Accept the changed hardware of a device that waits.
    Accept(DeviceId),
    /// Set or clear a device's tag.
    Tag {
        /// Which.
        device: DeviceId,
        /// The tag.
        tag: Option<Tag>,
    },
    /// Take a device out of service.
    Retire {
        /// Which.
        device: DeviceId,
        /// Why.
        reason: String,
    },
    /// Release a device to another site.
    Transfer {
        /// Which.
        device: DeviceId,
        /// Where to.
        to: SiteId,
    },
    /// Know a device no longer.
    Forget(DeviceId),
    /// Who a known device is, and why.
    ExplainDevice(DeviceId),
    /// Who machines are that say this of themselves, and why.
    ExplainIdentities(Vec<Identity>),
    /// Which profile takes a device, and why.
    WhichProfile(DeviceId),
    /// The next devices for an export.
    Export {
        /// The last one of the page before.
        after: Option<DeviceId>,
    },
}

/// A row of a file that was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportRow {
    /// Line in the file, from 1.
    pub line: u64,
    /// What it says.
    pub registration: Registration,
}

/// Bytes that travel in base64.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Blob(#[serde(with = "groundcrew_core::encoding::base64")] pub Vec<u8>);

/// What came of a [`Command`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// [`Command::ListDevices`].
    Devices(DevicePage),
    /// [`Command::FindDevices`].
    Found(FoundView),
    /// [`Command::PageCode`].
    Page(PageCode),
    /// [`Command::ShowDevice`].
    Device(Box<DeviceView>),
    /// [`Command::DeviceLog`].
    Log(Option<String>),
    /// [`Command::Import`].
    Imported(ImportView),
    /// A change was made; one line says which.
    Done(String),
    /// [`Command::ListLeases`].
    Leases(Vec<LeaseView>),
    /// [`Command::ShowNet`].
    Net(Box<NetView>),
    /// [`Command::ListBoots`].
    Boots(Vec<StoryLine>),
    /// [`Command::ExplainBoot`].
    Boot(Box<StoryView>),
    /// [`Command::ReleaseBoot`]: who was held, and is no more.
    BootsReleased(Vec<String>),
    /// [`Command::ExplainDevice`], [`Command::ExplainIdentities`].
    Explained(Vec<ExplainView>),
    /// [`Command::Transfer`].
    Released {
        /// The signed release.
        release: Envelope,
        /// The device's hardware hash, where it came with one.
        hash: Option<Blob>,
        /// The site's journal key, as people write it.
        key: String,
    },
    /// [`Command::WhichProfile`].
    Profile(ProfileView),
    /// [`Command::Export`].
    Exported(ExportPage),
}

/// Some of the devices, by their names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DevicePage {
    /// The devices.
    pub devices: Vec<DeviceView>,
    /// Where the next page begins; none where there is no more.
    pub last: Option<DeviceId>,
}

/// Every device, or those that fit; read page by page, so that nobody waits for
/// a long list. Those that wait for somebody come first.
pub fn every_device(
    text: &str,
    phase: Option<&str>,
    mut execute: impl FnMut(Command) -> anyhow::Result<Outcome>,
) -> anyhow::Result<Vec<DeviceView>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let command = Command::ListDevices {
            text: text.to_owned(),
            phase: phase.map(str::to_owned),
            after,
        };
        let Outcome::Devices(page) = execute(command)? else {
            anyhow::bail!("the appliance answered something else");
        };
        all.extend(page.devices);
        after = page.last;
        if after.is_none() {
            all.sort_by_key(|device| device.code.is_none());
            return Ok(all);
        }
    }
}

/// Some of the devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoundView {
    /// Those on the page.
    pub devices: Vec<DeviceView>,
    /// How many fit, on all pages together.
    pub matching: usize,
    /// How many of all devices are in each phase.
    pub counts: BTreeMap<String, usize>,
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
    /// Steps done, and of how many, while it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<[u64; 2]>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Line in the file, from 1.
    pub line: u64,
    /// The name users know, such as `ZtdDeviceDuplicated`.
    pub name: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Who a machine is, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainView {
    /// The device it speaks of, if it is one.
    pub device: Option<DeviceId>,
    /// In words.
    pub verdict: String,
    /// The name of what the machine says.
    pub digest: IdentityDigest,
    /// Field by field, in the order of matching.
    pub fields: Vec<FindingView>,
}

/// One field's part in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindingView {
    /// Which field.
    pub field: String,
    /// What the machine says.
    pub seen: Option<String>,
    /// What is known of the device.
    pub known: Option<String>,
    /// agrees, differs, junk, held by several, …
    pub finding: String,
}

/// Which profile a device gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProfileView {
    /// The device.
    pub device: DeviceId,
    /// The profile, if one takes it.
    pub profile: Option<Slug>,
    /// Every way a profile could take it, the strongest first, and which does.
    pub ways: Vec<(String, Option<Slug>)>,
}

/// A file's worth of devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportPage {
    /// The last device that was looked at; none where there are no more.
    pub last: Option<DeviceId>,
    /// Rows.
    pub rows: Vec<ExportRow>,
    /// Devices that cannot be exported, and why.
    pub left_out: Vec<(DeviceId, String)>,
}
