//! A FAT32 file system, written once and in order: what UEFI firmware and GRUB
//! start from.
//!
//! Its clusters are two halves, and a build lies in one of them but for the
//! root folder, whose records fit one sector. So the next build is written into
//! the other half, and the write of that sector is the change from one to the
//! other: see [`swap`].
//!
//! Source: Microsoft's "FAT: General Overview of On-Disk Format" 1.03. Files
//! lie one after the other, every time is the same and every name is an 8.3
//! name in one case for base and extension each, so that the same files give
//! the same bytes. (The crate `fatfs` writes directories that every checker
//! reports, see its issue 117.)

mod swap;

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};

pub use swap::{Piece, Swap, root_at};

const SECTOR: u64 = 512;
/// Two sectors: enough clusters for FAT32 (65,525) from 66 MiB on.
const CLUSTER: u64 = 1024;
const RESERVED: u64 = 32;
const FATS: u64 = 2;
const ROOT: u32 = 2;
const END: u32 = 0x0fff_ffff;
const MIN_CLUSTERS: u64 = 65_525;
/// Records in a sector; the root folder has no more.
const ROOT_RECORDS: usize = 16;
/// Entries of the allocation table in a sector: no sector serves both halves.
const ENTRIES: u32 = 128;
/// 1980-01-01, the beginning of FAT's time.
const DATE: u16 = 0x0021;
const DIRECTORY: u8 = 0x10;
const LABEL: u8 = 0x08;
const ARCHIVE: u8 = 0x20;

/// What cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// Not an 8.3 name in one case.
    #[error("`{0}` cannot be a name on the start partition: use 8.3 names, each part in one case")]
    Name(String),
    /// Two things of one name.
    #[error("`{0}` stands twice on the start partition")]
    Twice(String),
    /// Too few clusters for FAT32 or more than it can have.
    #[error("{0} bytes are no size for FAT32")]
    Size(u64),
    /// The files are too large together.
    #[error(
        "the start partition is full: {needed} bytes are needed, and {there} are there for each of \
         two builds"
    )]
    Full {
        /// Bytes in whole clusters.
        needed: u64,
        /// Bytes in the clusters of a half.
        there: u64,
    },
    /// More than one sector of records.
    #[error("the start partition's first folder has more than {ROOT_RECORDS} names")]
    Root,
    /// Not written by this program, or a form that no half holds.
    #[error("the start partition was changed by another program: build the stick anew")]
    Foreign,
    /// The medium.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A directory: names to what lies under them, sorted as they are written.
#[derive(Debug, Default)]
struct Folder<'a> {
    folders: BTreeMap<String, Folder<'a>>,
    files: BTreeMap<String, &'a [u8]>,
}

/// A file system to be written.
#[derive(Debug, Default)]
pub struct Fat32<'a> {
    root: Folder<'a>,
}

/// A directory or a file with its place, before anything is written.
struct Placed<'a> {
    first: u32,
    clusters: u32,
    content: Content<'a>,
}

enum Content<'a> {
    File(&'a [u8]),
    Made(Vec<u8>),
}

impl<'a> Fat32<'a> {
    /// Adds a file; the folders of its path (`EFI/BOOT/BOOTX64.EFI`) come along.
    pub fn file(&mut self, path: &str, content: &'a [u8]) -> Result<(), FatError> {
        let mut folder = &mut self.root;
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default();
        for part in parts {
            short_name(part)?;
            if folder.files.contains_key(part) {
                return Err(FatError::Twice(path.to_owned()));
            }
            folder = folder.folders.entry(part.to_owned()).or_default();
        }
        short_name(name)?;
        let taken = folder.folders.contains_key(name);
        if taken || folder.files.insert(name.to_owned(), content).is_some() {
            return Err(FatError::Twice(path.to_owned()));
        }
        Ok(())
    }

    /// Writes the file system at the writer's place, `bytes` long, of which
    /// only what is used is written: the rest must hold zeros. `hidden` is the
    /// partition's first sector, `id` and `label` (11 characters) name it.
    pub fn write(
        &self,
        out: &mut (impl Write + Seek),
        bytes: u64,
        hidden: u32,
        id: u32,
        label: [u8; 11],
    ) -> Result<(), FatError> {
        let shape = Shape::of(bytes)?;
        let start = out.stream_position()?;
        let Laid { placed, next } = self.lay(&shape, Half::First, &label)?;
        out.write_all(&shape.reserved(hidden, id, &label, next))?;
        let fat = allocation_table(&placed);
        for copy in 0..FATS {
            out.seek(SeekFrom::Start(
                start + (RESERVED + copy * shape.fat_sectors) * SECTOR,
            ))?;
            out.write_all(&fat)?;
        }
        for one in &placed {
            out.seek(SeekFrom::Start(start + shape.place_of(one.first)))?;
            match &one.content {
                Content::File(content) => out.write_all(content)?,
                Content::Made(content) => out.write_all(content)?,
            }
        }
        Ok(())
    }
}

