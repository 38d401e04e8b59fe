//! From a source folder to a layout. The same folder gives the same bytes:
//! order, times, owners and compression are fixed.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;

use groundcrew_core::Digest;
use groundcrew_core::bundle::manifest::Layers;
use groundcrew_core::bundle::{
    Action, Config, Descriptor, FileEntry, Inventory, Manifest, RelPath, Source, Stored, limits,
    tree,
};
use groundcrew_core::enroll::BundleRef;
use serde::Serialize;
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder;

use super::layout::{BlobWriter, CHUNK, Layout, read_file};
use super::scan::{Scan, SourceFolder};
use super::{Error, Progress, io_error};

/// The name of the file that describes a bundle.
const FILE: &str = "bundle.toml";
/// zstd's level: small downloads matter more than the time of one build.
const LEVEL: i32 = 9;

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildReport {
    /// Name and version.
    pub bundle: BundleRef,
    /// The digest of the manifest: the bundle's identity.
    pub manifest: Digest,
    /// Steps.
    pub steps: usize,
    /// Files of content.
    pub files: usize,
    /// Bytes of content.
    pub content_bytes: u64,
    /// Bytes of all blobs as they are stored and downloaded.
    pub stored_bytes: u64,
    /// What works, but is probably not meant.
    pub warnings: Vec<String>,
}

impl fmt::Display for BuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bundle    {}", self.bundle)?;
        writeln!(f, "manifest  {}", self.manifest)?;
        writeln!(f, "steps     {}", self.steps)?;
        write!(
            f,
            "content   {} files, {} bytes, stored as {}",
            self.files, self.content_bytes, self.stored_bytes
        )?;
        self.warnings
            .iter()
            .try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

/// Builds the bundle of the folder `source` into the layout `out`, which is
/// new, empty, or holds a bundle that is then replaced.
pub fn build(source: &Path, out: &Path, progress: Progress<'_>) -> Result<BuildReport, Error> {
    let folder = SourceFolder::open(source)?;
    let bundle_file = source.join(FILE);
    let text = String::from_utf8(read_file(&bundle_file, limits::SOURCE)?).map_err(|_| {
        Error::Content {
            path: bundle_file.clone(),
            why: "is not UTF-8 text".into(),
        }
    })?;
    let mut parsed = Source::parse(&bundle_file.display().to_string(), &text)?;
    parsed.inline_templates(|path| read_template(&folder, path))?;
    let warnings = warnings(&parsed);
    let scan = folder.scan(&parsed)?;
    refuse_nested(source, out)?;
    let layout = Layout::create(out)?;
    let (content, layers) = pack(&folder, scan, &layout, progress)?;
    let config = Config::new(parsed, content)?;
    let config_bytes = config.to_bytes()?;
    let named = |source| Error::Manifest {
        what: "the manifest",
        path: out.to_owned(),
        source,
    };
    let manifest = Manifest::new(&config, &config_bytes, layers).map_err(named)?;
    layout.put(&config_bytes)?;
    let (digest, size) = layout.put(&manifest.to_bytes())?;
    layout.publish(&manifest, digest, size)?;
    let bundle = layout.bundle()?;
    Ok(BuildReport {
        bundle: bundle.reference(),
        manifest: digest,
        steps: config.steps.len(),
        files: config.content.files.len(),
        content_bytes: config.content.files.iter().map(|file| file.size).sum(),
        stored_bytes: manifest.total_size(),
        warnings,
    })
}

fn read_template(folder: &SourceFolder, path: &RelPath) -> Result<String, Error> {
    let (file, size, _) = folder.file(path.as_str())?;
    if size > limits::TEMPLATE {
        return Err(folder.refused(path.as_str(), "is too large for a template: at most 1 MiB"));
    }
    let mut text = String::new();
    let read = file.take(limits::TEMPLATE).read_to_string(&mut text);
    read.map_err(|_| folder.refused(path.as_str(), "is not UTF-8 text, as a template must be"))?;
    Ok(text)
}

fn warnings(source: &Source) -> Vec<String> {
    let unguarded = |action: &Action| matches!(action, Action::Command(c) if c.creates.is_none() && c.unless.is_none());
    let steps = source.steps.iter().filter(|step| unguarded(&step.action));
    steps
        .map(|step| {
            format!(
                "step `{}` runs every time: give it `creates` or `unless`",
                step.name
            )
        })
        .collect()
}

/// A layout inside its own source would become content of the next build.
fn refuse_nested(source: &Path, out: &Path) -> Result<(), Error> {
    let source = source.canonicalize().map_err(io_error("open", source))?;
    let above = out.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        path.canonicalize().ok()
    });
    if above.is_some_and(|above| above.starts_with(&source)) {
        let why = "is inside the bundle's own source: write it somewhere else".into();
        return Err(Error::Content {
            path: out.to_owned(),
            why,
        });
    }
    Ok(())
}

