//! Enrollment: one attempt of a device to be let in (request, decision, grant)
//! and the receipt that ends it.
//!
//! The exchange, over TLS pinned to the key that the charter names:
//! ```text
//! device                                                appliance
//! commit = H(sign key, seal key, nonce)  -- start -->
//!                                        <-- challenge = HMAC(boot secret, commit)
//! request signed by the sign key         -- request --> id, session, waiting | granted
//! code = H(keys, nonce, grant key, challenge): both screens show it
//!                                        <-- grant, signed by the grant key
//! receipt signed by the sign key         -- receipt --> stored
//! ```
//! The device commits to its nonce before it sees the challenge, and the
//! challenge is fixed by the commitment, so neither side (nor anyone between
//! them) can try values until a code fits. The session is only a handle: what
//! matters is bound to the keys.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::dsse::{Envelope, Payload};
use crate::encoding::Bytes;
use crate::hardware::HardwareReport;
use crate::ids::{DeviceId, SiteId, Slug, Version};
use crate::keys::{PublicKey, SealKey};
use crate::time::UnixTime;

/// Paths of the HTTPS endpoint, in the order a device uses them.
pub mod path {
    /// POST [`super::Start`] -> [`super::Challenge`].
    pub const START: &str = "/v1/enroll/start";
    /// POST an envelope of [`super::Request`] -> [`super::Admission`].
    pub const REQUEST: &str = "/v1/enroll/request";
    /// GET with the session as bearer token; waits up to
    /// [`super::LONG_POLL_SECONDS`] -> [`super::Decision`].
    pub const DECISION: &str = "/v1/enroll/decision";
    /// POST [`super::Progress`] with the bearer token.
    pub const PROGRESS: &str = "/v1/progress";
    /// POST the agent's log, text, with the bearer token.
    pub const LOG: &str = "/v1/log";
    /// POST an envelope of [`super::Receipt`] with the bearer token.
    pub const RECEIPT: &str = "/v1/receipt";
}

/// How long the appliance holds a GET of [`path::DECISION`] open.
pub const LONG_POLL_SECONDS: u64 = 25;

/// The most bytes an enrollment request, receipt or answer may have.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// The most bytes of its log a device sends: the end of it.
pub const MAX_LOG: usize = 256 * 1024;

/// 32 random bytes of the device, revealed after the challenge came.
pub type Nonce = Bytes<32>;

/// The appliance's 32 bytes, fixed by the commitment.
pub type ChallengeBytes = Bytes<32>;

/// The first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// [`commitment`] of the keys and nonce that the request will reveal.
    pub commitment: Digest,
}

/// The appliance's answer to [`Start`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// The site that answers.
    pub site: SiteId,
    /// Fixed by the commitment for as long as the appliance's process lives.
    pub challenge: ChallengeBytes,
}

/// What the device asks, signed by `sign_key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The site the device means; another one refuses.
    pub site: SiteId,
    /// The key the device signs with; made at this start.
    pub sign_key: PublicKey,
    /// The key secrets are sealed to.
    pub seal_key: SealKey,
    /// Reveals what the commitment was made of.
    pub nonce: Nonce,
    /// The challenge this answers.
    pub challenge: ChallengeBytes,
    /// The device's hardware, as it says.
    pub report: HardwareReport,
    /// The agent's version.
    pub agent: String,
}

impl Payload for Request {
    const TYPE: &'static str = "application/vnd.groundcrew.enrollment-request+json";
}

/// The commitment a device sends before it learns the challenge.
pub fn commitment(sign_key: &PublicKey, seal_key: &SealKey, nonce: &Nonce) -> Digest {
    let label: &[u8] = b"groundcrew enrollment commitment 1";
    Digest::of_parts(&[label, sign_key.as_bytes(), seal_key.as_bytes(), &nonce.0])
}

impl Request {
    /// The commitment that must have been sent for this request.
    pub fn commitment(&self) -> Digest {
        commitment(&self.sign_key, &self.seal_key, &self.nonce)
    }