/// Where a build lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

/// Everything of a build with its place.
struct Laid<'a> {
    placed: Vec<Placed<'a>>,
    /// The cluster behind the last one.
    next: u32,
}

impl<'a> Fat32<'a> {
    /// Gives everything its place in a half, in the order of clusters.
    fn lay(&self, shape: &Shape, half: Half, label: &[u8; 11]) -> Result<Laid<'a>, FatError> {
        if self.root.folders.len() + self.root.files.len() + 1 > ROOT_RECORDS {
            return Err(FatError::Root);
        }
        let (first, end) = shape.clusters_of(half);
        let (mut next, mut placed) = (first, Vec::new());
        place(&self.root, None, label, &mut next, &mut placed)?;
        if next > end {
            return Err(FatError::Full {
                needed: u64::from(next - first) * CLUSTER,
                there: u64::from(end - first) * CLUSTER,
            });
        }
        placed.sort_by_key(|one| one.first);
        Ok(Laid { placed, next })
    }
}

/// How many sectors what has.
struct Shape {
    sectors: u64,
    fat_sectors: u64,
    clusters: u64,
}

impl Shape {
    fn of(bytes: u64) -> Result<Self, FatError> {
        let sectors = bytes / SECTOR;
        let wrong = FatError::Size(bytes);
        let (Some(room), Ok(_)) = (sectors.checked_sub(RESERVED), u32::try_from(sectors)) else {
            return Err(wrong);
        };
        // A cluster costs its sectors and four bytes in each table.
        let most = room / (CLUSTER / SECTOR) + 2;
        let fat_sectors = (most * 4).div_ceil(SECTOR);
        let clusters = room.saturating_sub(FATS * fat_sectors) / (CLUSTER / SECTOR);
        if !(MIN_CLUSTERS..0x0fff_fff0).contains(&clusters) {
            return Err(wrong);
        }
        Ok(Self {
            sectors,
            fat_sectors,
            clusters,
        })
    }

    /// Where clusters begin, in bytes from the file system's beginning.
    const fn data(&self) -> u64 {
        (RESERVED + FATS * self.fat_sectors) * SECTOR
    }

    /// Where a cluster is, counted like that.
    fn place_of(&self, cluster: u32) -> u64 {
        self.data() + u64::from(cluster - ROOT) * CLUSTER
    }

    /// The first cluster of a half and the one behind its last. The root folder
    /// is in neither.
    fn clusters_of(&self, half: Half) -> (u32, u32) {
        // `of` made sure that there are fewer than 2^28.
        let end = self.clusters as u32 + ROOT;
        let middle = end / 2 / ENTRIES * ENTRIES;
        match half {
            Half::First => (ROOT + 1, middle),
            Half::Second => (middle, end),
        }
    }

    /// The sectors before the tables: boot sector, FSInfo, and their copies.
    fn reserved(&self, hidden: u32, id: u32, label: &[u8; 11], next: u32) -> Vec<u8> {
        let mut boot = Vec::with_capacity(512);
        boot.extend_from_slice(&[0xeb, 0x58, 0x90]);
        boot.extend_from_slice(b"groundcr");
        boot.extend_from_slice(&512_u16.to_le_bytes());
        boot.push((CLUSTER / SECTOR) as u8);
        boot.extend_from_slice(&(RESERVED as u16).to_le_bytes());
        boot.push(FATS as u8);
        boot.extend_from_slice(&[0, 0, 0, 0, 0xf8, 0, 0]); // FAT12 and FAT16 fields; a fixed disk
        boot.extend_from_slice(&[63, 0, 255, 0]); // geometry, for who still asks
        boot.extend_from_slice(&hidden.to_le_bytes());
        // `of` made sure that they fit in 32 bits.
        boot.extend_from_slice(&(self.sectors as u32).to_le_bytes());
        boot.extend_from_slice(&(self.fat_sectors as u32).to_le_bytes());
        boot.extend_from_slice(&[0, 0, 0, 0]); // both tables are kept; version 0.0
        boot.extend_from_slice(&ROOT.to_le_bytes());
        boot.extend_from_slice(&[1, 0, 6, 0]); // FSInfo, copy of the boot sector
        boot.extend_from_slice(&[0; 12]);
        boot.extend_from_slice(&[0x80, 0, 0x29]);
        boot.extend_from_slice(&id.to_le_bytes());
        boot.extend_from_slice(label);
        boot.extend_from_slice(b"FAT32   ");
        sign(&mut boot);
        let mut pair = boot;
        pair.extend(self.information(u64::from(next - ROOT), next));
        let mut out = pair.clone();
        out.resize(6 * 512, 0);
        out.extend(pair);
        out.resize((RESERVED * SECTOR) as usize, 0);
        out
    }

