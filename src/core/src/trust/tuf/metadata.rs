//! The four roles' contents (specification section 4). Members that are not
//! named here are tolerated, covered by the signature, and kept when a
//! publisher signs the next version.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::key::{Key, KeyId};
use super::pattern;
use super::signed::Authority;
use crate::Digest;
use crate::time::UnixTime;

/// The version of the specification that is written.
pub const SPEC_VERSION: &str = "1.0.31";

/// What every role's signed content has.
pub trait Role: Serialize + serde::de::DeserializeOwned {
    /// The `_type` member.
    const TYPE: &'static str;

    /// Starts at 1 and only rises.
    fn version(&self) -> NonZeroU64;

    /// Not to be believed from this time on.
    fn expires(&self) -> UnixTime;
}

/// Keys and thresholds of all top-level roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Major version 1.
    pub spec_version: SpecVersion,
    /// This file's version.
    pub version: NonZeroU64,
    /// When it ceases to be valid.
    pub expires: UnixTime,
    /// Whether files are stored under versioned and hashed names.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// All keys, by id; ids are checked while reading.
    #[serde(deserialize_with = "checked_keys")]
    pub keys: BTreeMap<KeyId, Key>,
    /// Who may sign what.
    pub roles: RootRoles,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The four top-level roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRoles {
    /// Signs root.json.
    pub root: RoleKeys,
    /// Signs timestamp.json.
    pub timestamp: RoleKeys,
    /// Signs snapshot.json.
    pub snapshot: RoleKeys,
    /// Signs targets.json.
    pub targets: RoleKeys,
    /// Other roles, such as `mirrors`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Which keys sign for a role, and how many must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Each id once.
    #[serde(deserialize_with = "unique")]
    pub keyids: Vec<KeyId>,
    /// At least 1.
    pub threshold: NonZeroU32,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Which snapshot is current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Major version 1.
    pub spec_version: SpecVersion,
    /// This file's version.
    pub version: NonZeroU64,
    /// When it ceases to be valid.
    pub expires: UnixTime,
    /// The one entry `snapshot.json`.
    pub meta: TimestampMeta,
    /// When the site signed this: raises the time floor of whoever verified
    /// it. Ours; other clients ignore it.
    #[serde(
        rename = "x-groundcrew-issued-at",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub issued_at: Option<UnixTime>,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `meta` of timestamp.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimestampMeta {
    /// The current snapshot.
    #[serde(rename = "snapshot.json")]
    pub snapshot: MetaFile,
}

/// Which version of every targets file is current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Major version 1.
    pub spec_version: SpecVersion,
    /// This file's version.
    pub version: NonZeroU64,
    /// When it ceases to be valid.
    pub expires: UnixTime,
    /// By file name with no version, `targets.json`.
    pub meta: BTreeMap<String, MetaFile>,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One metadata file as another one names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// Its exact version.
    pub version: NonZeroU64,
    /// Its length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl MetaFile {
    /// Describes a file by version, length and SHA-256.
    pub fn of(version: NonZeroU64, bytes: &[u8]) -> Self {
        Self {
            version,
            length: Some(bytes.len() as u64),
            hashes: Some(Hashes::of(bytes)),
            extra: Map::new(),
        }
    }
}

/// Files that may be fetched, and roles that may name more of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Major version 1.
    pub spec_version: SpecVersion,
    /// This file's version.
    pub version: NonZeroU64,
    /// When it ceases to be valid.
    pub expires: UnixTime,
    /// By target path.
    pub targets: BTreeMap<String, TargetFile>,
    /// Roles that are trusted for some paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What is signed of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFile {
    /// Length in bytes.
    pub length: u64,
    /// At least one that this program knows.
    pub hashes: Hashes,
    /// The publisher's own words about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl TargetFile {
    /// Describes a file by length and SHA-256.
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(bytes.len() as u64, Digest::of(bytes))
    }

    /// Describes a file of this length and digest.
    pub fn new(length: u64, sha256: Digest) -> Self {
        Self {
            length,
            hashes: Hashes::sha256(sha256),
            custom: None,
            extra: Map::new(),
        }
    }

    /// The SHA-256 digest. Everything that groundcrew publishes has it; a file
    /// of others may have SHA-512 only.
    pub fn sha256(&self) -> Option<Digest> {
        self.hashes.sha256
    }
}

/// Hashes of one file, of which all that are known are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Hashes {
    pub(crate) sha256: Option<Digest>,
    pub(crate) sha512: Option<[u8; 64]>,
    other: BTreeMap<String, String>,
}

/// Hashes that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HashesError {
    /// A known algorithm with a value that is not its hex.
    #[error("the {0} hash is not lower-case hex of its length")]
    Value(&'static str),
    /// Nothing in it can be checked.
    #[error("neither a sha256 nor a sha512 hash is given")]
    NoneKnown,
}

impl Hashes {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::sha256(Digest::of(bytes))
    }

    fn sha256(digest: Digest) -> Self {
        Self {
            sha256: Some(digest),
            sha512: None,
            other: BTreeMap::new(),
        }
    }

    /// The hex that a consistent target's file name begins with.
    pub(crate) fn prefix(&self) -> String {
        let sha512 = || self.sha512.map(|hash| HEXLOWER.encode(&hash));
        self.sha256
            .map(|digest| digest.hex())
            .or_else(sha512)
            .unwrap_or_default()
    }
}

impl TryFrom<BTreeMap<String, String>> for Hashes {
    type Error = HashesError;

