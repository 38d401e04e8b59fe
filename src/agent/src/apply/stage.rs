//! Content, verified before anything of the installed system is touched.
//!
//! Everything goes through a folder of its own on the target disk: a large
//! file's blob is written there while it is hashed; the content tree's blob is
//! hashed first, and only then unpacked, against the configuration's list of
//! paths, sizes and digests. What was verified is later renamed into place.
//! Hashing, decompressing and writing have a thread each; memory is fixed: a
//! few buffers and zstd's window.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use groundcrew_core::Digest;
use groundcrew_core::bundle::tree::{Event, TreeError, Unpacker};
use groundcrew_core::bundle::{Bundle, Descriptor, FileEntry, limits};
use groundcrew_core::digest::Hasher;

use super::files::Needs;
use crate::root::{Folder, FsError, Ids, Meta, Prepared, Root};

/// Bytes handled at a time.
const CHUNK: usize = 256 << 10;
/// Unpacked buffers on their way from one thread to the other.
const IN_FLIGHT: usize = 4;
/// Blobs hashed side by side.
const WORKERS: usize = 2;
/// From this size on a file is moved rather than copied, bytes.
const MOVE_FROM: u64 = 64 << 10;
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
    /// Given up because another blob was refused.
    #[error("not verified to its end, because another blob was refused")]
    Stopped,
    /// The target disk did not take it.
    #[error("content cannot be unpacked to the target disk: {0}")]
    Write(io::Error),
    /// A file is asked for that was not prepared.
    #[error("`{0}` was not unpacked")]
    NotPrepared(String),
}

/// Verified content in a folder of its own on the target disk, each file
/// called by the hex of its digest. The folder is removed when this is dropped.
pub struct Stage<'a> {
    folder: Option<(Folder<'a>, Folder<'a>)>,
    uses: RefCell<Needs>,
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
        let mut stage = Self {
            folder: None,
            uses: RefCell::new(needs.clone()),
        };
        if needs.is_empty() {
            return Ok(stage);
        }
        let folder = stage.make_folder(root, owner)?;
        let in_tree = bundle.config().content.tree_files();
        let tree = bundle.manifest().tree().filter(|_| {
            in_tree
                .iter()
                .any(|entry| needs.contains_key(&entry.digest))
        });
        let mut jobs: Vec<BlobJob<'_>> = tree
            .into_iter()
            .map(|blob| BlobJob { blob, copy: None })
            .collect();
        for blob in bundle
            .manifest()
            .files()
            .iter()
            .filter(|blob| needs.contains_key(&blob.digest))
        {
            jobs.push(BlobJob {
                blob,
                copy: Some(new_file(folder, &blob.digest, owner)?),
            });
        }
        verify_blobs(jobs, blobs, progress)?;
        if let Some(tree) = tree {
            let archive = File::open(blobs.join(tree.digest.hex()));
            let archive = archive.map_err(|source| ContentError::Read {
                digest: tree.digest,
                source,
            })?;
            unpack(archive, in_tree, needs, folder, owner)?;
        }
        Ok(stage)
    }

    /// A file's verified content, as what `name` in `folder` is to become:
    /// moved there where this is its last use, else copied.
    pub fn take<'f, 'b>(
        &self,
        entry: &FileEntry,
        folder: &'f Folder<'b>,
        name: &str,
        wanted: Meta,
    ) -> Result<Prepared<'f, 'b>, ContentError> {
        let missing = || ContentError::NotPrepared(entry.path.to_string());
        let (_, stage) = self.folder.as_ref().ok_or_else(missing)?;
        let staged = entry.digest.hex();
        if stage.look(&staged)?.is_none() {
            return Err(missing());
        }
        if self.last_use(&entry.digest)
            && entry.size >= MOVE_FROM
            && let Some(moved) = folder.adopt(stage, &staged, name, wanted)?
        {
            return Ok(moved);
        }
        let (mut content, _) = stage.file(&staged)?.ok_or_else(missing)?;
        Ok(folder.prepare(name, wanted, |file| {
            io::copy(&mut content, file).map(|_| ())
        })?)
    }

    fn last_use(&self, digest: &Digest) -> bool {
        let mut uses = self.uses.borrow_mut();
        let left = uses.entry(*digest).or_default();
        *left = left.saturating_sub(1);
        *left == 0
    }

    fn make_folder(&mut self, root: &'a Root, owner: Ids) -> Result<&Folder<'a>, FsError> {
        let top = root.make_folder("", 0o755, None)?;
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

/// No sync: what is staged does not outlive a restart.
fn new_file(folder: &Folder<'_>, digest: &Digest, owner: Ids) -> Result<File, FsError> {
    folder
        .prepare(
            &digest.hex(),
            Meta {
                mode: 0o600,
                ids: owner,
            },
            |_| Ok(()),
        )?
        .commit_open()
}

/// A blob to be verified, and the file that its bytes are also written to.
struct BlobJob<'a> {
    blob: &'a Descriptor,
    copy: Option<File>,
}

/// Verifies blobs, a few side by side.
fn verify_blobs(
    jobs: Vec<BlobJob<'_>>,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ContentError> {
    let total = jobs.iter().map(|job| job.blob.size).sum();
    let workers = WORKERS.min(jobs.len());
    let queue = Mutex::new(jobs.into_iter());
    let stop = AtomicBool::new(false);
    let (told, tell) = channel();
    let worker = |told: Sender<u64>| -> Result<(), ContentError> {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some(job) = next() {
            verify_blob(job, folder, &told, &stop)
                .inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let spawn = |_| {
            let told = told.clone();
            scope.spawn(|| worker(told))
        };
        let workers: Vec<_> = (0..workers).map(spawn).collect();
        drop(told);
        let mut done = 0;
        for bytes in tell {
            done += bytes;
            progress(done, total);
        }
        let results = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        // the reason is what was refused, not who stopped for it
        let refused = |err: &ContentError| !matches!(err, ContentError::Stopped);
        results
            .filter_map(Result::err)
            .find(refused)
            .map_or(Ok(()), Err)
    })
}

fn verify_blob(
    job: BlobJob<'_>,
    folder: &Path,
    told: &Sender<u64>,
    stop: &AtomicBool,
) -> Result<(), ContentError> {
    let BlobJob { blob, copy } = job;
    let failed = |source| ContentError::Read {
        digest: blob.digest,
        source,
    };
    let file = File::open(folder.join(blob.digest.hex())).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    if found != blob.size {
        return Err(ContentError::Size {
            digest: blob.digest,
            expected: blob.size,
            found,
        });
    }
    let mut hasher = Hasher::new();
    std::thread::scope(|scope| {
        let writer = Writer::spawn(scope, copy);
        let mut unreported = 0;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(ContentError::Stopped);
            }
            let mut chunk = Vec::with_capacity(CHUNK);
            let got = (&file)
                .take(CHUNK as u64)
                .read_to_end(&mut chunk)
                .map_err(failed)?;
            hasher.update(&chunk);
            writer.data(chunk);
            unreported += got as u64;
            if got == 0 || unreported >= limits::LARGE_FILE {
                let _ = told.send(std::mem::take(&mut unreported));
            }
            if got == 0 {
                return writer.finish().map_err(ContentError::Write);
            }
        }
    })?;
    let found = hasher.finish();
    if found == blob.digest {
        return Ok(());
    }
    Err(ContentError::Digest {
        expected: blob.digest,
        found,
    })
}

