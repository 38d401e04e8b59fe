//! Files in the page cache: what is not there is fetched on a thread that may
//! wait for a disk, so that a slow medium stops nobody else.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::Arc;

use rustix::io::ReadWriteFlags;

/// Returns when `count` bytes at `at` can be read without waiting.
pub(super) async fn ready(file: &Arc<File>, at: u64, count: usize) -> io::Result<()> {
    if in_memory(file, at, count) {
        return Ok(());
    }
    let file = Arc::clone(file);
    let read = move || read_ahead(&file, at, count);
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}

/// Fills `into` from `at` on if that needs no disk. `false`: it may hold anything.
pub(super) fn read_now(file: &File, into: &mut [u8], at: u64) -> bool {
    let length = into.len();
    let mut into = [IoSliceMut::new(into)];
    let read = rustix::io::preadv2(file, &mut into, at, ReadWriteFlags::NOWAIT);
    read.is_ok_and(|count| count == length)
}

/// Whether the page cache holds both ends of a stretch. A guess: what lies
/// between may be gone, and then this thread waits for a disk once.
fn in_memory(file: &File, at: u64, count: usize) -> bool {
    let held = |at| {
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(file, &mut into, at, ReadWriteFlags::NOWAIT).is_ok()
    };
    held(at) && held(at + (count as u64).saturating_sub(1))
}

/// Brings a stretch into the page cache.
fn read_ahead(file: &File, at: u64, count: usize) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0; 64 * 1024];
    let (mut at, end) = (at, at + count as u64);
    while at < end {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(()),
            length => at += length as u64,
        }
    }
    Ok(())
}
