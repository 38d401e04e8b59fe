//! OCI layouts on disk, read with bounds and written durably.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use groundcrew_core::Digest;
use groundcrew_core::bundle::manifest::OCI_LAYOUT;
use groundcrew_core::bundle::{Bundle, Descriptor, Index, Manifest, limits};
use groundcrew_core::digest::Hasher;

use super::{Error, Progress, io_error};

/// Bytes handled at a time.
pub const CHUNK: usize = 256 << 10;

/// A folder that holds one bundle.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Opens a layout; that it holds a bundle is seen when it is read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let marker = read_file(&path.join("oci-layout"), 4096).map_err(|_| Error::NotABundle {
            path: path.to_owned(),
            why: "it has no `oci-layout` file (`groundcrew bundle build` makes one)".into(),
        })?;
        let version = serde_json::from_slice::<serde_json::Value>(&marker)
            .ok()
            .and_then(|value| {
                value
                    .get("imageLayoutVersion")?
                    .as_str()
                    .map(|v| v.starts_with("1."))
            });
        if version != Some(true) {
            let why = "its `oci-layout` is not of version 1".into();
            return Err(Error::NotABundle {
                path: path.to_owned(),
                why,
            });
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The folder for a new layout: made where it is missing; one that is
    /// there must be empty or hold a bundle, which is then replaced.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let occupied = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            Self::open(path)?.manifest()?;
        }
        let layout = Self {
            path: path.to_owned(),
        };
        let blobs = layout.blobs();
        fs::create_dir_all(&blobs).map_err(io_error("make the folder", &blobs))?;
        Ok(layout)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of its blobs, each called by the hex of its digest.
    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs/sha256")
    }

    /// Where a blob is.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// The manifest, and its bytes, which are the ones the index names.
    pub fn manifest(&self) -> Result<(Vec<u8>, Manifest), Error> {
        let named = |what| {
            move |source| Error::Manifest {
                what,
                path: self.path.clone(),
                source,
            }
        };
        let index = read_file(&self.path.join("index.json"), limits::MANIFEST)?;
        let index = Index::parse(&index).map_err(named("the index"))?;
        let bytes = read_file(&self.blob(&index.manifest), limits::MANIFEST)?;
        let found = Digest::of(&bytes);
        if found != index.manifest {
            return Err(Error::Digest {
                expected: index.manifest,
                found,
            });
        }
        let manifest = Manifest::parse(&bytes).map_err(named("the manifest"))?;
        Ok((bytes, manifest))
    }

    /// The bundle: manifest and configuration, which agree.
    pub fn bundle(&self) -> Result<Bundle, Error> {
        let (_, manifest) = self.manifest()?;
        let config = read_file(&self.blob(&manifest.config().digest), limits::CONFIG)?;
        Ok(Bundle::assemble(manifest, &config)?)
    }

    /// A blob to be written.
    pub(super) fn new_blob(&self) -> Result<BlobWriter, Error> {
        BlobWriter::new(&self.blobs())
    }

    /// Stores bytes as a blob.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<(Digest, u64), Error> {
        let mut blob = self.new_blob()?;
        blob.write_all(bytes)
            .map_err(io_error("write a blob in", &self.path))?;
        blob.finish()
    }

    /// Names the manifest that the layout holds from now on, then removes the
    /// blobs of the one before.
    pub(super) fn publish(
        &self,
        manifest: &Manifest,
        digest: Digest,
        size: u64,
    ) -> Result<(), Error> {
        write_durably(&self.path.join("oci-layout"), OCI_LAYOUT.as_bytes())?;
        let index = Index {
            manifest: digest,
            size,
        }
        .to_bytes(manifest.version());
        sync_folder(&self.blobs())?;
        write_durably(&self.path.join("index.json"), &index)?;
        let mut keep: Vec<String> = manifest.blobs().map(|blob| blob.digest.hex()).collect();
        keep.push(digest.hex());
        let blobs = self.blobs();
        for entry in fs::read_dir(&blobs).map_err(io_error("list", &blobs))? {
            let entry = entry.map_err(io_error("list", &blobs))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if Digest::from_hex(&name).is_ok() && !keep.contains(&name) {
                fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

/// A blob being written beside its place, and hashed on the way. Dropped
/// before [`BlobWriter::finish`], it is removed.
pub struct BlobWriter {
    folder: PathBuf,
    temporary: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
}

/// Tells temporary files of one process apart.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl BlobWriter {
    /// A new blob in `folder`.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".partial-{}-{number}", std::process::id()));
        let file = File::create(&temporary).map_err(io_error("create", &temporary))?;
        Ok(Self {
            folder: folder.to_owned(),
            temporary,
            file,
            hasher: Hasher::new(),
            size: 0,
        })
    }

    /// Makes it durable under its digest's name.
    pub fn finish(self) -> Result<(Digest, u64), Error> {
        let digest = self.hasher.clone().finish();
        let place = self.folder.join(digest.hex());
        self.file
            .sync_all()
            .map_err(io_error("sync", &self.temporary))?;
        fs::rename(&self.temporary, &place).map_err(io_error("put in place", &place))?;
        Ok((digest, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // after a rename there is nothing of this name
        let _ = fs::remove_file(&self.temporary);
    }
}

/// See [`super::copy_blobs`].
pub fn copy_blobs(
    layout: &Layout,
    into: &Path,
    progress: Progress<'_>,
) -> Result<Vec<Digest>, Error> {
    let bundle = layout.bundle()?;
    fs::create_dir_all(into).map_err(io_error("make the folder", into))?;
    let total = bundle.manifest().total_size();
    let mut done = 0;
    let mut digests = Vec::new();
    for blob in bundle.manifest().blobs() {
        let place = into.join(blob.digest.hex());
        let there = place.exists() && hash_blob(&place, blob, &mut |_| {}).is_ok();
        if !there {
            copy_blob(&layout.blob(&blob.digest), into, blob, &mut |bytes| {
                progress(done + bytes, total);
            })?;
        }
        done += blob.size;
        progress(done, total);
        digests.push(blob.digest);
    }
    sync_folder(into)?;
    Ok(digests)
}

fn copy_blob(
    from: &Path,
    into: &Path,
    blob: &Descriptor,
    told: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let mut writer = BlobWriter::new(into)?;
    read_blob(from, blob, told, &mut |bytes| {
        writer
            .write_all(bytes)
            .map_err(io_error("write a blob in", into))
    })?;
    writer.finish().map(|_| ())
}

/// Reads a blob to its end and checks size and digest.
pub fn hash_blob(path: &Path, blob: &Descriptor, told: &mut dyn FnMut(u64)) -> Result<(), Error> {
    read_blob(path, blob, told, &mut |_| Ok(()))
}

fn read_blob(
    path: &Path,
    blob: &Descriptor,
    told: &mut dyn FnMut(u64),
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let found = file.metadata().map_err(io_error("look at", path))?.len();
    if found != blob.size {
        return Err(Error::Size {
            digest: blob.digest,
            expected: blob.size,
            found,
        });
    }
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let got = file.read(&mut buffer).map_err(io_error("read", path))?;
        let bytes = buffer.get(..got).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        sink(bytes)?;
        done += got as u64;
        told(done);
    }
    let found = hasher.finish();
    if found != blob.digest {
        return Err(Error::Digest {
            expected: blob.digest,
            found,
        });
    }
    Ok(())
}

/// A whole file of at most `limit` bytes.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > limit {
        let why = format!("larger than the {limit} bytes it can have");
        return Err(Error::Content {
            path: path.to_owned(),
            why,
        });
    }
    Ok(bytes)
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension(format!("partial-{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .map_err(io_error("write", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync", path))
}
