//! What the site knows of one device: the fold of its events.

use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{Assurance, BundleRef, Code, Nonce};
use groundcrew_core::hardware::{HardwareReport, Identity};
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::{PublicKey, SealKey};
use groundcrew_core::{DeviceId, Digest, UnixTime};
use serde::{Deserialize, Serialize};

use crate::event::Cause;
use crate::index::Slot;

/// What the site knew of a device before it appeared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Its hardware, as far as it was told.
    pub identity: Identity,
    /// Autopilot's group tag: selects a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// The user it is meant for. Only pre-fills a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Windows product id (PKID), kept for export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<String>,
    /// Digest of the hardware hash it came with, decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Digest>,
    /// Where it came from, for people: a file's name, a technician.
    pub source: String,
}

/// A tag: 1 to 128 printable characters. Profiles and charters take it in
/// capital and small letters alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// Text that is not a [`Tag`].
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a tag: use 1 to 128 printable characters, no blanks at the ends")]
pub struct TagError(String);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Tag {
    type Error = TagError;

    fn try_from(text: String) -> Result<Self, TagError> {
        let good = (1..=128).contains(&text.chars().count())
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if good {
            Ok(Self(text))
        } else {
            Err(TagError(groundcrew_core::ids::shown(&text)))
        }
    }
}

impl std::str::FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        text.to_owned().try_into()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a device stands in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase", deny_unknown_fields)]
pub enum Phase {
    /// Known beforehand, not yet seen.
    Registered,
    /// Asked, unknown, and nobody decided yet.
    Waiting,
    /// Let in; its grant is not signed yet.
    Approved,
    /// Granted, and at work.
    Provisioning {
        /// The grant's payload digest.
        grant: Digest,
        /// The profile it was granted.
        profile: Slug,
        /// The bundle it applies.
        bundle: BundleRef,
        /// Since when.
        since: UnixTime,
    },
    /// Its receipt says that every step holds.
    Provisioned {
        /// The receipt's payload digest.
        receipt: Digest,
        /// The grant it answers.
        grant: Digest,
        /// The bundle that was applied.
        bundle: BundleRef,
        /// Since when.
        since: UnixTime,
    },
    /// Its receipt says that it stopped.
    Failed {
        /// The receipt's payload digest.
        receipt: Digest,
        /// The grant it answers.
        grant: Digest,
        /// Why, in the device's words.
        reason: String,
        /// Since when.
        since: UnixTime,
    },
    /// A technician refused it.
    Rejected {
        /// Why, in the technician's words.
        reason: String,
        /// Since when.
        since: UnixTime,
    },
    /// Kept from going on until a technician releases it.
    Held {
        /// Why.
        reason: String,
        /// Since when.
        since: UnixTime,
        /// What it was, and is again when it is released.
        before: Box<Phase>,
    },
    /// Taken out of service; its hardware is free to be somebody else's.
    Retired {
        /// Since when.
        since: UnixTime,
    },
}

impl Phase {
    /// The phase's name, as lists show it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Provisioning { .. } => "provisioning",
            Self::Provisioned { .. } => "provisioned",
            Self::Failed { .. } => "failed",
            Self::Rejected { .. } => "rejected",
            Self::Held { .. } => "held",
            Self::Retired { .. } => "retired",
        }
    }

    /// Where it stood when it was held, else where it stands.
    pub const fn underlying(&self) -> &Self {
        match self {
            Self::Held { before, .. } => before,
            other => other,
        }
    }

    /// Every phase's name, in the order of a device's life.
    pub const NAMES: [&str; 9] = [
        "registered",
        "waiting",
        "approved",
        "rejected",
        "provisioning",
        "provisioned",
        "failed",
        "held",
        "retired",
    ];

    /// Since when, where the phase tells.
    pub const fn since(&self) -> Option<UnixTime> {
        match self {
            Self::Provisioning { since, .. }
            | Self::Provisioned { since, .. }
            | Self::Failed { since, .. }
            | Self::Rejected { since, .. }
            | Self::Held { since, .. }
            | Self::Retired { since } => Some(*since),
            Self::Registered | Self::Waiting | Self::Approved => None,
        }
    }
}

