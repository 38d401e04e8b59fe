//! The site's key for boot images: RSA, because firmware knows nothing else
//! everywhere.

use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::SecureError;
use super::der::{self, BIT_STRING, INTEGER, SEQUENCE, context};

/// A private key and its certificate.
pub struct Signer {
    key: RsaKeyPair,
    certificate: Vec<u8>,
    issuer: Vec<u8>,
    serial: Vec<u8>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// From PEM texts: the key as PKCS#8 or PKCS#1, and its certificate.
    pub fn from_pem(key: &[u8], certificate: &[u8]) -> Result<Self, SecureError> {
        if key.windows(21).any(|part| part == b"ENCRYPTED PRIVATE KEY") {
            return Err(SecureError::Key(
                "it has a passphrase; write it without one for this run: openssl pkcs8 -in KEY -out PLAIN".to_owned(),
            ));
        }
        let wrong = |error: &dyn std::fmt::Display| SecureError::Key(error.to_string());
        let pair = match PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong(&e))? {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => {
                return Err(SecureError::Key(
                    "it is no RSA key, and firmware knows no other".into(),
                ));
            }
        };
        let key = pair.map_err(|error| {
            SecureError::Key(format!(
                "{error}; it must be RSA with 2048 to 4096 bits (`groundcrew image new-key` makes one)"
            ))
        })?;
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|_| SecureError::Certificate("it is not in PEM form"))?
            .to_vec();
        let fields = Fields::read(&certificate)
            .ok_or(SecureError::Certificate("it is not an X.509 certificate"))?;
        if fields.public_key != key.public().as_ref() {
            return Err(SecureError::Mismatch);
        }
        let (issuer, serial) = (fields.issuer.to_vec(), fields.serial.to_vec());
        Ok(Self {
            key,
            certificate,
            issuer,
            serial,
        })
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of the certificate, hex: what a technician compares on a screen.
    pub fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.certificate);
        data_encoding::HEXLOWER.encode(digest.as_ref())
    }

    pub(super) fn issuer_and_serial(&self) -> (&[u8], &[u8]) {
        (&self.issuer, &self.serial)
    }

    /// PKCS#1 v1.5 with SHA-256; always the same for the same bytes.
    pub(super) fn sign(&self, content: &[u8]) -> Result<Vec<u8>, SecureError> {
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                content,
                &mut signature,
            )
            .map_err(|_| SecureError::Key("signing failed".into()))?;
        Ok(signature)
    }
}

/// The fields of a certificate that a signature names (RFC 5280 §4.1).
struct Fields<'a> {
    /// `Name`, whole.
    issuer: &'a [u8],
    /// INTEGER, whole.
    serial: &'a [u8],
    /// RSAPublicKey.
    public_key: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(certificate: &'a [u8]) -> Option<Self> {
        let outer = der::expect(certificate, SEQUENCE)?;
        if !outer.rest.is_empty() {
            return None;
        }
        let mut rest = der::expect(outer.content, SEQUENCE)?.content;
        if let Some(version) = der::expect(rest, context(0)) {
            rest = version.rest;
        }
        let serial = der::expect(rest, INTEGER)?;
        let algorithm = der::expect(serial.rest, SEQUENCE)?;
        let issuer = der::expect(algorithm.rest, SEQUENCE)?;
        let validity = der::expect(issuer.rest, SEQUENCE)?;
        let subject = der::expect(validity.rest, SEQUENCE)?;
        let key = der::expect(subject.rest, SEQUENCE)?;
        let key_algorithm = der::expect(key.content, SEQUENCE)?;
        let bits = der::expect(key_algorithm.rest, BIT_STRING)?;
        Some(Self {
            issuer: issuer.whole,
            serial: serial.whole,
            // The first octet counts unused bits: none.
            public_key: bits.content.strip_prefix(&[0])?,
        })
    }
}
