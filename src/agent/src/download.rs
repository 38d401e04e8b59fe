//! Blobs by digest: resumed where they broke off, verified as they arrive,
//! and under their final name only once they are right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use groundcrew_core::Digest;
use groundcrew_core::digest::Hasher;
use groundcrew_core::words::Trouble;

use crate::failure::Failure;
use crate::http::{Backoff, HttpError, Public};
use crate::random;

/// How long next to nothing may come before a download is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a connection must bring for the patience to begin anew.
const PROGRESS: u64 = 64 * 1024;
/// How many connections in a row may open and bring no byte more: a blob that
/// is cut short is told in seconds, an appliance that restarts is waited for.
const FRUITLESS: u32 = 5;
const CHUNK: usize = 128 * 1024;

/// Where blobs come from.
pub trait Source {
    /// The bytes of `path` from `offset` on, and where they really begin.
    fn open(&self, path: &str, offset: u64) -> Result<(u64, Box<dyn Read>), HttpError>;
}

impl Source for Public {
    fn open(&self, path: &str, offset: u64) -> Result<(u64, Box<dyn Read>), HttpError> {
        let (begins, reader) = self.stream(path, offset)?;
        Ok((begins, Box::new(reader)))
    }
}

/// A folder of blobs, laid out as OCI does: `blobs/sha256/HEX`.
pub struct Blobs {
    dir: PathBuf,
    /// How to wait between two connections; tests do not.
    wait: fn(Duration),
}

/// Why a blob is not there.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Other bytes than the manifest names.
    #[error("the blob {digest} was changed: what the appliance sends has {found}")]
    Changed {
        /// What the manifest names.
        digest: Digest,
        /// What came.
        found: String,
    },
    /// It did not come, or not all of it.
    #[error("the blob {digest} did not come whole, {came} of {size} bytes: {error}")]
    Http {
        /// Which blob.
        digest: Digest,
        /// How many of its bytes are here.
        came: u64,
        /// How many it has.
        size: u64,
        /// Why.
        error: HttpError,
    },
    /// No room, or a broken disk.
    #[error("writing {path}: {error}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl From<DownloadError> for Failure {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Changed { .. } => Self::refused(
                error,
                "Somebody or something changed the bundle on the appliance: publish it again and find out why.",
            )
            .about(Trouble::BundleChanged),
            DownloadError::Http {
                error: HttpError::CutShort | HttpError::Refused { .. },
                ..
            } => Self::failed(
                error,
                "The appliance does not have all of it: publish the bundle again, and check its disk and what stands between.",
            )
            .about(Trouble::BundleMissing),
            DownloadError::Http { .. } => Self::failed(
                error,
                "Check that the appliance runs and that this device reaches it.",
            )
            .about(Trouble::BundleMissing),
            DownloadError::Write { .. } => {
                Self::failed(error, "Check that this machine's disk has room and works.")
                    .about(Trouble::Disk)
            }
        }
    }
}

/// A download in progress: the file, how far it is, and its digest so far.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Hasher,
    wait: fn(Duration),
}

/// What one connection brought.
enum Stretch {
    /// All the bytes.
    Whole,
    /// There was no connection, or none that answered.
    Unanswered(HttpError),
    /// The connection ended early; some bytes may have come.
    Broken(HttpError),
    /// More bytes than there may be.
    TooLong,
}

impl Blobs {
    /// Uses (and makes) the folder.
    pub fn at(dir: &Path) -> io::Result<Self> {
        let dir = dir.to_owned();
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        let wait = std::thread::sleep;
        Ok(Self { dir, wait })
    }

    /// The folder that holds the blobs, each called by its digest in hex.
    pub fn folder(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    /// Throws all of it away.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }

    /// Where a blob lies.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder().join(digest.hex())
    }

