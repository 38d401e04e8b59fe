//! Devices and events as people and scripts see them.

use groundcrew_core::DeviceId;
use groundcrew_registry::device::{Device, Phase};
use groundcrew_registry::event::Event;
use groundcrew_registry::search::Search;

use super::sessions::Enrollment;
use super::{DevicePage, DeviceView, FoundView, Inner};

/// Devices on one page of a list that is read to its end.
const PAGE: usize = 1000;

/// Those that a search means, after the given one, by name.
pub fn page(inner: &Inner, search: &Search, after: Option<&DeviceId>) -> DevicePage {
    let devices = inner.registry.search_after(search, after);
    let devices: Vec<DeviceView> = devices.take(PAGE).map(|d| one(inner, d)).collect();
    DevicePage {
        last: devices
            .last()
            .filter(|_| devices.len() == PAGE)
            .map(|device| device.id.clone()),
        devices,
    }
}

/// Those that a search finds.
pub fn found(inner: &Inner, search: &Search) -> FoundView {
    let found = inner.registry.search(search);
    let counts = found.counts.into_iter();
    FoundView {
        devices: found.devices.into_iter().map(|d| one(inner, d)).collect(),
        matching: found.matching,
        counts: counts.map(|(name, n)| (name.to_owned(), n)).collect(),
    }
}

/// One device.
pub fn one(inner: &Inner, device: &Device) -> DeviceView {
    let identity = &device.identity;
    let let_in = device.admitted.as_ref().map(|admitted| admitted.sign_key);
    let own = |session: &&Enrollment| Some(session.request.sign_key) == let_in;
    let session = inner.sessions.of_device(&device.id).find(own);
    let progress = session.and_then(|session| session.progress.as_ref());
    let working = matches!(device.phase, Phase::Provisioning { .. });
    let (profile, bundle) = match device.phase.underlying() {
        Phase::Provisioning {
            profile, bundle, ..
        } => (Some(profile.clone()), Some(bundle.to_string())),
        Phase::Provisioned { bundle, .. } => (None, Some(bundle.to_string())),
        _ => (None, None),
    };
    DeviceView {
        id: device.id.clone(),
        state: device.phase.name().to_owned(),
        since: device.phase.since(),
        code: device.pending.as_ref().map(|pending| pending.code),
        reason: reason(device),
        manufacturer: identity.manufacturer.clone(),
        model: identity.product.clone(),
        serial: identity.serial.clone(),
        uuid: identity.uuid.map(|uuid| uuid.to_string()),
        macs: identity.macs.iter().map(ToString::to_string).collect(),
        tag: device.tag.clone(),
        profile,
        bundle,
        progress: progress
            .filter(|_| working)
            .map(|p| format!("{} {}/{}: {}", p.phase, p.done, p.total, p.message)),
        step: progress
            .filter(|p| working && p.total > 0)
            .map(|p| [p.done, p.total]),
    }
}

fn reason(device: &Device) -> Option<String> {
    if let Some(cause) = device
        .pending
        .as_ref()
        .and_then(|pending| pending.cause.as_ref())
    {
        return Some(cause.to_string());
    }
    match &device.phase {
        Phase::Failed { reason, .. }
        | Phase::Rejected { reason, .. }
        | Phase::Held { reason, .. } => Some(reason.clone()),
        _ if device.reprovision.is_some() => {
            Some("to be provisioned anew at its next start".to_owned())
        }
        _ => None,
    }
}

/// What an event adds to its name, with a colon in front, or nothing.
pub fn event_in_words(event: &Event) -> String {
    let detail = match event {
        Event::Registered { registration } => format!("from {}", registration.source),
        Event::Requested { request } => request
            .cause
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        Event::Approved {
            rule: Some(rule), ..
        } => format!("standing rule {rule}"),
        Event::Approved { assurance, .. } => format!("{assurance:?}").to_lowercase(),
        Event::Granted {
            profile, bundle, ..
        } => format!("{bundle} by profile {profile}"),
        Event::Rejected { reason }
        | Event::Withdrawn { reason }
        | Event::Failed { reason, .. }
        | Event::Held { reason }
        | Event::Retired { reason } => reason.clone(),
        Event::Tagged { tag } => tag
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_else(|| "none".to_owned()),
        Event::Provisioned { .. }
        | Event::ReprovisionAsked
        | Event::Released
        | Event::Forgotten => String::new(),
    };
    if detail.is_empty() {
        detail
    } else {
        format!(": {detail}")
    }
}
