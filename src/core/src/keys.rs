//! Ed25519 keys: made, stored as PKCS#8 PEM that OpenSSL reads, used.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};

use crate::encoding::Bytes;

/// An Ed25519 public key, 32 bytes (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(Bytes<32>);

/// An X25519 public key, 32 bytes (RFC 7748): secrets for a device are sealed
/// to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealKey(pub Bytes<32>);

impl SealKey {
    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }
}

/// An Ed25519 signature, 64 bytes.
pub type Signature = Bytes<64>;

/// The signature does not belong to this message and key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the signature does not match")]
pub struct BadSignature;

impl PublicKey {
    /// Wraps 32 raw bytes; a point that is not on the curve verifies nothing.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Bytes(bytes))
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }

    /// 64 lower-case hex characters, as TUF's `keyval.public` holds them.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(self.as_bytes())
    }

    /// Reads a `SubjectPublicKeyInfo` in PEM, as `openssl pkey -pubout` writes.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyError::NotPublic)?;
        let point = der.strip_prefix(&SPKI).ok_or(KeyError::NotPublic)?;
        let point = point.try_into().map_err(|_| KeyError::NotPublic)?;
        Ok(Self::from_bytes(point))
    }

    /// Writes a `SubjectPublicKeyInfo` in PEM.
    pub fn to_pem(&self) -> String {
        let der = [&SPKI[..], self.as_bytes()].concat();
        pem("PUBLIC KEY", &der)
    }

    /// Checks `signature` over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, self.as_bytes())
            .verify(message, signature)
            .map_err(|_| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", self.hex())
    }
}

/// The DER of an Ed25519 PKCS#8 v1 key (RFC 8410 §7) up to its 32-byte seed.
/// `ring` writes v2, with the public key inside, which OpenSSL 3.0 cannot read.
const PKCS8_V1: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The DER of an Ed25519 `SubjectPublicKeyInfo` (RFC 8410 §4) up to its point.
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// `label` and the DER of a short key as PEM (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// An Ed25519 private key. Debug shows the public half only.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

/// A private key that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not PEM, or PEM of something else.
    #[error("not a private key in PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`)")]
    NotPem,
    /// PKCS#8, but not of an Ed25519 key in version 1 form.
    #[error(
        "not an Ed25519 key in PKCS#8 version 1, as `openssl genpkey -algorithm ed25519` makes"
    )]
    NotEd25519,
    /// Not an Ed25519 public key in PEM.
    #[error(
        "not an Ed25519 public key in PEM, as `openssl pkey -in KEY -pubout` writes (`-----BEGIN PUBLIC KEY-----`)"
    )]
    NotPublic,
}

impl SigningKey {
    /// The key that grows from 32 random bytes.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::NotEd25519)?;
        Ok(Self { seed, pair })
    }

    /// Reads PKCS#8 PEM, version 1.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem)?;
        Self::from_pkcs8(der.secret_pkcs8_der())
    }

    /// Reads PKCS#8 DER, version 1.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let seed = der.strip_prefix(&PKCS8_V1).ok_or(KeyError::NotEd25519)?;
        Self::from_seed(seed.try_into().map_err(|_| KeyError::NotEd25519)?)
    }

    /// Writes PKCS#8 DER, version 1. The bytes are the secret.
    pub fn to_pkcs8(&self) -> Vec<u8> {
        [&PKCS8_V1[..], &self.seed].concat()
    }

    /// Writes PKCS#8 PEM, version 1. The text is the secret.
    pub fn to_pem(&self) -> String {
        pem("PRIVATE KEY", &self.to_pkcs8())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey::from_bytes(bytes)
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        Bytes(bytes)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_round_trip_and_signature() {
        let key = SigningKey::from_seed([7; 32]).unwrap();
        let again = SigningKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.public(), key.public());
        let public = PublicKey::from_pem(key.public().to_pem().as_bytes());
        assert_eq!(public.unwrap(), key.public());
        assert_eq!(
            PublicKey::from_pem(key.to_pem().as_bytes()).unwrap_err(),
            KeyError::NotPublic
        );
        let signature = again.sign(b"message");
        assert_eq!(key.public().verify(b"message", &signature.0), Ok(()));
        assert_eq!(
            key.public().verify(b"massage", &signature.0),
            Err(BadSignature)
        );
        assert!(
            !format!("{key:?}").contains("0707"),
            "the seed stays out of logs"
        );
    }

    #[test]
    fn rfc_8032_test_1() {
        let seed = HEXLOWER
            .decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
            .unwrap();
        let key = SigningKey::from_seed(seed.try_into().unwrap()).unwrap();
        assert_eq!(
            key.public().hex(),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert!(
            HEXLOWER
                .encode(&key.sign(b"").0)
                .starts_with("e5564300c360ac729086e2cc806e828a")
        );
    }

    #[test]
    fn foreign_keys_are_named() {
        assert_eq!(
            SigningKey::from_pem(b"hello").unwrap_err(),
            KeyError::NotPem
        );
        let pem = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        assert_eq!(
            SigningKey::from_pem(pem.as_bytes()).unwrap_err(),
            KeyError::NotEd25519
        );
    }
}
