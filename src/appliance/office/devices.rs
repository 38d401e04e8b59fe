//! What technicians do with known devices: tag, retire, forget, accept, explain.

use std::collections::HashMap;

use anyhow::Context as _;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::hardware::hash4k::{CONTAINER, HardwareHash};
use groundcrew_core::hardware::{Identity, IdentityDigest};
use groundcrew_core::{DeviceId, Digest, SiteId};
use groundcrew_registry::device::{Device, Phase};
use groundcrew_registry::export::{ExportRow, ROWS};
use groundcrew_registry::matching::MatchResult;
use groundcrew_registry::{Entry, Event};

use super::command::{ExplainView, ExportPage, FindingView, ProfileView};
use super::{Office, Outcome, queue};
use crate::store;

impl Office {
    /// Takes a device out of service; its grant is worth nothing any more.
    pub(super) async fn retire(
        &self,
        device: &DeviceId,
        reason: &str,
        by: &str,
    ) -> anyhow::Result<Outcome> {
        let place = self.writer.place()?;
        let commit = {
            let mut inner = self.lock();
            let now = self.credible_now(&inner)?;
            let change = inner.registry.retire(device, reason, by)?;
            let mut rows = self.record(&mut inner, now, vec![change]);
            inner.grants.remove(device);
            rows.push(store::Change::DropGrant(device.clone()));
            inner.sessions.wake(device);
            queue(place, rows)
        };
        if let Some(commit) = commit {
            commit.done().await;
        }
        Ok(Outcome::Done(format!(
            "{device} is retired; its hardware may be registered anew"
        )))
    }

    /// Signs that the device may go to another site, and takes it out of
    /// service here.
    pub(super) async fn transfer(
        &self,
        device: &DeviceId,
        to: &SiteId,
        by: &str,
    ) -> anyhow::Result<Outcome> {
        anyhow::ensure!(*to != self.name, "{device} is at {to} already");
        let place = self.writer.place()?;
        let (release, hash, commit) = {
            let mut inner = self.lock();
            let now = self.credible_now(&inner)?;
            let (release, change) = inner.registry.release(device, to, now, by)?;
            let envelope = Envelope::sign(&release, &self.keys.journal)?;
            // Everything that can fail comes before the device is let go.
            let hash = store::hashes(&self.registry_file, release.registration.hash)?;
            let mut rows = self.record(&mut inner, now, vec![change]);
            inner.grants.remove(device);
            rows.push(store::Change::DropGrant(device.clone()));
            inner.sessions.wake(device);
            (envelope, hash, place.write(rows))
        };
        commit.done().await;
        Ok(Outcome::Released {
            release,
            hash: hash.into_values().next().map(super::command::Blob),
            key: format!("{:?}", self.keys.journal.public()),
        })
    }

    /// What the flight recorder calls a device. Where no loader and no agent told
    /// it more than DHCP does, it does not have the serial number, nor the site's
    /// id; the registry may.
    pub(super) fn seen_as(&self, name: &str) -> String {
        if self.flight.knows(name) {
            return name.to_owned();
        }
        let identity = {
            let inner = self.lock();
            let registry = &inner.registry;
            let by_id = name.parse().ok().and_then(|id| registry.device(&id));
            let device = by_id.or_else(|| registry.booting(Some(name), None, None));
            device.map(|device| device.identity.clone())
        };
        let told = identity.into_iter().flat_map(|known| {
            let macs = known.macs.iter().map(ToString::to_string);
            let uuid = known.uuid.iter().map(ToString::to_string);
            uuid.chain(macs).collect::<Vec<_>>()
        });
        let mut seen = told.filter(|name| self.flight.knows(name));
        seen.next().unwrap_or_else(|| name.to_owned())
    }

    pub(super) fn explain_device(&self, device: &DeviceId) -> anyhow::Result<Outcome> {
        let inner = self.lock();
        let result = inner.registry.explain_device(device)?;
        let known = inner.registry.device(device);
        let says = known.and_then(|known| known.pending.as_ref());
        let identity = says
            .map(|pending| Identity::from(&pending.report))
            .or_else(|| known.map(|known| known.identity.clone()))
            .unwrap_or_default();
        Ok(Outcome::Explained(vec![explain_view(
            &result,
            identity.digest(),
        )]))
    }

    pub(super) fn explain_identities(&self, identities: &[Identity]) -> Outcome {
        let inner = self.lock();
        let explain = |identity: &Identity| {
            explain_view(&inner.registry.explain(identity), identity.digest())
        };
        Outcome::Explained(identities.iter().map(explain).collect())
    }

    pub(super) fn which_profile(&self, device: &DeviceId) -> anyhow::Result<Outcome> {
        let inner = self.lock();
        let device = inner.registry.device(device).with_context(|| {
            format!("there is no device {device}; `groundcrew device list` shows them")
        })?;
        let ways = self.profiles.explain(device);
        Ok(Outcome::Profile(ProfileView {
            device: device.id.clone(),
            profile: ways.iter().find_map(|(_, profile)| profile.cloned()),
            ways: ways
                .into_iter()
                .map(|(way, profile)| (way, profile.cloned()))
                .collect(),
        }))
    }

