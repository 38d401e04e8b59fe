//! What a device asks, from its first message to its receipt.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use groundcrew_core::dsse::Envelope;
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{
    Admission, Challenge, Decision, Progress, Receipt, Request, Session, Start,
};
use groundcrew_core::{DeviceId, SiteId};
use groundcrew_registry::rules::Circumstances;
use groundcrew_registry::state::Answer;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::sessions::Enrollment;
use super::{Inner, Office};
use crate::store;

/// Why a device is not answered as it wished.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read, or its signature is wrong.
    #[error("{0}")]
    Malformed(String),
    /// No token, or one that is not known (any more).
    #[error("this enrollment is not known here; start it again")]
    NoSession,
    /// It means another site.
    #[error("the request is for site {asked}, this is {here}")]
    WrongSite {
        /// The site it means.
        asked: SiteId,
        /// This one.
        here: SiteId,
    },
    /// It may not do this.
    #[error("{0}")]
    NotAllowed(String),
    /// The challenge is of an earlier process of the appliance, or made up.
    #[error("the challenge is not known (any more); start the enrollment again")]
    StaleChallenge,
    /// The appliance has no credible clock.
    #[error("the appliance's clock stands before a time that is proven past; somebody must set it")]
    ClockUnknown,
    /// The appliance's clock stands after everything HQ signed has ended.
    #[error(
        "the appliance's clock stands after HQ's signatures ended; somebody must set it, or HQ must sign anew"
    )]
    ClockBeyond,
    /// The disk is behind.
    #[error("{0}")]
    Busy(String),
    /// Something is missing at the site.
    #[error("{0}")]
    NotReady(String),
}

impl Refusal {
    /// The word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::NoSession => "no-session",
            Self::WrongSite { .. } => "wrong-site",
            Self::NotAllowed(_) => "not-allowed",
            Self::StaleChallenge => "stale-challenge",
            Self::ClockUnknown => "clock-unknown",
            Self::ClockBeyond => "clock-beyond",
            Self::Busy(_) => "busy",
            Self::NotReady(_) => "not-ready",
        }
    }
}

impl Office {
    /// The challenge for a commitment.
    pub fn challenge(&self, start: &Start) -> Challenge {
        Challenge {
            site: self.name.clone(),
            challenge: self.challenger.challenge(&start.commitment),
        }
    }

    /// A signed request: who is it, and what becomes of it?
    /// `peer` is where it came from, as far as that is known.
    pub async fn request(
        &self,
        envelope: &Envelope,
        peer: Option<IpAddr>,
    ) -> Result<Admission, Refusal> {
        let malformed =
            |error: groundcrew_core::dsse::DsseError| Refusal::Malformed(error.to_string());
        let request = envelope
            .verify_self_signed(|request: &Request| request.sign_key)
            .map_err(malformed)?;
        if request.site != self.name {
            return Err(Refusal::WrongSite {
                asked: request.site.clone(),
                here: self.name.clone(),
            });
        }
        if !self
            .challenger
            .gave(&request.commitment(), &request.challenge)
        {
            return Err(Refusal::StaleChallenge);
        }
        if let Some(peer) = peer
            && !self.pace.admits(peer, Instant::now())
        {
            return Err(Refusal::Busy(
                "too many enrollments from this address; try again in a moment".to_owned(),
            ));
        }
        let random = |_| Refusal::NotReady("the kernel gives no random bytes".to_owned());
        let session: Session = Bytes(crate::site::keys::random().map_err(random)?);
        let names: [u8; 20] = crate::site::keys::random().map_err(random)?;
        let (names, _) = names.as_chunks::<5>();
        let names = names.try_into().unwrap_or_default();
        let code = request.code(&self.keys.grant.public());
        let report = request.report.clone();
        let place = self.writer.place()?;
        let (admission, commit) = {
            let mut inner = self.lock();
            let now = self.credible_now(&inner)?;
            let decided =
                inner
                    .registry
                    .decide_enrollment(&request, envelope.payload_digest(), code, names);
            let seen = Circumstances { now, peer };
            let decided = inner
                .registry
                .with_rules(decided, &request, &self.rules, seen);
            let Some(device) = decided.device else {
                let Answer::Reject { reason } = decided.answer else {
                    return Err(Refusal::NotReady("a decision without a device".to_owned()));
                };
                return Err(Refusal::NotAllowed(reason));
            };
            let known = inner.registry.device(&device);
            let anew = !decided.changes.is_empty()
                && matches!(decided.answer, Answer::Admit { .. })
                && known.is_some_and(|known| known.admitted.is_some());
            if anew && !self.pace.admits_again(&device, Instant::now()) {
                return Err(Refusal::Busy(
                    "this device was let in anew too often; it may ask once a minute".to_owned(),
                ));
            }
            let mut rows = self.record(&mut inner, now, decided.changes);
            let decision = self.decision_now(&mut inner, &device, &decided.answer, &mut rows);
            let enrollment = Enrollment {
                device: device.clone(),
                request: Arc::new(request),
                progress: None,
                told: None,
                changed: Arc::new(Notify::new()),
            };
            inner.sessions.open(&session, enrollment);
            (
                Admission {
                    device,
                    session,
                    decision,
                },
                // Even with nothing new: what the answer tells may still be on
                // its way to the disk.
                place.write(rows),
            )
        };
        commit.done().await;
        let Admission {
            device, decision, ..
        } = &admission;
        self.flight.asked(peer, &report, device, decision);
        Ok(admission)
    }