fn pack(
    folder: &SourceFolder,
    scan: Scan,
    layout: &Layout,
    progress: Progress<'_>,
) -> Result<(Inventory, Layers), Error> {
    let total = scan.files.values().map(|file| file.size).sum();
    let mut done = 0;
    let mut layers = Layers::default();
    let mut files = Vec::with_capacity(scan.files.len());
    let small = scan
        .files
        .values()
        .any(|file| file.size < limits::LARGE_FILE);
    let mut archive = if small {
        Some(Archive::new(layout)?)
    } else {
        None
    };
    for (path, found) in scan.files {
        let (mut file, ..) = folder.file(path.as_str())?;
        let stored = if found.size < limits::LARGE_FILE {
            Stored::Tree
        } else {
            Stored::Blob
        };
        let digest = match &mut archive {
            Some(archive) if stored == Stored::Tree => {
                let content = read_small(folder, &path, file, found.size)?;
                let entry = FileEntry {
                    digest: Digest::of(&content),
                    path,
                    size: found.size,
                    mode: found.mode,
                    stored,
                };
                archive
                    .add(&entry, &content)
                    .map_err(io_error("write", layout.path()))?;
                done += found.size;
                progress(done, total);
                files.push(entry);
                continue;
            }
            _ => {
                let mut told = |bytes| progress(done + bytes, total);
                store_large(folder, &path, &mut file, found.size, layout, &mut told)?
            }
        };
        done += found.size;
        layers.files.push(Descriptor::file(digest, found.size));
        files.push(FileEntry {
            path,
            digest,
            size: found.size,
            mode: found.mode,
            stored,
        });
    }
    layers.tree = archive.map(|archive| archive.finish(layout)).transpose()?;
    let content = Inventory {
        directories: scan.directories.into_iter().collect(),
        files,
        links: scan.links.into_values().collect(),
    };
    Ok((content, layers))
}

fn read_small(
    folder: &SourceFolder,
    path: &RelPath,
    file: impl Read,
    size: u64,
) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let read = file.take(size + 1).read_to_end(&mut content);
    match read {
        Ok(got) if got as u64 == size => Ok(content),
        Ok(_) => Err(folder.refused(path.as_str(), "changed while it was read: build again")),
        Err(err) => Err(folder.refused(path.as_str(), &format!("cannot be read: {err}"))),
    }
}

fn store_large(
    folder: &SourceFolder,
    path: &RelPath,
    file: &mut impl Read,
    size: u64,
    layout: &Layout,
    told: &mut dyn FnMut(u64),
) -> Result<Digest, Error> {
    let mut blob = layout.new_blob()?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let got = file
            .read(&mut buffer)
            .map_err(io_error("read", Path::new(path.as_str())))?;
        let bytes = buffer.get(..got).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        blob.write_all(bytes)
            .map_err(io_error("write", layout.path()))?;
        done += got as u64;
        told(done);
    }
    if done != size {
        return Err(folder.refused(path.as_str(), "changed while it was read: build again"));
    }
    Ok(blob.finish()?.0)
}

/// The content tree being written: ustar, zstd, blob.
struct Archive(Encoder<'static, BlobWriter>);

impl Archive {
    fn new(layout: &Layout) -> Result<Self, Error> {
        let encoder = || -> io::Result<Encoder<'static, BlobWriter>> {
            let blob = layout.new_blob().map_err(io::Error::other)?;
            let mut encoder = Encoder::new(blob, LEVEL)?;
            encoder.set_parameter(CParameter::WindowLog(limits::ZSTD_WINDOW_LOG))?;
            // the blob's digest says more than a checksum would
            encoder.include_checksum(false)?;
            Ok(encoder)
        };
        encoder()
            .map(Self)
            .map_err(io_error("write", layout.path()))
    }

    fn add(&mut self, entry: &FileEntry, content: &[u8]) -> io::Result<()> {
        self.0.write_all(&tree::header(entry))?;
        self.0.write_all(content)?;
        self.0.write_all(
            tree::TRAILER
                .get(..tree::padding(entry.size))
                .unwrap_or_default(),
        )
    }

    fn finish(mut self, layout: &Layout) -> Result<Descriptor, Error> {
        let ended = self
            .0
            .write_all(&tree::TRAILER)
            .and_then(|()| self.0.finish());
        let (digest, size) = ended.map_err(io_error("write", layout.path()))?.finish()?;
        Ok(Descriptor::tree(digest, size))
    }
}
