//! Bundles on the appliance: built from a source folder, kept as an OCI layout
//! (`oci-layout`, `index.json`, `blobs/sha256/HEX`) that standard tools copy.
//!
//! What a bundle *is* stands in [`groundcrew_core::bundle`]; this room reads
//! and writes files. Whatever it writes is written beside its place, synced,
//! renamed, and the folder synced: a layout is the old one or the new one.

mod build;
mod layout;
mod scan;
mod show;
mod verify;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use groundcrew_core::Digest;
use groundcrew_core::bundle::source::TemplateFileError;
use groundcrew_core::bundle::tree::TreeError;
use groundcrew_core::bundle::{Bundle, BundleError, ManifestError, PathError, SourceError};

pub use build::{BuildReport, build};
pub use layout::Layout;
pub use show::{Shown, ShownStep};
pub use verify::VerifyReport;

/// Told while long work goes on: bytes done, bytes in all.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// What went wrong with a bundle's source or layout, and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in `bundle.toml`.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A mistake in a template beside it.
    #[error(transparent)]
    Template(#[from] TemplateFileError),
    /// The source's parts do not fit together.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A path in the source that a bundle cannot hold.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Something in the source folder that a bundle cannot hold.
    #[error("{}: {why}", .path.display())]
    Content {
        /// Where.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not a layout that holds a bundle.
    #[error("{} is not a bundle: {why}", .path.display())]
    NotABundle {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A manifest or index that cannot be used.
    #[error("{what} of {}: {source}", .path.display())]
    Manifest {
        /// Which.
        what: &'static str,
        /// The layout.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A blob's bytes were changed.
    #[error("the blob {expected} was changed: its bytes have the digest {found}")]
    Digest {
        /// The one named.
        expected: Digest,
        /// The one found.
        found: Digest,
    },
    /// A blob has another size than its name's manifest says.
    #[error("the blob {digest} has {found} bytes instead of {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// The manifest's size.
        expected: u64,
        /// What was found.
        found: u64,
    },
    /// The content tree is not what the configuration says.
    #[error(transparent)]
    Tree(#[from] TreeError<io::Error>),
}

/// Checks every byte of the bundle in a layout: the blobs' digests, and every
/// file of the content tree.
pub fn verify(layout: &Path, progress: Progress<'_>) -> Result<VerifyReport, Error> {
    verify::verify(&Layout::open(layout)?, progress)
}

/// Says what a bundle does; its manifest and configuration are checked, its
/// content is not read.
pub fn show(layout: &Path) -> Result<Shown, Error> {
    let layout = Layout::open(layout)?;
    let (manifest, _) = layout.manifest()?;
    Ok(Shown::of(&layout.bundle()?, Digest::of(&manifest)))
}

/// The manifest's bytes: what becomes a TUF target. Checked against
/// `index.json` and the configuration.
pub fn manifest_bytes(layout: &Path) -> Result<(Vec<u8>, Bundle), Error> {
    let layout = Layout::open(layout)?;
    let (bytes, _) = layout.manifest()?;
    Ok((bytes, layout.bundle()?))
}

/// Copies the blobs that the manifest names into a folder, each called by the
/// hex of its digest, and returns their digests. What is there already is
/// checked and kept; what is copied is hashed on the way.
pub fn copy_blobs(
    layout: &Path,
    into: &Path,
    progress: Progress<'_>,
) -> Result<Vec<Digest>, Error> {
    layout::copy_blobs(&Layout::open(layout)?, into, progress)
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        doing,
        path,
        source,
    }
}
