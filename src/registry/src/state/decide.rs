//! Decisions: what is asked of the registry, and the changes it would make.
//! Nothing here changes anything.

use groundcrew_core::enroll::{Assurance, BundleRef, Code, Nonce, Receipt, ReceiptResult, Request};
use groundcrew_core::hardware::Identity;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::{DeviceId, Digest, SiteId, Verified};

use super::{Registry, bounded};
use crate::device::{Device, Pending, Phase, Tag};
use crate::event::{Actor, Cause, Change, Event};
use crate::matching::{Verdict, judge, judge_waiting};

/// The longest agent version that is read.
const MAX_AGENT: usize = 64;

/// So many failures in a row for the same reason hold a device.
pub const SAME_FAILURES: u32 = 3;

/// What a device is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A technician must decide.
    Wait {
        /// What both screens show.
        code: Code,
        /// Why, for the screen.
        reason: String,
    },
    /// It is let in: sign a grant and record that ([`Registry::granted`]).
    Admit {
        /// How well the site knows it.
        assurance: Assurance,
    },
    /// It was let in and its grant is signed: send that one again.
    Granted {
        /// The grant's payload digest.
        grant: Digest,
    },
    /// It is not let in.
    Reject {
        /// Why, for the screen.
        reason: String,
    },
}

/// The decision on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The device, unless the request was refused unread.
    pub device: Option<DeviceId>,
    /// What to record before answering. May be empty: a repeated request.
    pub changes: Vec<Change>,
    /// What to answer.
    pub answer: Answer,
}

/// Why an approval (or another act on a waiting request) was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApproveError {
    /// No such device.
    #[error("there is no device {0}; `groundcrew device list` shows them")]
    NoSuchDevice(DeviceId),
    /// Nothing waits.
    #[error("{device} is {phase} and has no request that waits for approval")]
    NothingWaiting {
        /// The device.
        device: DeviceId,
        /// Its phase.
        phase: &'static str,
    },
    /// It waits for another reason than changed hardware.
    #[error(
        "{device} does not wait because its hardware changed ({cause}): compare its code and use `groundcrew device approve {device} CODE`"
    )]
    NotChanged {
        /// The device.
        device: DeviceId,
        /// Why it waits.
        cause: String,
    },
    /// Another code.
    #[error(
        "{device} waits with another code than {typed}: read it from the device's own screen (it changes when the device restarts)"
    )]
    WrongCode {
        /// The device.
        device: DeviceId,
        /// The code that was typed.
        typed: Code,
    },
}

/// Why a technician's wish cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TechnicianError {
    /// No such device.
    #[error("there is no device {0}; `groundcrew device list` shows them")]
    NoSuchDevice(DeviceId),
    /// Nothing to do.
    #[error("{device} is {phase}: {hint}")]
    Phase {
        /// The device.
        device: DeviceId,
        /// Its phase.
        phase: &'static str,
        /// What to know or do instead.
        hint: &'static str,
    },
}

/// Why a receipt was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// For another site.
    #[error("the receipt is for site {0}")]
    Site(SiteId),
    /// No such device.
    #[error("there is no device {0}")]
    NoSuchDevice(DeviceId),
    /// Not the key that was let in.
    #[error("the receipt is signed by another key than the one {0} was let in with")]
    Key(DeviceId),
    /// Not the grant the device works on.
    #[error("the receipt answers another grant than the one {0} holds")]
    Grant(DeviceId),
    /// Another receipt is stored.
    #[error("{device} is {phase}: it has sent a receipt for this grant already")]
    Answered {
        /// The device.
        device: DeviceId,
        /// Its phase.
        phase: &'static str,
    },
}

/// A request with what the appliance computed from it.
struct Asked<'a> {
    request: &'a Request,
    statement: Digest,
    code: Code,
}

