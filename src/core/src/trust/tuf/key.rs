//! Public keys as TUF metadata lists them, and signatures checked with them.

use std::borrow::Borrow;
use std::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::signature::{ECDSA_P256_SHA256_ASN1, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::signed::canonical;
use crate::Digest;
use crate::ids::shown;
use crate::keys::PublicKey;

/// A key's name in metadata: the hex SHA-256 of its canonical JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key of any type and scheme. One that this program does not know is kept,
/// so that signatures over it still hold, and verifies nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Key {
    raw: Value,
    material: Material,
}

/// What a signature is checked with. Equal material is one key, whatever
/// fields surround it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Material {
    Ed25519(PublicKey),
    /// An uncompressed point, 65 bytes (SEC 1 §2.3.3).
    EcdsaP256(Vec<u8>),
    /// DER `RSAPublicKey` (RFC 8017 §A.1.1).
    RsaPss(Vec<u8>),
    Unknown,
}

/// A key object that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// One of the three members is missing or not of its type.
    #[error("a key needs text in `keytype`, `scheme` and `keyval.public`")]
    Shape,
    /// The public part does not fit the scheme.
    #[error("the public part of this `{0}` key cannot be read")]
    Public(&'static str),
}

impl Key {
    /// The id that this key must be listed under. `None` if the key cannot be
    /// written as canonical JSON (it holds a fraction, say).
    pub fn id(&self) -> Option<KeyId> {
        let bytes = canonical(&self.raw).ok()?;
        Some(KeyId(Digest::of(&bytes).hex()))
    }

    /// Whether `signature` over `message` was made with this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Ed25519(key) => key.verify(message, signature).is_ok(),
            Material::EcdsaP256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .verify(message, signature)
                .is_ok(),
            Material::RsaPss(key) => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key)
                .verify(message, signature)
                .is_ok(),
            Material::Unknown => false,
        }
    }

    /// The key, where it is an Ed25519 key.
    pub fn ed25519(&self) -> Option<PublicKey> {
        match &self.material {
            Material::Ed25519(key) => Some(*key),
            _ => None,
        }
    }

    pub(crate) fn material(&self) -> &Material {
        &self.material
    }
}

impl From<PublicKey> for Key {
    fn from(key: PublicKey) -> Self {
        let raw = json!({
            "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": key.hex() },
        });
        Self {
            raw,
            material: Material::Ed25519(key),
        }
    }
}

impl From<Key> for Value {
    fn from(key: Key) -> Self {
        key.raw
    }
}

impl TryFrom<Value> for Key {
    type Error = KeyError;

    fn try_from(raw: Value) -> Result<Self, KeyError> {
        let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str);
        let (Some(kind), Some(scheme)) = (text("/keytype"), text("/scheme")) else {
            return Err(KeyError::Shape);
        };
        let public = text("/keyval/public").ok_or(KeyError::Shape);
        let material = match (kind, scheme) {
            ("ed25519", "ed25519") => ed25519(public?).ok_or(KeyError::Public("ed25519"))?,
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => {
                ecdsa(public?).ok_or(KeyError::Public("ecdsa-sha2-nistp256"))?
            }
            ("rsa", "rsassa-pss-sha256") => {
                rsa(public?).ok_or(KeyError::Public("rsassa-pss-sha256"))?
            }
            _ => Material::Unknown,
        };
        Ok(Self { raw, material })
    }
}

fn ed25519(hex: &str) -> Option<Material> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
    let key = PublicKey::from_bytes(bytes.try_into().ok()?);
    Some(Material::Ed25519(key))
}

/// `SubjectPublicKeyInfo` of a P-256 key (RFC 5480 §2) up to its point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn ecdsa(pem: &str) -> Option<Material> {
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    let point = spki.strip_prefix(&P256_SPKI[..])?;
    (point.len() == 65 && point.first() == Some(&4)).then(|| Material::EcdsaP256(point.to_vec()))
}

/// `AlgorithmIdentifier` rsaEncryption with NULL parameters (RFC 8017 §A.1).
const RSA_ALGORITHM: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

fn rsa(pem: &str) -> Option<Material> {
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    let inner = der(&spki, 0x30)?;
    let bits = der(inner.strip_prefix(&RSA_ALGORITHM[..])?, 0x03)?;
    // The first byte of a BIT STRING counts unused bits.
    let key = bits.strip_prefix(&[0])?;
    Some(Material::RsaPss(key.to_vec()))
}

/// The content of the one DER element with this tag that `bytes` consist of.
fn der(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (&first, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, content) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 | 0x82 => {
            let (long, content) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (
                long.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)),
                content,
            )
        }
        _ => return None,
    };
    (first == tag && content.len() == length).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Key and id from the specification's example root.json (section 4.3).
    #[test]
    fn the_specification_s_example_key_has_the_id_it_is_listed_under() {
        let key: Key = serde_json::from_value(json!({
            "keytype": "ed25519", "scheme": "ed25519",
            "keyval": {"public": "66dd78c5c2a78abc6fc6b267ff1a8017ba0e8bfc853dd97af351949bba021275"},
        }))
        .unwrap();
        let id = key.id().unwrap();
        assert_eq!(
            id.as_str(),
            "cb3fbd83df4ba2471a736b065650878280964a98843ec13b457a99b2a21cc3b4"
        );
    }

    #[test]
    fn unknown_kinds_are_kept_and_verify_nothing() {
        let raw = json!({"keytype": "lms", "scheme": "lms", "keyval": {"public": "00"}, "x": 1});
        let key: Key = serde_json::from_value(raw.clone()).unwrap();
        assert!(!key.verifies(b"", b""));
        assert_eq!(serde_json::to_value(&key).unwrap(), raw);
        for bad in [
            json!(1),
            json!({}),
            json!({"keytype": "rsa", "scheme": 1}),
            json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "00"}}),
            json!({"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": "x"}}),
        ] {
            assert!(serde_json::from_value::<Key>(bad.clone()).is_err(), "{bad}");
        }
    }
}
