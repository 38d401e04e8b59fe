//! A snapshot: what the journal says of every device up to a line, so that a
//! start reads only what came after.
//!
//! ```text
//! {"id":"hq-7k2m9qx4","phase":…}      one line for each device
//! {"payload":…}                       the site's signature under all of them
//! ```
//! It is only a shortcut: signed by the site's journal key, bound to the hash
//! of a journal line, and thrown away where either does not hold. Whether the
//! journal itself is whole is `groundcrew journal verify`'s to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use groundcrew_core::dsse::{DsseError, Envelope, Payload};
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::{PublicKey, SigningKey};
use groundcrew_core::{Digest, SiteId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::journal::Chain;
use crate::state::{Limits, Registry};

/// The form of the lines; another one is not read.
const FORM: u32 = 1;

/// What the site signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    form: u32,
    site: SiteId,
    /// The journal's line up to which it goes.
    pub seq: u64,
    /// That line's hash.
    pub head: Digest,
    /// When it was made.
    pub at: UnixTime,
    devices: u64,
    /// Digest of the lines, each with its newline.
    content: Digest,
    by_rule: BTreeMap<Slug, u32>,
}

impl Payload for Seal {
    const TYPE: &'static str = "application/vnd.groundcrew.registry-snapshot+json";
}

/// A registry at one moment. Shares its devices with the registry, so that
/// making one costs little, whatever is written later.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub(crate) site: SiteId,
    pub(crate) chain: Chain,
    pub(crate) by_rule: BTreeMap<Slug, u32>,
    pub(crate) devices: Vec<Arc<Device>>,
}

impl Frozen {
    /// The journal's line up to which it goes.
    pub const fn seq(&self) -> u64 {
        self.chain.seq()
    }

    /// The lines, without their newlines. Requests that wait are not among
    /// them: the journal does not know those either.
    pub fn lines(&self) -> impl Iterator<Item = Result<String, serde_json::Error>> {
        let written = self.devices.iter().filter(|device| !device.is_unwritten());
        written.map(|device| match device.lobby {
            None => serde_json::to_string(device.as_ref()),
            Some(_) => serde_json::to_string(&Device {
                pending: None,
                ..device.as_ref().clone()
            }),
        })
    }

    /// The last line, where `content` is the digest of the others and `devices`
    /// their number.
    pub fn seal(
        &self,
        devices: u64,
        content: Digest,
        at: UnixTime,
        key: &SigningKey,
    ) -> Result<String, serde_json::Error> {
        let seal = Seal {
            form: FORM,
            site: self.site.clone(),
            seq: self.chain.seq(),
            head: self.chain.head(),
            at,
            devices,
            content,
            by_rule: self.by_rule.clone(),
        };
        serde_json::to_string(&Envelope::sign(&seal, key)?)
    }
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A line is no device, or the last one no seal.
    #[error("a line is not understood: {0}")]
    Line(#[from] serde_json::Error),
    /// Another key signed it, or nobody.
    #[error("it is not signed by this site's journal key: {0}")]
    Signature(#[from] DsseError),
    /// Of another site or form, or its lines are not those that were signed.
    #[error("its lines are not the ones that were signed for this site")]
    Content,
}

/// Reads a snapshot line by line.
pub struct Loader {
    registry: Registry,
    devices: u64,
}

impl Loader {
    /// For a site's snapshot.
    pub fn new(site: SiteId, limits: Limits) -> Self {
        Self {
            registry: Registry::new(site, limits),
            devices: 0,
        }
    }

    /// Whether a line is the last one.
    pub fn is_seal(line: &str) -> bool {
        line.starts_with("{\"payload\"")
    }

    /// The next device.
    pub fn device(&mut self, line: &str) -> Result<(), SnapshotError> {
        self.registry.restore(serde_json::from_str(line)?);
        self.devices += 1;
        Ok(())
    }

    /// The last line; `content` is the digest of the lines before. Whether the
    /// journal's line is the one that the seal names is the caller's to check.
    pub fn finish(
        self,
        line: &str,
        content: Digest,
        key: &PublicKey,
    ) -> Result<(Registry, Seal), SnapshotError> {
        let envelope: Envelope = serde_json::from_str(line)?;
        let seal = envelope.verify::<Seal>(key)?.into_inner();
        let good = seal.form == FORM
            && seal.site == *self.registry.site()
            && seal.devices == self.devices
            && seal.content == content;
        if !good {
            return Err(SnapshotError::Content);
        }
        let chain = Chain::at(seal.seq, seal.head);
        let registry = self.registry.resumed(chain, seal.by_rule.clone());
        Ok((registry, seal))
    }
}
