//! What the files of a data partition hold goes into an image, and is read back
//! from the disk while the rest is still being written: a stick is built at
//! about the speed of copying it.
//!
//! ```text
//! write -> sync -> read back -> digest
//!                      ^- buffers -'
//! ```
//!
//! A thread each, so that disk and processors are never waiting for one another.
//! Whoever fails ends, the channels end the others, and [`Filling::run`] asks in
//! that order who it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use anyhow::{Context as _, ensure};
use ring::digest::{Context as Sha256, SHA256};
use rustix::fs::{Advice, fadvise};

use super::ext4::{BLOCK, Placed};
use super::meanwhile::joined;

/// What is written, read and digested at once. No page of the cache is larger, so
/// that of whole pieces all leave memory when they are told to.
const PIECE: u64 = 2 << 20;
/// At least so much is written before the disk is asked to keep it.
const SYNCED_AT_ONCE: u64 = 16 * PIECE;
/// Pieces that are written while the disk takes earlier ones: each time it takes
/// all there are, and who writes further has whoever reads wait longer.
const AHEAD: usize = 16;
/// Pieces between reading and digesting.
const BUFFERS: usize = 8;
/// Behind every piece: everything is written.
const ALL: u64 = u64::MAX;

/// An image whose structure is written, and files that it does not hold yet.
pub struct Filling<'a> {
    /// The image.
    pub image: &'a File,
    /// Where its data partition begins, in bytes.
    pub data: u64,
    /// The files, with their places there.
    pub files: &'a [Placed],
    /// Their digests, by path.
    pub sums: BTreeMap<&'a str, [u8; 32]>,
}

/// A part of a file that lies in one row on the medium, in bytes. Sorted by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    /// On the medium.
    place: u64,
    /// In the file.
    at: u64,
    /// At most [`PIECE`], and without what fills the last block.
    length: usize,
    /// Which file.
    file: usize,
}

impl Piece {
    const fn end(&self) -> u64 {
        self.place + self.length as u64
    }
}