impl Asked<'_> {
    fn pending(&self, cause: Option<Cause>) -> Box<Pending> {
        let request = self.request;
        Box::new(Pending {
            sign_key: request.sign_key,
            seal_key: request.seal_key,
            nonce: request.nonce,
            code: self.code,
            request: self.statement,
            agent: request.agent.clone(),
            report: request.report.clone(),
            cause,
        })
    }

    fn requested(&self, device: &DeviceId, cause: Option<Cause>) -> Change {
        let request = self.pending(cause);
        Change::by_device(device, Event::Requested { request })
    }

    fn wait(&self, device: &Device, cause: Cause) -> Decided {
        let answer = Answer::Wait {
            code: self.code,
            reason: cause.to_string(),
        };
        let repeated = device.pending.as_ref().is_some_and(|pending| {
            pending.sign_key == self.request.sign_key && pending.nonce == self.request.nonce
        });
        let change = self.requested(&device.id, Some(cause));
        Decided {
            device: Some(device.id.clone()),
            changes: if repeated { Vec::new() } else { vec![change] },
            answer,
        }
    }

    fn admit(&self, device: &DeviceId, assurance: Assurance) -> Decided {
        let sign_key = self.request.sign_key;
        let approved = Event::Approved {
            sign_key,
            assurance,
            rule: None,
        };
        Decided {
            device: Some(device.clone()),
            changes: vec![
                self.requested(device, None),
                Change::by_site(device, approved),
            ],
            answer: Answer::Admit { assurance },
        }
    }
}

fn refused(device: Option<&DeviceId>, reason: String) -> Decided {
    Decided {
        device: device.cloned(),
        changes: Vec::new(),
        answer: Answer::Reject { reason },
    }
}

impl Registry {
    /// Decides on a request whose signature, commitment and challenge the
    /// appliance checked. `statement` is the envelope's payload digest, `code`
    /// is `request.code(grant_key)`; `entropy` names the device if it is new.
    pub fn decide_enrollment(
        &self,
        request: &Verified<Request>,
        statement: Digest,
        code: Code,
        entropy: [[u8; 5]; 4],
    ) -> Decided {
        if request.site != self.site {
            return refused(None, format!("this is site {}", self.site));
        }
        if let Err(error) = request.report.check_size() {
            return refused(None, error.to_string());
        }
        if request.agent.len() > MAX_AGENT {
            return refused(None, "the agent's version is too long".to_owned());
        }
        let asked = Asked {
            request,
            statement,
            code,
        };
        let usable = self.junk.usable(&Identity::from(&request.report));
        let mut verdict = judge(&usable, &self.index);
        let mut cause = Cause::Unknown;
        if let Verdict::Ambiguous { devices } = verdict {
            // Its own place in the lobby, found again when it restarts.
            verdict = judge_waiting(&usable, &self.index);
            cause = Cause::Ambiguous { devices };
        }
        let device = verdict.device().and_then(|id| self.device(id));
        match device {
            Some(device) => self.decide_known(&asked, device, &verdict, cause),
            None => self.decide_unknown(&asked, cause, entropy),
        }
    }

    fn decide_known(
        &self,
        asked: &Asked<'_>,
        device: &Device,
        verdict: &Verdict,
        cause: Cause,
    ) -> Decided {
        match &device.phase {
            Phase::Rejected { reason, .. } => {
                let reason = format!("refused by a technician: {reason}");
                return refused(Some(&device.id), reason);
            }
            Phase::Held { reason, .. } => return refused(Some(&device.id), held(reason)),
            _ => {}
        }
        if device.is_stranger() {
            return asked.wait(device, cause);
        }
        match verdict {
            Verdict::Changed { by, .. } => asked.wait(device, Cause::ChangedHardware { by: *by }),
            Verdict::Hint { by, .. } => asked.wait(device, Cause::Hint { by: *by }),
            _ => decide_recognised(asked, device),
        }
    }

    fn decide_unknown(&self, asked: &Asked<'_>, cause: Cause, entropy: [[u8; 5]; 4]) -> Decided {
        let fresh = |entropy| {
            let id = DeviceId::new(&self.site, entropy);
            (!self.devices.contains_key(&id)).then_some(id)
        };
        let Some(id) = entropy.into_iter().find_map(fresh) else {
            return refused(None, "no free name for this device; try again".to_owned());
        };
        let mut changes = Vec::new();
        if self.lobby.len() >= self.limits.waiting {
            let reason = format!(
                "{} unknown devices were waiting; this one asked longest ago",
                self.lobby.len()
            );
            let oldest = self.lobby.first().map(|(_, oldest)| oldest);
            changes
                .extend(oldest.map(|oldest| Change::by_site(oldest, Event::Withdrawn { reason })));
        }
        let reason = cause.to_string();
        changes.push(asked.requested(&id, Some(cause)));
        Decided {
            device: Some(id),
            changes,
            answer: Answer::Wait {
                code: asked.code,
                reason,
            },
        }
    }

