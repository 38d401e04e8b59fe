//! Content, verified before anything of the installed system is touched.
//!
//! Each blob's digest is computed over its stored bytes first; only then is
//! the content tree unpacked, into a folder of its own on the target disk,
//! against the configuration's list of paths, sizes and digests. Unpacking
//! runs beside hashing and writing, on a second thread. Memory is fixed: a
//! few buffers and zstd's window.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};

use groundcrew_core::Digest;
use groundcrew_core::bundle::tree::{Event, TreeError, Unpacker};
use groundcrew_core::bundle::{Bundle, Descriptor, FileEntry, Stored, limits};
use groundcrew_core::digest::Hasher;

use super::files::Needs;
use super::root::{Folder, FsError, Ids, Meta, Root};

/// Bytes handled at a time.
const CHUNK: usize = 256 << 10;
/// Unpacked buffers on their way from one thread to the other.
const IN_FLIGHT: usize = 4;
/// Blobs hashed side by side.
const WORKERS: usize = 2;
/// The folder at the top of the installed system that content is unpacked to.
const STAGE: &str = ".groundcrew-stage";

/// Content that was refused, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A blob is missing or cannot be read.
    #[error("the blob {digest} cannot be read: {source}")]
    Read {
        /// Which.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A blob's bytes are not the ones that the manifest names.
    #[error("the blob {expected} was changed: its bytes have the digest {found}")]
    Digest {
        /// The manifest's.
        expected: Digest,
        /// What was found.
        found: Digest,
    },
    /// A blob has another size.
    #[error("the blob {digest} has {found} bytes instead of {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// The manifest's size.
        expected: u64,
        /// What was found.
        found: u64,
    },
    /// The archive is not what the configuration says.
    #[error(transparent)]
    Tree(#[from] TreeError<io::Error>),
    /// The archive ended too early.
    #[error("the content tree is cut short")]
    Short,
    /// The target disk failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file is asked for that was not prepared.
    #[error("`{0}` was not unpacked")]
    NotPrepared(String),
}

/// Verified content, ready to be copied. The folder it is unpacked to is
/// removed when this is dropped.
pub struct Stage<'a> {
    folder: Option<(Folder<'a>, Folder<'a>)>,
    blobs: BTreeMap<Digest, File>,
}

