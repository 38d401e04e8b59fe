//! Reading the courier's file (`hq::courier` writes it): bytes of a stick, so
//! everything in it is judged before anything is written, and no entry chooses
//! where it lands. Entries are taken raw: the `tar` crate would read long names
//! (GNU `L`, pax `x`) into memory without a limit, before anybody sees them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::Digest;
use groundcrew_core::bundle::Manifest;
use groundcrew_core::digest::Hasher;
use groundcrew_core::trust::tuf::repo::claimed_root;

use super::import::{self, Imported, Package};
use super::{Site, SiteKeys, publish, rekey};
use crate::durable;
use crate::store::Store;

/// Names in the tar.
pub mod entry {
    /// Whom it is for.
    pub const SITE: &str = "groundcrew-site";
    /// `N.root.json`, `targets.json`.
    pub const METADATA: &str = "metadata/";
    /// Lists that regions sign, `NAME.json`.
    pub const REGIONS: &str = "metadata/regions/";
    /// Target files, by target path.
    pub const TARGETS: &str = "targets/";
    /// Blobs of bundles, by the hex of their SHA-256.
    pub const BLOBS: &str = "blobs/sha256/";
}

/// The most bytes of one file that is held in memory, and of all together; each
/// counts for one block more, so that empty ones have an end, too.
const SMALL: u64 = 5_000_000;
const ALL_SMALL: u64 = 64_000_000;
const BLOCK: u64 = 512;

/// Judges the file and takes it over: the blobs first, then what lists them.
pub fn import(site: &Site, file: &Path) -> anyhow::Result<Imported> {
    let what = || format!("{}", file.display());
    rekey::recover(site)?;
    let package = read(open(file)?).with_context(what)?;
    let (keys, new) = keys_for(site, &package)?;
    fs::create_dir_all(site.trust_dir())?;
    let _hold = publish::hold(site)?;
    let checked = import::check(site, &package, &keys).with_context(what)?;
    let wanted = blobs_of(&package)?;
    // Twice over the file: every blob is judged before the first one is kept.
    each_blob(open(file)?, &wanted, &mut |_, _| Ok(())).with_context(what)?;
    let blobs = site.blobs_dir().join("sha256");
    fs::create_dir_all(&blobs)?;
    keep_blobs(open(file)?, &wanted, &blobs).with_context(what)?;
    missing(&wanted, &blobs)?;
    if !new && !rekey::unfinished(site) {
        return checked.write(site, &keys);
    }
    // The registry's lock: no appliance may go on with the old keys.
    let mut store = Store::open(&site.registry_file()).context(
        "the site's keys change: stop the appliance first, and start it again afterwards",
    )?;
    if new {
        rekey::swap(site)?;
    }
    let imported = checked.write(site, &keys)?;
    if let Some(doubt) = rekey::finish(site, &mut store)? {
        tracing::warn!("before its keys changed, the journal did not hold: {doubt}");
    }
    Ok(imported)
}

/// The keys that the package was made for: the site's, or those that waited
/// for it.
fn keys_for(site: &Site, package: &Package) -> anyhow::Result<(SiteKeys, bool)> {
    let root = package.roots.last().context("no root is in it")?;
    let root = claimed_root(root)?;
    if let Some(next) = rekey::waiting(site)?
        && import::names(&root.timestamp_authority(), next.timestamp.public())
    {
        return Ok((next, true));
    }
    Ok((SiteKeys::read(&site.keys_dir())?, false))
}

fn open(file: &Path) -> anyhow::Result<BufReader<File>> {
    let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    Ok(BufReader::new(opened))
}

/// Everything but the blobs, unjudged.
///
/// # Errors
/// It is no courier's file, or longer than any.
pub fn read(file: impl Read) -> anyhow::Result<Package> {
    let mut site = None;
    let mut roots = BTreeMap::<u64, Vec<u8>>::new();
    let mut targets = None;
    let (mut files, mut regions) = (Vec::new(), Vec::new());
    let mut left = ALL_SMALL;
    let mut tar = tar::Archive::new(file);
    let entries = tar.entries().context("no courier file of groundcrew")?;
    for found in entries.raw(true) {
        let mut found = found.context("no courier file of groundcrew, or cut short")?;
        let name = name_of(&found)?;
        if name.starts_with(entry::BLOBS) {
            continue;
        }
        let size = found.size();
        ensure!(
            size <= SMALL && size + BLOCK <= left,
            "{name} is longer than any such file"
        );
        left -= size + BLOCK;
        let mut bytes = Vec::new();
        found.read_to_end(&mut bytes)?;
        if name == entry::SITE {
            site = Some(String::from_utf8_lossy(&bytes).parse()?);
        } else if name == "metadata/targets.json" {
            targets = Some(bytes);
        } else if let Some(region) = region_of(&name) {
            regions.push((region.parse()?, bytes));
        } else if let Some(path) = name.strip_prefix(entry::TARGETS) {
            files.push((path.to_owned(), bytes));
        } else if let Some(version) = root_version(&name) {
            roots.insert(version, bytes);
        } else {
            bail!("it holds `{name}`, which this program does not know: update it");
        }
    }
    let in_order = roots.keys().copied().eq(1..=roots.len() as u64);
    ensure!(
        in_order && !roots.is_empty(),
        "a root is missing in its chain of roots"
    );
    Ok(Package {
        site: site.context("it names no site: no courier file of groundcrew")?,
        roots: roots.into_values().collect(),
        targets: targets.context("it holds no targets")?,
        regions,
        files,
    })
}

