//! The trust that lies in a boot image, as one JSON file beside the agent.

use serde::{Deserialize, Serialize};

use super::charter::{Charter, CharterError};
use super::tuf::check::{parse, trusted_root, unexpired, verify};
use super::tuf::client::{Client, Limits, MinimumVersions, Trusted};
use super::tuf::error::TufError;
use super::tuf::metadata::{Root, Targets};
use super::tuf::signed::Metadata;
use crate::Verified;
use crate::ids::SiteId;
use crate::time::{Now, TimeFloor, UnixTime};

/// Where a device's trust begins. It is believed because it lies in the image;
/// still, one part must vouch for the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTrust {
    /// When the image was built: the device's first time floor.
    pub built_at: UnixTime,
    /// The site the image is for.
    pub site: SiteId,
    /// The root, a TUF metadata file.
    #[serde(with = "crate::encoding::base64")]
    pub root: Vec<u8>,
    /// The targets that list the charter, a TUF metadata file.
    #[serde(with = "crate::encoding::base64")]
    pub targets: Vec<u8>,
    /// The charter's file.
    #[serde(with = "crate::encoding::base64")]
    pub charter: Vec<u8>,
    /// Versions of metadata below which a device refuses, beyond those in the
    /// image itself.
    #[serde(default)]
    pub minimum: MinimumVersions,
}

/// Why the image's trust, or an update of it, does not hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrustError {
    /// The metadata.
    #[error(transparent)]
    Tuf(#[from] TufError),
    /// The charter.
    #[error(transparent)]
    Charter(#[from] CharterError),
}

/// What the image holds, each part signed as the one before demands.
struct Parts {
    root: Verified<Metadata<Root>>,
    targets: Verified<Metadata<Targets>>,
    charter: Verified<Charter>,
}

impl ImageTrust {
    /// The file for the image.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// Reads the file.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The time floor of a device that remembers nothing.
    pub fn floor(&self) -> TimeFloor {
        TimeFloor::built_at(self.built_at)
    }

    /// The charter in the image, checked with no network: the root vouches for
    /// itself and for the targets, the targets for the charter, the charter is
    /// this site's, and none of them has expired.
    pub fn verify(&self, now: Now) -> Result<Verified<Charter>, TrustError> {
        let now = self.not_before_built(now);
        let parts = self.parts()?;
        unexpired("root", parts.root.content(), now.time())?;
        unexpired("targets", parts.targets.content(), now.time())?;
        parts.charter.unexpired(now)?;
        Ok(parts.charter)
    }

    /// An update that begins at the image. Of what a device stored before,
    /// nothing is believed unless the image's root leads to it, and nothing
    /// older than the image is accepted.
    pub fn client(&self, now: Now, stored: Option<Trusted>) -> Result<Client, TrustError> {
        let parts = self.parts()?;
        let image_root = parts.root.content().version.get();
        let image_targets = parts.targets.content().version.get();
        let mut stored = stored.unwrap_or_default();
        // The stored chain may have begun at an older image's root.
        stored.newer_roots.retain(|bytes| {
            parse::<Root>("root", bytes).is_ok_and(|root| root.claimed().version.get() > image_root)
        });
        stored.root.clone_from(&self.root);
        stored.targets.get_or_insert_with(|| self.targets.clone());
        let minimum = MinimumVersions {
            targets: self.minimum.targets.max(image_targets),
            ..self.minimum
        };
        let now = self.not_before_built(now);
        Ok(Client::new(stored, now, Limits::default(), minimum)?)
    }

    /// The charter that a finished update leads to. Its bytes are the target
    /// [`Charter::target_path`]; where the update lists the image's own
    /// charter, [`ImageTrust::charter`] are these bytes.
    pub fn charter_from(
        &self,
        client: &Client,
        bytes: &[u8],
        now: Now,
    ) -> Result<Verified<Charter>, TrustError> {
        let target = client.target(&Charter::target_path(&self.site));
        let target = target.ok_or_else(|| CharterError::NotListed(self.site.clone()))?;
        let charter = Charter::signed(bytes, target, &self.site)?;
        charter.unexpired(self.not_before_built(now))?;
        let (found, known) = (charter.version, self.parts()?.charter.version);
        if found < known {
            return Err(CharterError::Rollback { found, known }.into());
        }
        Ok(charter)
    }

    fn parts(&self) -> Result<Parts, TrustError> {
        let root = trusted_root(&self.root)?;
        let targets = parse::<Targets>("targets", &self.targets)?;
        let targets = verify(
            "targets",
            targets,
            &root.content().targets_authority(),
            || format!("the image's root version {}", root.content().version),
        )?;
        let path = Charter::target_path(&self.site);
        let target = targets.content().targets.get(&path);
        let target = target.ok_or_else(|| CharterError::NotListed(self.site.clone()))?;
        let charter = Charter::signed(&self.charter, target, &self.site)?;
        Ok(Parts {
            root,
            targets,
            charter,
        })
    }

    /// The time rule with this image's build time in it, should the caller's
    /// floor have been made of something older.
    fn not_before_built(&self, now: Now) -> Now {
        if now.time() >= self.built_at {
            now
        } else {
            Now::Floor(self.built_at)
        }
    }
}