    /// The code both screens show, for an appliance with this grant key.
    pub fn code(&self, grant_key: &PublicKey) -> Code {
        let label: &[u8] = b"groundcrew enrollment code 1";
        let (sign, seal) = (self.sign_key.as_bytes(), self.seal_key.as_bytes());
        let digest = Digest::of_parts(&[
            label,
            sign,
            seal,
            &self.nonce.0,
            grant_key.as_bytes(),
            &self.challenge.0,
        ]);
        let [a, b, c, d, e, ..] = *digest.as_bytes();
        Code([a, b, c, d, e])
    }
}

/// Eight characters that a technician compares: 40 bits that neither side can
/// steer, as `K7QF-2M9X`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code([u8; 5]);

impl Code {
    /// The code of these 40 bits.
    pub const fn from_bytes(bytes: [u8; 5]) -> Self {
        Self(bytes)
    }

    /// Its 40 bits.
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = crate::ids::crockford().encode(&self.0);
        let (left, right) = text.split_at(4);
        write!(f, "{left}-{right}")
    }
}

crate::text_form::text_form!(Code);

/// Text that is not a [`Code`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a code: it has eight letters and digits, as on the device's screen (K7QF-2M9X)")]
pub struct CodeError;

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let compact: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
        let bytes = crate::ids::crockford()
            .decode(compact.as_bytes())
            .map_err(|_| CodeError)?;
        Ok(Self(bytes.try_into().map_err(|_| CodeError)?))
    }
}

/// The appliance's answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// The device's name from now on.
    pub device: DeviceId,
    /// The bearer token for the rest of this enrollment. A secret.
    pub session: Session,
    /// What was decided so far.
    pub decision: Decision,
}

/// A random token, base64 in the `Authorization` header.
pub type Session = Bytes<32>;

/// Where an enrollment stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", deny_unknown_fields)]
pub enum Decision {
    /// A technician must decide; the device shows its code and asks again.
    Waiting {
        /// Why it was not let in at once, in words for the screen.
        reason: String,
    },
    /// Let in: an envelope of [`Grant`] by the site's grant key.
    Granted {
        /// The signed grant.
        grant: Envelope,
    },
    /// Refused; the device boots its own disk.
    Rejected {
        /// Why, in words for the screen.
        reason: String,
    },
}

/// How well the site knows who it let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// It matches a registration. Serials are printed on boxes: a convenience,
    /// not a proof, and never enough for secrets.
    Claimed,
    /// A technician compared the codes on both screens.
    Approved,
    /// Its TPM proved which machine it is.
    Proven,
}

/// The site's signed answer: this device and its keys, this profile, this
/// bundle. Worth nothing to a device with other keys or another nonce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The site that grants.
    pub site: SiteId,
    /// The device's name.
    pub device: DeviceId,
    /// The device's signing key.
    pub sign_key: PublicKey,
    /// The device's sealing key.
    pub seal_key: SealKey,
    /// The device's nonce: binds the grant to this start of the machine.
    pub nonce: Nonce,
    /// How well the site knows the device.
    pub assurance: Assurance,
    /// The profile's name.
    pub profile: Slug,
    /// Which bundle to apply.
    pub bundle: BundleRef,
    /// The name the system is to get: the value of `{{hostname}}`.
    pub hostname: String,
    /// Further values for the bundle's templates. Not secret.
    pub variables: std::collections::BTreeMap<String, String>,
    /// When it was signed: raises the device's time floor.
    pub issued_at: UnixTime,
}

impl Payload for Grant {
    const TYPE: &'static str = "application/vnd.groundcrew.grant+json";
}

/// A bundle as the site's TUF repository names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRef {
    /// The bundle's name.
    pub name: Slug,
    /// Its version.
    pub version: Version,
}

impl BundleRef {
    /// The TUF target path of the bundle's OCI manifest.
    pub fn target_path(&self) -> String {
        format!("bundles/{}/{}.json", self.name, self.version)
    }
}

