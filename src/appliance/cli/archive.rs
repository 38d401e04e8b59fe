//! A backup as a tar: what is written into it, and what is taken out of it.
//!
//! Entries are read raw: the `tar` crate would read long names into memory
//! without a limit, before anybody sees them. Bundle sources have long names
//! and symlinks, so GNU's entries for those are read here; nothing writes
//! other kinds (pax, sparse files).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::bundle::path::leads_inside;
use tar::EntryType;

/// What the registry is called inside.
pub const REGISTRY: &str = "registry.db";

const SOURCES: &str = "sources";

/// Linux's `PATH_MAX`, with the byte at its end.
const MAX_NAME: u64 = 4096;

/// Writes plain entries only: no link is followed, and no hole left out.
pub fn builder<W: Write>(out: W) -> tar::Builder<W> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    archive.sparse(false);
    archive
}

/// Bundle sources: files, folders, and links that stay below. What else lies
/// there no bundle may hold; it is left out, and told with its reason.
pub fn append_sources<W: Write>(
    archive: &mut tar::Builder<W>,
    folder: &Path,
) -> anyhow::Result<Vec<(PathBuf, &'static str)>> {
    let mut left_out = Vec::new();
    append(archive, folder, Path::new(SOURCES), &mut left_out)
        .with_context(|| format!("reading {}", folder.display()))?;
    Ok(left_out)
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    folder: &Path,
    name: &Path,
    left_out: &mut Vec<(PathBuf, &'static str)>,
) -> anyhow::Result<()> {
    archive.append_dir(name, folder)?;
    let entries = fs::read_dir(folder)?;
    let mut names: Vec<OsString> = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    for entry in names {
        let (path, name) = (folder.join(&entry), name.join(&entry));
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            append(archive, &path, &name, left_out)?;
        } else if kind.is_symlink() && !link_stays(&name, &fs::read_link(&path)?) {
            left_out.push((path, "is a link that leads out of the sources"));
        } else if kind.is_file() || kind.is_symlink() {
            archive.append_path_with_name(&path, &name)?;
        } else {
            left_out.push((path, "is neither file, folder nor symlink"));
        }
    }
    Ok(())
}

/// Whether a link of this name inside is one that a backup has.
fn link_stays(name: &Path, target: &Path) -> bool {
    let folders = name.components().count().checked_sub(2);
    name.starts_with(SOURCES)
        && folders
            .zip(target.to_str())
            .is_some_and(|(depth, target)| leads_inside(depth, target))
}

/// Unpacks files and folders below the ones a backup has, links among the
/// sources, and nothing else. Links are made last: nothing goes through one.
pub fn unpack(file: &Path, into: &Path) -> anyhow::Result<()> {
    let zstd = zstd::Decoder::with_buffer(BufReader::new(File::open(file)?))?;
    fs::create_dir_all(into)?;
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(zstd);
    let (mut long_name, mut long_target) = (None, None);
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry.context("this is not a backup, or it is cut off")?;
        match entry.header().entry_type() {
            EntryType::GNULongName => long_name = Some(long(&mut entry)?),
            EntryType::GNULongLink => long_target = Some(long(&mut entry)?),
            _ => {
                let name = match long_name.take() {
                    Some(name) => name,
                    None => entry.path()?.into_owned(),
                };
                let link = unpack_one(&mut entry, &name, long_target.take(), into)?;
                links.extend(link);
            }
        }
    }
    for (path, target) in links {
        symlink(&target, &path).with_context(|| format!("making the link {}", path.display()))?;
    }
    Ok(())
}

