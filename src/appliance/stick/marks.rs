//! Whether a medium holds as much as it says. Counterfeits say 64 GiB and hold
//! 8: what is written behind is lost, or lies over what was written before.
//!
//! So every power of two gets a mark that nothing else has, and the medium's
//! end, too: address lines that a memory does not have lead from one power of
//! two to another, or to the beginning. What was there comes back afterwards.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use ring::digest::{Context as Sha256, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::build;

/// What is written at once: a block of any medium.
const BLOCK: u64 = 4096;

/// What can be marked.
pub trait Blocks {
    /// Reads all of `into`.
    fn get(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes`.
    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// What was written is on the medium, and read from there next.
    fn settle(&self) -> anyhow::Result<()>;
}

impl Blocks for File {
    fn get(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, at)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn settle(&self) -> anyhow::Result<()> {
        self.sync_all()?;
        build::forget(self)
    }
}

/// Marks on a medium, and what was in their places.
pub struct Marks<'a, B> {
    medium: &'a B,
    path: &'a Path,
    run: [u8; 32],
    before: Vec<(u64, Vec<u8>)>,
}

impl<'a, B: Blocks> Marks<'a, B> {
    /// Marks a medium of `bytes` from `from` on.
    pub fn set(medium: &'a B, path: &'a Path, from: u64, bytes: u64) -> anyhow::Result<Self> {
        let mut run = [0; 32];
        let filled = SystemRandom::new().fill(&mut run);
        filled.map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        let mut before = Vec::new();
        for at in places(bytes).into_iter().filter(|at| *at >= from) {
            let mut block = vec![0; BLOCK as usize];
            let read = medium.get(at, &mut block);
            read.with_context(|| format!("reading {} at {} MiB", path.display(), at >> 20))?;
            before.push((at, block));
        }
        let marks = Self {
            medium,
            path,
            run,
            before,
        };
        for (at, _) in &marks.before {
            marks.put(*at, &marks.mark(*at))?;
        }
        medium.settle()?;
        Ok(marks)
    }

    /// Reads them, and puts back what was there: with the next sync, which the
    /// end of every build is.
    pub fn check(self) -> anyhow::Result<()> {
        let lost = self.lost();
        for (at, before) in &self.before {
            self.put(*at, before)?;
        }
        match lost? {
            None => Ok(()),
            Some(at) => bail!(
                "{} does not keep what is written to it at {} MiB: it is a counterfeit that holds \
                 less than it says, or worn out; take another one",
                self.path.display(),
                at >> 20
            ),
        }
    }

    /// Where a mark is not what it was. One that lies over another is told by
    /// the higher place of the two, which the medium does not have.
    fn lost(&self) -> anyhow::Result<Option<u64>> {
        let mut found = vec![0; BLOCK as usize];
        for (at, _) in &self.before {
            let read = self.medium.get(*at, &mut found);
            read.with_context(|| self.reading(*at))?;
            if found != self.mark(*at) {
                let over = self.before.iter().map(|(other, _)| *other);
                let over = over.filter(|other| found == self.mark(*other)).max();
                return Ok(over.max(Some(*at)));
            }
        }
        Ok(None)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let writing = || format!("writing {} at {} MiB", self.path.display(), at >> 20);
        self.medium.put(at, bytes).with_context(writing)
    }

    fn reading(&self, at: u64) -> String {
        format!("reading {} at {} MiB", self.path.display(), at >> 20)
    }

    fn mark(&self, at: u64) -> Vec<u8> {
        let mut context = Sha256::new(&SHA256);
        context.update(&self.run);
        context.update(&at.to_be_bytes());
        context.finish().as_ref().repeat(BLOCK as usize / 32)
    }
}

/// The beginning, every power of two, and the last block.
fn places(bytes: u64) -> BTreeSet<u64> {
    let end = bytes / BLOCK * BLOCK;
    let powers = (BLOCK.ilog2()..u64::BITS).map(|bit| 1_u64 << bit);
    let mut places: BTreeSet<u64> = powers.take_while(|at| *at < end).collect();
    places.insert(0);
    places.insert(end.saturating_sub(BLOCK));
    places
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const SAID: u64 = 32 << 20;

    /// A memory of `real` bytes; what lies behind wraps around, or is lost.
    struct Fake {
        memory: RefCell<Vec<u8>>,
        wraps: bool,
    }

    impl Fake {
        fn new(real: u64, wraps: bool) -> Self {
            let memory = (0..real).map(|at| (at / 4096 * 7) as u8).collect();
            Self {
                memory: RefCell::new(memory),
                wraps,
            }
        }

        fn place(&self, at: u64) -> Option<usize> {
            let real = self.memory.borrow().len();
            let at = at as usize;
            (at < real || self.wraps).then_some(at % real)
        }

        fn checked(&self) -> anyhow::Result<()> {
            Marks::set(self, Path::new("/dev/sdb"), 0, SAID)?.check()
        }
    }

    impl Blocks for Fake {
        fn get(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
            match self.place(at) {
                Some(at) => into.copy_from_slice(&self.memory.borrow()[at..at + into.len()]),
                None => into.fill(0),
            }
            Ok(())
        }

        fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
            if let Some(at) = self.place(at) {
                self.memory.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Ok(())
        }

        fn settle(&self) -> anyhow::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_holds_less_than_it_says_is_found_and_left_as_it_was() {
        for (real, wraps) in [(4 << 20, true), (16 << 20, true), (20 << 20, false)] {
            let fake = Fake::new(real, wraps);
            let before = fake.memory.borrow().clone();
            let error = fake.checked().unwrap_err().to_string();
            assert!(error.contains("counterfeit"), "{error}");
            assert!(fake.memory.borrow().as_slice() == before, "{real}");
        }
        let good = Fake::new(SAID, false);
        let before = good.memory.borrow().clone();
        good.checked().unwrap();
        assert!(good.memory.borrow().as_slice() == before);
    }

    #[test]
    fn marks_behind_the_image_are_lost_where_the_image_lies_over_them() {
        // A memory that wraps at no power of two.
        let fake = Fake::new(15 << 20, true);
        let path = Path::new("/dev/sdb");
        let marks = Marks::set(&fake, path, 15 << 20, SAID).unwrap();
        fake.put(0, &vec![1; 15 << 20]).unwrap();
        assert!(marks.check().is_err());
    }

    #[test]
    fn places_reach_from_the_beginning_to_the_end() {
        let all: Vec<u64> = places(20_000).into_iter().collect();
        assert_eq!(all, [0, 4096, 8192, 12_288]);
        assert!(places(1 << 40).len() < 35);
    }
}
