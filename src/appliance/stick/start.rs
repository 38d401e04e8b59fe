//! What starts a stick, whatever its state is: boot loaders, kernel, initrds,
//! menu. The same for a new stick and for an update in place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::StickSettings;
use super::gpt::Guid;
use super::grub::{self, BiosGrub, EfiProgram};
use super::meanwhile::Meanwhile;
use crate::image;
use crate::site::Site;

/// Everything that starts a stick.
pub struct StartParts {
    /// The site it is of.
    pub site: Site,
    /// For a BIOS.
    pub grub: Meanwhile<BiosGrub>,
    /// On the start partition, by path, but for the menu.
    pub start: Vec<(String, Vec<u8>)>,
    /// SHA-256 of what `image build` made, by name: read and found right.
    pub boot: BTreeMap<String, [u8; 32]>,
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
        let grub = grub::bios(&usr_lib.join("grub"), first, room)?;
        let boot = boot_sums(&manifest, &site.boot_dir())?;
        let start = boot_files(site, binary, usr_lib)?;
        Ok(Self {
            site: site.clone(),
            grub,
            start,
            boot,
            settings: settings.stick,
            name: settings.site.to_string(),
        })
    }

    /// The menu of a stick whose data partition is `data`: the last file of its
    /// start partition.
    pub fn menu(&self, data: Guid, volume: u32) -> (String, Vec<u8>) {
        let menu = grub::menu(&self.settings, data, volume, &self.name);
        (grub::MENU.to_owned(), menu.into_bytes())
    }
}

/// The digests of a boot folder's files, which are what its manifest says.
fn boot_sums(
    manifest: &image::Manifest,
    boot: &Path,
) -> anyhow::Result<BTreeMap<String, [u8; 32]>> {
    let differing = manifest.differing(boot);
    ensure!(
        differing.is_empty(),
        "{} in {} changed since `image build`: run it again",
        differing.join(", "),
        boot.display()
    );
    let sums = manifest.files.iter().map(|file| {
        let sum = data_encoding::HEXLOWER.decode(file.stored.sha256.as_bytes());
        let sum = sum.ok().and_then(|sum| sum.try_into().ok());
        let sum = sum.with_context(|| format!("the manifest has no digest of {}", file.name))?;
        Ok((file.name.clone(), sum))
    });
    sums.collect()
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
