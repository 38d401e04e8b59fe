//! Signing: a role's content becomes a file that its authority accepts.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};

use serde_json::{Map, Value};

use super::check::trusted_root;
use super::key::{Key, KeyId};
use super::metadata::{DelegatedRole, Role, RoleKeys, Root, RootRoles, SpecVersion};
use super::repo::{RepoError, RepoFile};
use super::signed::{
    Authority, File, FileSignature, Metadata, MetadataError, Unverified, canonical,
};
use crate::Verified;
use crate::keys::{PublicKey, SigningKey};
use crate::time::{Now, UnixTime};

/// Who signs for one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleSpec {
    /// The public keys, each once.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign, 1 to the number of keys.
    pub threshold: u32,
}

impl RoleSpec {
    /// One key that signs alone.
    pub fn one(key: PublicKey) -> Self {
        Self {
            keys: vec![key],
            threshold: 1,
        }
    }
}

/// What a root says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootSpec {
    /// When it ceases to be valid.
    pub expires: UnixTime,
    /// HQ's root keys.
    pub root: RoleSpec,
    /// HQ's targets keys.
    pub targets: RoleSpec,
    /// The site's snapshot keys.
    pub snapshot: RoleSpec,
    /// The site's timestamp keys.
    pub timestamp: RoleSpec,
}

/// A part of the target paths handed to other keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// The role's name, and that of its file.
    pub name: String,
    /// Patterns of target paths, `berlin/*`.
    pub paths: Vec<String>,
    /// Who signs.
    pub keys: RoleSpec,
}

/// Signs the root that follows `previous` (its file), or the first one. Both
/// the old root's threshold and its own must be met by `keys`.
pub fn sign_root(
    spec: &RootSpec,
    previous: Option<&[u8]>,
    now: Now,
    keys: &[&SigningKey],
) -> Result<RepoFile, RepoError> {
    credible(now, Root::TYPE, spec.expires)?;
    let previous = previous.map(trusted_root).transpose()?;
    let old = previous.as_ref().map(|m| m.content());
    let root = root_of(spec, old)?;
    let mut authorities = vec![root.root_authority()];
    authorities.extend(old.map(Root::root_authority));
    let bytes = signed(&root, &authorities, keys)?;
    Ok(versioned(&root, bytes))
}

/// The root that follows `previous`, with no signature yet: for a ceremony in
/// which several people use [`add_signatures`], one after the other.
pub fn draft_root(spec: &RootSpec, previous: Option<&[u8]>) -> Result<RepoFile, RepoError> {
    let previous = previous.map(trusted_root).transpose()?;
    let root = root_of(spec, previous.as_ref().map(|m| m.content()))?;
    let bytes = unsigned(&root)?;
    Ok(versioned(&root, bytes))
}

/// Adds these keys' signatures to a metadata file of any role, replacing older
/// ones by the same keys.
pub fn add_signatures(file: &[u8], keys: &[&SigningKey]) -> Result<Vec<u8>, RepoError> {
    let content = |reason| RepoError::Content {
        role: "signed",
        reason,
    };
    let mut file = File::parse(file).map_err(content)?;
    let message = canonical(&file.signed).map_err(content)?;
    for key in keys {
        let Some(keyid) = Key::from(key.public()).id() else {
            continue;
        };
        let sig = data_encoding::HEXLOWER.encode(&key.sign(&message).0);
        file.signatures.retain(|s| s.keyid != keyid);
        file.signatures.push(FileSignature { keyid, sig });
    }
    Ok(pretty(&file))
}

fn root_of(spec: &RootSpec, previous: Option<&Root>) -> Result<Root, RepoError> {
    let mut keys = BTreeMap::new();
    let roles = RootRoles {
        root: role_keys("root", &spec.root, &mut keys)?,
        timestamp: role_keys("timestamp", &spec.timestamp, &mut keys)?,
        snapshot: role_keys("snapshot", &spec.snapshot, &mut keys)?,
        targets: role_keys("targets", &spec.targets, &mut keys)?,
        extra: Map::new(),
    };
    Ok(Root {
        spec_version: SpecVersion::default(),
        version: match previous {
            Some(old) => next("root", old.version)?,
            None => NonZeroU64::MIN,
        },
        expires: spec.expires,
        consistent_snapshot: true,
        keys,
        roles,
        extra: Map::new(),
    })
}

