//! A site on disk: where everything lies, what `site.toml` says, the keys.

pub mod charter;
mod cidr;
pub mod courier;
pub mod create;
pub mod import;
pub mod keys;
pub mod publish;
pub mod rekey;
pub mod settings;
pub mod staleness;
pub mod status;
pub mod time;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use groundcrew_netboot::path::BootPath;

use crate::image::names;

pub use cidr::{Cidr, Pool};
pub use keys::SiteKeys;
pub use settings::{Network, Settings};

/// The folder of a site. It may move: nothing inside names its own path.
#[derive(Clone, Debug)]
pub struct Site {
    dir: PathBuf,
}

impl Site {
    /// The site at `dir`; nothing is read yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads and checks `site.toml`.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let path = self.settings_file();
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "reading {}: is {} a site folder? `groundcrew init` makes one",
                path.display(),
                self.dir.display()
            )
        })?;
        Ok(settings::parse(&path.display().to_string(), &text)?)
    }

    /// Configuration.
    pub fn settings_file(&self) -> PathBuf {
        self.dir.join("site.toml")
    }

    /// Private keys of the site.
    pub fn keys_dir(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// The TUF repository: `metadata/` and `targets/`, served as it lies here.
    pub fn trust_dir(&self) -> PathBuf {
        self.dir.join("trust")
    }

    /// Blobs of published bundles, by digest.
    pub fn blobs_dir(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    /// Loaders, kernel and initrd.
    pub fn boot_dir(&self) -> PathBuf {
        self.dir.join("boot")
    }

    /// Whether the boot folder has an image for 64-bit ARM.
    pub fn has_arm64(&self) -> bool {
        let folder = self.boot_dir().join(groundcrew_netboot::ARM64);
        folder.join(crate::image::MANIFEST).is_file()
    }

    /// What the boot folder should have and has not: kernel, agent, iPXE, and every
    /// loader that `[boot]` sends a device to.
    pub fn missing_boot_files(&self, settings: &Settings) -> BTreeSet<String> {
        let loaders = settings.boot.loaders(self.has_arm64());
        let chosen = loaders.files().into_iter().map(BootPath::as_str);
        let wanted = names::ALWAYS.into_iter().chain(chosen);
        wanted
            .filter(|name| !self.boot_dir().join(name).is_file())
            .map(str::to_owned)
            .collect()
    }

    /// Sources of bundles, for people to edit.
    pub fn sources_dir(&self) -> PathBuf {
        self.dir.join("sources")
    }

    /// Devices, journal, leases.
    pub fn registry_file(&self) -> PathBuf {
        self.dir.join("registry.db")
    }

    /// What the journal says, up to a line: a start's shortcut.
    pub fn snapshot_file(&self) -> PathBuf {
        self.dir.join("registry.snapshot")
    }

    /// What happened to devices that boot.
    pub fn flight_file(&self) -> PathBuf {
        self.dir.join("flight.db")
    }

    /// Where commands reach a running appliance.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }
}
