//! DSSE envelopes: the one form in which requests, grants and receipts are
//! signed, over the network and on a stick alike.
//!
//! Source: secure-systems-lab/dsse, `protocol.md` (PAE) and `envelope.md`.

use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::keys::{PublicKey, Signature, SigningKey};

/// A kind of content with its media type, which the signature covers: an
/// envelope of one kind can never pass for another.
pub trait Payload: Serialize + DeserializeOwned {
    /// The DSSE `payloadType`.
    const TYPE: &'static str;
}

/// A value whose signature was checked. Only this package can make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }

    /// Gives up the proof and keeps the value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A signed payload as it travels: nothing in it is to be believed before
/// [`Envelope::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    #[serde(with = "crate::encoding::base64")]
    payload: Vec<u8>,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    sig: Signature,
}

/// Why an envelope was refused.
#[derive(Debug, thiserror::Error)]
pub enum DsseError {
    /// The payload is of another kind than asked for.
    #[error("the envelope holds `{found}`, expected `{expected}`")]
    Type {
        /// The kind asked for.
        expected: &'static str,
        /// The kind found.
        found: String,
    },
    /// No signature is by the key asked for.
    #[error("no signature on the envelope matches the key {0:?}")]
    Signature(PublicKey),
    /// The signature holds, the content does not parse.
    #[error("the signed content is malformed: {0}")]
    Content(String),
}

/// What an error may repeat of a content, in characters: a parser's words can
/// hold all of it.
const MAX_WORDS: usize = 200;

impl From<serde_json::Error> for DsseError {
    fn from(error: serde_json::Error) -> Self {
        let words = error.to_string();
        let words = words.chars().take(MAX_WORDS);
        Self::Content(
            words
                .map(|c| if c.is_control() { '?' } else { c })
                .collect(),
        )
    }
}

impl Envelope {
    /// Signs `payload` with `key`.
    pub fn sign<T: Payload>(payload: &T, key: &SigningKey) -> Result<Self, serde_json::Error> {
        let payload = serde_json::to_vec(payload)?;
        let sig = key.sign(&pae(T::TYPE, &payload));
        Ok(Self {
            payload,
            payload_type: T::TYPE.to_owned(),
            signatures: vec![EnvelopeSignature { sig }],
        })
    }

    /// Checks that `key` signed this, and only then reads the content.
    pub fn verify<T: Payload>(&self, key: &PublicKey) -> Result<Verified<T>, DsseError> {
        if self.payload_type != T::TYPE {
            let found = crate::ids::shown(&self.payload_type);
            return Err(DsseError::Type {
                expected: T::TYPE,
                found,
            });
        }
        let message = pae(T::TYPE, &self.payload);
        let signed = |s: &EnvelopeSignature| key.verify(&message, &s.sig.0).is_ok();
        if !self.signatures.iter().take(4).any(signed) {
            return Err(DsseError::Signature(*key));
        }
        Ok(Verified::new(serde_json::from_slice(&self.payload)?))
    }

    /// Checks an envelope whose content names the key that must have signed
    /// it. This proves possession of that key and nothing more.
    pub fn verify_self_signed<T: Payload>(
        &self,
        key_of: impl FnOnce(&T) -> PublicKey,
    ) -> Result<Verified<T>, DsseError> {
        let claimed: T = serde_json::from_slice(&self.payload)?;
        self.verify(&key_of(&claimed))
    }

    /// The digest of the payload bytes: the name of this statement.
    pub fn payload_digest(&self) -> Digest {
        Digest::of(&self.payload)
    }
}

/// Pre-authentication encoding: `DSSEv1 LEN(type) type LEN(body) body`.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Note {
        text: String,
    }
    impl Payload for Note {
        const TYPE: &'static str = "application/vnd.example.note+json";
    }
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Other {
        text: String,
    }
    impl Payload for Other {
        const TYPE: &'static str = "application/vnd.example.other+json";
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed([seed; 32]).unwrap()
    }

    #[test]
    fn pae_is_the_specification_s_example() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn believed_only_with_the_right_key_and_kind() {
        let envelope = Envelope::sign(&Note { text: "hi".into() }, &key(1)).unwrap();
        let json = serde_json::to_string(&envelope).unwrap();
        let read: Envelope = serde_json::from_str(&json).unwrap();
        assert_eq!(read.verify::<Note>(&key(1).public()).unwrap().text, "hi");
        assert!(matches!(
            read.verify::<Note>(&key(2).public()),
            Err(DsseError::Signature(_))
        ));
        assert!(matches!(
            read.verify::<Other>(&key(1).public()),
            Err(DsseError::Type { .. })
        ));
    }

    #[test]
    fn an_error_repeats_little_of_a_strangers_content() {
        let mut envelope = Envelope::sign(&Note { text: "hi".into() }, &key(1)).unwrap();
        envelope.payload = format!("\"{}\"", "x".repeat(200_000)).into_bytes();
        let read = envelope.verify_self_signed(|_: &Note| key(1).public());
        let words = read.unwrap_err().to_string();
        assert!(
            words.contains("invalid type: string") && words.len() < 300,
            "{words}"
        );
    }

    #[test]
    fn every_changed_payload_byte_is_refused() {
        let good = Envelope::sign(
            &Note {
                text: "pay 10".into(),
            },
            &key(1),
        )
        .unwrap();
        for i in 0..good.payload.len() {
            let mut bad = good.clone();
            bad.payload[i] ^= 1;
            assert!(bad.verify::<Note>(&key(1).public()).is_err(), "byte {i}");
        }
    }
}