impl Filling<'_> {
    /// Writes, reads back, and compares every file with its digest. All that was
    /// written to the image is on the disk then: the last sync comes after the last
    /// write. `tell` hears how many bytes were read back.
    pub fn run(&self, tell: &mut dyn FnMut(u64)) -> anyhow::Result<()> {
        let pieces = &self.pieces();
        let (mark, written) = sync_channel(AHEAD);
        let (kept, on_disk) = channel();
        let (full, read) = channel();
        let (again, empty) = channel();
        for _ in 0..BUFFERS {
            again.send(Vec::new())?;
        }
        thread::scope(|scope| {
            let writer = scope.spawn(move || self.write(pieces, &mark));
            let syncer = scope.spawn(move || self.sync(&written, &kept));
            let reader = scope.spawn(move || self.read_back(pieces, &on_disk, &empty, &full));
            let (mut digests, mut done) = (Digests::of(self), 0);
            for (piece, buffer) in pieces.iter().zip(read) {
                digests.take(piece, &buffer);
                done += buffer.len() as u64;
                tell(done);
                // At the end nobody needs one any more.
                let _ = again.send(buffer);
            }
            drop(again);
            joined(writer)?;
            joined(syncer)?;
            joined(reader)?;
            digests.compare(self)
        })
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (file, placed) in self.files.iter().enumerate() {
            let mut at = 0;
            for (block, count) in &placed.runs {
                let mut place = self.data + block * BLOCK;
                let end = at + (count * BLOCK).min(placed.bytes - at);
                while at < end {
                    let length = (end - at).min(PIECE);
                    pieces.push(Piece {
                        place,
                        at,
                        length: length as usize,
                        file,
                    });
                    at += length;
                    place += length;
                }
            }
        }
        pieces.sort_unstable();
        pieces
    }

    /// In the order of the medium; tells up to where everything is written.
    fn write(&self, pieces: &[Piece], written: &SyncSender<u64>) -> anyhow::Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        let mut open: Option<(usize, File)> = None;
        for piece in pieces {
            let placed = self.files.get(piece.file).context("a file of no number")?;
            let reading = || format!("reading {}", placed.from.display());
            let file = match open.take() {
                Some((number, file)) if number == piece.file => file,
                _ => File::open(&placed.from).with_context(reading)?,
            };
            let content = buffer.get_mut(..piece.length).unwrap_or_default();
            file.read_exact_at(content, piece.at)
                .with_context(reading)?;
            self.image
                .write_all_at(content, piece.place)
                .context("writing the image")?;
            // Who listened has failed and says why.
            if written.send(piece.end()).is_err() {
                return Ok(());
            }
            open = Some((piece.file, file));
        }
        // Whoever ends without that has failed.
        let _ = written.send(ALL);
        Ok(())
    }

    /// Sees to it that what is written is on the disk, and out of memory, and tells
    /// up to where.
    fn sync(&self, written: &Receiver<u64>, kept: &Sender<u64>) -> anyhow::Result<()> {
        let mut synced = self.data / PIECE * PIECE;
        while let Ok(mark) = written.recv() {
            let mark = match written.try_iter().last().unwrap_or(mark) {
                ALL => ALL,
                mark => mark / PIECE * PIECE,
            };
            if mark < synced + SYNCED_AT_ONCE {
                continue;
            }
            self.image.sync_data().context("writing the image")?;
            // As no length at all is: up to the end.
            let length = (mark - synced).try_into().ok().filter(|_| mark < ALL);
            fadvise(self.image, synced, length, Advice::DontNeed)?;
            if kept.send(mark).is_err() {
                break;
            }
            synced = mark;
        }
        Ok(())
    }

    /// Piece by piece behind the disk.
    fn read_back(
        &self,
        pieces: &[Piece],
        on_disk: &Receiver<u64>,
        empty: &Receiver<Vec<u8>>,
        full: &Sender<Vec<u8>>,
    ) -> anyhow::Result<()> {
        let mut safe = 0;
        for piece in pieces {
            while safe < piece.end() {
                match on_disk.recv() {
                    Ok(mark) => safe = mark,
                    Err(_) => return Ok(()),
                }
            }
            let Ok(mut buffer) = empty.recv() else {
                break;
            };
            buffer.resize(piece.length, 0);
            self.image
                .read_exact_at(&mut buffer, piece.place)
                .context("reading the image back")?;
            if full.send(buffer).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The files' digests as their pieces are read. A file whose pieces do not follow
/// each other on the medium is read once more at the end.
struct Digests(Vec<(Sha256, u64)>);

impl Digests {
    fn of(filling: &Filling<'_>) -> Self {
        let none = |_| (Sha256::new(&SHA256), 0);
        Self(filling.files.iter().map(none).collect())
    }

    fn take(&mut self, piece: &Piece, content: &[u8]) {
        if let Some((sum, fed)) = self.0.get_mut(piece.file)
            && *fed == piece.at
        {
            sum.update(content);
            *fed += content.len() as u64;
        }
    }

    fn compare(self, filling: &Filling<'_>) -> anyhow::Result<()> {
        for (file, (sum, fed)) in filling.files.iter().zip(self.0) {
            let found = match fed == file.bytes {
                true => sum.finish(),
                false => read_again(filling, file)?,
            };
            let path = file.path.as_str();
            let wanted = filling.sums.get(path).context("a file without a digest")?;
            ensure!(
                found.as_ref() == wanted,
                "{} is not on the stick as it should be: either {} was changed, or the disk does not \
                 hold what was written to it",
                file.path,
                file.from.display()
            );
        }
        Ok(())
    }
}

fn read_again(filling: &Filling<'_>, file: &Placed) -> anyhow::Result<ring::digest::Digest> {
    let (mut sum, mut left) = (Sha256::new(&SHA256), file.bytes);
    let mut buffer = vec![0; BLOCK as usize];
    for block in file
        .runs
        .iter()
        .flat_map(|(first, count)| *first..first + count)
    {
        let place = filling.data + block * BLOCK;
        filling.image.read_exact_at(&mut buffer, place)?;
        let length = left.min(BLOCK);
        sum.update(buffer.get(..length as usize).unwrap_or_default());
        left -= length;
    }
    Ok(sum.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(folder: &std::path::Path, name: &str, bytes: &[u8], runs: &[(u64, u64)]) -> Placed {
        let from = folder.join(name);
        std::fs::write(&from, bytes).unwrap();
        Placed {
            from,
            path: format!("/{name}"),
            bytes: bytes.len() as u64,
            runs: runs.to_vec(),
        }
    }

    fn digest(bytes: &[u8]) -> [u8; 32] {
        ring::digest::digest(&SHA256, bytes)
            .as_ref()
            .try_into()
            .unwrap()
    }

    #[test]
    fn files_in_any_order_come_out_whole_and_a_changed_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..9_000_001_u32).map(|n| (n / 5) as u8).collect();
        let files = [
            placed(folder.path(), "long", &long, &[(700, 1000), (1800, 1198)]),
            // Its second half lies before its first one.
            placed(folder.path(), "back", &long[..8192], &[(20, 1), (10, 1)]),
            placed(folder.path(), "small", b"x", &[(1700, 1)]),
        ];
        let image = tempfile::tempfile().unwrap();
        image.set_len(40 << 20).unwrap();
        image.write_all_at(b"before", 4000).unwrap();
        let mut sums = BTreeMap::from([
            ("/long", digest(&long)),
            ("/back", digest(&long[..8192])),
            ("/small", digest(b"x")),
        ]);
        let filling = |sums| Filling {
            image: &image,
            data: 1 << 20,
            files: &files,
            sums,
        };
        let mut told = 0;
        filling(sums.clone()).run(&mut |done| told = done).unwrap();
        assert_eq!(told, 9_000_001 + 8192 + 1);
        let mut whole = vec![0; 40 << 20];
        image.read_exact_at(&mut whole, 0).unwrap();
        let at = |block: usize| (1 << 20) + block * 4096;
        assert!(whole[at(700)..at(1700)] == long[..1000 * 4096]);
        assert!(whole[at(20)..at(21)] == long[..4096] && whole[at(10)..at(11)] == long[4096..8192]);
        assert_eq!(&whole[4000..4006], b"before");
        sums.insert("/small", digest(b"y"));
        let error = filling(sums).run(&mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("/small is not on the stick"), "{error}");
    }
}
