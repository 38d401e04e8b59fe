//! Files on their way through a ceremony: drafted at HQ, signed by several
//! people one after the other, and told about on the way.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use serde_json::Map;

use super::metadata::{Delegations, Role, Root, SpecVersion, TargetFile, Targets};
use super::repo::{RepoError, RepoFile, TargetChange, check_path};
use super::sign::{delegated_role, next, unsigned, versioned};
use super::signed::{Authority, Unverified};
use crate::ids::shown;
use crate::keys::PublicKey;
use crate::time::UnixTime;

/// How far one authority's threshold is met by the signatures on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How many different keys must sign.
    pub threshold: u32,
    /// The keys that count, and whether each has signed.
    pub keys: Vec<(PublicKey, bool)>,
}

impl Standing {
    /// How far the signatures on `file` meet `authority`. Keys that are not
    /// Ed25519 are left out: HQ has none.
    ///
    /// # Errors
    /// `file` is no metadata file of the role `T`.
    pub fn of<T: Role>(file: &[u8], authority: &Authority<'_>) -> Result<Self, RepoError> {
        let role = T::TYPE;
        let file =
            Unverified::<T>::parse(file).map_err(|reason| RepoError::Content { role, reason })?;
        let signed = file.signers(authority);
        let ids = authority.role.keyids.iter();
        let keys = ids.filter_map(|id| {
            let key = authority.keys.get(id)?.ed25519()?;
            Some((key, signed.contains(&id)))
        });
        Ok(Self {
            threshold: authority.role.threshold.get(),
            keys: keys.collect(),
        })
    }

    /// How many signatures are still missing.
    pub fn missing(&self) -> u32 {
        let signed = self.keys.iter().filter(|(_, signed)| *signed).count();
        let signed = u32::try_from(signed).unwrap_or(u32::MAX);
        self.threshold.saturating_sub(signed)
    }
}

/// What a draft claims to be, for whoever is about to sign it.
///
/// # Errors
/// The bytes are no root.json.
pub fn claimed_root(file: &[u8]) -> Result<Root, RepoError> {
    claimed(file)
}

/// What a draft claims to be, for whoever is about to sign it.
///
/// # Errors
/// The bytes are no targets.json.
pub fn claimed_targets(file: &[u8]) -> Result<Targets, RepoError> {
    claimed(file)
}

fn claimed<T: Role + Clone>(file: &[u8]) -> Result<T, RepoError> {
    let role = T::TYPE;
    let file =
        Unverified::<T>::parse(file).map_err(|reason| RepoError::Content { role, reason })?;
    Ok(file.claimed().clone())
}

/// The targets.json that follows `previous`, or the first one, with no
/// signature yet.
pub fn draft_targets(
    previous: Option<&Targets>,
    changes: &[TargetChange],
    expires: UnixTime,
) -> Result<RepoFile, RepoError> {
    let targets = changed_targets(previous, changes, expires)?;
    let bytes = unsigned(&targets)?;
    Ok(versioned(&targets, bytes))
}

/// The next version of a targets file's content.
pub(super) fn changed_targets(
    previous: Option<&Targets>,
    changes: &[TargetChange],
    expires: UnixTime,
) -> Result<Targets, RepoError> {
    let mut targets = match previous {
        Some(old) => Targets {
            version: next("targets", old.version)?,
            expires,
            ..old.clone()
        },
        None => Targets {
            spec_version: SpecVersion::default(),
            version: NonZeroU64::MIN,
            expires,
            targets: BTreeMap::<String, TargetFile>::new(),
            delegations: None,
            extra: Map::new(),
        },
    };
    for change in changes {
        apply(&mut targets, change)?;
    }
    Ok(targets)
}

fn apply(targets: &mut Targets, change: &TargetChange) -> Result<(), RepoError> {
    match change {
        TargetChange::Put(path, target) => {
            check_path(path)?;
            targets.targets.insert(path.clone(), target.clone());
        }
        TargetChange::Remove(path) => {
            let gone = targets.targets.remove(path);
            gone.ok_or_else(|| RepoError::NoTarget(shown(path)))?;
        }
        TargetChange::Delegate(delegation) => {
            let old = targets.delegations.take();
            let mut delegations = old.unwrap_or_else(|| Delegations {
                keys: BTreeMap::new(),
                roles: Vec::new(),
                extra: Map::new(),
            });
            let role = delegated_role(delegation, &mut delegations.keys)?;
            match delegations.roles.iter_mut().find(|r| r.name == role.name) {
                Some(known) => *known = role,
                None => delegations.roles.push(role),
            }
            targets.delegations = Some(forget_unused(delegations));
        }
        TargetChange::Undelegate(name) => {
            let mut delegations = targets.delegations.take();
            if let Some(delegations) = &mut delegations {
                delegations.roles.retain(|role| role.name != *name);
            }
            let kept = delegations.filter(|delegations| !delegations.roles.is_empty());
            targets.delegations = kept.map(forget_unused);
        }
    }
    Ok(())
}