    /// The FSInfo sector: clusters that are free, and where to look for some.
    fn information(&self, used: u64, next: u32) -> Vec<u8> {
        let mut info = b"RRaA".to_vec();
        info.resize(484, 0);
        info.extend_from_slice(b"rrAa");
        info.extend_from_slice(&(self.clusters.saturating_sub(used) as u32).to_le_bytes());
        info.extend_from_slice(&next.to_le_bytes());
        sign(&mut info);
        info
    }
}

fn sign(sector: &mut Vec<u8>) {
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
}

/// Gives a folder and all in it their clusters, the root folder its own. Returns
/// the folder's first.
fn place<'a>(
    folder: &Folder<'a>,
    parent: Option<u32>,
    label: &[u8; 11],
    next: &mut u32,
    placed: &mut Vec<Placed<'a>>,
) -> Result<u32, FatError> {
    let records = folder.folders.len() + folder.files.len() + if parent.is_some() { 2 } else { 1 };
    let first = match parent {
        None => ROOT,
        Some(_) => take(next, records as u64 * 32),
    };
    let mut table = Vec::with_capacity(records * 32);
    match parent {
        None => table.extend(record(*label, 0, LABEL, 0, 0)),
        Some(parent) => {
            // Zero stands for the root directory, whatever its cluster is.
            let above = if parent == ROOT { 0 } else { parent };
            table.extend(record(*b".          ", 0, DIRECTORY, first, 0));
            table.extend(record(*b"..         ", 0, DIRECTORY, above, 0));
        }
    }
    for (name, inner) in &folder.folders {
        let (short, case) = short_name(name)?;
        let at = place(inner, Some(first), label, next, placed)?;
        table.extend(record(short, case, DIRECTORY, at, 0));
    }
    for (name, content) in &folder.files {
        let (short, case) = short_name(name)?;
        let too_large = |_| FatError::Full {
            needed: content.len() as u64,
            there: u64::from(u32::MAX),
        };
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let at = if size == 0 {
            0
        } else {
            take(next, size.into())
        };
        table.extend(record(short, case, ARCHIVE, at, size));
        if size > 0 {
            placed.push(Placed {
                first: at,
                clusters: *next - at,
                content: Content::File(content),
            });
        }
    }
    let clusters = clusters_of(table.len() as u64);
    placed.push(Placed {
        first,
        clusters,
        content: Content::Made(table),
    });
    Ok(first)
}

/// The next clusters in a row, for so many bytes.
fn take(next: &mut u32, bytes: u64) -> u32 {
    let first = *next;
    *next = next.saturating_add(clusters_of(bytes));
    first
}

fn clusters_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(CLUSTER).max(1)).unwrap_or(u32::MAX)
}

fn record(name: [u8; 11], case: u8, attributes: u8, first: u32, size: u32) -> Vec<u8> {
    let mut out = name.to_vec();
    out.extend_from_slice(&[attributes, case, 0, 0, 0]);
    out.extend_from_slice(&DATE.to_le_bytes()); // created
    out.extend_from_slice(&DATE.to_le_bytes()); // read
    out.extend_from_slice(&((first >> 16) as u16).to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&DATE.to_le_bytes()); // written
    out.extend_from_slice(&(first as u16).to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out
}

/// `grub.cfg` as the eleven bytes of a record and the bits that say which part
/// is in lower case.
fn short_name(name: &str) -> Result<([u8; 11], u8), FatError> {
    let wrong = || FatError::Name(name.to_owned());
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let good = |part: &str, most: usize| {
        let plain = part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let one_case = !part.contains(char::is_uppercase) || !part.contains(char::is_lowercase);
        plain && one_case && part.len() <= most
    };
    if base.is_empty() || !good(base, 8) || !good(extension, 3) {
        return Err(wrong());
    }
    let text = format!("{base:<8}{extension:<3}").to_ascii_uppercase();
    let short = text.as_bytes().try_into().map_err(|_| wrong())?;
    let lower = |part: &str| part.contains(char::is_lowercase);
    Ok((
        short,
        u8::from(lower(base)) << 3 | u8::from(lower(extension)) << 4,
    ))
}

fn allocation_table(placed: &[Placed<'_>]) -> Vec<u8> {
    let mut table: Vec<u32> = vec![0x0fff_fff8, END];
    for one in placed {
        // Between the root folder and the second half lies the first one.
        table.resize(table.len().max(one.first as usize), 0);
        let last = one.first + one.clusters - 1;
        table.extend((one.first..last).map(|cluster| cluster + 1));
        table.push(END);
    }
    table.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests;