fn name_of(found: &tar::Entry<'_, impl Read>) -> anyhow::Result<String> {
    ensure!(
        found.header().entry_type().is_file(),
        "it holds something that is no plain file"
    );
    let name = found.path_bytes();
    let name = std::str::from_utf8(&name)
        .ok()
        .filter(|name| name.len() <= 300);
    Ok(name
        .context("it holds a file with a strange name")?
        .to_owned())
}

fn region_of(name: &str) -> Option<&str> {
    name.strip_prefix(entry::REGIONS)?.strip_suffix(".json")
}

fn root_version(name: &str) -> Option<u64> {
    let version = name
        .strip_prefix(entry::METADATA)?
        .strip_suffix(".root.json")?;
    version.parse().ok()
}

/// The blobs that the manifests name, with their sizes.
///
/// # Errors
/// A manifest is none.
pub fn blobs_of(package: &Package) -> anyhow::Result<BTreeMap<Digest, u64>> {
    let mut blobs = BTreeMap::new();
    for (path, bytes) in &package.files {
        if path.starts_with("bundles/") {
            let manifest = Manifest::parse(bytes).with_context(|| path.clone())?;
            blobs.extend(manifest.blobs().map(|blob| (blob.digest, blob.size)));
        }
    }
    Ok(blobs)
}

/// Reads every blob, hands its bytes on, and judges its digest at its end: then
/// `take` is called with no bytes.
///
/// # Errors
/// A blob that nobody wants, of another size or digest.
pub fn each_blob(
    file: impl Read,
    wanted: &BTreeMap<Digest, u64>,
    take: &mut dyn FnMut(&Digest, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut tar = tar::Archive::new(file);
    for found in tar.entries()?.raw(true) {
        let mut found = found?;
        let name = name_of(&found)?;
        let Some(hex) = name.strip_prefix(entry::BLOBS) else {
            continue;
        };
        let digest = Digest::from_hex(hex).context("a blob with a name that is no digest")?;
        let size = wanted.get(&digest);
        let size = size.with_context(|| format!("the blob {digest} belongs to no bundle in it"))?;
        ensure!(
            found.size() == *size,
            "the blob {digest} has another size than its bundle says"
        );
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let count = found.read(&mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            hasher.update(bytes);
            take(&digest, bytes)?;
        }
        ensure!(
            hasher.finish() == digest,
            "the blob {digest} was changed on the way"
        );
        take(&digest, &[])?;
    }
    Ok(())
}

fn keep_blobs(
    file: impl Read,
    wanted: &BTreeMap<Digest, u64>,
    folder: &Path,
) -> anyhow::Result<()> {
    let mut writing: Option<tempfile::NamedTempFile> = None;
    each_blob(file, wanted, &mut |digest, bytes| {
        if bytes.is_empty() {
            // Its end, and its digest is right. An empty blob comes here at once.
            let done = writing.take().map_or_else(|| temporary(folder), Ok)?;
            done.as_file().sync_all()?;
            let path = folder.join(digest.hex());
            done.persist(&path)?;
            durable::sync_folder_of(&path)?;
            return Ok(());
        }
        let mut out = writing.take().map_or_else(|| temporary(folder), Ok)?;
        std::io::Write::write_all(&mut out, bytes)?;
        writing = Some(out);
        Ok(())
    })
}

fn temporary(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new()
        .prefix(".courier-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
}

/// A bundle whose blobs are not all here would fail on every device.
fn missing(wanted: &BTreeMap<Digest, u64>, folder: &Path) -> anyhow::Result<()> {
    let lacks = |digest: &&Digest| !folder.join(digest.hex()).is_file();
    match wanted.keys().find(lacks) {
        Some(digest) => bail!("the blob {digest} of a bundle in it is missing: export it again"),
        None => Ok(()),
    }
}
