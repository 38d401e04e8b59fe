//! The steps `file`, `directory` and `tree`: what is there is compared with
//! what is wanted, and only what differs is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};

use groundcrew_core::bundle::config::Item;
use groundcrew_core::bundle::{DirectoryStep, FileEntry, FileStep, TreeStep};
use groundcrew_core::digest::Hasher;
use rustix::fs::{FileType, Stat};

use super::{ApplyError, Context};
use crate::root::{Folder, FsError, Ids, Meta, Prepared, meta};

/// Bytes read at a time.
const CHUNK: usize = 128 << 10;
/// Files of a tree that are written before they get their names together.
const BATCH: usize = 256;
/// From so many files on, the whole file system is synced instead of each.
const SYNC_ALL_FROM: usize = 8;

/// What a file is to hold.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// This file of the bundle.
    Stored(&'a FileEntry),
}

/// How what is there relates to what is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Same,
    /// Only mode or owner differ.
    OtherMeta,
    Other,
}

/// Makes a file so. True where something is, or would be, changed.
pub fn file(
    context: &mut Context<'_>,
    step: &FileStep,
    body: Body<'_>,
) -> Result<bool, ApplyError> {
    let ids = context.owners()?.ids(&step.owner, &step.group);
    if ids.is_err() && context.planning() {
        // an earlier step may bring the owner
        context.need(body);
        return Ok(true);
    }
    let wanted = Meta {
        mode: step.mode.bits(),
        ids: ids?,
    };
    let Some((parent, name)) = step.path.split() else {
        return Ok(false);
    };
    let root_ids = context.owners()?.root();
    let Some(folder) = context.folder(parent, root_ids)? else {
        context.need(body);
        return Ok(true);
    };
    place_file(context, &folder, name, wanted, body)
}

/// Makes a folder so.
pub fn directory(context: &mut Context<'_>, step: &DirectoryStep) -> Result<bool, ApplyError> {
    let ids = context.owners()?.ids(&step.owner, &step.group);
    if ids.is_err() && context.planning() {
        return Ok(true);
    }
    let wanted = Meta {
        mode: step.mode.bits(),
        ids: ids?,
    };
    let Some((parent, name)) = step.path.split() else {
        return Ok(false);
    };
    let root_ids = context.owners()?.root();
    let Some(folder) = context.folder(parent, root_ids)? else {
        return Ok(true);
    };
    match folder.look(name)? {
        Some(stat) if kind(&stat) == FileType::Directory && meta(&stat) == wanted => {
            return Ok(false);
        }
        _ if context.planning() => {}
        Some(stat) if kind(&stat) == FileType::Directory => {
            folder.folder(name)?.set_meta(wanted)?;
        }
        Some(_) => {
            return Err(folder
                .in_the_way(name, "is not a folder; it is left as it is")
                .into());
        }
        None => folder
            .new_folder(name, wanted.mode, Some(wanted.ids))
            .map(|_| ())?,
    }
    Ok(true)
}

/// Copies a tree of content. What else is in its folders stays.
pub fn tree(context: &mut Context<'_>, step: &TreeStep) -> Result<bool, ApplyError> {
    let config = context.config();
    let ids = context.owners()?.ids(&step.owner, &step.group);
    if ids.is_err() && context.planning() {
        let below = config.content.below(&step.source);
        below.for_each(|found| {
            if let Item::File(entry) = found.item {
                context.need(Body::Stored(entry));
            }
        });
        return Ok(true);
    }
    let ids = ids?;
    let mut changed = !tree_folders(context, step, ids)?;
    let mut by_folder: Vec<(String, Vec<TreeItem<'_>>)> = Vec::new();
    for found in config.content.below(&step.source) {
        if matches!(found.item, Item::Directory) {
            continue;
        }
        let (inner, name) = found.below.rsplit_once('/').unwrap_or(("", found.below));
        let item = TreeItem {
            name,
            item: found.item,
        };
        match by_folder.last_mut() {
            Some((last, items)) if last == inner => items.push(item),
            _ => by_folder.push((inner.to_owned(), vec![item])),
        }
    }
    for (inner, items) in &by_folder {
        let path = join(step.path.relative(), inner);
        match context.root.folder(&path)? {
            Some(folder) => changed |= tree_folder(context, &folder, items, ids)?,
            None => {
                changed = true;
                items.iter().for_each(|item| {
                    if let Item::File(entry) = item.item {
                        context.need(Body::Stored(entry));
                    }
                });
            }
        }
    }
    Ok(changed)
}

struct TreeItem<'a> {
    name: &'a str,
    item: Item<'a>,
}

/// Makes the tree's folders where they are missing; true where all were there.
fn tree_folders(context: &mut Context<'_>, step: &TreeStep, ids: Ids) -> Result<bool, ApplyError> {
    let config = context.config();
    let inner = config
        .content
        .below(&step.source)
        .filter(|found| matches!(found.item, Item::Directory));
    let mut all = true;
    for below in std::iter::once("").chain(inner.map(|found| found.below)) {
        let path = join(step.path.relative(), below);
        if context.root.folder(&path)?.is_none() {
            all = false;
            if !context.planning() {
                context.root.make_folder(&path, 0o755, Some(ids))?;
            }
        }
    }
    Ok(all)
}

