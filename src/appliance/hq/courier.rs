//! The courier's file: what HQ signed for one site, with the bundles that are
//! to go along, as one tar. `site::courier` reads it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write as _};
use std::path::Path;

use anyhow::Context as _;
use groundcrew_core::{Digest, SiteId};

use super::Hq;
use crate::bundle::{self, Layout};
use crate::site::courier::entry;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Bundles that go along.
    pub bundles: usize,
    /// Bytes in all.
    pub bytes: u64,
}

/// Writes the courier's file for `site`. A bundle that HQ has not listed is
/// refused: the site would refuse it, too.
pub fn export(hq: &Hq, site: &SiteId, bundles: &[&Path], file: &Path) -> anyhow::Result<Exported> {
    let mut manifests = Vec::new();
    for layout in bundles {
        let (manifest, built) = bundle::manifest_bytes(layout)?;
        manifests.push((built.reference().target_path(), manifest));
    }
    let package = hq.package(site, manifests)?;
    let repo = hq.repo(site)?.context("no root")?;
    for (path, bytes) in &package.files {
        let listed = repo.listed(path).with_context(|| {
            format!("{path} is not signed by HQ yet: `groundcrew hq publish` first")
        })?;
        listed.verify(bytes).with_context(|| path.clone())?;
    }
    let partial = file.with_extension("partial");
    let result = write(&partial, &package, bundles);
    let result = result.and_then(|()| Ok(fs::rename(&partial, file)?));
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result.with_context(|| format!("writing {}", file.display()))?;
    Ok(Exported {
        bundles: bundles.len(),
        bytes: fs::metadata(file)?.len(),
    })
}

pub(super) fn write(
    path: &Path,
    package: &crate::site::import::Package,
    bundles: &[&Path],
) -> anyhow::Result<()> {
    let out = File::create(path)?;
    let mut tar = tar::Builder::new(BufWriter::new(out));
    append(&mut tar, entry::SITE, package.site.as_str().as_bytes())?;
    for (number, root) in (1u64..).zip(&package.roots) {
        append(
            &mut tar,
            &format!("{}{number}.root.json", entry::METADATA),
            root,
        )?;
    }
    append(
        &mut tar,
        &format!("{}targets.json", entry::METADATA),
        &package.targets,
    )?;
    for (name, list) in &package.regions {
        append(&mut tar, &format!("{}{name}.json", entry::REGIONS), list)?;
    }
    for (name, bytes) in &package.files {
        append(&mut tar, &format!("{}{name}", entry::TARGETS), bytes)?;
    }
    let mut written = BTreeSet::<Digest>::new();
    for folder in bundles {
        let layout = Layout::open(folder)?;
        for blob in layout.bundle()?.manifest().blobs() {
            if written.insert(blob.digest) {
                let name = format!("{}{}", entry::BLOBS, blob.digest.hex());
                let content = File::open(layout.blob(&blob.digest))?;
                append_from(&mut tar, &name, blob.size, content)?;
            }
        }
    }
    let mut out = tar.into_inner()?;
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(())
}

fn append<W: std::io::Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    bytes: &[u8],
) -> anyhow::Result<()> {
    append_from(tar, name, bytes.len() as u64, bytes)
}

/// The same content gives the same bytes: no owner, no date. POSIX's header
/// (ustar) has room for the longest name there is here, 105 bytes, without an
/// entry of its own for it; `site::courier` takes none of those.
fn append_from<W: std::io::Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    content: impl Read,
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)?;
    Ok(())
}
