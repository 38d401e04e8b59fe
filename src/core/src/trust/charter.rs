//! The charter: what HQ signs of a site, so that a device knows the appliance
//! before it talks to anyone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tuf::metadata::TargetFile;
use super::tuf::target::TargetError;
use crate::enroll::BundleRef;
use crate::ids::{SiteId, Slug, Version};
use crate::keys::PublicKey;
use crate::time::{Now, UnixTime};
use crate::{Digest, Verified};

/// The most bytes a charter may have.
pub const MAX_CHARTER: u64 = 64 * 1024;

/// The TUF target `sites/ID.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// The site this is about.
    pub site: SiteId,
    /// Rises with every charter of the site.
    pub version: u64,
    /// SHA-256 of the `SubjectPublicKeyInfo` (DER) in the appliance's TLS
    /// certificate: the only thing about that certificate that counts.
    pub tls_key: Digest,
    /// Signs grants.
    pub grant_key: PublicKey,
    /// Signs the journal.
    pub journal_key: PublicKey,
    /// Tags of profiles that the site may hand out.
    pub tags: Vec<Slug>,
    /// Not to be believed from this time on.
    pub expires: UnixTime,
    /// How many devices the site may admit.
    pub devices: u32,
    /// Versions of bundles below which a device refuses, by bundle name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub minimum: BTreeMap<Slug, Version>,
}

/// Why a charter, or what it is asked to admit, was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CharterError {
    /// The targets do not list one for this site.
    #[error("no charter for the site `{0}` is signed: the targets do not list `sites/{0}.json`")]
    NotListed(SiteId),
    /// The bytes are not the ones that were signed.
    #[error("the charter is not the one that HQ signed: {0}")]
    Target(#[from] TargetError),
    /// Longer than any charter.
    #[error("the charter is longer than {MAX_CHARTER} bytes")]
    TooLarge,
    /// Signed, but not of this program's form: a newer one, perhaps.
    #[error("the charter cannot be read, update this program or the charter: {0}")]
    Shape(String),
    /// A charter of another site under this site's name.
    #[error("the charter is about the site `{found}`, expected `{expected}`")]
    Site {
        /// The site asked for.
        expected: SiteId,
        /// The site it names.
        found: SiteId,
    },
    /// No longer valid.
    #[error("the charter of `{site}` expired at {expires}; it is {now}: HQ must sign a new one")]
    Expired {
        /// The site.
        site: SiteId,
        /// When it ceased to be valid.
        expires: UnixTime,
        /// The time it was judged at.
        now: UnixTime,
    },
    /// Older than the one in the image.
    #[error(
        "the charter has version {found}, older than version {known} in the image: refused as a rollback"
    )]
    Rollback {
        /// The version offered.
        found: u64,
        /// The image's version.
        known: u64,
    },
    /// A bundle older than the charter demands.
    #[error(
        "the bundle {bundle} is older than {minimum}, the least version that the charter admits"
    )]
    BundleTooOld {
        /// The bundle asked about.
        bundle: BundleRef,
        /// The least version.
        minimum: Version,
    },
    /// A tag or a profile that HQ does not allow this site.
    #[error("the charter of `{site}` does not admit `{asked}`: it admits the tags {admitted} only")]
    Tag {
        /// The site.
        site: SiteId,
        /// The tag asked about, or the profile where there is no tag.
        asked: String,
        /// Those it admits.
        admitted: String,
    },
    /// The site has let in as many devices as it may.
    #[error(
        "the charter of `{site}` admits {devices} devices, and so many were let in: retire one, or HQ must sign a new charter"
    )]
    Full {
        /// The site.
        site: SiteId,
        /// How many it admits.
        devices: u32,
    },
}

impl Charter {
    /// The target path of a site's charter.
    pub fn target_path(site: &SiteId) -> String {
        format!("sites/{site}.json")
    }

    /// The file to publish.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Whether the charter admits this version of the bundle.
    pub fn admits(&self, bundle: &BundleRef) -> Result<(), CharterError> {
        match self.minimum.get(&bundle.name) {
            Some(minimum) if bundle.version < *minimum => Err(CharterError::BundleTooOld {
                bundle: bundle.clone(),
                minimum: *minimum,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the charter admits a device's tag, or, where it has none, the
    /// name of its profile. A charter without tags admits any. Tags differ in
    /// case as people type them; it does not count.
    pub fn admits_tag(&self, tag: Option<&str>, profile: &Slug) -> Result<(), CharterError> {
        let asked = tag.unwrap_or(profile.as_str());
        let same = |tag: &Slug| tag.as_str().eq_ignore_ascii_case(asked);
        if self.tags.is_empty() || self.tags.iter().any(same) {
            return Ok(());
        }
        let admitted: Vec<&str> = self.tags.iter().map(Slug::as_str).collect();
        Err(CharterError::Tag {
            site: self.site.clone(),
            asked: crate::ids::shown(asked),
            admitted: admitted.join(", "),
        })
    }

    /// Whether the charter admits one device more than `others`.
    pub fn admits_another(&self, others: usize) -> Result<(), CharterError> {
        if usize::try_from(self.devices).is_ok_and(|devices| others >= devices) {
            let (site, devices) = (self.site.clone(), self.devices);
            return Err(CharterError::Full { site, devices });
        }
        Ok(())
    }

    /// Checks the expiry once more, for whoever keeps a charter for long.
    pub fn unexpired(&self, now: Now) -> Result<(), CharterError> {
        if self.expires > now.time() {
            return Ok(());
        }
        Err(CharterError::Expired {
            site: self.site.clone(),
            expires: self.expires,
            now: now.time(),
        })
    }

    /// The charter in `bytes`, if they are the signed `target` and speak of
    /// `site`. Expiry is judged by [`Charter::unexpired`].
    pub(super) fn signed(
        bytes: &[u8],
        target: &TargetFile,
        site: &SiteId,
    ) -> Result<Verified<Self>, CharterError> {
        if bytes.len() as u64 > MAX_CHARTER {
            return Err(CharterError::TooLarge);
        }
        let bytes = target.verify(bytes)?;
        let charter: Self = serde_json::from_slice(&bytes)
            .map_err(|error| CharterError::Shape(error.to_string().chars().take(200).collect()))?;
        if charter.site != *site {
            let (expected, found) = (site.clone(), charter.site);
            return Err(CharterError::Site { expected, found });
        }
        Ok(Verified::new(charter))
    }
}
