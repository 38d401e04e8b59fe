//! What is written to a medium, in an order in which it may be pulled at any
//! moment: writes, and between them points before which everything must be on
//! the medium. A list and not a procedure, so that a test can stop after every
//! write and lose what the medium had not been asked to keep.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use anyhow::{Context as _, ensure};

const PIECE: usize = 4 << 20;

/// Writes and the points between them.
#[derive(Clone, Debug, Default)]
pub struct Steps(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, from: Source },
    Sync,
}

#[derive(Clone, Debug)]
enum Source {
    Bytes(Vec<u8>),
    File {
        file: Arc<File>,
        at: u64,
        bytes: u64,
    },
}

impl Source {
    const fn bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// Hands all of it on in pieces, with the distance from its beginning.
    fn each(&self, mut take: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let (file, at, bytes) = match self {
            Self::Bytes(bytes) => return take(0, bytes),
            Self::File { file, at, bytes } => (file, *at, *bytes),
        };
        let mut buffer = vec![0; PIECE.min(usize::try_from(bytes).unwrap_or(PIECE))];
        let mut done = 0;
        while done < bytes {
            let length = usize::try_from(bytes - done)
                .unwrap_or(PIECE)
                .min(buffer.len());
            let piece = buffer.get_mut(..length).unwrap_or_default();
            file.read_exact_at(piece, at + done)?;
            take(done, piece)?;
            done += length as u64;
        }
        Ok(())
    }
}

impl Steps {
    /// Bytes go to `at`.
    pub fn write(&mut self, at: u64, bytes: Vec<u8>) {
        let from = Source::Bytes(bytes);
        self.0.push(Step::Write { at, from });
    }

    /// So many bytes of a file, from `start` on, go to `at`.
    pub fn copy(&mut self, at: u64, file: &Arc<File>, start: u64, bytes: u64) {
        let file = Arc::clone(file);
        let from = Source::File {
            file,
            at: start,
            bytes,
        };
        self.0.push(Step::Write { at, from });
    }

    /// What was written up to here is on the medium before anything that follows.
    pub fn sync(&mut self) {
        self.0.push(Step::Sync);
    }

    /// The steps of `more` come behind these.
    pub fn then(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Bytes that are written.
    pub fn bytes(&self) -> u64 {
        let writes = self.0.iter().map(|step| match step {
            Step::Write { from, .. } => from.bytes(),
            Step::Sync => 0,
        });
        writes.sum()
    }

    /// Writes it all, synced at the end; `tell` hears how many bytes are done.
    pub fn carry_out(&self, medium: &File, tell: &mut dyn FnMut(u64)) -> anyhow::Result<()> {
        let refused = "the stick refuses to be written: is it write-protected or worn out?";
        let mut done = 0;
        for step in &self.0 {
            match step {
                Step::Sync => medium.sync_data().context(refused)?,
                Step::Write { at, from } => {
                    let writing = |distance, piece: &[u8]| {
                        medium.write_all_at(piece, at + distance)?;
                        done += piece.len() as u64;
                        tell(done);
                        Ok(())
                    };
                    from.each(writing).context(refused)?;
                }
            }
        }
        medium.sync_all().context(refused)
    }

    /// Reads everything back that no later write replaced.
    pub fn verify(&self, medium: &File) -> anyhow::Result<()> {
        let mut later: Vec<(u64, u64)> = Vec::new();
        for step in self.0.iter().rev() {
            let Step::Write { at, from } = step else {
                continue;
            };
            let range = (*at, at + from.bytes());
            let replaced = |(first, end): &(u64, u64)| range.0 < *end && *first < range.1;
            if !later.iter().any(replaced) {
                let mut found = Vec::new();
                let mut same = true;
                from.each(|distance, piece| {
                    found.resize(piece.len(), 0);
                    medium.read_exact_at(&mut found, at + distance)?;
                    same &= found == piece;
                    Ok(())
                })?;
                ensure!(
                    same,
                    "the stick does not hold at {at} what was written to it: it is worn out"
                );
            }
            later.push(range);
        }
        Ok(())
    }
}

/// What a medium holds that was pulled.
#[cfg(test)]
pub mod cut {
    use super::{Step, Steps};

    impl Steps {
        /// How many moments there are to pull it: one behind each write.
        pub fn moments(&self) -> usize {
            self.0.len() + 1
        }

        /// Applies the first `count` steps to an image. Of the writes behind the
        /// last sync only those blocks stay that `stays` says. A block is 4 KiB, or
        /// a write that is less: ext4 itself relies on its superblock being whole.
        pub fn pulled(&self, image: &mut [u8], count: usize, mut stays: impl FnMut() -> bool) {
            let steps = self.0.get(..count).unwrap_or(&self.0);
            let synced = steps.iter().rposition(|step| matches!(step, Step::Sync));
            for (number, step) in steps.iter().enumerate() {
                let Step::Write { at, from } = step else {
                    continue;
                };
                let sure = synced.is_some_and(|synced| number < synced);
                from.each(|distance, piece| {
                    for (block, bytes) in piece.chunks(4096).enumerate() {
                        if sure || stays() {
                            let begin = (at + distance) as usize + block * 4096;
                            image[begin..begin + bytes.len()].copy_from_slice(bytes);
                        }
                    }
                    Ok(())
                })
                .unwrap();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_in_order_and_read_back() {
        let from = Arc::new(tempfile::tempfile().unwrap());
        from.write_all_at(b"0123456789", 0).unwrap();
        let medium = tempfile::tempfile().unwrap();
        medium.set_len(32).unwrap();
        let mut steps = Steps::default();
        steps.write(0, b"old".to_vec());
        steps.sync();
        steps.copy(10, &from, 2, 5);
        let mut end = Steps::default();
        end.write(0, b"new".to_vec());
        steps.then(end);
        let mut told = Vec::new();
        steps
            .carry_out(&medium, &mut |done| told.push(done))
            .unwrap();
        assert_eq!((told, steps.bytes()), (vec![3, 8, 11], 11));
        let mut found = [0; 15];
        medium.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"new\0\0\0\0\0\0\x0023456");
        steps.verify(&medium).unwrap();
        medium.write_all_at(b"X", 12).unwrap();
        let error = steps.verify(&medium).unwrap_err().to_string();
        assert!(error.contains("at 10"), "{error}");
    }

    #[test]
    fn a_full_medium_is_an_error_with_words() {
        let mut steps = Steps::default();
        steps.write(0, vec![0; 10]);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let error = steps.carry_out(&full.unwrap(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("refuses"), "{error:#}");
    }
}
