//! One event on one device: (device before, what happens) -> device after.

use groundcrew_core::enroll::Assurance;
use groundcrew_core::hardware::Identity;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::{DeviceId, UnixTime};

use crate::device::{Admitted, Device, Lobby, Pending, Phase, Registration};
use crate::event::{Actor, Event};

/// Why an event cannot have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Nobody knows the device.
    #[error("there is no such device")]
    NoSuchDevice,
    /// It was taken out of service.
    #[error("it is retired")]
    Retired,
    /// It has a registration already.
    #[error("it is registered already")]
    Registered,
    /// No request waits, or another key's.
    #[error("no request with that key waits")]
    NothingWaiting,
    /// Its registration was used up by another key.
    #[error("its registration was used by another key: a technician must approve this one")]
    Consumed,
    /// A grant without approval, a receipt without a grant.
    #[error("it is {0}")]
    Phase(&'static str),
}

/// What happens to a device.
#[derive(Clone, Copy)]
pub struct Happening<'a> {
    pub device: &'a DeviceId,
    pub actor: &'a Actor,
    pub event: &'a Event,
    pub at: UnixTime,
    pub place: Place,
}

/// Where it is written.
#[derive(Clone, Copy)]
pub enum Place {
    /// In this line of the journal.
    Line(u64),
    /// Nowhere yet but among what waits.
    Lobby(Lobby),
}

/// What the event makes of the device; `None` forgets it.
pub fn step(before: Option<&Device>, it: Happening<'_>) -> Result<Option<Device>, Impossible> {
    let device = match (before, it.event) {
        (None, Event::Registered { registration }) => {
            return Ok(Some(registered(it, registration)));
        }
        (None, Event::Requested { request }) => return Ok(Some(stranger(it, request))),
        (None, _) => return Err(Impossible::NoSuchDevice),
        (Some(device), _) => device,
    };
    let retired = matches!(device.phase, Phase::Retired { .. });
    if retired && *it.event != Event::Forgotten {
        return Err(Impossible::Retired);
    }
    let mut after = device.clone();
    match it.event {
        Event::Registered { registration } => add_registration(&mut after, registration)?,
        Event::Requested { request } => add_request(&mut after, it, request),
        Event::Approved {
            sign_key,
            assurance,
            rule,
        } => {
            let ruled = rule.is_some() && device.is_stranger();
            approve(&mut after, it, sign_key, *assurance, ruled)?;
        }
        Event::Rejected { reason } => reject(&mut after, it, reason)?,
        Event::Withdrawn { .. } => {
            after.pending.take().ok_or(Impossible::NothingWaiting)?;
            after.lobby = None;
            if after.is_stranger() {
                return Ok(None);
            }
        }
        Event::Granted {
            grant,
            profile,
            bundle,
        } => match after.phase {
            Phase::Approved | Phase::Provisioning { .. } => {
                after.phase = Phase::Provisioning {
                    grant: *grant,
                    profile: profile.clone(),
                    bundle: bundle.clone(),
                    since: it.at,
                };
            }
            ref other => return Err(Impossible::Phase(other.name())),
        },
        Event::Provisioned { .. } | Event::Failed { .. } => receipt(&mut after, it)?,
        Event::ReprovisionAsked => ask_again(&mut after, it),
        Event::Tagged { tag } => after.tag.clone_from(tag),
        Event::Held { reason } => hold(&mut after, it, reason)?,
        Event::Released => release(&mut after)?,
        Event::Retired { .. } => {
            after.pending = None;
            after.lobby = None;
            after.reprovision = None;
            after.phase = Phase::Retired { since: it.at };
        }
        Event::Forgotten => return forget(device),
    }
    Ok(Some(after))
}

impl Place {
    const fn line(self) -> Option<u64> {
        match self {
            Self::Line(line) => Some(line),
            Self::Lobby(_) => None,
        }
    }

    const fn lobby(self) -> Option<Lobby> {
        match self {
            Self::Line(_) => None,
            Self::Lobby(lobby) => Some(lobby),
        }
    }
}

/// A device in service is not forgotten by mistake: it is retired first.
fn forget(device: &Device) -> Result<Option<Device>, Impossible> {
    match &device.phase {
        Phase::Registered | Phase::Waiting | Phase::Rejected { .. } | Phase::Retired { .. } => {
            Ok(None)
        }
        other => Err(Impossible::Phase(other.name())),
    }
}

fn registered(it: Happening<'_>, registration: &Registration) -> Device {
    Device {
        id: it.device.clone(),
        phase: Phase::Registered,
        registration: Some(Box::new(registration.clone())),
        identity: registration.identity.clone(),
        tag: registration.tag.clone(),
        failures: None,
        admitted: None,
        pending: None,
        lobby: None,
        reprovision: None,
        last_request: None,
        slot: None,
    }
}

fn stranger(it: Happening<'_>, request: &Pending) -> Device {
    Device {
        id: it.device.clone(),
        phase: Phase::Waiting,
        registration: None,
        identity: Identity::from(&request.report),
        tag: None,
        failures: None,
        admitted: None,
        pending: Some(Box::new(request.clone())),
        lobby: it.place.lobby(),
        reprovision: None,
        last_request: it.place.line(),
        slot: None,
    }
}

