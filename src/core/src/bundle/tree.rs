//! The content tree's archive: plain ustar (POSIX.1-1988), one regular file
//! after the other in the configuration's order, nothing else.
//!
//! The same configuration gives the same bytes: times, owners and device
//! numbers are 0. So a reader needs no archive parser: it knows each header
//! beforehand and compares 512 bytes. Whatever differs (another path, size,
//! kind of entry, a long name, a sparse map) is refused by that one
//! comparison, and no length is ever taken from the archive.

use std::convert::Infallible;

use super::config::FileEntry;
use super::path::RelPath;
use crate::digest::{Digest, Hasher};
use crate::ids::shown;

/// The unit of an archive, bytes.
pub const BLOCK: usize = 512;
/// What ends an archive.
pub const TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The header of an entry.
pub fn header(entry: &FileEntry) -> [u8; BLOCK] {
    let (prefix, name) = entry.path.tar_fields();
    let mut block = Block([0; BLOCK]);
    block.put(0, name.as_bytes());
    block.put(100, format!("{:07o}", entry.mode.bits()).as_bytes());
    block.put(108, b"0000000");
    block.put(116, b"0000000");
    block.put(124, format!("{:011o}", entry.size).as_bytes());
    block.put(136, b"00000000000");
    block.put(148, b"        ");
    block.put(156, b"0");
    block.put(257, b"ustar\x0000");
    block.put(329, b"0000000");
    block.put(337, b"0000000");
    block.put(345, prefix.as_bytes());
    let sum: u32 = block.0.iter().map(|&byte| u32::from(byte)).sum();
    block.put(148, format!("{sum:06o}\0 ").as_bytes());
    block.0
}

/// Zero bytes that follow content of `size` bytes.
pub fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    (BLOCK - over) % BLOCK
}

struct Block([u8; BLOCK]);

impl Block {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// What an [`Unpacker`] has found.
#[derive(Debug)]
pub enum Event<'a> {
    /// A file begins.
    Begin(&'a FileEntry),
    /// The next bytes of it. Not verified yet.
    Data(&'a [u8]),
    /// The file is complete and its digest is right.
    End(&'a FileEntry),
}

/// An archive that is not the one expected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError<E> {
    /// An entry that is not the next one of the configuration.
    #[error("the content tree holds `{found}` where `{expected}` was expected")]
    Entry {
        /// The configuration's next file.
        expected: RelPath,
        /// What the header says, as far as it can be shown.
        found: String,
    },
    /// The content is not what the configuration says.
    #[error(
        "`{path}` in the content tree is not what the configuration names: expected {expected}, found {found}"
    )]
    Digest {
        /// The file.
        path: RelPath,
        /// The configuration's digest.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Bytes other than zero between or after the entries, or more of them
    /// than belong there.
    #[error("the content tree holds more than the configuration names")]
    Extra,
    /// It ends too early.
    #[error("the content tree is cut short")]
    Short,
    /// What the caller does with the content failed.
    #[error(transparent)]
    Sink(E),
}

enum State {
    Header,
    Data { left: u64 },
    Zeros { left: usize, last: bool },
    Done,
}

/// Reads an archive from pieces of any size. Memory: one block.
pub struct Unpacker<'a> {
    entries: std::vec::IntoIter<&'a FileEntry>,
    current: Option<&'a FileEntry>,
    hasher: Hasher,
    block: Vec<u8>,
    state: State,
}

impl<'a> Unpacker<'a> {
    /// Expects exactly these files, in this order.
    pub fn new(entries: Vec<&'a FileEntry>) -> Self {
        let mut unpacker = Self {
            entries: entries.into_iter(),
            current: None,
            hasher: Hasher::new(),
            block: Vec::with_capacity(BLOCK),
            state: State::Done,
        };
        unpacker.next_entry();
        unpacker
    }

    /// Takes in the next bytes.
    pub fn feed<E>(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), TreeError<E>> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Header => self.header(bytes, sink)?,
                State::Data { left } => self.data(bytes, left, sink)?,
                State::Zeros { left, last } => self.zeros(bytes, left, last)?,
                State::Done => return Err(TreeError::Extra),
            };
        }
        Ok(())
    }

    /// Says whether the archive was complete.
    pub fn finish(self) -> Result<(), TreeError<Infallible>> {
        match self.state {
            State::Done => Ok(()),
            _ => Err(TreeError::Short),
        }
    }

    fn next_entry(&mut self) {
        self.current = self.entries.next();
        self.state = match self.current {
            Some(_) => State::Header,
            None => State::Zeros {
                left: TRAILER.len(),
                last: true,
            },
        };
    }

    fn header<'b, E>(
        &mut self,
        bytes: &'b [u8],
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<&'b [u8], TreeError<E>> {
        let missing = BLOCK - self.block.len();
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.block.extend_from_slice(taken);
        let Some(entry) = self.current.filter(|_| self.block.len() == BLOCK) else {
            return Ok(rest);
        };
        if self.block != header(entry) {
            let found = entry_name(&self.block);
            return Err(TreeError::Entry {
                expected: entry.path.clone(),
                found,
            });
        }
        self.block.clear();
        sink(Event::Begin(entry)).map_err(TreeError::Sink)?;
        self.state = State::Data { left: entry.size };
        if entry.size == 0 {
            self.end(entry, sink)?;
        }
        Ok(rest)
    }

    fn data<'b, E>(
        &mut self,
        bytes: &'b [u8],
        left: u64,
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<&'b [u8], TreeError<E>> {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let (taken, rest) = bytes.split_at(take);
        self.hasher.update(taken);
        sink(Event::Data(taken)).map_err(TreeError::Sink)?;
        let left = left - take as u64;
        self.state = State::Data { left };
        if let Some(entry) = self.current.filter(|_| left == 0) {
            self.end(entry, sink)?;
        }
        Ok(rest)
    }

    fn end<E>(
        &mut self,
        entry: &FileEntry,
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), TreeError<E>> {
        let found = std::mem::take(&mut self.hasher).finish();
        if found != entry.digest {
            return Err(TreeError::Digest {
                path: entry.path.clone(),
                expected: entry.digest,
                found,
            });
        }
        sink(Event::End(entry)).map_err(TreeError::Sink)?;
        match padding(entry.size) {
            0 => self.next_entry(),
            left => self.state = State::Zeros { left, last: false },
        }
        Ok(())
    }

    fn zeros<'b, E>(
        &mut self,
        bytes: &'b [u8],
        left: usize,
        last: bool,
    ) -> Result<&'b [u8], TreeError<E>> {
        let (taken, rest) = bytes.split_at(left.min(bytes.len()));
        if taken.iter().any(|&byte| byte != 0) {
            return Err(TreeError::Extra);
        }
        match left - taken.len() {
            0 if last => self.state = State::Done,
            0 => self.next_entry(),
            left => self.state = State::Zeros { left, last },
        }
        Ok(rest)
    }
}

