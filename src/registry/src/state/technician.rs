//! Decisions for technicians about known devices, and standing rules that stand
//! in for them. Nothing here changes anything.

use groundcrew_core::DeviceId;
use groundcrew_core::enroll::{Assurance, Request};
use groundcrew_core::hardware::Identity;

use super::decide::{Answer, ApproveError, Decided, TechnicianError, by_technician, phase_error};
use super::{MatchResult, Registry, bounded};
use crate::device::Phase;
use crate::event::{Actor, Cause, Change, Event};
use crate::rules::{Circumstances, Rules};

impl Registry {
    /// Accepts the changed hardware of a known device that waits: a new board or
    /// TPM. Without comparing codes this is no more than a claim, as for a
    /// registered device.
    pub fn accept(&self, device: &DeviceId, technician: &str) -> Result<Change, ApproveError> {
        let pending = self.waiting(device)?;
        if !matches!(pending.cause, Some(Cause::ChangedHardware { .. })) {
            let cause = pending.cause.as_ref().map(ToString::to_string);
            return Err(ApproveError::NotChanged {
                device: device.clone(),
                cause: cause.unwrap_or_default(),
            });
        }
        let event = Event::Approved {
            sign_key: pending.sign_key,
            assurance: Assurance::Claimed,
            rule: None,
        };
        Ok(by_technician(device, technician, event))
    }

    /// Keeps a device from going on until [`Registry::release_held`].
    pub fn hold(
        &self,
        device: &DeviceId,
        reason: &str,
        by: Actor,
    ) -> Result<Change, TechnicianError> {
        let found = self.named(device)?;
        let hint = match found.phase {
            Phase::Held { .. } => "`groundcrew device release ID` lets it go on",
            Phase::Rejected { .. } => "a refused device is not let in anyway",
            Phase::Retired { .. } => "a retired device is not let in anyway",
            _ => {
                let reason = bounded(reason);
                return Ok(Change {
                    device: device.clone(),
                    actor: by,
                    event: Event::Held { reason },
                });
            }
        };
        Err(phase_error(found, hint))
    }

    /// Lets a held device go on.
    pub fn release_held(
        &self,
        device: &DeviceId,
        technician: &str,
    ) -> Result<Change, TechnicianError> {
        let found = self.named(device)?;
        match found.phase {
            Phase::Held { .. } => Ok(by_technician(device, technician, Event::Released)),
            _ => Err(phase_error(
                found,
                "only a held device is released; `groundcrew device transfer` lets one go to another site",
            )),
        }
    }

    /// Forgets a device that is not in service. What the journal says of it
    /// stays; the site does not know it any more.
    pub fn forget(&self, device: &DeviceId, technician: &str) -> Result<Change, TechnicianError> {
        let found = self.named(device)?;
        match found.phase {
            Phase::Registered | Phase::Waiting | Phase::Rejected { .. } | Phase::Retired { .. } => {
                Ok(by_technician(device, technician, Event::Forgotten))
            }
            _ => Err(phase_error(found, "retire it first, then forget it")),
        }
    }

    /// Who a known device is by what it says now (its waiting request, else what
    /// is known of it), and why.
    pub fn explain_device(&self, device: &DeviceId) -> Result<MatchResult, TechnicianError> {
        let found = self.named(device)?;
        let says = found
            .pending
            .as_ref()
            .map(|pending| Identity::from(&pending.report));
        Ok(self.explain(says.as_ref().unwrap_or(&found.identity)))
    }

    /// How many devices a standing rule has let in.
    pub fn let_in_by(&self, rule: &groundcrew_core::ids::Slug) -> u32 {
        self.by_rule.get(rule).copied().unwrap_or(0)
    }

    /// Lets a stranger in whom a decision left waiting, where a standing rule
    /// says so; every other decision stays.
    #[must_use]
    pub fn with_rules(
        &self,
        decided: Decided,
        request: &Request,
        rules: &Rules,
        seen: Circumstances,
    ) -> Decided {
        let (Answer::Wait { .. }, Some(device)) = (&decided.answer, &decided.device) else {
            return decided;
        };
        let device = device.clone();
        let asked = decided
            .changes
            .iter()
            .find_map(|change| match &change.event {
                Event::Requested { request } if change.device == device => Some(request.as_ref()),
                _ => None,
            });
        let known = self.device(&device);
        let pending = asked.or_else(|| known.and_then(|known| known.pending.as_deref()));
        let unknown = pending.is_some_and(|pending| pending.cause == Some(Cause::Unknown));
        if !unknown || known.is_some_and(|known| !known.is_stranger()) {
            return decided;
        }
        let stranger = Identity::from(&request.report);
        let Some(rule) = rules.fitting(&stranger, seen, |rule| self.let_in_by(rule)) else {
            return decided;
        };
        let assurance = Assurance::Claimed;
        let mut changes = decided.changes;
        let approved = Event::Approved {
            sign_key: request.sign_key,
            assurance,
            rule: Some(rule.name.clone()),
        };
        changes.push(Change::by_site(&device, approved));
        if let Some(tag) = rule.tag.clone() {
            let tag = Some(tag);
            changes.push(Change::by_site(&device, Event::Tagged { tag }));
        }
        Decided {
            device: Some(device),
            changes,
            answer: Answer::Admit { assurance },
        }
    }
}