/// Keys that no role names any more are not to lie about.
fn forget_unused(mut delegations: Delegations) -> Delegations {
    let roles = &delegations.roles;
    delegations
        .keys
        .retain(|id, _| roles.iter().any(|role| role.keys.keyids.contains(id)));
    delegations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SigningKey;
    use crate::time::Now;
    use crate::trust::tuf::repo::{
        Delegation, RoleSpec, RootSpec, add_signatures, draft_root, sign_root,
    };

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed([seed; 32]).unwrap()
    }

    fn spec(root: &[u8], threshold: u32) -> RootSpec {
        let keys = root.iter().map(|seed| key(*seed).public()).collect();
        RootSpec {
            expires: UnixTime::new(9_000),
            root: RoleSpec { keys, threshold },
            targets: RoleSpec::one(key(9).public()),
            snapshot: RoleSpec::one(key(10).public()),
            timestamp: RoleSpec::one(key(11).public()),
        }
    }

    #[test]
    fn standing_tells_who_signed_and_what_is_missing() {
        let draft = draft_root(&spec(&[1, 2, 3], 2), None).unwrap().bytes;
        let standing = |file: &[u8]| {
            let root = claimed_root(file).unwrap();
            Standing::of::<Root>(file, &root.root_authority()).unwrap()
        };
        assert_eq!(standing(&draft).missing(), 2);
        let once = add_signatures(&draft, &[&key(2), &key(2)]).unwrap();
        assert_eq!(standing(&once).missing(), 1);
        assert!(standing(&once).keys.contains(&(key(2).public(), true)));
        // A stranger's signature moves nothing.
        let stranger = add_signatures(&once, &[&key(77)]).unwrap();
        assert_eq!(standing(&stranger).missing(), 1);
        let twice = add_signatures(&stranger, &[&key(3)]).unwrap();
        assert_eq!(standing(&twice).missing(), 0);
    }

    #[test]
    fn a_key_change_needs_the_old_threshold_and_the_new_one() {
        let now = Now::Clock(UnixTime::new(1_000));
        let old = sign_root(&spec(&[1, 2], 2), None, now, &[&key(1), &key(2)]).unwrap();
        let draft = draft_root(&spec(&[2, 3], 2), Some(&old.bytes)).unwrap();
        let signed = add_signatures(&draft.bytes, &[&key(2), &key(3)]).unwrap();
        let (old, new) = (
            claimed_root(&old.bytes).unwrap(),
            claimed_root(&signed).unwrap(),
        );
        let by = |root: &Root| Standing::of::<Root>(&signed, &root.root_authority()).unwrap();
        assert_eq!((by(&old).missing(), by(&new).missing()), (1, 0));
    }

    #[test]
    fn delegations_come_and_go_with_their_keys() {
        let berlin = Delegation {
            name: "berlin".to_owned(),
            paths: vec!["berlin/*".to_owned()],
            keys: RoleSpec::one(key(4).public()),
        };
        let until = UnixTime::new(9_000);
        let change = TargetChange::Delegate(berlin.clone());
        let one = changed_targets(None, &[change], until).unwrap();
        let delegations = one.delegations.as_ref().unwrap();
        assert!(delegations.roles[0].covers("berlin/kiosk"));
        assert!(!delegations.roles[0].covers("sites/berlin.json"));
        let rotated = TargetChange::Delegate(Delegation {
            keys: RoleSpec::one(key(5).public()),
            ..berlin
        });
        let two = changed_targets(Some(&one), &[rotated], until).unwrap();
        let delegations = two.delegations.as_ref().unwrap();
        assert_eq!((delegations.roles.len(), delegations.keys.len()), (1, 1));
        let gone = TargetChange::Undelegate("berlin".to_owned());
        let three = changed_targets(Some(&two), &[gone], until).unwrap();
        assert_eq!(three.delegations, None);
        assert_eq!(three.version.get(), 3);
    }
}