/// Files being written by a thread of its own, while the next bytes are
/// hashed.
struct Writer<'scope> {
    queue: SyncSender<Write>,
    thread: std::thread::ScopedJoinHandle<'scope, io::Result<()>>,
}

enum Write {
    /// The next file, or none: what comes is dropped.
    To(Option<File>),
    Data(Vec<u8>),
}

impl<'scope> Writer<'scope> {
    fn spawn<'env>(scope: &'scope std::thread::Scope<'scope, 'env>, first: Option<File>) -> Self {
        let (queue, writes) = sync_channel(IN_FLIGHT);
        let thread = scope.spawn(move || {
            let mut to = first;
            for write in writes {
                match (write, &mut to) {
                    (Write::To(next), to) => *to = next,
                    (Write::Data(bytes), Some(file)) => file.write_all(&bytes)?,
                    (Write::Data(_), None) => {}
                }
            }
            Ok(())
        });
        Self { queue, thread }
    }

    /// A failure ends the thread; [`Writer::finish`] tells it.
    fn to(&self, file: Option<File>) {
        let _ = self.queue.send(Write::To(file));
    }

    fn data(&self, bytes: Vec<u8>) {
        let _ = self.queue.send(Write::Data(bytes));
    }

    fn finish(self) -> io::Result<()> {
        drop(self.queue);
        self.thread
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Unpacks a verified archive: one thread decompresses, this one checks, one
/// writes. A refusal here ends the others through the closed channels.
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
        let writer = Writer::spawn(scope, None);
        let mut writing = false;
        let mut unpacker = Unpacker::new(entries);
        for chunk in filled {
            let chunk = chunk.map_err(TreeError::Sink)?;
            unpacker.feed(&chunk, &mut |event| {
                match event {
                    Event::Begin(entry) => {
                        writing = needs.contains_key(&entry.digest);
                        let file = if writing {
                            Some(new_file(folder, &entry.digest, owner))
                        } else {
                            None
                        };
                        writer.to(file.transpose().map_err(io::Error::other)?);
                    }
                    Event::Data(bytes) if writing => writer.data(bytes.to_vec()),
                    Event::Data(_) => {}
                    Event::End(_) => writer.to(None),
                }
                Ok(())
            })?;
        }
        unpacker.finish().map_err(|_| ContentError::Short)?;
        writer.finish().map_err(ContentError::Write)
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
