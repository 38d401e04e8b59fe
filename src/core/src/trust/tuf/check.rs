//! The single checks of the workflow, each with the sentence that its failure
//! is told in. Client and publisher share them.

use super::error::TufError;
use super::metadata::{MetaFile, Role, Root, Snapshot, TargetFile};
use super::signed::{Authority, Metadata, Unverified};
use crate::Verified;
use crate::ids::shown;
use crate::time::UnixTime;

/// A root that vouches for itself (5.2); its expiry does not matter here.
pub(crate) fn trusted_root(bytes: &[u8]) -> Result<Verified<Metadata<Root>>, TufError> {
    let root = parse::<Root>("root", bytes)?;
    let own = root.claimed().clone();
    verify("root", root, &own.root_authority(), || by("root", &own))
}

/// The root that follows `old` (5.3.4 to 5.3.6).
pub(crate) fn next_root(old: &Root, bytes: &[u8]) -> Result<Verified<Metadata<Root>>, TufError> {
    let new = parse::<Root>("root", bytes)?;
    // 5.3.4: a threshold of the old keys, and of its own. The old ones first:
    // before that, the file's own key list is anybody's.
    let new = verify("root", new, &old.root_authority(), || by("root", old))?;
    trusted_root(bytes)?;
    // 5.3.5
    let found = new.content().version.get();
    let expected = old.version.get().saturating_add(1);
    if found != expected {
        return Err(TufError::Version {
            role: "root".to_owned(),
            found,
            expected,
            by: "the chain of roots".to_owned(),
        });
    }
    // 5.3.6: the expiry of an intermediate root does not matter.
    Ok(new)
}

/// A file's name under consistent snapshots: `sites/HASH.ID.json`.
pub(crate) fn consistent_name(path: &str, target: &TargetFile) -> String {
    let hash = target.hashes.prefix();
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/{hash}.{name}"),
        None => format!("{hash}.{path}"),
    }
}

/// A role's name in a URL or a file name (RFC 3986 §2.3: all but unreserved).
pub fn percent_encoded(role: &str) -> String {
    let mut out = String::with_capacity(role.len());
    for byte in role.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub(crate) fn by(role: &str, content: &impl Role) -> String {
    format!("{} version {}", shown(role), content.version())
}

pub(crate) fn parse<T: Role>(role: &str, bytes: &[u8]) -> Result<Unverified<T>, TufError> {
    Unverified::parse(bytes).map_err(|reason| TufError::malformed(role, reason))
}

pub(crate) fn verify<T: Role>(
    role: &str,
    file: Unverified<T>,
    authority: &Authority<'_>,
    by: impl Fn() -> String,
) -> Result<Verified<Metadata<T>>, TufError> {
    let version = file.claimed().version().get();
    file.verify(authority)
        .map_err(|reason| TufError::Signatures {
            role: shown(role),
            version,
            by: by(),
            reason,
        })
}

pub(crate) fn announced(
    role: &str,
    meta: &MetaFile,
    bytes: &[u8],
    by: impl Fn() -> String,
) -> Result<(), TufError> {
    let length = meta
        .length
        .is_none_or(|length| length == bytes.len() as u64);
    let hashes = meta.hashes.as_ref().is_none_or(|hashes| hashes.fit(bytes));
    if length && hashes {
        return Ok(());
    }
    let (role, by) = (shown(role), by());
    Err(TufError::Announced { role, by })
}

pub(crate) fn exactly(
    role: &str,
    content: &impl Role,
    meta: &MetaFile,
    by: impl Fn() -> String,
) -> Result<(), TufError> {
    let (found, expected) = (content.version().get(), meta.version.get());
    if found == expected {
        return Ok(());
    }
    Err(TufError::Version {
        role: shown(role),
        found,
        expected,
        by: by(),
    })
}

pub(crate) fn not_below(
    role: &str,
    found: u64,
    known: u64,
    from: &'static str,
) -> Result<(), TufError> {
    if found >= known {
        return Ok(());
    }
    Err(TufError::Rollback {
        role: shown(role),
        found,
        known,
        from,
    })
}

pub(crate) fn unexpired(role: &str, content: &impl Role, now: UnixTime) -> Result<(), TufError> {
    let (version, expires) = (content.version().get(), content.expires());
    if expires > now {
        Ok(())
    } else {
        Err(TufError::expired(role, version, expires, now))
    }
}

pub(crate) fn not_listed(snapshot: &Snapshot, file: &str) -> TufError {
    TufError::NotListed {
        version: snapshot.version.get(),
        file: shown(file),
    }
}
