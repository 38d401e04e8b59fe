//! Metadata bytes -> [`Unverified`] -> `Verified`: the only way to a value
//! that the rest of the program believes.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER_PERMISSIVE;
use olpc_cjson::CanonicalFormatter;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::{Key, KeyId};
use super::metadata::{Role, RoleKeys};
use crate::Verified;

/// One metadata file: the typed content and the exact bytes it came in, which
/// are what is stored and what hashes are taken of.
#[derive(Clone, Debug)]
pub struct Metadata<T> {
    content: T,
    bytes: Vec<u8>,
}

impl<T> Metadata<T> {
    /// The signed content.
    pub fn content(&self) -> &T {
        &self.content
    }

    /// The file, byte for byte.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A metadata file that was parsed; nobody's signature was checked yet.
#[derive(Clone, Debug)]
pub struct Unverified<T> {
    metadata: Metadata<T>,
    canonical: Vec<u8>,
    signatures: Vec<FileSignature>,
}

/// Why bytes are not a metadata file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetadataError {
    /// Not JSON, or not of the role's shape; the reason, shortened.
    #[error("{0}")]
    Shape(String),
    /// Another role's file.
    #[error("`_type` is not `{0}`")]
    Type(&'static str),
    /// `keyid MUST be unique in the "signatures" array` (section 4.2).
    #[error("two signatures name the same key {0}")]
    DuplicateSignature(KeyId),
    /// The content has no canonical form.
    #[error("no canonical JSON: {0}")]
    Canonical(&'static str),
}

/// Too few good signatures.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{valid} of its signatures are good, {threshold} by different keys are needed")]
pub struct ThresholdUnmet {
    /// How many different keys signed it.
    pub valid: usize,
    /// How many must have.
    pub threshold: u32,
}

/// Who may sign: the keys that a delegating file lists, and which of them, how
/// many, for this role.
#[derive(Clone, Copy, Debug)]
pub struct Authority<'a> {
    /// All keys of the delegating file.
    pub keys: &'a BTreeMap<KeyId, Key>,
    /// The role's key ids and threshold.
    pub role: &'a RoleKeys,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileSignature {
    pub keyid: KeyId,
    pub sig: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct File {
    pub signatures: Vec<FileSignature>,
    pub signed: Value,
}

impl File {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        serde_json::from_slice(bytes).map_err(|error| shape(&error))
    }
}

impl<T: Role> Unverified<T> {
    /// Reads a file. The caller has bounded its length; depth is bounded by
    /// the JSON reader (128).
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        let file = File::parse(bytes)?;
        let mut seen = BTreeSet::new();
        for signature in &file.signatures {
            if !seen.insert(&signature.keyid) {
                return Err(MetadataError::DuplicateSignature(signature.keyid.clone()));
            }
        }
        let canonical = canonical(&file.signed)?;
        // The content is read from the very value that was canonicalized, so
        // that no second parser can see another meaning (a repeated member).
        let content = content(file.signed)?;
        let metadata = Metadata {
            content,
            bytes: bytes.to_vec(),
        };
        Ok(Self {
            metadata,
            canonical,
            signatures: file.signatures,
        })
    }

    /// The content, to find out which keys must have signed it.
    pub fn claimed(&self) -> &T {
        &self.metadata.content
    }

    /// Counts good signatures by different keys of `authority`.
    pub fn check(&self, authority: &Authority<'_>) -> Result<(), ThresholdUnmet> {
        let threshold = authority.role.threshold.get();
        let valid = self.signers(authority).len();
        if valid >= usize::try_from(threshold).unwrap_or(usize::MAX) {
            Ok(())
        } else {
            Err(ThresholdUnmet { valid, threshold })
        }
    }

    /// The different keys of `authority` whose signatures are good.
    pub fn signers<'a>(&self, authority: &Authority<'a>) -> Vec<&'a KeyId> {
        let mut counted: Vec<(&KeyId, _)> = Vec::new();
        for signature in &self.signatures {
            let listed = authority.role.keyids.iter();
            let Some(id) = listed.into_iter().find(|id| **id == signature.keyid) else {
                continue;
            };
            let Some(key) = authority.keys.get(id) else {
                continue;
            };
            // One key contributes one signature, also when it is listed under
            // two ids because of some extra member.
            if counted.iter().any(|(_, known)| *known == key.material()) {
                continue;
            }
            let Ok(bytes) = HEXLOWER_PERMISSIVE.decode(signature.sig.as_bytes()) else {
                continue;
            };
            if key.verifies(&self.canonical, &bytes) {
                counted.push((id, key.material()));
            }
        }
        counted.into_iter().map(|(id, _)| id).collect()
    }

    /// Believes the file if a threshold of `authority`'s keys signed it.
    pub fn verify(
        self,
        authority: &Authority<'_>,
    ) -> Result<Verified<Metadata<T>>, ThresholdUnmet> {
        self.check(authority)?;
        Ok(Verified::new(self.metadata))
    }
}

fn content<T: Role>(mut signed: Value) -> Result<T, MetadataError> {
    let kind = signed.as_object_mut().and_then(|map| map.remove("_type"));
    if kind.as_ref().and_then(Value::as_str) != Some(T::TYPE) {
        return Err(MetadataError::Type(T::TYPE));
    }
    serde_json::from_value(signed).map_err(|error| shape(&error))
}

/// A reason to show: what the JSON reader says may quote the file.
fn shape(error: &serde_json::Error) -> MetadataError {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    MetadataError::Shape(error.to_string().chars().take(200).map(clean).collect())
}

/// The bytes that are signed and hashed: OLPC canonical JSON.
///
/// Text that is not in Unicode's normal form C is refused: this encoder
/// normalizes, so two different names could share one canonical form, and a
/// member could be added to a signed file without breaking its signature.
pub fn canonical(value: &Value) -> Result<Vec<u8>, MetadataError> {
    if !is_normal(value) {
        return Err(MetadataError::Canonical(
            "some text is not in Unicode's normal form C",
        ));
    }
    let mut bytes = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut bytes, CanonicalFormatter::new());
    value
        .serialize(&mut serializer)
        .map_err(|_| MetadataError::Canonical("numbers must be whole and fit 64 bits"))?;
    Ok(bytes)
}

fn is_normal(value: &Value) -> bool {
    let normal = |text: &str| text.is_ascii() || unicode_normalization::is_nfc(text);
    match value {
        Value::String(text) => normal(text),
        Value::Array(items) => items.iter().all(is_normal),
        Value::Object(members) => members
            .iter()
            .all(|(name, value)| normal(name) && is_normal(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_form_as_the_reference_implementation_writes_it() {
        let value = json!({"b": [1, true, null], "a": "q\"\\\n\u{e9}"});
        let text = String::from_utf8(canonical(&value).unwrap()).unwrap();
        assert_eq!(text, "{\"a\":\"q\\\"\\\\\n\u{e9}\",\"b\":[1,true,null]}");
        assert!(canonical(&json!({"a": 1.5})).is_err());
    }

    #[test]
    fn names_that_only_normalization_would_merge_are_refused() {
        assert!(canonical(&json!({"caf\u{e9}": 1})).is_ok());
        assert!(canonical(&json!({"cafe\u{301}": 2, "caf\u{e9}": 1})).is_err());
        assert!(canonical(&json!([["e\u{301}"]])).is_err());
    }
}
