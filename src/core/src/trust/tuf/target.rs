//! Target bytes checked against their signed length and hashes, whole or as
//! they stream in (specification 5.7).

use sha2::{Digest as _, Sha512};

use super::metadata::{Hashes, TargetFile};
use crate::digest::Hasher;
use crate::{Digest, Verified};

/// Why bytes are not the file that was signed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    /// More bytes than signed; found without reading them all.
    #[error("the file is longer than the {signed} bytes that were signed")]
    TooLong {
        /// Length in the metadata.
        signed: u64,
    },
    /// It ended early.
    #[error("the file has {found} bytes, {signed} were signed")]
    TooShort {
        /// Length in the metadata.
        signed: u64,
        /// Length that came.
        found: u64,
    },
    /// Other content of the same length.
    #[error("the file's hash is not the one that was signed")]
    Hash,
}

/// A file being checked while it arrives. Nothing of it is to be used before
/// [`TargetCheck::finish`].
#[derive(Clone)]
pub struct TargetCheck {
    signed: u64,
    received: u64,
    hashes: HashCheck,
}

impl TargetCheck {
    /// Expects the file that `target` describes.
    pub fn new(target: &TargetFile) -> Self {
        Self {
            signed: target.length,
            received: 0,
            hashes: HashCheck::new(&target.hashes),
        }
    }

    /// Takes in the next bytes; refuses as soon as there are too many.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        let signed = self.signed;
        let received = self.received.saturating_add(bytes.len() as u64);
        if received > signed {
            return Err(TargetError::TooLong { signed });
        }
        self.received = received;
        self.hashes.update(bytes);
        Ok(())
    }

    /// The file ended: its SHA-256 digest, if it is the one that was signed.
    pub fn finish(self) -> Result<Verified<Digest>, TargetError> {
        let (signed, found) = (self.signed, self.received);
        if found != signed {
            return Err(TargetError::TooShort { signed, found });
        }
        self.hashes
            .finish()
            .map(Verified::new)
            .ok_or(TargetError::Hash)
    }
}

impl TargetFile {
    /// Checks a file that is in memory.
    pub fn verify<B: AsRef<[u8]>>(&self, bytes: B) -> Result<Verified<B>, TargetError> {
        let mut check = TargetCheck::new(self);
        check.update(bytes.as_ref())?;
        check.finish()?;
        Ok(Verified::new(bytes))
    }
}

impl Hashes {
    /// Whether all known hashes are those of `bytes`.
    pub(super) fn fit(&self, bytes: &[u8]) -> bool {
        let mut check = HashCheck::new(self);
        check.update(bytes);
        check.finish().is_some()
    }
}

#[derive(Clone)]
struct HashCheck {
    expected: (Option<Digest>, Option<[u8; 64]>),
    sha256: Hasher,
    sha512: Option<Sha512>,
}

impl HashCheck {
    fn new(hashes: &Hashes) -> Self {
        Self {
            expected: (hashes.sha256, hashes.sha512),
            sha256: Hasher::new(),
            sha512: hashes.sha512.map(|_| Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    fn finish(self) -> Option<Digest> {
        let digest = self.sha256.finish();
        let sha512: Option<[u8; 64]> = self.sha512.map(|hasher| hasher.finalize().into());
        let first = self.expected.0.is_none_or(|expected| expected == digest);
        (first && sha512 == self.expected.1).then_some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn says_how_a_file_differs() {
        let target = TargetFile::of(b"hello");
        assert_eq!(*target.verify("hello").unwrap(), "hello");
        assert_eq!(target.verify("hallo").unwrap_err(), TargetError::Hash);
        assert_eq!(
            target.verify("hell").unwrap_err(),
            TargetError::TooShort {
                signed: 5,
                found: 4
            }
        );
        assert_eq!(
            target.verify("hello!").unwrap_err(),
            TargetError::TooLong { signed: 5 }
        );
    }

    #[test]
    fn both_hashes_count_when_both_are_given() {
        let json = serde_json::json!({
            "length": 3,
            "hashes": {
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "sha512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                           2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
                "blake9": "anything",
            },
        });
        let target: TargetFile = serde_json::from_value(json.clone()).unwrap();
        assert!(target.verify("abc").is_ok());
        assert_eq!(serde_json::to_value(&target).unwrap(), json);
        let mut wrong = json;
        wrong["hashes"]["sha512"] = serde_json::json!("0".repeat(128));
        let target: TargetFile = serde_json::from_value(wrong).unwrap();
        assert_eq!(target.verify("abc").unwrap_err(), TargetError::Hash);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes: Vec<u8>, cut: usize, flip: usize) {
            let target = TargetFile::of(&bytes);
            let (a, b) = bytes.split_at(cut % (bytes.len() + 1));
            let mut check = TargetCheck::new(&target);
            check.update(a).unwrap();
            check.update(b).unwrap();
            prop_assert_eq!(check.finish().unwrap().into_inner(), Digest::of(&bytes));
            if !bytes.is_empty() {
                let mut other = bytes.clone();
                other[flip % bytes.len()] ^= 1;
                prop_assert_eq!(target.verify(other).unwrap_err(), TargetError::Hash);
            }
        }
    }
}