    /// Brings a blob of this digest and size here, unless it is here already.
    /// `progress` hears how many of its bytes are here.
    pub fn fetch(
        &self,
        source: &dyn Source,
        digest: &Digest,
        size: u64,
        say: &dyn Fn(String),
        progress: &dyn Fn(u64),
    ) -> Result<(), DownloadError> {
        let done = self.path(digest);
        let write = |path: &Path| {
            let path = path.to_owned();
            move |error| DownloadError::Write { path, error }
        };
        if matches!(verified(&done, digest, size), Ok(true)) {
            progress(size);
            return Ok(());
        }
        let part = done.with_extension("part");
        let mut partial = Partial::resume(&part, size, self.wait).map_err(write(&part))?;
        let mut resumed = partial.length > 0;
        progress(partial.length);
        loop {
            partial.fill(source, digest, size, say, progress)?;
            let found = partial.hasher.clone().finish();
            if found == *digest {
                break;
            }
            if !resumed {
                let _ = fs::remove_file(&part);
                let found = found.to_string();
                return Err(DownloadError::Changed {
                    digest: *digest,
                    found,
                });
            }
            // What an earlier start left may be the wrong part: once more.
            resumed = false;
            partial.restart().map_err(write(&part))?;
        }
        partial.file.sync_all().map_err(write(&part))?;
        fs::rename(&part, &done).map_err(write(&done))
    }
}

/// Whether a whole, right file is there.
fn verified(path: &Path, digest: &Digest, size: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != size {
        return Ok(false);
    }
    let mut hasher = Hasher::new();
    hash_all(&mut file, &mut hasher)?;
    Ok(hasher.finish() == *digest)
}

fn hash_all(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut length = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(length);
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        length += count as u64;
    }
}

impl Partial {
    fn resume(path: &Path, size: u64, wait: fn(Duration)) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut hasher = Hasher::new();
        let mut length = 0;
        if file.metadata()?.len() <= size {
            length = hash_all(&mut file, &mut hasher)?;
        }
        let path = path.to_owned();
        let mut partial = Self {
            path,
            file,
            length,
            hasher,
            wait,
        };
        if partial.length == 0 {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn restart(&mut self) -> io::Result<()> {
        use io::Seek as _;
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.length, self.hasher) = (0, Hasher::new());
        Ok(())
    }

    /// Connects as often as it takes, each time for what is missing. The
    /// patience begins anew where a connection brought something worth it, and
    /// ends where several in a row brought nothing.
    fn fill(
        &mut self,
        source: &dyn Source,
        digest: &Digest,
        size: u64,
        say: &dyn Fn(String),
        progress: &dyn Fn(u64),
    ) -> Result<(), DownloadError> {
        let url = format!("/blobs/sha256/{}", digest.hex());
        let mut backoff = Backoff::new(PATIENCE);
        let mut fruitless = 0;
        while self.length < size {
            let before = self.length;
            let stretch = self.stretch(source, &url, size, progress);
            let stretch = stretch.map_err(|error| DownloadError::Write {
                path: self.path.clone(),
                error,
            })?;
            let error = match stretch {
                Stretch::Whole => return Ok(()),
                Stretch::TooLong => {
                    let _ = fs::remove_file(&self.path);
                    let found = format!("more than {size} bytes");
                    return Err(DownloadError::Changed {
                        digest: *digest,
                        found,
                    });
                }
                Stretch::Unanswered(error) => error,
                Stretch::Broken(error) => {
                    fruitless = if self.length > before {
                        0
                    } else {
                        fruitless + 1
                    };
                    error
                }
            };
            // A drip is not progress: `Steady` breaks it off again and again.
            if self.length.saturating_sub(before) >= PROGRESS {
                backoff = Backoff::new(PATIENCE);
            }
            let wait = backoff.next(Instant::now(), random::u32());
            let worth = error.transient() && fruitless < FRUITLESS;
            let Some(wait) = wait.filter(|_| worth) else {
                return Err(DownloadError::Http {
                    digest: *digest,
                    came: self.length,
                    size,
                    error,
                });
            };
            say(format!(
                "download: {error}; going on at byte {} of {size} in {:.1} s",
                self.length,
                wait.as_secs_f32()
            ));
            (self.wait)(wait);
        }
        Ok(())
    }

