//! What the files of a data partition hold goes into an image, and is read back
//! from the disk while the rest is still being written: a stick is built at
//! about the speed of copying it.
//!
//! ```text
//! write -> sync -> read back -> sum the image -> sum the files
//!                      ^------- buffers -----------'
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
use rustix::fs::{Advice, SeekFrom, fadvise};

use super::ext4::{BLOCK, Placed};

/// What is read and summed at once. No page of the cache is larger, so that of
/// whole pieces all leave memory when they are told to.
const PIECE: u64 = 2 << 20;
/// At least so much is written before the disk is asked to keep it.
const SYNCED_AT_ONCE: u64 = 16 * PIECE;
/// Pieces that are written while the disk takes earlier ones: each time it takes
/// all there are, and who writes further has whoever reads wait longer.
const AHEAD: usize = 16;
/// Pieces between reading and the last sum.
const BUFFERS: usize = 8;
/// What a hole is read as.
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

/// An image whose structure is written, and all that is still to come.
pub struct Filling<'a> {
    /// The image.
    pub image: &'a File,
    /// Its bytes.
    pub bytes: u64,
    /// Where its data partition begins, in bytes.
    pub data: u64,
    /// The sum of what lies before that, see [`front`].
    pub front: Sha256,
    /// The partition's files, with their places there.
    pub files: &'a [Placed],
    /// Their digests, by path.
    pub sums: BTreeMap<&'a str, [u8; 32]>,
}

/// A part of a file that lies in one row on the medium. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    /// On the medium.
    place: u64,
    /// In the file.
    at: u64,
    /// Without what fills the last block.
    length: u64,
    /// Which file.
    file: usize,
}

/// The sum of an image's first `bytes`, which nobody writes any more. They are on
/// the disk then, and read from there; so is next what else was written until now.
pub fn front(image: &File, bytes: u64) -> anyhow::Result<Sha256> {
    image.sync_data().context("writing the image")?;
    fadvise(image, 0, None, Advice::DontNeed)?;
    let (mut sum, mut piece) = (Sha256::new(&SHA256), Piece::default());
    while piece.end() < bytes {
        piece.read_next(image, piece.end(), bytes)?;
        sum.update(piece.bytes());
    }
    Ok(sum)
}