    /// Where a request stands that was decided on before: what a device that
    /// asks again with its session is told.
    pub fn answer(&self, device: &DeviceId, sign_key: &PublicKey, nonce: &Nonce) -> Answer {
        let reject = |reason: &str| Answer::Reject {
            reason: reason.to_owned(),
        };
        let Some(device) = self.devices.get(device) else {
            return reject("the request was withdrawn; restart the device to ask again");
        };
        if let Phase::Held { reason, .. } = &device.phase {
            return reject(&held(reason));
        }
        if let Some(pending) = &device.pending
            && pending.sign_key == *sign_key
            && pending.nonce == *nonce
        {
            let reason = pending.cause.as_ref().map(ToString::to_string);
            return Answer::Wait {
                code: pending.code,
                reason: reason.unwrap_or_default(),
            };
        }
        let admitted = device.admitted.as_ref();
        if let Some(admitted) = admitted.filter(|a| a.sign_key == *sign_key && a.nonce == *nonce) {
            let assurance = admitted.assurance;
            return match device.grant() {
                Some(grant) => Answer::Granted { grant },
                None if device.phase == Phase::Approved => Answer::Admit { assurance },
                None => reject("the device was taken out of service"),
            };
        }
        match &device.phase {
            Phase::Rejected { reason, .. } => reject(&format!("refused by a technician: {reason}")),
            _ => reject("the request was refused, or a newer one took its place"),
        }
    }

    /// Lets in the request that waits with `code`.
    pub fn approve(
        &self,
        device: &DeviceId,
        code: Code,
        technician: &str,
    ) -> Result<Change, ApproveError> {
        let pending = self.waiting(device)?;
        if pending.code != code {
            return Err(ApproveError::WrongCode {
                device: device.clone(),
                typed: code,
            });
        }
        let event = Event::Approved {
            sign_key: pending.sign_key,
            assurance: Assurance::Approved,
            rule: None,
        };
        Ok(by_technician(device, technician, event))
    }

    /// Refuses the request that waits.
    pub fn reject(
        &self,
        device: &DeviceId,
        reason: &str,
        technician: &str,
    ) -> Result<Change, ApproveError> {
        self.waiting(device)?;
        let reason = bounded(reason);
        let event = Event::Rejected { reason };
        Ok(by_technician(device, technician, event))
    }

    pub(super) fn waiting(&self, device: &DeviceId) -> Result<&Pending, ApproveError> {
        let found = self.device(device);
        let found = found.ok_or_else(|| ApproveError::NoSuchDevice(device.clone()))?;
        found
            .pending
            .as_deref()
            .ok_or_else(|| ApproveError::NothingWaiting {
                device: device.clone(),
                phase: found.phase.name(),
            })
    }

    /// Lets a device be provisioned anew (with a new key, if it brings one), or
    /// a rejected one ask again.
    pub fn reprovision(
        &self,
        device: &DeviceId,
        technician: &str,
    ) -> Result<Change, TechnicianError> {
        let found = self.named(device)?;
        let hint = match found.phase {
            Phase::Registered => "it will be provisioned when it appears",
            Phase::Waiting => "approve it with the code on its screen",
            Phase::Retired { .. } => "register it anew",
            Phase::Held { .. } => "release it first: `groundcrew device release ID`",
            _ => return Ok(by_technician(device, technician, Event::ReprovisionAsked)),
        };
        Err(phase_error(found, hint))
    }

    /// Sets or clears a device's tag.
    pub fn tag(
        &self,
        device: &DeviceId,
        tag: Option<Tag>,
        technician: &str,
    ) -> Result<Change, TechnicianError> {
        self.in_service(device)?;
        Ok(by_technician(device, technician, Event::Tagged { tag }))
    }

    /// Takes a device out of service; its hardware is free for a new registration.
    pub fn retire(
        &self,
        device: &DeviceId,
        reason: &str,
        technician: &str,
    ) -> Result<Change, TechnicianError> {
        self.in_service(device)?;
        let reason = bounded(reason);
        let event = Event::Retired { reason };
        Ok(by_technician(device, technician, event))
    }

    pub(super) fn named(&self, device: &DeviceId) -> Result<&Device, TechnicianError> {
        let found = self.device(device);
        found.ok_or_else(|| TechnicianError::NoSuchDevice(device.clone()))
    }

    fn in_service(&self, device: &DeviceId) -> Result<(), TechnicianError> {
        let found = self.named(device)?;
        match found.phase {
            Phase::Retired { .. } => Err(phase_error(found, "register it anew")),
            _ => Ok(()),
        }
    }