    fn try_from(mut map: BTreeMap<String, String>) -> Result<Self, HashesError> {
        let sha256 = map.remove("sha256").map(|hex| Digest::from_hex(&hex));
        let sha256 = sha256
            .transpose()
            .map_err(|_| HashesError::Value("sha256"))?;
        let sha512 = map.remove("sha512").map(|hex| {
            let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
            <[u8; 64]>::try_from(bytes).ok()
        });
        let sha512 = match sha512 {
            Some(None) => return Err(HashesError::Value("sha512")),
            Some(known) => known,
            None => None,
        };
        if sha256.is_none() && sha512.is_none() {
            return Err(HashesError::NoneKnown);
        }
        Ok(Self {
            sha256,
            sha512,
            other: map,
        })
    }
}

impl From<Hashes> for BTreeMap<String, String> {
    fn from(hashes: Hashes) -> Self {
        let mut map = hashes.other;
        if let Some(digest) = hashes.sha256 {
            map.insert("sha256".to_owned(), digest.hex());
        }
        if let Some(hash) = hashes.sha512 {
            map.insert("sha512".to_owned(), HEXLOWER.encode(&hash));
        }
        map
    }
}

/// Roles that a targets file trusts for some paths, first one first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegations {
    /// The delegated roles' keys.
    #[serde(deserialize_with = "checked_keys")]
    pub keys: BTreeMap<KeyId, Key>,
    /// In order of precedence, each name once.
    #[serde(default, deserialize_with = "distinct_roles")]
    pub roles: Vec<DelegatedRole>,
    /// Members that the specification does not name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One delegated role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// Its file is `NAME.json`.
    pub name: String,
    /// Whether a path of its own that it does not list is looked for no further.
    pub terminating: bool,
    /// Patterns with `*` and `?`, neither matching `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Beginnings of the hex SHA-256 of paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
    /// Who signs for it; further members lie beside it.
    #[serde(flatten)]
    pub keys: RoleKeys,
}

impl DelegatedRole {
    /// Whether this role is trusted for `path`.
    pub fn covers(&self, path: &str) -> bool {
        match (&self.paths, &self.path_hash_prefixes) {
            (Some(patterns), None) => patterns.iter().any(|p| pattern::matches(p, path)),
            (None, Some(prefixes)) => {
                let hex = Digest::of(path.as_bytes()).hex();
                prefixes.iter().any(|prefix| hex.starts_with(prefix))
            }
            _ => false,
        }
    }
}

impl Root {
    /// Who may sign the next root.
    pub fn root_authority(&self) -> Authority<'_> {
        self.authority(&self.roles.root)
    }

    /// Who may sign timestamp.json.
    pub fn timestamp_authority(&self) -> Authority<'_> {
        self.authority(&self.roles.timestamp)
    }

    /// Who may sign snapshot.json.
    pub fn snapshot_authority(&self) -> Authority<'_> {
        self.authority(&self.roles.snapshot)
    }

    /// Who may sign targets.json.
    pub fn targets_authority(&self) -> Authority<'_> {
        self.authority(&self.roles.targets)
    }

    fn authority<'a>(&'a self, role: &'a RoleKeys) -> Authority<'a> {
        Authority {
            keys: &self.keys,
            role,
        }
    }
}

/// `1` or `1.x` or `1.x.y`: another major version means other rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpecVersion(String);

impl Default for SpecVersion {
    fn default() -> Self {
        Self(SPEC_VERSION.to_owned())
    }
}

impl TryFrom<String> for SpecVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts = text.split('.').count();
        if text.split('.').all(number) && parts <= 3 && text.split('.').next() == Some("1") {
            return Ok(Self(text));
        }
        let found = crate::ids::shown(&text);
        Err(format!("spec_version `{found}` is not a version 1.x"))
    }
}

impl From<SpecVersion> for String {
    fn from(version: SpecVersion) -> Self {
        version.0
    }
}

macro_rules! roles {
    ($($name:ident = $text:literal),*) => {$(
        impl Role for $name {
            const TYPE: &'static str = $text;
            fn version(&self) -> NonZeroU64 { self.version }
            fn expires(&self) -> UnixTime { self.expires }
        }
    )*};
}
roles!(
    Root = "root",
    Timestamp = "timestamp",
    Snapshot = "snapshot",
    Targets = "targets"
);

/// Section 4.3: `Clients MUST calculate each KEYID to verify this is correct`.
fn checked_keys<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<KeyId, Key>, D::Error> {
    let keys = BTreeMap::<KeyId, Key>::deserialize(input)?;
    match keys.iter().find(|(id, key)| key.id().as_ref() != Some(id)) {
        None => Ok(keys),
        Some((id, _)) => Err(serde::de::Error::custom(format!(
            "key id {id} is not the hash of its key"
        ))),
    }
}

fn unique<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<KeyId>, D::Error> {
    let ids = Vec::<KeyId>::deserialize(input)?;
    let mut seen = BTreeSet::new();
    match ids.iter().find(|id| !seen.insert(*id)) {
        None => Ok(ids),
        Some(id) => Err(serde::de::Error::custom(format!(
            "key id {id} is listed twice for one role"
        ))),
    }
}

fn distinct_roles<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<DelegatedRole>, D::Error> {
    let roles = Vec::<DelegatedRole>::deserialize(input)?;
    let mut seen = BTreeSet::from(["root", "timestamp", "snapshot", "targets"]);
    match roles.iter().find(|role| !seen.insert(role.name.as_str())) {
        None => Ok(roles),
        Some(role) => Err(serde::de::Error::custom(format!(
            "the role name `{}` is taken",
            crate::ids::shown(&role.name)
        ))),
    }
}
