//! Older bundles that HQ allows again: the only way back below what a device
//! had. Signed as a TUF target, for one site, with an end, and where HQ says so
//! for one device only.

use serde::{Deserialize, Serialize};

use crate::enroll::BundleRef;
use crate::ids::{DeviceId, SiteId, Version};
use crate::time::{Now, UnixTime};

/// The most bytes such a file may have.
pub const MAX_DOWNGRADES: u64 = 256 * 1024;

/// The TUF target `downgrades/SITE.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Downgrades {
    /// The site this is for.
    pub site: SiteId,
    /// What is allowed there.
    pub allowed: Vec<Downgrade>,
}

/// One bundle that may be older than what a device had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Downgrade {
    /// Which, and which version.
    pub bundle: BundleRef,
    /// For this device only; none: for every device of the site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Not from this time on.
    pub until: UnixTime,
}

/// Why a device does not go back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DowngradeError {
    /// HQ says nothing of it.
    #[error(
        "the bundle {bundle} is older than {had}, which this device had: refused as a rollback"
    )]
    Older {
        /// What is granted.
        bundle: BundleRef,
        /// What the device had.
        had: Version,
    },
    /// HQ allowed it, and that is over.
    #[error(
        "the bundle {bundle} is older than {had}, which this device had, and HQ allowed that until {until} only; it is {now}"
    )]
    Over {
        /// What is granted.
        bundle: BundleRef,
        /// What the device had.
        had: Version,
        /// When it was over.
        until: UnixTime,
        /// The time it was judged at.
        now: UnixTime,
    },
    /// Signed, and of another site or form.
    #[error("the list of allowed downgrades cannot be used: {0}")]
    Shape(String),
}

impl Downgrades {
    /// The target path of a site's list.
    pub fn target_path(site: &SiteId) -> String {
        format!("downgrades/{site}.json")
    }

    /// The file to publish.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads verified bytes, which must speak of `site`.
    pub fn read(bytes: &[u8], site: &SiteId) -> Result<Self, DowngradeError> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| {
            DowngradeError::Shape(error.to_string().chars().take(200).collect())
        })?;
        if read.site == *site {
            return Ok(read);
        }
        Err(DowngradeError::Shape(format!(
            "it is for the site {}",
            read.site
        )))
    }

    /// Whether `device`, which had the version `had`, may get `bundle` now.
    pub fn allow(
        &self,
        bundle: &BundleRef,
        had: Version,
        device: &DeviceId,
        now: Now,
    ) -> Result<(), DowngradeError> {
        let fits = |allowed: &&Downgrade| {
            let for_it = allowed.device.as_ref().is_none_or(|named| named == device);
            allowed.bundle == *bundle && for_it
        };
        let until = self.allowed.iter().filter(fits).map(|a| a.until).max();
        let bundle = bundle.clone();
        match until {
            None => Err(DowngradeError::Older { bundle, had }),
            Some(until) if until <= now.time() => Err(DowngradeError::Over {
                bundle,
                had,
                until,
                now: now.time(),
            }),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(text: &str) -> BundleRef {
        let (name, version) = text.split_once('@').unwrap();
        BundleRef {
            name: name.parse().unwrap(),
            version: version.parse().unwrap(),
        }
    }

    #[test]
    fn only_what_is_named_there_and_then() {
        let here: SiteId = "lab".parse().unwrap();
        let (one, other): (DeviceId, DeviceId) = (
            "lab-7k2m9qx4".parse().unwrap(),
            "lab-7k2m9qx5".parse().unwrap(),
        );
        let list = Downgrades {
            site: here.clone(),
            allowed: vec![
                Downgrade {
                    bundle: bundle("base@1.0"),
                    device: Some(one.clone()),
                    until: UnixTime::new(100),
                },
                Downgrade {
                    bundle: bundle("kiosk@2.0"),
                    device: None,
                    until: UnixTime::new(50),
                },
            ],
        };
        let list = Downgrades::read(&list.to_json().unwrap(), &here).unwrap();
        let had: Version = "3.0".parse().unwrap();
        let ask = |text: &str, device: &DeviceId, now| {
            let now = Now::Clock(UnixTime::new(now));
            list.allow(&bundle(text), had, device, now)
        };
        assert_eq!(ask("base@1.0", &one, 99), Ok(()));
        assert!(matches!(
            ask("base@1.0", &one, 100),
            Err(DowngradeError::Over { .. })
        ));
        for (text, device) in [
            ("base@1.0", &other),
            ("base@1.1", &one),
            ("welcome@1.0", &one),
        ] {
            let refused = ask(text, device, 1);
            assert!(
                matches!(refused, Err(DowngradeError::Older { .. })),
                "{text}"
            );
        }
        assert_eq!(ask("kiosk@2.0", &other, 49), Ok(()));
        let elsewhere = Downgrades::read(&list.to_json().unwrap(), &"elsewhere".parse().unwrap());
        assert!(matches!(elsewhere, Err(DowngradeError::Shape(_))));
    }
}