    /// The change that says a grant was signed. Record it in the same batch as
    /// the approval, so that no crash comes between.
    pub fn granted(
        &self,
        device: &DeviceId,
        grant: Digest,
        profile: Slug,
        bundle: BundleRef,
    ) -> Change {
        let event = Event::Granted {
            grant,
            profile,
            bundle,
        };
        Change::by_site(device, event)
    }

    /// The key that a device's receipt must be signed with.
    pub fn receipt_key(&self, device: &DeviceId) -> Option<PublicKey> {
        let admitted = self.devices.get(device)?.admitted.as_ref()?;
        Some(admitted.sign_key)
    }

    /// Takes a receipt; `statement` is its envelope's payload digest. Nothing
    /// where the same one is stored already: the device did not hear the answer.
    /// A device that fails [`SAME_FAILURES`] times in a row for the same reason
    /// is held: another try would only be the same again.
    pub fn receipt(
        &self,
        receipt: &Verified<Receipt>,
        statement: Digest,
    ) -> Result<Vec<Change>, ReceiptError> {
        if receipt.site != self.site {
            return Err(ReceiptError::Site(receipt.site.clone()));
        }
        let id = &receipt.device;
        let device = self.devices.get(id);
        let device = device.ok_or_else(|| ReceiptError::NoSuchDevice(id.clone()))?;
        if self.receipt_key(id) != Some(receipt.sign_key) {
            return Err(ReceiptError::Key(id.clone()));
        }
        match device.phase.underlying() {
            Phase::Provisioned {
                receipt: stored, ..
            }
            | Phase::Failed {
                receipt: stored, ..
            } if *stored == statement => {
                return Ok(Vec::new());
            }
            _ if device.grant() != Some(receipt.grant) => {
                return Err(ReceiptError::Grant(id.clone()));
            }
            Phase::Provisioning { .. } => {}
            other => {
                return Err(ReceiptError::Answered {
                    device: id.clone(),
                    phase: other.name(),
                });
            }
        }
        let receipt_digest = statement;
        let event = match &receipt.result {
            ReceiptResult::Provisioned => Event::Provisioned {
                receipt: receipt_digest,
            },
            ReceiptResult::Failed { reason } => Event::Failed {
                receipt: receipt_digest,
                reason: bounded(reason),
            },
        };
        let hold = device.hold_after(&event);
        let mut changes = vec![Change::by_device(id, event)];
        changes.extend(hold.map(|reason| Change::by_site(id, Event::Held { reason })));
        Ok(changes)
    }
}

impl Device {
    /// Why it is to be held after this receipt, if it is.
    fn hold_after(&self, event: &Event) -> Option<String> {
        let Event::Failed { reason, .. } = event else {
            return None;
        };
        let before = self.failures.as_ref().filter(|same| same.1 == *reason);
        let count = before.map_or(1, |same| same.0.saturating_add(1));
        let due = count >= SAME_FAILURES && !matches!(self.phase, Phase::Held { .. });
        due.then(|| bounded(&format!("failed {count} times in a row: {reason}")))
    }
}

fn held(reason: &str) -> String {
    format!("held until a technician releases it: {reason}")
}

/// The hardware is that of a device which somebody registered or let in.
fn decide_recognised(asked: &Asked<'_>, device: &Device) -> Decided {
    let request = asked.request;
    let same_key = device
        .admitted
        .as_ref()
        .filter(|admitted| admitted.sign_key == request.sign_key);
    let Some(admitted) = same_key else {
        return if device.takes_new_key() {
            asked.admit(&device.id, Assurance::Claimed)
        } else {
            asked.wait(device, Cause::SecondKey)
        };
    };
    let done = matches!(device.phase, Phase::Provisioned { .. });
    if done && device.reprovision.is_none() {
        return asked.wait(device, Cause::AlreadyProvisioned);
    }
    // The same start of the device, which did not hear the answer.
    if admitted.nonce == request.nonce && device.reprovision.is_none() {
        let assurance = admitted.assurance;
        return Decided {
            device: Some(device.id.clone()),
            changes: Vec::new(),
            answer: match device.grant() {
                Some(grant) => Answer::Granted { grant },
                None => Answer::Admit { assurance },
            },
        };
    }
    asked.admit(&device.id, admitted.assurance)
}

pub(super) fn phase_error(device: &Device, hint: &'static str) -> TechnicianError {
    TechnicianError::Phase {
        device: device.id.clone(),
        phase: device.phase.name(),
        hint,
    }
}

pub(super) fn by_technician(device: &DeviceId, technician: &str, event: Event) -> Change {
    Change {
        device: device.clone(),
        actor: Actor::Technician(bounded(technician)),
        event,
    }
}