/// A stranger who turns out to be expected stays who he is.
fn add_registration(device: &mut Device, registration: &Registration) -> Result<(), Impossible> {
    if device.registration.is_some() {
        return Err(Impossible::Registered);
    }
    if device.is_stranger() {
        device.phase = Phase::Registered;
    }
    device.identity = std::mem::take(&mut device.identity).or(&registration.identity);
    device.tag = device.tag.take().or_else(|| registration.tag.clone());
    device.registration = Some(Box::new(registration.clone()));
    Ok(())
}

/// A newer request supersedes the one that waits. It is only a claim: the
/// device's phase and identity stay, except a stranger's, who is nothing else.
fn add_request(device: &mut Device, it: Happening<'_>, request: &Pending) {
    // What the journal says of a stranger is changed only by the journal.
    if device.is_stranger() && (it.place.line().is_some() || device.is_unwritten()) {
        device.identity = Identity::from(&request.report);
    }
    device.pending = Some(Box::new(request.clone()));
    device.lobby = it.place.lobby();
    device.last_request = it.place.line().or(device.last_request);
}

fn approve(
    device: &mut Device,
    it: Happening<'_>,
    sign_key: &PublicKey,
    assurance: Assurance,
    ruled: bool,
) -> Result<(), Impossible> {
    if matches!(device.phase, Phase::Held { .. }) {
        return Err(Impossible::Phase(device.phase.name()));
    }
    let waits = device.pending.as_ref().map(|pending| pending.sign_key);
    if waits != Some(*sign_key) {
        return Err(Impossible::NothingWaiting);
    }
    let same_key = device
        .admitted
        .as_ref()
        .is_some_and(|admitted| admitted.sign_key == *sign_key);
    let technician = matches!(it.actor, Actor::Technician(_));
    if !technician && !ruled && !same_key && !device.takes_new_key() {
        return Err(Impossible::Consumed);
    }
    let pending = device.pending.take().ok_or(Impossible::NothingWaiting)?;
    device.lobby = None;
    device.identity = Identity::from(&pending.report).or(&device.identity);
    device.admitted = Some(Box::new(Admitted {
        sign_key: pending.sign_key,
        seal_key: pending.seal_key,
        nonce: pending.nonce,
        assurance,
        since: it.at,
    }));
    device.reprovision = None;
    device.phase = Phase::Approved;
    Ok(())
}

/// A device that was let in before keeps its phase: only the claim is refused.
fn reject(device: &mut Device, it: Happening<'_>, reason: &str) -> Result<(), Impossible> {
    device.pending.take().ok_or(Impossible::NothingWaiting)?;
    device.lobby = None;
    if device.admitted.is_none() && !matches!(device.phase, Phase::Held { .. }) {
        device.phase = Phase::Rejected {
            reason: reason.to_owned(),
            since: it.at,
        };
    }
    Ok(())
}

/// What it asked is given up; it asks again once it is released.
fn hold(device: &mut Device, it: Happening<'_>, reason: &str) -> Result<(), Impossible> {
    if matches!(device.phase, Phase::Held { .. } | Phase::Rejected { .. }) {
        return Err(Impossible::Phase(device.phase.name()));
    }
    device.pending = None;
    device.lobby = None;
    let before = std::mem::replace(&mut device.phase, Phase::Waiting);
    device.phase = Phase::Held {
        reason: reason.to_owned(),
        since: it.at,
        before: Box::new(before),
    };
    Ok(())
}

fn release(device: &mut Device) -> Result<(), Impossible> {
    match &device.phase {
        Phase::Held { before, .. } => device.phase = before.as_ref().clone(),
        other => return Err(Impossible::Phase(other.name())),
    }
    device.failures = None;
    Ok(())
}

/// A held device that was at work still tells what came of it.
fn receipt(device: &mut Device, it: Happening<'_>) -> Result<(), Impossible> {
    device.failures = match (it.event, device.failures.take()) {
        (Event::Failed { reason, .. }, Some(mut same)) if same.1 == *reason => {
            same.0 = same.0.saturating_add(1);
            Some(same)
        }
        (Event::Failed { reason, .. }, _) => Some(Box::new((1, reason.clone()))),
        _ => None,
    };
    let phase = match &mut device.phase {
        Phase::Held { before, .. } => before.as_mut(),
        phase => phase,
    };
    let (grant, bundle) = match &*phase {
        Phase::Provisioning { grant, bundle, .. } => (*grant, bundle.clone()),
        other => return Err(Impossible::Phase(other.name())),
    };
    let since = it.at;
    *phase = match it.event {
        Event::Failed { receipt, reason } => Phase::Failed {
            receipt: *receipt,
            grant,
            reason: reason.clone(),
            since,
        },
        Event::Provisioned { receipt } => Phase::Provisioned {
            receipt: *receipt,
            grant,
            bundle,
            since,
        },
        _ => return Ok(()),
    };
    Ok(())
}

/// A rejected device may ask again; one that was let in may do so with a new key.
fn ask_again(device: &mut Device, it: Happening<'_>) {
    if matches!(device.phase, Phase::Rejected { .. }) {
        device.phase = match device.registration {
            Some(_) => Phase::Registered,
            None => Phase::Waiting,
        };
    }
    if device.admitted.is_some() {
        device.reprovision = Some(it.at);
    }
}
