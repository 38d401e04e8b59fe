//! What differs between files here and those on a stick, as a script: the one
//! routine of `sync` and `update`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use super::ext4::{Ext4, Kind, Script};
use super::file;
use super::kept::Synced;
use super::plan::{self, DataFile};

/// What lies below a folder of a stick.
#[derive(Debug, Default)]
pub struct There {
    /// Files with their sizes.
    pub files: BTreeMap<String, u64>,
    /// Folders, empty ones too.
    pub folders: BTreeSet<String>,
}

impl There {
    /// Looks below `folder`, which is there.
    pub fn below(ext4: &Ext4, folder: &str) -> anyhow::Result<Self> {
        let mut there = Self::default();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            for entry in ext4.list(&folder)? {
                let path = format!("{folder}/{}", entry.name);
                match entry.kind {
                    Kind::Folder => open.push(path),
                    Kind::File => drop(there.files.insert(path, entry.bytes)),
                    Kind::Other => {}
                }
            }
            there.folders.insert(folder);
        }
        Ok(there)
    }
}

/// The script that makes of what is there what is `wanted`, and what it does.
/// Of files that are there and not wanted, those go that `goes` names.
pub fn script(
    ext4: &Ext4,
    there: &There,
    wanted: &[&DataFile],
    goes: impl Fn(&str) -> bool,
) -> anyhow::Result<(Script, Synced)> {
    let mut done = Synced::default();
    let mut script = Script::default();
    let mut folders = there.folders.clone();
    let scratch = tempfile::tempdir()?;
    let copy = scratch.path().join("compared");
    for one in wanted {
        if is_there(ext4, one, there, &copy)? {
            done.same += 1;
            continue;
        }
        ensure!(
            plan::sha256_of(&one.from)?.1 == one.sha256,
            "{} was changed: it is not the blob that its name says",
            one.from.display()
        );
        for folder in parents(&one.path) {
            if folders.insert(folder.clone()) {
                script.folder(&folder)?;
            }
        }
        match there.files.contains_key(&one.path) {
            true => script.replace(&one.from, &one.path, one.rights)?,
            false => script.file(&one.from, &one.path, one.rights)?,
        }
        (done.written, done.bytes) = (done.written + 1, done.bytes + one.bytes);
    }
    let names: BTreeSet<&str> = wanted.iter().map(|one| one.path.as_str()).collect();
    let gone = |path: &&String| goes(path) && !names.contains(path.as_str());
    for path in there.files.keys().filter(gone) {
        script.remove(path)?;
        done.removed += 1;
    }
    Ok((script, done))
}

/// Whether the stick has the same: of blobs, whose names are their digests, by
/// name and size.
fn is_there(
    ext4: &Ext4,
    one: &DataFile,
    there: &There,
    copy: &std::path::Path,
) -> anyhow::Result<bool> {
    if there.files.get(&one.path) != Some(&one.bytes) {
        return Ok(false);
    }
    if is_blob(&one.path) {
        return Ok(true);
    }
    ext4.dump(&one.path, copy)?;
    let (_, sha256) = plan::sha256_of(copy)?;
    std::fs::remove_file(copy)?;
    Ok(sha256 == one.sha256)
}

/// Whether a path on the stick is a blob.
pub fn is_blob(path: &str) -> bool {
    path.strip_prefix(&format!("/{}/blobs/", file::SITE))
        .is_some()
}

/// The folders above a path, the highest first: `/a/b/c` has `/a` and `/a/b`.
fn parents(path: &str) -> Vec<String> {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .filter(|at| *at > 0);
    ends.filter_map(|at| path.get(..at))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_from_the_top() {
        assert_eq!(parents("/a/b/c"), ["/a", "/a/b"]);
        assert!(parents("/a").is_empty());
    }
}