impl Filling<'_> {
    /// Writes, reads back, compares every file with its digest, and returns the
    /// SHA-256 of the image, which is on the disk then, all of it: the last sync
    /// comes after the last write. `tell` hears how many bytes were read back.
    pub fn run(&self, tell: &mut dyn FnMut(u64)) -> anyhow::Result<String> {
        let rows = &self.rows();
        let (mark, written) = sync_channel(AHEAD);
        let (kept, on_disk) = channel();
        let (full, pieces) = channel();
        let (once, summed) = channel();
        let (again, empty) = channel();
        for _ in 0..BUFFERS {
            again.send(Piece::default())?;
        }
        thread::scope(|scope| {
            let writer = scope.spawn(move || self.write(rows, &mark));
            let syncer = scope.spawn(move || self.sync(&written, &kept));
            let reader = scope.spawn(move || self.read_back(&on_disk, &empty, &full));
            let front = self.front.clone();
            let sums = scope.spawn(move || sum(front, &pieces, &once));
            let (mut digests, mut rows, mut done) = (Digests::of(self), rows.as_slice(), 0);
            for piece in summed {
                let over = digests.take(rows, piece.at, piece.bytes());
                rows = rows.get(over..).unwrap_or_default();
                done = piece.end();
                tell(done);
                // At the end nobody needs one any more.
                let _ = again.send(piece);
            }
            drop(again);
            let lost = |_| anyhow::anyhow!("a part of the build ended by a fault; this is a bug");
            writer.join().map_err(lost)??;
            syncer.join().map_err(lost)??;
            reader.join().map_err(lost)??;
            let sha256 = sums.join().map_err(lost)?;
            ensure!(done == self.bytes, "not all was read back; this is a bug");
            digests.compare(self)?;
            Ok(sha256)
        })
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (file, placed) in self.files.iter().enumerate() {
            let mut at = 0;
            for (block, count) in &placed.runs {
                let length = (count * BLOCK).min(placed.bytes - at);
                let place = self.data + block * BLOCK;
                rows.push(Row {
                    place,
                    at,
                    length,
                    file,
                });
                at += length;
            }
        }
        rows.retain(|row| row.length > 0);
        rows.sort_unstable();
        rows
    }

    /// In the order of the medium; tells up to where everything is written.
    fn write(&self, rows: &[Row], written: &SyncSender<u64>) -> anyhow::Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        let mut open: Option<(usize, File)> = None;
        for row in rows {
            let placed = self.files.get(row.file).context("a file of no number")?;
            let reading = || format!("reading {}", placed.from.display());
            let file = match open.take() {
                Some((number, file)) if number == row.file => file,
                _ => File::open(&placed.from).with_context(reading)?,
            };
            let mut done = 0;
            while done < row.length {
                let length = usize::try_from((row.length - done).min(PIECE))?;
                let piece = buffer.get_mut(..length).unwrap_or_default();
                file.read_exact_at(piece, row.at + done)
                    .with_context(reading)?;
                self.image
                    .write_all_at(piece, row.place + done)
                    .context("writing the image")?;
                done += length as u64;
                // Who listened has failed and says why.
                if written.send(row.place + done).is_err() {
                    return Ok(());
                }
            }
            open = Some((row.file, file));
        }
        // Everything is; whoever ends without that has failed.
        let _ = written.send(self.bytes);
        Ok(())
    }

    /// Sees to it that what is written is on the disk, and out of memory, and tells
    /// up to where.
    fn sync(&self, written: &Receiver<u64>, kept: &Sender<u64>) -> anyhow::Result<()> {
        let mut synced = self.data / PIECE * PIECE;
        while let Ok(mark) = written.recv() {
            let mark = written.try_iter().last().unwrap_or(mark);
            let mark = match mark == self.bytes {
                true => mark,
                false => mark / PIECE * PIECE,
            };
            if mark < synced + SYNCED_AT_ONCE && mark < self.bytes {
                continue;
            }
            self.image.sync_data().context("writing the image")?;
            let length = (mark - synced).try_into().ok();
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
        on_disk: &Receiver<u64>,
        empty: &Receiver<Piece>,
        full: &Sender<Piece>,
    ) -> anyhow::Result<()> {
        let (mut at, mut safe) = (self.data, self.data);
        while at < self.bytes {
            while safe < next_end(at, self.bytes) {
                match on_disk.recv() {
                    Ok(mark) => safe = mark,
                    Err(_) => return Ok(()),
                }
            }
            let Ok(mut piece) = empty.recv() else {
                break;
            };
            piece.read_next(self.image, at, self.bytes)?;
            at = piece.end();
            if full.send(piece).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Where the piece at `at` ends.
fn next_end(at: u64, bytes: u64) -> u64 {
    (at / PIECE * PIECE + PIECE).min(bytes)
}

/// A part of the image as the disk has it.
#[derive(Default)]
struct Piece {
    at: u64,
    length: usize,
    hole: bool,
    buffer: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.at + self.length as u64
    }

    fn bytes(&self) -> &[u8] {
        let all = if self.hole {
            &ZEROS
        } else {
            self.buffer.as_slice()
        };
        all.get(..self.length).unwrap_or_default()
    }

    /// Becomes the piece at `at` of an image of so many bytes.
    fn read_next(&mut self, image: &File, at: u64, bytes: u64) -> anyhow::Result<()> {
        let end = next_end(at, bytes);
        (self.at, self.length) = (at, (end - at) as usize);
        // Of a hole the disk has nothing that could be read.
        self.hole = is_hole(image, at, end);
        if !self.hole {
            self.buffer.resize(PIECE as usize, 0);
            let room = self.buffer.get_mut(..self.length).unwrap_or_default();
            image
                .read_exact_at(room, at)
                .context("reading the image back")?;
        }
        Ok(())
    }
}

fn is_hole(image: &File, at: u64, end: u64) -> bool {
    match rustix::fs::seek(image, SeekFrom::Data(at)) {
        Ok(data) => data >= end,
        Err(error) => error == rustix::io::Errno::NXIO,
    }
}

fn sum(mut sum: Sha256, pieces: &Receiver<Piece>, summed: &Sender<Piece>) -> String {
    for piece in pieces {
        sum.update(piece.bytes());
        if summed.send(piece).is_err() {
            break;
        }
    }
    data_encoding::HEXLOWER.encode(sum.finish().as_ref())
}

/// The files' digests as their rows are read. A file whose rows do not follow
/// each other on the medium is read once more at the end.
struct Digests(Vec<(Sha256, u64)>);

impl Digests {
    fn of(filling: &Filling<'_>) -> Self {
        let none = |_| (Sha256::new(&SHA256), 0);
        Self(filling.files.iter().map(none).collect())
    }

    /// Takes what a piece at `at` has of these rows; how many of them are over.
    fn take(&mut self, rows: &[Row], at: u64, piece: &[u8]) -> usize {
        let end = at + piece.len() as u64;
        let mut over = 0;
        for row in rows.iter().take_while(|row| row.place < end) {
            let (first, last) = (row.place.max(at), (row.place + row.length).min(end));
            let inside = piece.get((first - at) as usize..last.saturating_sub(at) as usize);
            if let (Some(bytes), Some((sum, fed))) = (inside, self.0.get_mut(row.file))
                && *fed == row.at + (first - row.place)
            {
                sum.update(bytes);
                *fed += bytes.len() as u64;
            }
            over += usize::from(row.place + row.length <= end);
        }
        over
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
        let bytes = 40 << 20;
        image.set_len(bytes).unwrap();
        image.write_all_at(b"before", 4000).unwrap();
        let mut sums = BTreeMap::from([
            ("/long", digest(&long)),
            ("/back", digest(&long[..8192])),
            ("/small", digest(b"x")),
        ]);
        let filling = |sums| Filling {
            image: &image,
            bytes,
            data: 1 << 20,
            front: front(&image, 1 << 20).unwrap(),
            files: &files,
            sums,
        };
        let mut told = 0;
        let sha256 = filling(sums.clone()).run(&mut |done| told = done).unwrap();
        assert_eq!(told, bytes);
        let mut whole = vec![0; bytes as usize];
        image.read_exact_at(&mut whole, 0).unwrap();
        assert_eq!(sha256, data_encoding::HEXLOWER.encode(&digest(&whole)));
        let at = |block: usize| (1 << 20) + block * 4096;
        assert!(whole[at(700)..at(1700)] == long[..1000 * 4096]);
        assert!(whole[at(20)..at(21)] == long[..4096] && whole[at(10)..at(11)] == long[4096..8192]);
        assert_eq!(&whole[4000..4006], b"before");
        sums.insert("/small", digest(b"y"));
        let error = filling(sums).run(&mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("/small is not on the stick"), "{error}");
    }
}