fn entry_name(block: &[u8]) -> String {
    let name = block
        .get(..100)
        .unwrap_or_default()
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    let kind = block.get(156).copied().unwrap_or_default();
    let text = shown(&String::from_utf8_lossy(name));
    match kind {
        b'0' | 0 => text,
        kind => format!("{text} (entry type {:?})", char::from(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::config::Stored;
    use crate::bundle::path::Mode;
    use proptest::prelude::*;

    fn entry(path: &str, content: &[u8]) -> FileEntry {
        FileEntry {
            path: path.parse().unwrap(),
            digest: Digest::of(content),
            size: content.len() as u64,
            mode: Mode::FILE,
            stored: Stored::Tree,
        }
    }

    fn pack(files: &[(FileEntry, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (entry, content) in files {
            out.extend(header(entry));
            out.extend(content);
            out.extend(vec![0; padding(entry.size)]);
        }
        out.extend(TRAILER);
        out
    }

    fn unpack(
        files: &[(FileEntry, Vec<u8>)],
        bytes: &[u8],
        step: usize,
    ) -> Result<Vec<Vec<u8>>, TreeError<Infallible>> {
        let mut unpacker = Unpacker::new(files.iter().map(|(entry, _)| entry).collect());
        let mut found: Vec<Vec<u8>> = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            unpacker.feed(piece, &mut |event| {
                match event {
                    Event::Begin(_) => found.push(Vec::new()),
                    Event::Data(data) => found.last_mut().unwrap().extend(data),
                    Event::End(_) => {}
                }
                Ok(())
            })?;
        }
        unpacker.finish()?;
        Ok(found)
    }

    fn sample() -> Vec<(FileEntry, Vec<u8>)> {
        [("a", vec![1; 700]), ("b/c", vec![]), ("d", vec![2; 512])]
            .into_iter()
            .map(|(path, content)| (entry(path, &content), content))
            .collect()
    }

    #[test]
    fn entries_of_other_kinds_are_refused() {
        let files = sample();
        let good = pack(&files);
        assert_eq!(unpack(&files, &good, 100).unwrap()[0], vec![1; 700]);
        for (at, byte, why) in [
            (156, b'2', "entry type '2'"), // a symlink
            (156, b'1', "entry type '1'"),
            (156, b'5', "entry type '5'"),
            (156, b'L', "entry type 'L'"), // GNU long name
            (156, b'x', "entry type 'x'"), // pax
            (0, b'/', "holds `/`"),
            (100, b'7', "holds `a`"),
            (130, b'7', "holds `a`"), // a size that would be a bomb
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            let told = unpack(&files, &bad, 512).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn missing_and_extra_entries_are_refused() {
        let files = sample();
        let good = pack(&files);
        assert_eq!(
            unpack(&files, &good[..good.len() - 1], 64),
            Err(TreeError::Short)
        );
        assert_eq!(
            unpack(&files, &[good.as_slice(), &[0]].concat(), 64),
            Err(TreeError::Extra)
        );
        assert!(matches!(
            unpack(&files[..2], &good, 64),
            Err(TreeError::Extra)
        ));
        assert!(matches!(
            unpack(&files, &pack(&files[1..]), 64),
            Err(TreeError::Entry { .. })
        ));
        let mut content = good.clone();
        content[600] ^= 1;
        assert!(matches!(
            unpack(&files, &content, 64),
            Err(TreeError::Digest { .. })
        ));
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 0..6), step in 1usize..2000) {
            let files: Vec<_> = contents.into_iter().enumerate().map(|(n, c)| (entry(&format!("f{n}"), &c), c)).collect();
            let out = unpack(&files, &pack(&files), step).unwrap();
            prop_assert_eq!(out, files.into_iter().map(|(_, c)| c).collect::<Vec<_>>());
        }

        #[test]
        fn any_changed_byte_is_noticed(at in 0usize..4096, flip in 1u8..=255, step in 1usize..2000) {
            let files = sample();
            let mut bytes = pack(&files);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(unpack(&files, &bytes, step).is_err());
        }
    }
}