    fn stretch(
        &mut self,
        source: &dyn Source,
        url: &str,
        size: u64,
        progress: &dyn Fn(u64),
    ) -> io::Result<Stretch> {
        let (begins, mut reader) = match source.open(url, self.length) {
            Ok(opened) => opened,
            Err(error) => return Ok(Stretch::Unanswered(error)),
        };
        if begins != self.length {
            self.restart()?;
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) if self.length == size => return Ok(Stretch::Whole),
                Ok(0) => return Ok(Stretch::Broken(HttpError::CutShort)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Stretch::Broken(HttpError::CutShort));
                }
                Err(error) => return Ok(Stretch::Broken(HttpError::Transport(error.to_string()))),
            };
            if self.length + count as u64 > size {
                return Ok(Stretch::TooLong);
            }
            let bytes = buffer.get(..count).unwrap_or_default();
            self.file.write_all(bytes)?;
            self.hasher.update(bytes);
            self.length += count as u64;
            progress(self.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Breaks off after `cut` bytes of every connection; may ignore ranges.
    struct Flaky {
        content: Vec<u8>,
        cut: usize,
        ranges: bool,
        opened: RefCell<Vec<u64>>,
    }

    impl Flaky {
        fn new(content: &[u8], cut: usize) -> Self {
            Self {
                content: content.to_vec(),
                cut,
                ranges: true,
                opened: RefCell::default(),
            }
        }
    }

    impl Source for Flaky {
        fn open(&self, _: &str, offset: u64) -> Result<(u64, Box<dyn Read>), HttpError> {
            self.opened.borrow_mut().push(offset);
            let from = if self.ranges { offset as usize } else { 0 };
            let until = self.content.len().min(from + self.cut);
            Ok((
                from as u64,
                Box::new(io::Cursor::new(self.content[from..until].to_vec())),
            ))
        }
    }

    fn fetch(dir: &Path, source: &Flaky, digest: &Digest, size: u64) -> Result<(), DownloadError> {
        let mut blobs = Blobs::at(dir).unwrap();
        blobs.wait = |_| {};
        blobs.fetch(source, digest, size, &|_| {}, &|_| {})
    }

    #[test]
    fn goes_on_where_it_broke_off() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let digest = Digest::of(&content);
        let source = Flaky::new(&content, 400);
        fetch(dir.path(), &source, &digest, 1000).unwrap();
        assert_eq!(*source.opened.borrow(), [0, 400, 800]);
        let path = Blobs::at(dir.path()).unwrap().path(&digest);
        assert_eq!(fs::read(&path).unwrap(), content);
        fetch(dir.path(), &Flaky::new(b"", 0), &digest, 1000).unwrap();
    }

    #[test]
    fn a_part_of_an_earlier_start_is_used_or_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let content = vec![7; 1000];
        let digest = Digest::of(&content);
        let part = Blobs::at(dir.path())
            .unwrap()
            .path(&digest)
            .with_extension("part");
        fs::write(&part, vec![7; 600]).unwrap();
        let source = Flaky::new(&content, 5000);
        fetch(dir.path(), &source, &digest, 1000).unwrap();
        assert_eq!(*source.opened.borrow(), [600]);
        fs::remove_file(part.with_extension("")).unwrap();
        for wrong in [vec![8; 600], vec![7; 2000]] {
            fs::write(&part, wrong).unwrap();
            fetch(dir.path(), &Flaky::new(&content, 5000), &digest, 1000).unwrap();
            fs::remove_file(part.with_extension("")).unwrap();
        }
    }

    #[test]
    fn a_server_without_ranges_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let content = vec![3; 1000];
        let digest = Digest::of(&content);
        let part = Blobs::at(dir.path())
            .unwrap()
            .path(&digest)
            .with_extension("part");
        fs::write(&part, vec![3; 10]).unwrap();
        let mut source = Flaky::new(&content, 5000);
        source.ranges = false;
        fetch(dir.path(), &source, &digest, 1000).unwrap();
    }

    #[test]
    fn a_blob_cut_short_ends_soon_and_says_how_much_came() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(&[3; 1000]);
        for ranges in [true, false] {
            let mut source = Flaky::new(&[3; 400], 5000);
            source.ranges = ranges;
            let error = fetch(dir.path(), &source, &digest, 1000).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("400 of 1000 bytes"), "{text}");
            assert!(text.contains(&digest.hex()), "{text}");
            assert!(text.ends_with("the connection ended early"), "{text}");
            assert!(source.opened.borrow().len() <= FRUITLESS as usize + 1);
        }
    }

    #[test]
    fn changed_and_longer_content_is_refused_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"right");
        for wrong in [&b"wrong"[..], b"right and more"] {
            let error = fetch(dir.path(), &Flaky::new(wrong, 5000), &digest, 5).unwrap_err();
            assert!(matches!(error, DownloadError::Changed { .. }), "{error}");
            assert_eq!(
                fs::read_dir(dir.path().join("blobs/sha256"))
                    .unwrap()
                    .count(),
                0
            );
        }
    }
}
