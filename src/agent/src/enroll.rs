//! Asking to be let in: keys, request, the code on the screen, the grant.

use std::time::{Duration, Instant};

use groundcrew_core::dsse::{DsseError, Envelope};
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{
    self, Admission, Challenge, Code, Decision, Grant, Nonce, Request, Session, Start, path,
};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::keys::{SealKey, SigningKey};
use groundcrew_core::trust::{Charter, CharterError};
use groundcrew_core::words::Trouble;
use groundcrew_core::{DeviceId, SiteId, Verified};
use x25519_dalek::{PublicKey as X25519Public, StaticSecret};

use crate::failure::Failure;
use crate::http::{Api, Backoff, HttpError};
use crate::random;
use crate::words;

/// The agent's version, as requests and receipts carry it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// While a device waits, its code is told again this often.
const REMIND: Duration = Duration::from_secs(60);
/// How often an enrollment begins again before it is given up. The appliance
/// forgets challenges when it restarts; it does not do so all the time.
const MAX_RESTARTS: u32 = 20;

/// The keys of this device, made at this start of the machine or, once they
/// were granted something, found on its disk.
pub struct Keys {
    /// Signs the request and the receipt.
    pub sign: SigningKey,
    seal: StaticSecret,
}

impl Keys {
    /// Fresh keys.
    pub fn generate() -> Result<Self, Failure> {
        let sign = SigningKey::from_seed(random::bytes())
            .map_err(|error| Failure::failed(format!("making a key: {error}"), ""))?;
        let seal = StaticSecret::from(random::bytes::<32>());
        Ok(Self { sign, seal })
    }

    /// Keys that lay on the disk: PKCS#8 PEM, and base64.
    pub fn saved(sign: &[u8], seal: &[u8]) -> Option<Self> {
        let sign = SigningKey::from_pem(sign).ok()?;
        let seal = data_encoding::BASE64.decode(seal.trim_ascii()).ok()?;
        let seal = StaticSecret::from(<[u8; 32]>::try_from(seal).ok()?);
        Some(Self { sign, seal })
    }

    /// The key that secrets are sealed to.
    pub fn seal_key(&self) -> SealKey {
        SealKey(Bytes(X25519Public::from(&self.seal).to_bytes()))
    }

    /// The secret half, base64, for the device's disk.
    pub fn seal_secret(&self) -> String {
        data_encoding::BASE64.encode(self.seal.as_bytes())
    }
}

/// The appliance as an enrolling device sees it.
pub trait Appliance {
    /// Commits.
    fn start(&self, start: &Start) -> Result<Challenge, HttpError>;
    /// Asks.
    fn request(&self, request: &Envelope) -> Result<Admission, HttpError>;
    /// Asks again; may take as long as the long poll.
    fn decision(&self, session: &Session) -> Result<Decision, HttpError>;
}

impl Appliance for Api {
    fn start(&self, start: &Start) -> Result<Challenge, HttpError> {
        self.post(path::START, start)
    }

    fn request(&self, request: &Envelope) -> Result<Admission, HttpError> {
        self.post(path::REQUEST, request)
    }

    fn decision(&self, session: &Session) -> Result<Decision, HttpError> {
        self.with_session(*session).poll(path::DECISION)
    }
}

/// What somebody in front of the device is told meanwhile.
pub trait Watcher {
    /// The appliance knows the device by this name.
    fn enrolled(&self, device: &DeviceId);
    /// A technician must compare this code.
    fn waiting(&self, code: Code, reason: &str);
    /// Something did not work and is tried again.
    fn trouble(&self, text: String);
    /// The same, for whoever else should know.
    fn stuck(&self, _error: &HttpError) {}
    /// Waits before the next attempt.
    fn pause(&self, wait: Duration) {
        std::thread::sleep(wait);
    }
}

/// Let in.
#[derive(Debug)]
pub struct Granted {
    /// The grant, by the site's key and for our keys.
    pub grant: Verified<Grant>,
    /// As it came, for the disk and the receipt.
    pub envelope: Envelope,
    /// For progress, log and receipt.
    pub session: Session,
}