impl<'a> Stage<'a> {
    /// Verifies the blobs that hold what is needed, and unpacks. `progress` is
    /// called with bytes done and bytes in all.
    pub fn prepare(
        root: &'a Root,
        bundle: &Bundle,
        blobs: &Path,
        needs: &Needs,
        owner: Ids,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ContentError> {
        let wanted = |stored| {
            let files = bundle.config().content.files.iter();
            files.filter(move |entry| entry.stored == stored && needs.contains(&entry.digest))
        };
        let tree = bundle.manifest().tree().filter(|_| wanted(Stored::Tree).next().is_some());
        let large = bundle.manifest().files().iter().filter(|blob| needs.contains(&blob.digest));
        let all: Vec<&Descriptor> = tree.into_iter().chain(large).collect();
        let mut stage = Self { folder: None, blobs: verify_blobs(&all, blobs, progress)? };
        let archive = tree.and_then(|tree| stage.blobs.remove(&tree.digest));
        if let Some(archive) = archive {
            let folder = stage.make_folder(root, owner)?;
            unpack(archive, bundle.config().content.tree_files(), needs, folder, owner)?;
        }
        Ok(stage)
    }

    /// The verified content of a file, from its beginning.
    pub fn open(&self, entry: &FileEntry) -> Result<File, ContentError> {
        let missing = || ContentError::NotPrepared(entry.path.to_string());
        let failed = |source| ContentError::Read { digest: entry.digest, source };
        match entry.stored {
            Stored::Tree => {
                let (_, folder) = self.folder.as_ref().ok_or_else(missing)?;
                Ok(folder.file(&entry.digest.hex())?.ok_or_else(missing)?.0)
            }
            Stored::Blob => {
                let mut file = self.blobs.get(&entry.digest).ok_or_else(missing)?.try_clone().map_err(failed)?;
                file.rewind().map_err(failed)?;
                Ok(file)
            }
        }
    }

    fn make_folder(&mut self, root: &'a Root, owner: Ids) -> Result<&Folder<'a>, FsError> {
        let top = root.make_folder("", None)?;
        top.remove_all(STAGE)?;
        let folder = top.new_folder(STAGE, 0o700, Some(owner))?;
        Ok(&self.folder.insert((top, folder)).1)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some((top, folder)) = self.folder.take() {
            drop(folder);
            let _ = top.remove_all(STAGE);
        }
    }
}

/// Hashes blobs, a few side by side, and returns them open.
fn verify_blobs(
    blobs: &[&Descriptor],
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BTreeMap<Digest, File>, ContentError> {
    let total = blobs.iter().map(|blob| blob.size).sum();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (told, tell) = channel();
    let worker = |told: Sender<u64>| -> Result<Vec<(Digest, File)>, ContentError> {
        let mut done = Vec::new();
        while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let checked = verify_blob(blob, folder, &told, &stop);
            stop.fetch_or(checked.is_err(), Ordering::Relaxed);
            done.push((blob.digest, checked?));
        }
        Ok(done)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS.min(blobs.len()))
            .map(|_| {
                let told = told.clone();
                scope.spawn(|| worker(told))
            })
            .collect();
        drop(told);
        let mut done = 0;
        for bytes in tell {
            done += bytes;
            progress(done, total);
        }
        let mut all = BTreeMap::new();
        for worker in workers {
            all.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

fn verify_blob(
    blob: &Descriptor,
    folder: &Path,
    told: &Sender<u64>,
    stop: &AtomicBool,
) -> Result<File, ContentError> {
    let failed = |source| ContentError::Read { digest: blob.digest, source };
    let mut file = File::open(folder.join(blob.digest.hex())).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    if found != blob.size {
        return Err(ContentError::Size { digest: blob.digest, expected: blob.size, found });
    }
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut unreported = 0;
    // another blob was refused: the whole bundle is, so there is no hurry left
    while !stop.load(Ordering::Relaxed) {
        let got = file.read(&mut buffer).map_err(failed)?;
        hasher.update(buffer.get(..got).unwrap_or_default());
        unreported += got as u64;
        if got == 0 || unreported >= limits::LARGE_FILE {
            let _ = told.send(std::mem::take(&mut unreported));
        }
        if got == 0 {
            break;
        }
    }
    let found = hasher.finish();
    if found != blob.digest {
        return Err(ContentError::Digest { expected: blob.digest, found });
    }
    file.rewind().map_err(failed)?;
    Ok(file)
}

/// Unpacks a verified archive: one thread decompresses, this one checks and
/// writes. A refusal here ends the other through the closed channel.
fn unpack(
    archive: File,
    entries: Vec<&FileEntry>,
    needs: &Needs,
    folder: &Folder<'_>,
    owner: Ids,
) -> Result<(), ContentError> {
    let (full, filled) = sync_channel::<io::Result<Vec<u8>>>(IN_FLIGHT);
    std::thread::scope(|scope| {
        scope.spawn(move || decompress(archive, &full));
        let mut unpacker = Unpacker::new(entries);
        let mut sink = Sink { needs, folder, owner, open: None };
        for chunk in filled {
            let chunk = chunk.map_err(TreeError::Sink)?;
            unpacker.feed(&chunk, &mut |event| sink.take(&event))?;
        }
        unpacker.finish().map_err(|_| ContentError::Short)
    })
}

fn decompress(archive: File, full: &SyncSender<io::Result<Vec<u8>>>) {
    let reader = zstd::stream::read::Decoder::new(archive).and_then(|mut reader| {
        reader.window_log_max(limits::ZSTD_WINDOW_LOG)?;
        Ok(reader.single_frame())
    });
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(err) => return drop(full.send(Err(err))),
    };
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        match reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => return,
            Ok(_) if full.send(Ok(chunk)).is_ok() => {}
            Ok(_) => return,
            Err(err) => return drop(full.send(Err(err))),
        }
    }
}

struct Sink<'a> {
    needs: &'a Needs,
    folder: &'a Folder<'a>,
    owner: Ids,
    open: Option<File>,
}

impl Sink<'_> {
    fn take(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Begin(entry) if self.needs.contains(&entry.digest) => {
                let meta = Meta { mode: 0o600, ids: self.owner };
                // no sync: what is staged does not outlive a restart
                let prepared = self.folder.prepare(&entry.digest.hex(), meta, |_| Ok(()));
                let file = prepared.and_then(super::root::Prepared::commit_open);
                self.open = Some(file.map_err(io::Error::other)?);
                Ok(())
            }
            Event::Begin(_) => Ok(()),
            Event::Data(bytes) => self.open.as_mut().map_or(Ok(()), |file| file.write_all(bytes)),
            Event::End(_) => {
                self.open = None;
                Ok(())
            }
        }
    }
}
