//! A newer build in place of the one that is there, so that a medium pulled at
//! any moment starts one of the two, whole.
//!
//! The new build goes into the half of the clusters that nobody uses, with its
//! part of both allocation tables. Then one sector is written: the root folder.
//! Nothing that the old build needs is touched before, and a sector is what
//! media write whole or not at all. The old half's entries are given free last;
//! a cut before that leaves clusters that are used by nobody, which `fsck.vfat`
//! reports and the next update takes.

use super::{
    CLUSTER, Content, END, ENTRIES, FATS, Fat32, FatError, Half, Laid, RESERVED, ROOT, SECTOR,
    Shape, allocation_table, clusters_of,
};

/// Bytes and where they go, from the file system's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// In bytes.
    pub at: u64,
    /// What goes there.
    pub bytes: Vec<u8>,
}

/// The three parts of a swap. Each must be on the medium before the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// The new build, where nothing is.
    pub before: Vec<Piece>,
    /// One sector: from here on the new build is started.
    pub switch: Piece,
    /// What was the old build's is free.
    pub after: Vec<Piece>,
}

/// Where the root folder's sector is in a file system of `bytes`.
pub fn root_at(bytes: u64) -> Result<u64, FatError> {
    Ok(Shape::of(bytes)?.place_of(ROOT))
}

impl Fat32<'_> {
    /// What replaces the build in a file system of `bytes`, whose root folder's
    /// sector is `root`.
    pub fn swap(&self, bytes: u64, root: &[u8], label: [u8; 11]) -> Result<Swap, FatError> {
        let shape = Shape::of(bytes)?;
        let old = half_of(root, &shape)?;
        let new = match old {
            Half::First => Half::Second,
            Half::Second => Half::First,
        };
        let Laid { placed, next } = self.lay(&shape, new, &label)?;
        let table = allocation_table(&placed);
        let mut before = shape.table_of(new, &table);
        let mut switch = None;
        for one in &placed {
            let mut bytes = match &one.content {
                Content::File(content) => content.to_vec(),
                Content::Made(content) => content.clone(),
            };
            let at = shape.place_of(one.first);
            if one.first == ROOT {
                bytes.resize(SECTOR as usize, 0);
                switch = Some(Piece { at, bytes });
            } else {
                // Behind a folder's last record, what an earlier build left would
                // be read as more of them.
                bytes.resize(bytes.len().next_multiple_of(CLUSTER as usize), 0);
                before.push(Piece { at, bytes });
            }
        }
        let mut after = shape.table_of(old, &[]);
        let (first, _) = shape.clusters_of(new);
        // The root folder's cluster is nobody's half.
        let information = shape.information(u64::from(next - first) + 1, next);
        for sector in [1, 7] {
            after.push(Piece {
                at: sector * SECTOR,
                bytes: information.clone(),
            });
        }
        Ok(Swap {
            before,
            switch: switch.ok_or(FatError::Root)?,
            after,
        })
    }
}

impl Shape {
    /// A half's part of both allocation tables, filled from a table of all.
    fn table_of(&self, half: Half, all: &[u8]) -> Vec<Piece> {
        let (first, end) = self.clusters_of(half);
        // The entries before the first half's are the table's own and the root folder's.
        let first = first / ENTRIES * ENTRIES;
        let bytes = (end - first) as usize * 4;
        let mut part = vec![0; bytes.next_multiple_of(SECTOR as usize)];
        let from = all.get(first as usize * 4..).unwrap_or_default();
        for (place, byte) in part.iter_mut().zip(from) {
            *place = *byte;
        }
        if half == Half::First {
            let own = [0x0fff_fff8, END, END];
            for (place, entry) in part.chunks_exact_mut(4).zip(own) {
                place.copy_from_slice(&u32::to_le_bytes(entry));
            }
        }
        (0..FATS)
            .map(|copy| Piece {
                at: (RESERVED + copy * self.fat_sectors) * SECTOR + u64::from(first) * 4,
                bytes: part.clone(),
            })
            .collect()
    }
}

/// In which half the build lies whose root folder's sector this is.
fn half_of(root: &[u8], shape: &Shape) -> Result<Half, FatError> {
    let mut found = None;
    let (_, middle) = shape.clusters_of(Half::First);
    let (_, end) = shape.clusters_of(Half::Second);
    for record in root
        .chunks_exact(32)
        .take_while(|record| record.first() != Some(&0))
    {
        let byte = |at: usize| u32::from(record.get(at).copied().unwrap_or(0));
        let number = |at: usize| byte(at) | byte(at + 1) << 8;
        let first = number(20) << 16 | number(26);
        // A deleted name, the label or a part of a long name, an empty file.
        if byte(0) == 0xe5 || byte(11) & 0x08 != 0 || first == 0 {
            continue;
        }
        let bytes = number(28) | number(30) << 16;
        let last = first.saturating_add(clusters_of(bytes.into()) - 1);
        let half = match (first < middle, last < middle) {
            (true, true) => Half::First,
            (false, false) if last < end => Half::Second,
            _ => return Err(FatError::Foreign),
        };
        match found {
            None => found = Some(half),
            Some(before) if before == half => {}
            Some(_) => return Err(FatError::Foreign),
        }
    }
    found.ok_or(FatError::Foreign)
}