/// The keys a device was let in with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admitted {
    /// Signs its receipts.
    pub sign_key: PublicKey,
    /// Secrets are sealed to it.
    pub seal_key: SealKey,
    /// The nonce of the request that was let in.
    pub nonce: Nonce,
    /// How well the site knew it.
    pub assurance: Assurance,
    /// When.
    pub since: UnixTime,
}

/// A request that waits for a technician.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// The key that signed it.
    pub sign_key: PublicKey,
    /// The key secrets would be sealed to.
    pub seal_key: SealKey,
    /// The device's nonce.
    pub nonce: Bytes<32>,
    /// What both screens show.
    pub code: Code,
    /// Digest of the signed request.
    pub request: Digest,
    /// The agent's version.
    pub agent: String,
    /// What the device says of its hardware.
    pub report: HardwareReport,
    /// Why it was not let in at once; `None` where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// A request's place among those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lobby {
    /// Grows with every request.
    pub order: u64,
    /// When it came.
    pub at: UnixTime,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// Where it stands.
    pub phase: Phase,
    /// What was known before it appeared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<Box<Registration>>,
    /// Its hardware: what was last accepted, completed by the registration.
    pub identity: Identity,
    /// The tag that selects its profile: a technician's, else the registration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// How often in a row it failed for the same reason, and for which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Box<(u32, String)>>,
    /// The keys it was last let in with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<Box<Admitted>>,
    /// A request that waits, whatever the phase: somebody else who claims this
    /// hardware must not disturb the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<Pending>>,
    /// Set while the waiting request is not in the journal: only what somebody
    /// decided on gets there, so that strangers cannot make it grow.
    #[serde(skip)]
    pub lobby: Option<Lobby>,
    /// Since when a technician wants it provisioned anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reprovision: Option<UnixTime>,
    /// The journal's line with its last request that was decided on: the full
    /// report is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request: Option<u64>,
    #[serde(skip)]
    pub(crate) slot: Option<Slot>,
}

impl Device {
    /// Whether it has a grant, or answered one and is in service still.
    pub const fn was_granted(&self) -> bool {
        matches!(
            self.phase.underlying(),
            Phase::Provisioning { .. } | Phase::Provisioned { .. } | Phase::Failed { .. }
        )
    }

    /// Whether nobody ever knew or decided anything about it: such a device is
    /// forgotten when its request is withdrawn.
    pub fn is_stranger(&self) -> bool {
        self.registration.is_none()
            && self.admitted.is_none()
            && matches!(self.phase, Phase::Waiting)
    }

    /// Whether a key that the site has not seen may be let in without a
    /// technician: the registration is not used up, or a technician asked for
    /// the device to be provisioned anew.
    pub fn takes_new_key(&self) -> bool {
        match self.phase {
            Phase::Rejected { .. } | Phase::Held { .. } | Phase::Retired { .. } => false,
            _ if self.reprovision.is_some() => true,
            _ => self.registration.is_some() && self.admitted.is_none(),
        }
    }

    /// Whether no journal line speaks of it.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.is_stranger() && self.last_request.is_none()
    }

    /// Its place among strangers that wait.
    pub(crate) fn place(&self) -> Option<u64> {
        let order = self.lobby.map(|lobby| lobby.order).or(self.last_request);
        order.filter(|_| self.is_stranger() && self.pending.is_some())
    }

    /// The grant that its phase rests on.
    pub fn grant(&self) -> Option<Digest> {
        match self.phase.underlying() {
            Phase::Provisioning { grant, .. }
            | Phase::Provisioned { grant, .. }
            | Phase::Failed { grant, .. } => Some(*grant),
            _ => None,
        }
    }
}