fn tree_folder(
    context: &mut Context<'_>,
    folder: &Folder<'_>,
    items: &[TreeItem<'_>],
    ids: Ids,
) -> Result<bool, ApplyError> {
    let mut changed = false;
    let mut ready: Vec<Prepared<'_, '_>> = Vec::new();
    for TreeItem { name, item } in items {
        match item {
            Item::Directory => {}
            Item::Link(target) => changed |= place_link(context, folder, name, target, ids)?,
            Item::File(entry) => {
                let wanted = Meta {
                    mode: entry.mode.bits(),
                    ids,
                };
                match compare(folder, name, wanted, Body::Stored(entry))? {
                    Found::Same => continue,
                    _ if context.planning() => context.need(Body::Stored(entry)),
                    Found::OtherMeta => folder.set_file_meta(name, wanted)?,
                    Found::Other => {
                        ready.push(prepare(context, folder, name, wanted, Body::Stored(entry))?);
                    }
                }
                changed = true;
            }
        }
        if ready.len() >= BATCH {
            commit(folder, std::mem::take(&mut ready))?;
        }
    }
    commit(folder, ready)?;
    Ok(changed)
}

fn commit(folder: &Folder<'_>, ready: Vec<Prepared<'_, '_>>) -> Result<(), FsError> {
    if ready.len() >= SYNC_ALL_FROM {
        folder.sync_file_system()?;
    } else {
        ready.iter().try_for_each(Prepared::sync)?;
    }
    ready.into_iter().try_for_each(Prepared::commit)
}

/// Makes one file in an open folder so; whatever else has its name goes, except a
/// folder.
pub(super) fn place_file(
    context: &mut Context<'_>,
    folder: &Folder<'_>,
    name: &str,
    wanted: Meta,
    body: Body<'_>,
) -> Result<bool, ApplyError> {
    match compare(folder, name, wanted, body)? {
        Found::Same => return Ok(false),
        Found::OtherMeta if context.planning() => {}
        Found::Other if context.planning() => context.need(body),
        Found::OtherMeta => folder.set_file_meta(name, wanted)?,
        Found::Other => {
            let prepared = prepare(context, folder, name, wanted, body)?;
            prepared.sync()?;
            prepared.commit()?;
        }
    }
    Ok(true)
}

fn prepare<'f, 'a>(
    context: &Context<'_>,
    folder: &'f Folder<'a>,
    name: &str,
    wanted: Meta,
    body: Body<'_>,
) -> Result<Prepared<'f, 'a>, ApplyError> {
    match body {
        Body::Bytes(bytes) => Ok(folder.prepare(name, wanted, |file| file.write_all(bytes))?),
        Body::Stored(entry) => Ok(context.stage()?.take(entry, folder, name, wanted)?),
    }
}

fn place_link(
    context: &Context<'_>,
    folder: &Folder<'_>,
    name: &str,
    target: &str,
    ids: Ids,
) -> Result<bool, ApplyError> {
    let stat = folder.look(name)?;
    let same = folder
        .link_target(name)?
        .is_some_and(|found| found == target.as_bytes());
    if same && stat.as_ref().is_some_and(|stat| meta(stat).ids == ids) {
        return Ok(false);
    }
    if stat.is_some_and(|stat| kind(&stat) == FileType::Directory) {
        return Err(folder
            .in_the_way(
                name,
                "is a folder where a symlink is wanted; it is left as it is",
            )
            .into());
    }
    if !context.planning() {
        folder.symlink(name, target, ids)?;
    }
    Ok(true)
}

fn compare(
    folder: &Folder<'_>,
    name: &str,
    wanted: Meta,
    body: Body<'_>,
) -> Result<Found, ApplyError> {
    match folder.look(name)?.map(|stat| kind(&stat)) {
        Some(FileType::RegularFile) => {}
        Some(FileType::Directory) => {
            return Err(folder
                .in_the_way(
                    name,
                    "is a folder where a file is wanted; it is left as it is",
                )
                .into());
        }
        _ => return Ok(Found::Other),
    }
    let Some((mut file, stat)) = folder.file(name)? else {
        return Ok(Found::Other);
    };
    let size = match body {
        Body::Bytes(bytes) => bytes.len() as u64,
        Body::Stored(entry) => entry.size,
    };
    let same = u64::try_from(stat.st_size) == Ok(size)
        && same_content(&mut file, body).map_err(|source| FsError::Io {
            doing: "read",
            path: format!("{}/{name}", folder.path()),
            source,
        })?;
    Ok(match (same, meta(&stat) == wanted) {
        (true, true) => Found::Same,
        // With a second name it is somebody else's file too: a new one instead.
        (true, false) if stat.st_nlink > 1 => Found::Other,
        (true, false) => Found::OtherMeta,
        (false, _) => Found::Other,
    })
}

fn same_content(file: &mut File, body: Body<'_>) -> io::Result<bool> {
    let mut rest = match body {
        Body::Stored(entry) => return Ok(digest_of(file)? == entry.digest),
        Body::Bytes(bytes) => bytes,
    };
    let mut buffer = vec![0; rest.len().clamp(1, CHUNK)];
    loop {
        let got = file.read(&mut buffer)?;
        let found = buffer.get(..got).unwrap_or_default();
        match rest.strip_prefix(found) {
            Some(_) if got == 0 => return Ok(rest.is_empty()),
            Some(after) => rest = after,
            None => return Ok(false),
        }
    }
}

/// The digest of the rest of a file.
pub fn digest_of(file: &mut File) -> io::Result<groundcrew_core::Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            got => hasher.update(buffer.get(..got).unwrap_or_default()),
        }
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn join(base: &str, inner: &str) -> String {
    match (base, inner) {
        ("", inner) => inner.to_owned(),
        (base, "") => base.to_owned(),
        (base, inner) => format!("{base}/{inner}"),
    }
}

/// Content that the plan found to be missing: digest, and how many files are
/// to hold it.
pub type Needs = BTreeMap<groundcrew_core::Digest, usize>;
