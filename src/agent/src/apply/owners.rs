//! Names of owners, as the *installed* system knows them.

use std::collections::BTreeMap;

use groundcrew_core::bundle::AccountName;

use super::accounts::Table;
use crate::root::{FsError, Ids, Root};

/// Largest account file that is read, bytes.
pub const MAX_FILE: u64 = 8 << 20;

/// Users and groups by name.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    users: BTreeMap<Vec<u8>, u32>,
    groups: BTreeMap<Vec<u8>, u32>,
}

/// A name that the installed system does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the installed system has no {kind} `{name}` (see its /etc/{file})")]
pub struct UnknownOwner {
    kind: &'static str,
    name: AccountName,
    file: &'static str,
}

impl Owners {
    /// Reads the system's `/etc/passwd` and `/etc/group`. Where they are
    /// missing, only `root` is known.
    pub fn read(root: &Root) -> Result<Self, FsError> {
        Ok(Self {
            users: numbers(root, "etc/passwd")?,
            groups: numbers(root, "etc/group")?,
        })
    }

    /// The numbers of an owner and a group.
    pub fn ids(&self, owner: &AccountName, group: &AccountName) -> Result<Ids, UnknownOwner> {
        let unknown = |kind, name: &AccountName, file| UnknownOwner {
            kind,
            name: name.clone(),
            file,
        };
        let uid = self.users.get(owner.as_str().as_bytes());
        let gid = self.groups.get(group.as_str().as_bytes());
        Ok(Ids {
            uid: *uid.ok_or_else(|| unknown("user", owner, "passwd"))?,
            gid: *gid.ok_or_else(|| unknown("group", group, "group"))?,
        })
    }

    /// The numbers of root.
    pub fn root(&self) -> Ids {
        let number = |table: &BTreeMap<Vec<u8>, u32>| table.get(&b"root"[..]).copied().unwrap_or(0);
        Ids {
            uid: number(&self.users),
            gid: number(&self.groups),
        }
    }
}

fn numbers(root: &Root, path: &str) -> Result<BTreeMap<Vec<u8>, u32>, FsError> {
    let Some((bytes, _)) = root.read(path, MAX_FILE)? else {
        return Ok(BTreeMap::from([(b"root".to_vec(), 0)]));
    };
    let table = Table::parse(&bytes);
    let mut map = BTreeMap::new();
    for (name, number) in table.numbers(2) {
        map.entry(name.to_vec()).or_insert(number);
    }
    Ok(map)
}