    /// What was decided about a session, waiting for a decision up to `patience`.
    pub async fn decision(
        &self,
        session: &Session,
        patience: Duration,
    ) -> Result<Decision, Refusal> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self
                .lock()
                .sessions
                .of_token(session)
                .ok_or(Refusal::NoSession)?
                .changed
                .clone();
            // Enabled before looking, so that a decision in between still wakes.
            let woken = changed.notified();
            let mut woken = std::pin::pin!(woken);
            woken.as_mut().enable();
            let decision = self.look(session).await?;
            if !matches!(decision, Decision::Waiting { .. })
                || tokio::time::timeout_at(deadline, woken).await.is_err()
            {
                return Ok(decision);
            }
        }
    }

    async fn look(&self, session: &Session) -> Result<Decision, Refusal> {
        let place = self.writer.place()?;
        let (device, decision, commit) = {
            let mut inner = self.lock();
            let enrollment = inner.sessions.of_token(session).ok_or(Refusal::NoSession)?;
            let (device, request) = (enrollment.device.clone(), Arc::clone(&enrollment.request));
            let answer = inner
                .registry
                .answer(&device, &request.sign_key, &request.nonce);
            let mut rows = Vec::new();
            let decision = self.decision_now(&mut inner, &device, &answer, &mut rows);
            // A decision that is told must be on disk, whoever queued it.
            let told = !rows.is_empty() || !matches!(decision, Decision::Waiting { .. });
            let commit = told.then(|| place.write(rows));
            (device, decision, commit)
        };
        if let Some(commit) = commit {
            commit.done().await;
        }
        self.flight.decided(&device, &decision);
        Ok(decision)
    }

    /// The registry's answer as the device hears it. An admitted device gets
    /// its grant signed here, unless something is missing for it.
    fn decision_now(
        &self,
        inner: &mut Inner,
        device: &DeviceId,
        answer: &Answer,
        rows: &mut Vec<store::Change>,
    ) -> Decision {
        match answer {
            Answer::Wait { reason, .. } => Decision::Waiting {
                reason: reason.clone(),
            },
            Answer::Reject { reason } => Decision::Rejected {
                reason: reason.clone(),
            },
            Answer::Granted { grant } => match inner
                .grants
                .get(device)
                .filter(|signed| signed.payload_digest() == *grant)
            {
                Some(signed) => Decision::Granted {
                    grant: signed.clone(),
                },
                None => Decision::Waiting {
                    reason: "its grant is lost; `groundcrew device reprovision` makes a new one"
                        .to_owned(),
                },
            },
            Answer::Admit { .. } => {
                let granted = self
                    .credible_now(inner)
                    .map_err(|refusal| refusal.to_string())
                    .and_then(|now| self.grant(inner, now, device, &self.listed()?));
                match granted {
                    Ok(more) => {
                        rows.extend(more);
                        let signed = inner.grants.get(device);
                        signed.map_or_else(
                            || Decision::Waiting {
                                reason: "its grant is being made".to_owned(),
                            },
                            |signed| Decision::Granted {
                                grant: signed.clone(),
                            },
                        )
                    }
                    Err(reason) => {
                        tracing::warn!(%device, "let in, but cannot be granted anything yet: {reason}");
                        Decision::Waiting { reason }
                    }
                }
            }
        }
    }

    /// What the agent is doing, for whoever looks.
    pub fn progress(&self, session: &Session, progress: &Progress) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let enrollment = inner.sessions.of_token(session).ok_or(Refusal::NoSession)?;
        let (device, before) = (enrollment.device.clone(), &enrollment.progress);
        let line = groundcrew_core::ids::shown(&progress.message);
        let phase = groundcrew_core::ids::shown(&progress.phase);
        if before.as_ref().is_none_or(|before| before.phase != phase) {
            tracing::info!(%device, "{phase}: {line}");
        } else {
            tracing::debug!(%device, "{phase} {}/{}: {line}", progress.done, progress.total);
        }
        let now = Progress {
            phase: phase.clone(),
            message: line,
            done: progress.done,
            total: progress.total,
        };
        let tell = enrollment.report(now, Instant::now());
        drop(inner);
        if tell {
            self.flight.phase(&device, &phase);
        }
        self.changed();
        Ok(())
    }

    /// Keeps a device's log, in place of the one before.
    pub async fn device_log(&self, session: &Session, text: String) -> Result<(), Refusal> {
        let place = self.writer.place()?;
        let commit = {
            let mut inner = self.lock();
            let enrollment = inner.sessions.of_token(session).ok_or(Refusal::NoSession)?;
            let (device, key) = (enrollment.device.clone(), enrollment.request.sign_key);
            // Strangers could fill the disk.
            if inner.registry.receipt_key(&device) != Some(key) {
                return Err(Refusal::NotAllowed(
                    "only a device that was let in may leave its log".to_owned(),
                ));
            }
            let text = text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "?");
            place.write(vec![store::Change::DeviceLog { device, text }])
        };
        commit.done().await;
        Ok(())
    }

    /// Takes the device's receipt; returns when it is on disk.
    pub async fn receipt(&self, session: &Session, envelope: &Envelope) -> Result<(), Refusal> {
        let place = self.writer.place()?;
        let (device, result, commit) = {
            let mut inner = self.lock();
            let enrollment = inner.sessions.of_token(session).ok_or(Refusal::NoSession)?;
            let (device, key) = (enrollment.device.clone(), enrollment.request.sign_key);
            let receipt = envelope
                .verify::<Receipt>(&key)
                .map_err(|error| Refusal::Malformed(error.to_string()))?;
            if receipt.device != device {
                return Err(Refusal::NotAllowed(
                    "the receipt is another device's".to_owned(),
                ));
            }
            let now = self.credible_now(&inner)?;
            let change = inner.registry.receipt(&receipt, envelope.payload_digest());
            let change = change.map_err(|error| Refusal::NotAllowed(error.to_string()))?;
            let mut rows = self.record(&mut inner, now, change.into_iter().collect());
            rows.push(store::Change::Receipt {
                device: device.clone(),
                envelope: envelope.clone(),
            });
            inner.grants.remove(&device);
            (device, receipt.result.clone(), place.write(rows))
        };
        commit.done().await;
        self.flight.receipt(&device, &result);
        Ok(())
    }
}
