//! Every byte of a bundle, checked: blobs side by side on two threads.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use groundcrew_core::Digest;
use groundcrew_core::bundle::tree::{TreeError, Unpacker};
use groundcrew_core::bundle::{Bundle, Descriptor, limits};
use groundcrew_core::enroll::BundleRef;
use serde::Serialize;
use zstd::stream::read::Decoder;

use super::layout::{CHUNK, Layout, hash_blob};
use super::{Error, Progress, io_error};

/// Threads that check blobs.
const WORKERS: usize = 2;

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Name and version.
    pub bundle: BundleRef,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// Blobs.
    pub blobs: usize,
    /// Bytes of them as they are stored.
    pub stored_bytes: u64,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is whole: {} blobs, {} bytes, manifest {}",
            self.bundle, self.blobs, self.stored_bytes, self.manifest
        )
    }
}

/// See [`super::verify`].
pub fn verify(layout: &Layout, progress: Progress<'_>) -> Result<VerifyReport, Error> {
    let (manifest_bytes, _) = layout.manifest()?;
    let bundle = layout.bundle()?;
    let blobs: Vec<&Descriptor> = bundle.manifest().blobs().collect();
    let total = bundle.manifest().total_size();
    let next = AtomicUsize::new(0);
    let told = Mutex::new((0, progress));
    let worker = || -> Result<(), Error> {
        while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut before = 0;
            check_blob(layout, &bundle, blob, &mut |bytes| {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.0 += bytes - before;
                before = bytes;
                let done = told.0;
                (told.1)(done, total);
            })
            // the other thread has nothing to go on for
            .inspect_err(|_| next.store(blobs.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS.min(blobs.len()))
            .map(|_| scope.spawn(worker))
            .collect();
        let results: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect();
        results.into_iter().collect::<Result<(), Error>>()
    })?;
    Ok(VerifyReport {
        bundle: bundle.reference(),
        manifest: Digest::of(&manifest_bytes),
        blobs: blobs.len(),
        stored_bytes: total,
    })
}

fn check_blob(
    layout: &Layout,
    bundle: &Bundle,
    blob: &Descriptor,
    told: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    hash_blob(&layout.blob(&blob.digest), blob, told)?;
    if bundle.manifest().tree() == Some(blob) {
        check_tree(layout, bundle, blob)?;
    }
    Ok(())
}

/// Unpacks the content tree to nowhere, with every file's digest checked.
fn check_tree(layout: &Layout, bundle: &Bundle, blob: &Descriptor) -> Result<(), Error> {
    let path = layout.blob(&blob.digest);
    let open = || -> io::Result<_> {
        let mut reader = Decoder::new(File::open(&path)?)?;
        reader.window_log_max(limits::ZSTD_WINDOW_LOG)?;
        Ok(reader.single_frame())
    };
    let mut reader = open().map_err(io_error("unpack", &path))?;
    let mut unpacker = Unpacker::new(bundle.config().content.tree_files());
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = reader
            .read(&mut buffer)
            .map_err(io_error("unpack", &path))?;
        if got == 0 {
            break;
        }
        unpacker.feed(buffer.get(..got).unwrap_or_default(), &mut |_| {
            Ok::<(), io::Error>(())
        })?;
    }
    unpacker.finish().map_err(|_| Error::Tree(TreeError::Short))
}