fn role_keys(
    role: &'static str,
    spec: &RoleSpec,
    all: &mut BTreeMap<KeyId, Key>,
) -> Result<RoleKeys, RepoError> {
    let mut keyids: Vec<KeyId> = Vec::new();
    for key in &spec.keys {
        let key = Key::from(*key);
        let Some(id) = key.id() else { continue };
        if !keyids.contains(&id) {
            keyids.push(id.clone());
        }
        all.insert(id, key);
    }
    let keys = keyids.len();
    let possible = usize::try_from(spec.threshold).is_ok_and(|threshold| threshold <= keys);
    match NonZeroU32::new(spec.threshold).filter(|_| possible) {
        Some(threshold) => Ok(RoleKeys {
            keyids,
            threshold,
            extra: Map::new(),
        }),
        None => Err(RepoError::Threshold {
            role,
            keys,
            threshold: spec.threshold,
        }),
    }
}

/// The delegation as targets metadata holds it; its keys go into `all`.
pub(super) fn delegated_role(
    delegation: &Delegation,
    all: &mut BTreeMap<KeyId, Key>,
) -> Result<DelegatedRole, RepoError> {
    Ok(DelegatedRole {
        name: delegation.name.clone(),
        // Nobody else may speak for these paths.
        terminating: true,
        paths: Some(delegation.paths.clone()),
        path_hash_prefixes: None,
        keys: role_keys("delegated", &delegation.keys, all)?,
    })
}

/// The content as a file that satisfies all these authorities. Keys at hand
/// that none of them lists are left out.
pub(super) fn signed<T: Role>(
    content: &T,
    authorities: &[Authority<'_>],
    keys: &[&SigningKey],
) -> Result<Vec<u8>, RepoError> {
    let listed = |key: &&SigningKey| {
        let id = Key::from(key.public()).id();
        id.is_some_and(|id| authorities.iter().any(|a| a.role.keyids.contains(&id)))
    };
    let keys: Vec<&SigningKey> = keys.iter().copied().filter(listed).collect();
    let bytes = add_signatures(&unsigned(content)?, &keys)?;
    for authority in authorities {
        believed::<T>(&bytes, authority)?;
    }
    Ok(bytes)
}

pub(super) fn believed<T: Role>(
    bytes: &[u8],
    authority: &Authority<'_>,
) -> Result<Verified<Metadata<T>>, RepoError> {
    let role = T::TYPE;
    let file =
        Unverified::<T>::parse(bytes).map_err(|reason| RepoError::Content { role, reason })?;
    file.verify(authority)
        .map_err(|reason| RepoError::Keys { role, reason })
}

pub(super) fn unsigned<T: Role>(content: &T) -> Result<Vec<u8>, RepoError> {
    let reason = MetadataError::Canonical("it is no JSON object");
    let refused = RepoError::Content {
        role: T::TYPE,
        reason,
    };
    let Ok(Value::Object(mut signed)) = serde_json::to_value(content) else {
        return Err(refused);
    };
    signed.insert("_type".to_owned(), Value::from(T::TYPE));
    Ok(pretty(&File {
        signatures: Vec::new(),
        signed: Value::Object(signed),
    }))
}

fn pretty(file: &File) -> Vec<u8> {
    // Strings, numbers and maps with text keys always serialize.
    let mut bytes = serde_json::to_vec_pretty(file).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

pub(super) fn versioned<T: Role>(content: &T, bytes: Vec<u8>) -> RepoFile {
    let path = format!("{}.{}.json", content.version(), T::TYPE);
    RepoFile { path, bytes }
}

pub(super) fn next(role: &'static str, version: NonZeroU64) -> Result<NonZeroU64, RepoError> {
    version.checked_add(1).ok_or(RepoError::VersionSpent(role))
}

/// The time to sign at; nothing is signed without one, or for the past.
pub(super) fn credible(
    now: Now,
    role: &'static str,
    expires: UnixTime,
) -> Result<UnixTime, RepoError> {
    let time = now.credible().ok_or(RepoError::TimeUnknown(now.time()))?;
    if expires > time {
        return Ok(time);
    }
    Err(RepoError::AlreadyExpired {
        role,
        expires,
        now: time,
    })
}