/// Why a grant is worth nothing to us.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Not by the charter's grant key, or not a grant.
    #[error("the grant: {0}")]
    Envelope(#[from] DsseError),
    /// Somebody else's.
    #[error("the grant names another {0}")]
    Other(&'static str),
    /// The charter does not admit what it grants.
    #[error("the grant: {0}")]
    Charter(#[from] CharterError),
}

/// Believes a grant only if the charter's key signed it and it names this
/// site, our keys and the nonce of this start.
pub fn check_grant(
    envelope: &Envelope,
    charter: &Charter,
    request: &Request,
    device: &DeviceId,
) -> Result<Verified<Grant>, GrantError> {
    let grant = envelope.verify::<Grant>(&charter.grant_key)?;
    let same = [
        (
            "site",
            grant.site == charter.site && grant.site == request.site,
        ),
        ("signing key", grant.sign_key == request.sign_key),
        ("sealing key", grant.seal_key == request.seal_key),
        (
            "nonce: it is for another start of this machine",
            grant.nonce == request.nonce,
        ),
        ("device id than the admission", grant.device == *device),
    ];
    if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
        return Err(GrantError::Other(what));
    }
    admitted(charter, &grant)?;
    Ok(grant)
}

/// Whether a grant that was believed is still good under a newer charter.
pub fn still_granted(envelope: &Envelope, charter: &Charter) -> Result<(), GrantError> {
    admitted(charter, &*envelope.verify::<Grant>(&charter.grant_key)?)
}

fn admitted(charter: &Charter, grant: &Grant) -> Result<(), GrantError> {
    charter.admits(&grant.bundle)?;
    let tag = grant.variables.get("tag").filter(|tag| !tag.is_empty());
    Ok(charter.admits_tag(tag.map(String::as_str), &grant.profile)?)
}

/// One enrollment, from the first message to the grant. Waits for a
/// technician for as long as it takes.
pub fn enroll(
    appliance: &dyn Appliance,
    charter: &Charter,
    keys: &Keys,
    report: &HardwareReport,
    watcher: &dyn Watcher,
) -> Result<Granted, Failure> {
    for restart in 0..MAX_RESTARTS {
        if restart > 0 {
            watcher.pause(Duration::from_millis(500 << restart.min(5)));
        }
        if let Some(granted) = attempt(appliance, charter, keys, report, watcher)? {
            return Ok(granted);
        }
        watcher.trouble("the appliance forgot this enrollment; beginning again".into());
    }
    Err(Failure::failed(
        "the appliance keeps forgetting this enrollment",
        "Look into the appliance's log.",
    ))
}

/// A session anew for a device that was granted, from an appliance that has
/// forgotten the first one (it restarted): the same keys and the same nonce are
/// the same start of the machine, so the grant stays the one there is.
pub fn resume(
    appliance: &dyn Appliance,
    keys: &Keys,
    grant: &Grant,
    report: &HardwareReport,
) -> Result<Session, HttpError> {
    let commitment = enroll::commitment(&keys.sign.public(), &keys.seal_key(), &grant.nonce);
    let challenge = appliance.start(&Start { commitment })?;
    let request = request(keys, grant.site.clone(), grant.nonce, &challenge, report);
    let envelope = Envelope::sign(&request, &keys.sign)
        .map_err(|error| HttpError::Malformed(error.to_string()))?;
    Ok(appliance.request(&envelope)?.session)
}

fn request(
    keys: &Keys,
    site: SiteId,
    nonce: Nonce,
    challenge: &Challenge,
    report: &HardwareReport,
) -> Request {
    Request {
        site,
        sign_key: keys.sign.public(),
        seal_key: keys.seal_key(),
        nonce,
        challenge: challenge.challenge,
        report: report.clone(),
        agent: VERSION.to_owned(),
    }
}

/// `None`: the appliance no longer knows the challenge or the session.
fn attempt(
    appliance: &dyn Appliance,
    charter: &Charter,
    keys: &Keys,
    report: &HardwareReport,
    watcher: &dyn Watcher,
) -> Result<Option<Granted>, Failure> {
    let (sign_key, seal_key) = (keys.sign.public(), keys.seal_key());
    let nonce = Bytes(random::bytes());
    let commitment = enroll::commitment(&sign_key, &seal_key, &nonce);
    let start = Start { commitment };
    let challenge = persistent(watcher, "enrollment", || appliance.start(&start))?;
    let Some(challenge) = challenge else {
        return Ok(None);
    };
    if challenge.site != charter.site {
        return Err(Failure::refused(
            format!(
                "this appliance serves the site {}, the image is for {}",
                challenge.site, charter.site
            ),
            "Boot from the appliance of the right site.",
        )
        .about(Trouble::TrustMismatch));
    }
    let request = request(keys, charter.site.clone(), nonce, &challenge, report);
    let envelope = Envelope::sign(&request, &keys.sign)
        .map_err(|error| Failure::failed(format!("writing the request: {error}"), ""))?;
    let admission = persistent(watcher, "enrollment", || appliance.request(&envelope))?;
    let Some(admission) = admission else {
        return Ok(None);
    };
    watcher.enrolled(&admission.device);
    wait(appliance, charter, &request, admission, watcher)
}

fn wait(
    appliance: &dyn Appliance,
    charter: &Charter,
    request: &Request,
    admission: Admission,
    watcher: &dyn Watcher,
) -> Result<Option<Granted>, Failure> {
    let code = request.code(&charter.grant_key);
    let session = admission.session;
    let mut decision = admission.decision;
    let mut told: Option<Instant> = None;
    loop {
        match decision {
            Decision::Granted { grant: envelope } => {
                let grant = check_grant(&envelope, charter, request, &admission.device);
                let grant = grant.map_err(|error| {
                    Failure::refused(
                        error,
                        "Tell the site's administrator: the appliance's answer does not hold.",
                    )
                })?;
                return Ok(Some(Granted {
                    grant,
                    envelope,
                    session,
                }));
            }
            Decision::Rejected { reason } => {
                return Err(Failure::refused(
                    format!(
                        "the site rejected this device: {}",
                        groundcrew_core::ids::shown(&reason)
                    ),
                    "Ask the site's technician.",
                )
                .about(Trouble::Rejected));
            }
            Decision::Waiting { reason } => {
                let now = Instant::now();
                if told.is_none_or(|last| now.duration_since(last) >= REMIND) {
                    watcher.waiting(code, &groundcrew_core::ids::shown(&reason));
                    told = Some(now);
                }
            }
        }
        let asked = Instant::now();
        let next = persistent(watcher, "waiting", || appliance.decision(&session))?;
        let Some(next) = next else { return Ok(None) };
        decision = next;
        // An appliance that answers at once is not asked in a tight loop.
        if matches!(decision, Decision::Waiting { .. }) && asked.elapsed() < Duration::from_secs(1)
        {
            watcher.pause(Duration::from_secs(1));
        }
    }
}

/// Tries for as long as it is worth it. `None`: begin the enrollment again.
fn persistent<T>(
    watcher: &dyn Watcher,
    what: &str,
    mut work: impl FnMut() -> Result<T, HttpError>,
) -> Result<Option<T>, Failure> {
    // A technician may be away for the night, and the appliance restart.
    let mut backoff = Backoff::new(Duration::from_secs(24 * 3600));
    loop {
        let error = match work() {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        if begins_again(&error) {
            return Ok(None);
        }
        let wait = backoff.next(Instant::now(), random::u32());
        let Some(wait) = wait.filter(|_| error.transient()) else {
            return Err(failure(&error));
        };
        watcher.trouble(format!(
            "{what}: {error}; again in {:.1} s",
            wait.as_secs_f32()
        ));
        watcher.stuck(&error);
        watcher.pause(wait);
    }
}

/// Whether the appliance has forgotten the enrollment, as after a restart.
pub fn begins_again(error: &HttpError) -> bool {
    match error {
        HttpError::Refused {
            status: 409, code, ..
        } => code == "stale-challenge",
        HttpError::Refused { status: 401, .. } => true,
        _ => false,
    }
}

fn failure(error: &HttpError) -> Failure {
    let failure = match error {
        HttpError::WrongServer(_) => Failure::refused(
            error,
            "Check that no other machine has the appliance's address, and that this image is of this site.",
        ),
        HttpError::Refused { .. } => Failure::refused(error, "Ask the site's technician."),
        _ => Failure::failed(
            error,
            "Check that the appliance runs and that this device reaches it.",
        ),
    };
    failure.about(words::trouble(error))
}

#[cfg(test)]
#[path = "enroll_tests.rs"]
mod tests;
