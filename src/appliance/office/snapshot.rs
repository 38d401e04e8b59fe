//! Snapshots on disk: written while the appliance serves, believed at start
//! only where signature and journal agree.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use groundcrew_core::digest::Hasher;
use groundcrew_core::keys::{PublicKey, SigningKey};
use groundcrew_core::{SiteId, UnixTime};
use groundcrew_registry::snapshot::{Frozen, Loader, Seal};
use groundcrew_registry::state::Limits;
use groundcrew_registry::{Entry, Registry};

use crate::durable::{self, Access};
use crate::store::Store;

/// Journal lines after which a new one is worth its writing.
pub const EVERY: u64 = 10_000;

/// The longest line of a device: its report is bounded, and so is the rest.
const LINE: u64 = 256 * 1024;

/// The registry as a snapshot has it; none where there is none, or none that
/// holds, which is said and costs only time.
pub fn load(
    path: &Path,
    site: &SiteId,
    key: &PublicKey,
    store: &Store,
) -> Option<(Registry, Seal)> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("{}: {error}; the whole journal is read", path.display());
            return None;
        }
    };
    match read(file, site, key, store) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            tracing::warn!(
                "{} is not used, and the whole journal is read: {error:#}",
                path.display()
            );
            None
        }
    }
}

fn read(
    file: File,
    site: &SiteId,
    key: &PublicKey,
    store: &Store,
) -> anyhow::Result<(Registry, Seal)> {
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut loader = Loader::new(site.clone(), Limits::default());
    let (mut hasher, mut line) = (Hasher::new(), Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, LINE).read_until(b'\n', &mut line)?;
        ensure!(read > 0 && line.ends_with(b"\n"), "it is cut off");
        let text = std::str::from_utf8(&line)
            .context("it is no text")?
            .trim_end();
        if Loader::is_seal(text) {
            let (registry, seal) = loader.finish(text, hasher.finish(), key)?;
            let known = store.line(seal.seq)?.context("the journal is shorter")?;
            let entry = Entry::read(&known)?;
            ensure!(entry.hash() == seal.head, "the journal is another one");
            return Ok((registry, seal));
        }
        hasher.update(&line);
        loader.device(text)?;
    }
}

/// Writes a snapshot in place of the one before.
pub fn write(path: &Path, frozen: &Frozen, at: UnixTime, key: &SigningKey) -> anyhow::Result<()> {
    durable::write_with(path, Access::Secret, |file| {
        let mut out = BufWriter::with_capacity(256 * 1024, file);
        let (mut hasher, mut devices) = (Hasher::new(), 0);
        for line in frozen.lines() {
            let mut line = line?;
            line.push('\n');
            hasher.update(line.as_bytes());
            out.write_all(line.as_bytes())?;
            devices += 1;
        }
        let seal = frozen.seal(devices, hasher.finish(), at, key)?;
        writeln!(out, "{seal}")?;
        out.flush()
    })
    .with_context(|| format!("writing {}", path.display()))
}