    /// Keeps hardware hashes for an export, by their digest. Whoever registers
    /// a device with one brings it first; one that nobody names does no harm.
    pub(super) async fn keep_hashes(
        &self,
        hashes: &[super::command::Blob],
    ) -> anyhow::Result<Outcome> {
        let rows = hashes
            .iter()
            .map(kept_hash)
            .collect::<anyhow::Result<_>>()?;
        self.writer.place()?.write(rows).done().await;
        Ok(Outcome::Done(format!("{} hashes kept", hashes.len())))
    }

    /// One file's worth of devices that have a hardware hash, in the order of
    /// their ids, after the given one.
    pub(super) fn export(&self, after: Option<&DeviceId>) -> anyhow::Result<Outcome> {
        let devices: Vec<Device> = {
            let inner = self.lock();
            let registry = &inner.registry;
            let wanted = |device: &&Device| {
                !matches!(
                    device.phase,
                    Phase::Retired { .. } | Phase::Waiting | Phase::Rejected { .. }
                )
            };
            registry
                .devices_after(after)
                .filter(wanted)
                .take(ROWS)
                .cloned()
                .collect()
        };
        let kept = store::hashes(
            &self.registry_file,
            devices.iter().filter_map(|d| d.registration.as_ref()?.hash),
        )?;
        let mut page = ExportPage {
            last: devices.last().map(|device| device.id.clone()),
            rows: Vec::new(),
            left_out: Vec::new(),
        };
        for device in &devices {
            let row = match self.hash_of(device, &kept)? {
                Some(hash) => ExportRow::new(device, &hash).map_err(|fault| fault.to_string()),
                None => Err("it came without a hardware hash and has not been seen yet".to_owned()),
            };
            match row {
                Ok(row) => page.rows.push(row),
                Err(reason) => page.left_out.push((device.id.clone(), reason)),
            }
        }
        Ok(Outcome::Exported(page))
    }

    /// The hash a device was registered with, else one of what it said of itself.
    fn hash_of(
        &self,
        device: &Device,
        kept: &HashMap<Digest, Vec<u8>>,
    ) -> anyhow::Result<Option<HardwareHash>> {
        let digest = device
            .registration
            .as_ref()
            .and_then(|registration| registration.hash);
        if let Some(bytes) = digest.and_then(|digest| kept.get(&digest)) {
            return Ok(Some(whole(bytes)?));
        }
        let Some(seq) = device.last_request.filter(|_| device.admitted.is_some()) else {
            return Ok(None);
        };
        let Some(line) = store::journal_line(&self.registry_file, seq)? else {
            return Ok(None);
        };
        let entry = Entry::read(&line)?;
        let Event::Requested { request } = entry.event() else {
            return Ok(None);
        };
        Ok(HardwareHash::from_report(&request.report, entry.at()).ok())
    }
}

/// The row that keeps a hash, for whoever registers the device it came with.
pub(super) fn kept_hash(blob: &super::command::Blob) -> anyhow::Result<store::Change> {
    let bytes = HardwareHash::from_text(&data_encoding::BASE64.encode(&blob.0))?.to_bytes()?;
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    Ok(store::Change::Hash {
        digest: Digest::of(&bytes),
        bytes: bytes.get(..used).unwrap_or(&bytes).to_vec(),
    })
}

/// A hash that is kept without the zeros at its end; some of those may be the
/// last bytes of its checksum.
fn whole(kept: &[u8]) -> anyhow::Result<HardwareHash> {
    let mut bytes = kept.to_vec();
    bytes.resize(bytes.len().max(CONTAINER), 0);
    Ok(HardwareHash::from_bytes(&bytes)?)
}

fn explain_view(result: &MatchResult, digest: IdentityDigest) -> ExplainView {
    let finding = |f: &groundcrew_registry::matching::FieldFinding| FindingView {
        field: f.field.to_string(),
        seen: f.seen.clone(),
        known: f.known.clone(),
        finding: f.finding.to_string(),
    };
    ExplainView {
        device: result.verdict.device().cloned(),
        verdict: result.verdict.to_string(),
        digest,
        fields: result.explanation.iter().map(finding).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundcrew_core::hardware::hash4k::{Record, TextKind};

    #[test]
    fn a_checksum_that_ends_in_zero_is_kept_whole() {
        let mut found = 0;
        for number in 0..2000 {
            let serial = Record::Text(TextKind::Serial, format!("SYNTH-{number}"));
            let hash = HardwareHash {
                records: vec![serial],
            };
            let bytes = hash.to_bytes().unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            found += usize::from(HardwareHash::from_bytes(&bytes[..used]).is_err());
            assert_eq!(whole(&bytes[..used]).unwrap(), hash);
        }
        assert!(found > 0, "none ended in zero: the test proves nothing");
    }
}
