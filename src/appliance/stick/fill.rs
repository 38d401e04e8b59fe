//! What the files of a data partition hold goes into an image, and is read back
//! from the disk while the rest is still being written: a stick is built at
//! about the speed of copying it.
//!
//! Three threads: one writes in the order of the medium; one follows, sees to it
//! that a window is on the disk and out of memory, and reads it back for the
//! files' digests; one sums the whole image.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, bail, ensure};
use ring::digest::{Context as Sha256, SHA256};
use rustix::fs::{Advice, SeekFrom, fadvise};

use super::ext4::{BLOCK, Placed};

/// What is read and summed at once.
const PIECE: u64 = 2 << 20;
/// What is on the disk before it is read back.
const WINDOW: u64 = 32 * PIECE;
/// Pieces that wait to be summed.
const WAITING: usize = 4;

/// An image whose structure is written, and all that is still to come.
pub struct Filling<'a> {
    /// The image.
    pub image: &'a File,
    /// Its bytes.
    pub bytes: u64,
    /// Where its data partition begins, in bytes.
    pub data: u64,
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

impl Filling<'_> {
    /// Writes, reads back, compares every file with its digest, and returns the
    /// SHA-256 of the image. `tell` hears how many bytes were read back.
    pub fn run(&self, tell: &mut dyn FnMut(u64)) -> anyhow::Result<String> {
        let rows = &self.rows();
        thread::scope(|scope| {
            let (progress, written) = sync_channel(1024);
            let (pieces, summed) = sync_channel(WAITING);
            let writer = scope.spawn(move || self.write(rows, &progress));
            let sums = scope.spawn(move || sum(&summed));
            let read = self.read_back(rows, &written, &pieces, tell);
            // Who still writes or sums learns that nobody listens any more.
            drop((written, pieces));
            let lost = |_| anyhow::anyhow!("a part of the build ended by a fault; this is a bug");
            // The writer's error is why the others stopped.
            writer.join().map_err(lost)??;
            read?;
            sums.join().map_err(lost)
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
    fn write(&self, rows: &[Row], progress: &SyncSender<u64>) -> anyhow::Result<()> {
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
                if progress.send(row.place + done).is_err() {
                    return Ok(());
                }
            }
            open = Some((row.file, file));
        }
        Ok(())
    }

    fn is_hole(&self, at: u64, length: u64) -> bool {
        match rustix::fs::seek(self.image, SeekFrom::Data(at)) {
            Ok(data) => data >= at + length,
            Err(error) => error == rustix::io::Errno::NXIO,
        }
    }

    /// Window by window behind the writer.
    fn read_back(
        &self,
        rows: &[Row],
        written: &Receiver<u64>,
        pieces: &SyncSender<Arc<Vec<u8>>>,
        tell: &mut dyn FnMut(u64),
    ) -> anyhow::Result<()> {
        let mut digests = Digests::of(self);
        let (mut at, mut safe, mut rows) = (0, 0, rows);
        let zeros = Arc::new(vec![0; PIECE as usize]);
        while at < self.bytes {
            let end = (at + WINDOW).min(self.bytes);
            while safe < end {
                // The end of the writer is the end of what is to come.
                safe = written.recv().unwrap_or(u64::MAX);
            }
            self.image.sync_data().context("writing the image")?;
            fadvise(self.image, at, (end - at).try_into().ok(), Advice::DontNeed)?;
            while at < end {
                let length = usize::try_from((end - at).min(PIECE))?;
                // Of a hole the disk has nothing that could be read.
                let piece = if length as u64 == PIECE && self.is_hole(at, length as u64) {
                    Arc::clone(&zeros)
                } else {
                    let mut piece = vec![0; length];
                    self.image
                        .read_exact_at(&mut piece, at)
                        .context("reading the image back")?;
                    Arc::new(piece)
                };
                if pieces.send(Arc::clone(&piece)).is_err() {
                    bail!("the image's digest was lost by a fault; this is a bug");
                }
                let over = digests.take(rows, at, &piece);
                rows = rows.get(over..).unwrap_or_default();
                at += length as u64;
                tell(at);
            }
        }
        digests.compare(self)
    }
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

fn sum(pieces: &Receiver<Arc<Vec<u8>>>) -> String {
    let mut sum = Sha256::new(&SHA256);
    for piece in pieces {
        sum.update(&piece);
    }
    data_encoding::HEXLOWER.encode(sum.finish().as_ref())
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