impl fmt::Display for BundleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// What the device is doing now; each step is told as it begins and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// `refresh-trust`, `download`, `verify`, `apply`, …
    pub phase: String,
    /// Step number from 1, or bytes received while downloading.
    pub done: u64,
    /// Number of steps, or bytes in all.
    pub total: u64,
    /// One line for people.
    pub message: String,
}

/// The device's signed account of what was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The site that granted.
    pub site: SiteId,
    /// The device's name.
    pub device: DeviceId,
    /// The key that signs this; the one in the grant.
    pub sign_key: PublicKey,
    /// Which grant this answers: the digest of its payload.
    pub grant: Digest,
    /// The bundle that was applied, or refused.
    pub bundle: BundleRef,
    /// The manifest that was verified, where it came to that.
    pub manifest: Option<Digest>,
    /// How it ended.
    pub result: ReceiptResult,
    /// Each step, in order.
    pub steps: Vec<StepReceipt>,
    /// The agent's version.
    pub agent: String,
    /// Milliseconds from the agent's start to this receipt.
    pub millis: u64,
}

impl Payload for Receipt {
    const TYPE: &'static str = "application/vnd.groundcrew.receipt+json";
}

/// How a provisioning ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result", deny_unknown_fields)]
pub enum ReceiptResult {
    /// Every step holds.
    Provisioned,
    /// It stopped; the installed system was left bootable.
    Failed {
        /// Why, in words.
        reason: String,
    },
}

/// What became of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepReceipt {
    /// The step's name in the bundle.
    pub name: String,
    /// What became of it.
    pub outcome: StepOutcome,
    /// Milliseconds it took.
    pub millis: u64,
}

/// What became of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", deny_unknown_fields)]
pub enum StepOutcome {
    /// It was already so.
    Unchanged,
    /// It was made so.
    Changed,
    /// It could not be made so.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// It was not reached.
    Skipped,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SigningKey;

    fn request(nonce: u8) -> Request {
        Request {
            site: "hq".parse().unwrap(),
            sign_key: SigningKey::from_seed([1; 32]).unwrap().public(),
            seal_key: SealKey(Bytes([2; 32])),
            nonce: Bytes([nonce; 32]),
            challenge: Bytes([4; 32]),
            report: HardwareReport::default(),
            agent: "0.1.0".into(),
        }
    }

    #[test]
    fn the_code_depends_on_everything_both_sides_brought() {
        let grant_key = SigningKey::from_seed([9; 32]).unwrap().public();
        let other_key = SigningKey::from_seed([8; 32]).unwrap().public();
        let base = request(3);
        let code = base.code(&grant_key);
        assert_eq!(code, base.code(&grant_key));
        assert_ne!(code, base.code(&other_key));
        assert_ne!(code, request(5).code(&grant_key));
        let challenged = Request {
            challenge: Bytes([5; 32]),
            ..base.clone()
        };
        assert_ne!(code, challenged.code(&grant_key));
        let resealed = Request {
            seal_key: SealKey(Bytes([6; 32])),
            ..base.clone()
        };
        assert_ne!(code, resealed.code(&grant_key));
        assert_ne!(base.commitment(), resealed.commitment());
    }

    #[test]
    fn codes_forgive_the_typist() {
        let code = request(3).code(&SigningKey::from_seed([9; 32]).unwrap().public());
        let text = code.to_string();
        assert_eq!(text.parse(), Ok(code));
        assert_eq!(text.to_lowercase().replace('-', " ").parse(), Ok(code));
        assert_eq!("K7QF-2M9".parse::<Code>(), Err(CodeError));
        assert_eq!("K7QF-2MOL".parse::<Code>(), "K7QF-2M01".parse::<Code>());
    }

    #[test]
    fn a_request_proves_its_own_key() {
        let key = SigningKey::from_seed([1; 32]).unwrap();
        let good = Envelope::sign(&request(3), &key).unwrap();
        assert!(good.verify_self_signed::<Request>(|r| r.sign_key).is_ok());
        let thief = SigningKey::from_seed([2; 32]).unwrap();
        let bad = Envelope::sign(&request(3), &thief).unwrap();
        assert!(bad.verify_self_signed::<Request>(|r| r.sign_key).is_err());
    }
}
