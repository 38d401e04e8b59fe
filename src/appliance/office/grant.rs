//! Grants: what a device that was let in gets, signed.

use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::Grant;
use groundcrew_core::time::Now;
use groundcrew_core::trust::charter::Charter;
use groundcrew_core::trust::tuf::repo::Repo;
use groundcrew_core::{DeviceId, UnixTime};

use super::published;
use super::{Inner, Office};
use crate::site::{charter, publish, staleness};
use crate::store;

/// What HQ says at this moment: read and verified anew, because a technician may
/// have published since.
pub(super) struct Listed {
    repo: Repo,
    charter: Charter,
}

impl Office {
    /// Reads it; once is enough for all that is granted under one lock.
    ///
    /// # Errors
    /// In words for a device's screen.
    pub(super) fn listed(&self) -> Result<Listed, String> {
        let words = |error: anyhow::Error| format!("{error:#}");
        let repo = publish::load(&self.site).map_err(words)?;
        let charter = charter::of(&self.site, &self.name, &repo).map_err(words)?;
        Ok(Listed { repo, charter })
    }

    /// Signs the grants of devices that were let in, and wakes them. One that
    /// cannot be granted anything yet is left waiting.
    pub(super) fn grant_each(
        &self,
        inner: &mut Inner,
        now: UnixTime,
        ids: &[DeviceId],
    ) -> Vec<store::Change> {
        let mut rows = Vec::new();
        if ids.is_empty() {
            return rows;
        }
        let listed = self.listed();
        for id in ids {
            let listed = listed.as_ref().map_err(Clone::clone);
            match listed.and_then(|listed| self.grant(inner, now, id, listed)) {
                Ok(more) => rows.extend(more),
                Err(reason) => {
                    tracing::warn!(device = %id, "let in, but cannot be granted anything yet: {reason}");
                }
            }
            inner.sessions.wake(id);
        }
        rows
    }

    /// Signs the grant of a device that was let in and records it. The rows
    /// belong into the same batch as what let it in.
    ///
    /// # Errors
    /// In words for the device's screen: no profile takes it, its bundle is not
    /// published. Nothing has changed then, and it may be tried again.
    pub(super) fn grant(
        &self,
        inner: &mut Inner,
        now: UnixTime,
        id: &DeviceId,
        listed: &Listed,
    ) -> Result<Vec<store::Change>, String> {
        let Listed { repo, charter } = listed;
        let device = inner
            .registry
            .device(id)
            .ok_or("the device is not known any more")?;
        let admitted = device
            .admitted
            .as_ref()
            .ok_or("the device was not let in")?;
        staleness::check(&self.site, self.staleness, now).map_err(|error| format!("{error:#}"))?;
        let others = inner.registry.granted_devices() - usize::from(device.was_granted());
        charter
            .unexpired(Now::Clock(now))
            .and_then(|()| charter.admits_another(others))
            .map_err(|error| error.to_string())?;
        let plan = self
            .profiles
            .plan(device, &self.name, inner.registry.junk(), |name, wanted| {
                published::choose(&self.site, repo, name, wanted)
            })
            .map_err(|error| error.to_string())?;
        let tag = device.tag.as_ref().map(ToString::to_string);
        charter
            .admits_tag(tag.as_deref(), &plan.profile)
            .map_err(|error| error.to_string())?;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut variables = plan.variables;
        // The site's own words win over a profile's.
        variables.extend([
            ("hostname".to_owned(), plan.hostname.clone()),
            ("device".to_owned(), id.to_string()),
            ("site".to_owned(), self.name.to_string()),
            ("organisation".to_owned(), self.organisation.clone()),
            ("profile".to_owned(), plan.profile.to_string()),
            ("tag".to_owned(), tag.unwrap_or_default()),
            ("serial".to_owned(), text(&device.identity.serial)),
            (
                "manufacturer".to_owned(),
                text(&device.identity.manufacturer),
            ),
            ("model".to_owned(), text(&device.identity.product)),
        ]);
        let grant = Grant {
            site: self.name.clone(),
            device: id.clone(),
            sign_key: admitted.sign_key,
            seal_key: admitted.seal_key,
            nonce: admitted.nonce,
            assurance: admitted.assurance,
            profile: plan.profile.clone(),
            bundle: plan.bundle.clone(),
            hostname: plan.hostname,
            variables,
            issued_at: now,
        };
        let envelope =
            Envelope::sign(&grant, &self.keys.grant).map_err(|error| error.to_string())?;
        let change =
            inner
                .registry
                .granted(id, envelope.payload_digest(), plan.profile, plan.bundle);
        let mut rows = self.record(inner, now, vec![change]);
        rows.push(store::Change::Grant {
            device: id.clone(),
            envelope: envelope.clone(),
        });
        inner.grants.insert(id.clone(), envelope);
        Ok(rows)
    }
}
