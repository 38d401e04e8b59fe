//! What starts a stick, whatever its state is: boot loaders, kernel, initrds,
//! menu. The same for a new stick and for an update in place.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::StickSettings;
use super::gpt::Guid;
use super::grub::{self, BiosGrub, EfiProgram};
use crate::image;
use crate::site::Site;

/// Everything that starts a stick.
pub struct StartParts {
    /// The site it is of.
    pub site: Site,
    /// For a BIOS.
    pub grub: BiosGrub,
    /// On the start partition, by path, but for the menu.
    pub start: Vec<(String, Vec<u8>)>,
    settings: StickSettings,
    name: String,
}

impl StartParts {
    /// Reads what `image build` made, shim and GRUB, and packs the program. The
    /// BIOS-boot partition is `room` bytes from sector `first` on.
    pub fn make(
        site: &Site,
        binary: &Path,
        usr_lib: &Path,
        (first, room): (u64, u64),
    ) -> anyhow::Result<Self> {
        let settings = site.settings()?;
        let manifest = image::Manifest::read(&site.boot_dir()).with_context(|| {
            format!(
                "a stick starts what `groundcrew image build --site {}` makes",
                site.dir().display()
            )
        })?;
        let differing = manifest.differing(&site.boot_dir());
        ensure!(
            differing.is_empty(),
            "{} in {} changed since `image build`: run it again",
            differing.join(", "),
            site.boot_dir().display()
        );
        Ok(Self {
            site: site.clone(),
            grub: grub::bios(&usr_lib.join("grub"), first, room)?,
            start: boot_files(site, binary, usr_lib)?,
            settings: settings.stick,
            name: settings.site.to_string(),
        })
    }

    /// The start partition's files with the menu of a stick whose data
    /// partition is `data`.
    pub fn files(&self, data: Guid, volume: u32) -> Vec<(String, Vec<u8>)> {
        let menu = grub::menu(&self.settings, data, volume, &self.name);
        let mut files = self.start.clone();
        files.push((grub::MENU.to_owned(), menu.into_bytes()));
        files
    }
}

/// The start partition's files but for the menu, which knows their ids.
fn boot_files(
    site: &Site,
    binary: &Path,
    usr_lib: &Path,
) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let boot = site.boot_dir();
    let read = |name: &str| {
        let path = boot.join(name);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    let program = image::program_initrd("groundcrew", binary).with_context(|| {
        format!(
            "{} cannot run on a stick; build it with RUSTFLAGS='-C target-feature=+crt-static' \
             cargo build --release --target x86_64-unknown-linux-gnu, and name it with --binary",
            binary.display()
        )
    })?;
    let efi = grub::efi_programs(usr_lib)?;
    let mut files: Vec<(String, Vec<u8>)> = efi
        .into_iter()
        .map(|EfiProgram { path, content }| (path.to_owned(), content))
        .collect();
    files.push((image::VMLINUZ.to_owned(), read(image::VMLINUZ)?));
    files.push((image::INITRD.to_owned(), read(image::INITRD)?));
    files.push(("crew.img".to_owned(), program));
    Ok(files)
}