/// One file or folder; a link is handed back, to be made last.
fn unpack_one(
    entry: &mut tar::Entry<'_, impl Read>,
    name: &Path,
    long_target: Option<PathBuf>,
    into: &Path,
) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
    let kind = entry.header().entry_type();
    let target = match (kind.is_symlink(), long_target) {
        (true, None) => entry.link_name()?.map(|target| target.into_owned()),
        (true, long) => long,
        (false, _) => None,
    };
    let mut parts = name.components();
    let plain = parts.all(|part| matches!(part, Component::Normal(_)));
    let first = name.components().next();
    let first = first.and_then(|part| part.as_os_str().to_str());
    let ours = matches!(
        first,
        Some(REGISTRY | "site.toml" | "trust" | SOURCES | "blobs" | "keys")
    );
    let stays = target.as_deref().is_some_and(|to| link_stays(name, to));
    if !plain || !ours || !(kind.is_file() || kind.is_dir() || stays) {
        bail!(
            "it holds {}, which no backup has",
            groundcrew_core::ids::shown(&name.display().to_string())
        );
    }
    let path = into.join(name);
    if kind.is_dir() {
        fs::create_dir_all(&path)?;
        return Ok(None);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if let Some(target) = target {
        return Ok(Some((path, target)));
    }
    let secret = matches!(first, Some("keys" | REGISTRY));
    let program = !secret && entry.header().mode()? & 0o100 != 0;
    let mut out = File::create_new(&path)?;
    out.set_permissions(fs::Permissions::from_mode(if secret {
        0o600
    } else if program {
        0o755
    } else {
        0o644
    }))?;
    std::io::copy(entry, &mut out)?;
    Ok(None)
}

/// A name that has an entry of its own, before the one that it is of.
fn long(entry: &mut tar::Entry<'_, impl Read>) -> anyhow::Result<PathBuf> {
    ensure!(
        entry.size() <= MAX_NAME,
        "it holds a name of {} bytes, which no backup has",
        entry.size()
    );
    let mut name = Vec::new();
    entry.take(MAX_NAME).read_to_end(&mut name)?;
    let end = name.iter().position(|byte| *byte == 0);
    name.truncate(end.unwrap_or(name.len()));
    Ok(PathBuf::from(OsString::from_vec(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(entries: &[(EntryType, &str, &[u8])]) -> Result<tempfile::TempDir, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let zstd = zstd::Encoder::new(File::create(&file).unwrap(), 1).unwrap();
        let mut archive = tar::Builder::new(zstd);
        for (kind, name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // The name as it is said, `..` and all.
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            let link = kind.is_symlink();
            if link {
                header.set_link_name_literal(content).unwrap();
            }
            let content = if link { &[][..] } else { *content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            archive.append(&header, content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap();
        let into = folder.path().join("into");
        unpack(&file, &into).map_err(|error| format!("{error:#}"))?;
        Ok(folder)
    }

    #[test]
    fn links_stay_below_the_sources_and_nothing_goes_through_one() {
        let link = EntryType::Symlink;
        for (name, target) in [
            ("sources/a", "../site.toml"),
            ("sources/a/b", "../../keys"),
            ("sources/a", "/etc/passwd"),
            ("keys/a", "b"),
            ("sources", "keys"),
        ] {
            let error = unpacked(&[(link, name, target.as_bytes())]).unwrap_err();
            assert!(error.contains("which no backup has"), "{name}: {error}");
        }
        let through = [
            (link, "sources/x/y", &b".."[..]),
            (EntryType::Regular, "sources/x/y/file", b"evil"),
            (link, "sources/x/y/z", b"../../keys"),
        ];
        let error = unpacked(&through).unwrap_err();
        assert!(error.contains("making the link"), "{error}");
        let folder = unpacked(&[(link, "sources/x/y", b"../z")]).unwrap();
        let path = folder.path().join("into/sources/x/y");
        assert_eq!(fs::read_link(path).unwrap(), Path::new("../z"));
    }

    #[test]
    fn names_without_end_and_other_kinds_are_refused() {
        let endless = vec![b'a'; 5000];
        for (kind, why) in [
            (EntryType::GNULongName, "a name of 5000 bytes"),
            (EntryType::GNULongLink, "a name of 5000 bytes"),
            (EntryType::XHeader, "which no backup has"),
            (EntryType::XGlobalHeader, "which no backup has"),
            (EntryType::GNUSparse, "which no backup has"),
        ] {
            let error = unpacked(&[(kind, "sources/a", &endless)]).unwrap_err();
            assert!(error.contains(why), "{kind:?}: {error}");
        }
    }
}
