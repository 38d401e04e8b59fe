//! What happens to devices, as the journal tells it.

use std::fmt;

use groundcrew_core::enroll::{Assurance, BundleRef};
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::{DeviceId, Digest};
use serde::{Deserialize, Serialize};

use crate::device::{Pending, Registration, Tag};
use crate::matching::By;

/// Who made it happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// The device itself.
    Device,
    /// The site, by its own rules.
    Site,
    /// A person, by the name they go by at the appliance.
    Technician(String),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("device"),
            Self::Site => f.write_str("site"),
            Self::Technician(name) => f.write_str(name),
        }
    }
}

/// A decision that is not yet recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whom it is about.
    pub device: DeviceId,
    /// Who made it happen.
    pub actor: Actor,
    /// What.
    pub event: Event,
}

/// Why a request waits for a technician.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Cause {
    /// The site does not know this hardware.
    Unknown,
    /// Only something weak points to a known device.
    Hint {
        /// What.
        by: By,
    },
    /// A known device with another board or TPM.
    ChangedHardware {
        /// What still agrees.
        by: By,
    },
    /// Several known devices fit.
    Ambiguous {
        /// Which.
        devices: Vec<DeviceId>,
    },
    /// The device was let in before, with another key.
    SecondKey,
    /// The device is provisioned and nobody asked for it again.
    AlreadyProvisioned,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("this hardware is not registered here"),
            Self::Hint { by } => write!(f, "only its {by} points to this device"),
            Self::ChangedHardware { by } => {
                write!(f, "its {by} agree(s), other hardware ids changed")
            }
            Self::Ambiguous { devices } => {
                f.write_str("it could be any of")?;
                devices.iter().try_for_each(|device| write!(f, " {device}"))
            }
            Self::SecondKey => f.write_str("this device was let in before, with another key"),
            Self::AlreadyProvisioned => {
                f.write_str("this device is provisioned, and nobody asked for it to be done anew")
            }
        }
    }
}

/// What happened. The names are the journal's; a release that renames one must
/// still read the old name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Event {
    /// The site was told of the device.
    Registered {
        /// What it was told.
        registration: Box<Registration>,
    },
    /// The device asked; an earlier request of it that still waits is superseded.
    Requested {
        /// What it asked.
        request: Box<Pending>,
    },
    /// It was let in.
    Approved {
        /// The key that was let in: the waiting request's.
        sign_key: PublicKey,
        /// How well the site knows it.
        assurance: Assurance,
        /// The standing rule that did so; `None` for a registration or a technician.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Slug>,
    },
    /// A technician refused the waiting request.
    Rejected {
        /// Why.
        reason: String,
    },
    /// The waiting request was given up; a device nobody knew is forgotten.
    Withdrawn {
        /// Why.
        reason: String,
    },
    /// Its grant was signed.
    Granted {
        /// The grant's payload digest.
        grant: Digest,
        /// The profile.
        profile: Slug,
        /// The bundle.
        bundle: BundleRef,
    },
    /// Its receipt came: every step holds.
    Provisioned {
        /// The receipt's payload digest.
        receipt: Digest,
    },
    /// Its receipt came: it stopped.
    Failed {
        /// The receipt's payload digest.
        receipt: Digest,
        /// Why, in the device's words.
        reason: String,
    },
    /// A technician wants it provisioned anew, or heard again.
    ReprovisionAsked,
    /// A technician set or cleared its tag.
    Tagged {
        /// The tag.
        tag: Option<Tag>,
    },
    /// It is kept from going on until a technician releases it.
    Held {
        /// Why.
        reason: String,
    },
    /// A technician lets a held device go on.
    Released,
    /// It was taken out of service.
    Retired {
        /// Why.
        reason: String,
    },
    /// The site does not know it any more.
    Forgotten,
}

impl Event {
    /// The event's name, as lists show it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "registered",
            Self::Requested { .. } => "requested",
            Self::Approved { .. } => "approved",
            Self::Rejected { .. } => "rejected",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Granted { .. } => "granted",
            Self::Provisioned { .. } => "provisioned",
            Self::Failed { .. } => "failed",
            Self::ReprovisionAsked => "reprovision-asked",
            Self::Tagged { .. } => "tagged",
            Self::Held { .. } => "held",
            Self::Released => "released",
            Self::Retired { .. } => "retired",
            Self::Forgotten => "forgotten",
        }
    }
}
