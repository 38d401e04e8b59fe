//! A device goes to another site: the site it leaves signs that it lets it go,
//! and the other one registers it by that.

use groundcrew_core::dsse::Payload;
use groundcrew_core::{DeviceId, SiteId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::device::{Phase, Registration};
use crate::event::Change;
use crate::state::{Registry, TechnicianError};

/// What a site signs when it lets a device go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The site that lets it go.
    pub from: SiteId,
    /// The only site that may take it.
    pub to: SiteId,
    /// Its name there.
    pub device: DeviceId,
    /// What the other site registers.
    pub registration: Registration,
    /// When.
    pub at: UnixTime,
}

impl Payload for Release {
    const TYPE: &'static str = "application/vnd.groundcrew.device-release+json";
}

/// Why a release is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// For another site.
    #[error("it releases {device} to the site {to}, this is {here}")]
    Elsewhere {
        /// The device.
        device: DeviceId,
        /// The site it is for.
        to: SiteId,
        /// This site.
        here: SiteId,
    },
    /// By a site about itself.
    #[error("it releases {0} to the site it comes from")]
    Same(DeviceId),
}

impl Release {
    /// What `here` registers by this release.
    pub fn registration_at(self, here: &SiteId) -> Result<Registration, ReleaseError> {
        if self.to != *here {
            return Err(ReleaseError::Elsewhere {
                device: self.device,
                to: self.to,
                here: here.clone(),
            });
        }
        if self.from == *here {
            return Err(ReleaseError::Same(self.device));
        }
        let source = format!("{}, released by site {}", self.device, self.from);
        Ok(Registration {
            source,
            ..self.registration
        })
    }
}

impl Registry {
    /// Lets a device go to another site: what is to be signed, and the change
    /// that takes the device out of service here. A tag does not travel: it
    /// selects this site's profiles.
    pub fn release(
        &self,
        device: &DeviceId,
        to: &SiteId,
        now: UnixTime,
        technician: &str,
    ) -> Result<(Release, Change), TechnicianError> {
        let change = self.retire(device, &format!("released to site {to}"), technician)?;
        let found = self
            .device(device)
            .ok_or_else(|| TechnicianError::NoSuchDevice(device.clone()))?;
        if matches!(found.phase, Phase::Waiting | Phase::Rejected { .. }) {
            return Err(TechnicianError::Phase {
                device: device.clone(),
                phase: found.phase.name(),
                hint: "only a device that this site registered or let in is its to release",
            });
        }
        let registered = found.registration.as_deref();
        let release = Release {
            from: self.site().clone(),
            to: to.clone(),
            device: device.clone(),
            registration: Registration {
                identity: found.identity.clone(),
                tag: None,
                user: registered.and_then(|registered| registered.user.clone()),
                product_id: registered.and_then(|registered| registered.product_id.clone()),
                hash: registered.and_then(|registered| registered.hash),
                source: String::new(),
            },
            at: now,
        };
        Ok((release, change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::state::Limits;
    use groundcrew_core::hardware::Identity;

    fn registry() -> (Registry, DeviceId) {
        let mut registry = Registry::new("hq".parse().unwrap(), Limits::default());
        let id = DeviceId::new(registry.site(), [1, 2, 3, 4, 5]);
        let registration = Box::new(Registration {
            identity: Identity {
                serial: Some("SYNTH-0001".into()),
                ..Identity::default()
            },
            tag: Some("kiosk".parse().unwrap()),
            user: Some("someone@example.com".into()),
            product_id: None,
            hash: None,
            source: "a.csv".into(),
        });
        let change = Change::by_site(&id, Event::Registered { registration });
        registry
            .record(UnixTime::new(1_800_000_000), vec![change])
            .unwrap();
        (registry, id)
    }

    #[test]
    fn a_released_device_is_retired_here_and_registered_there_only() {
        let (mut registry, id) = registry();
        let (lab, now) = (
            "lab".parse::<SiteId>().unwrap(),
            UnixTime::new(1_800_000_001),
        );
        let (release, change) = registry.release(&id, &lab, now, "tech").unwrap();
        registry.record(now, vec![change]).unwrap();
        assert_eq!(registry.device(&id).unwrap().phase.name(), "retired");
        assert!(registry.release(&id, &lab, now, "tech").is_err(), "once");
        let elsewhere = release.clone().registration_at(&"berlin".parse().unwrap());
        assert!(matches!(elsewhere, Err(ReleaseError::Elsewhere { .. })));
        let registration = release.clone().registration_at(&lab).unwrap();
        assert_eq!(registration.identity.serial.as_deref(), Some("SYNTH-0001"));
        assert_eq!(
            (registration.tag, registration.source.as_str()),
            (None, format!("{id}, released by site hq").as_str())
        );
        let to_itself = Release {
            to: "hq".parse().unwrap(),
            ..release
        };
        assert!(matches!(
            to_itself.registration_at(&"hq".parse().unwrap()),
            Err(ReleaseError::Same(_))
        ));
    }
}
