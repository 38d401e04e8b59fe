//! `image.json`: what a boot image is made of; and putting the files in place.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ImageError;
use crate::durable::{self, Access};

/// The manifest's name in the boot folder. It is replaced last.
pub const MANIFEST: &str = "image.json";

/// What lies in the boot folder. Says nothing of time or place of building:
/// same input, same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Form of this file, 1.
    pub format: u32,
    /// Kernel and modules, and the package they are from.
    pub kernel: Facts,
    /// The program that is `/init`.
    pub agent: Agent,
    /// SHA-256 of the site's trust root, hex.
    pub trust_sha256: String,
    /// The files, in the order they are told.
    pub files: Vec<BootFile>,
    /// Kernel and initrd together, in bytes.
    pub boot_bytes: u64,
    /// The site's own image for UEFI, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uki: Option<UkiFacts>,
}

/// What is told of the kernel part, here and beside the kept files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// `6.1.0-56-amd64`, as `uname -r` says it.
    pub version: String,
    /// `linux-image-6.1.0-56-amd64`.
    pub package: String,
    /// `6.1.192-2`.
    pub package_version: String,
    /// SHA-256 of the `.deb`, hex.
    pub deb_sha256: String,
    /// SHA-256 of the recipe's text, hex.
    pub recipe_sha256: String,
    /// How many modules are in the image.
    pub modules: usize,
    /// Modules the recipe would have liked and this kernel does not have.
    pub left_out: Vec<String>,
}

/// The site's own image for UEFI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UkiFacts {
    /// The kernel's command line inside.
    pub command_line: String,
    /// SHA-256 of the certificate whose key signed it, hex; `None`: unsigned.
    pub signed_by: Option<String>,
}

/// The agent in the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its version, as whoever built the image says it.
    pub version: String,
    /// Size and digest of the program.
    #[serde(flatten)]
    pub stored: Stored,
}

/// A file in the boot folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootFile {
    /// Its name.
    pub name: String,
    /// Its size and digest.
    #[serde(flatten)]
    pub stored: Stored,
}

/// Size and digest of some bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// In bytes.
    pub bytes: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

impl Stored {
    /// Of these bytes.
    pub fn of(content: &[u8]) -> Self {
        Self {
            bytes: content.len() as u64,
            sha256: Digest::of(content).to_hex(),
        }
    }
}

/// A SHA-256.
pub(super) struct Digest(ring::digest::Digest);

impl Digest {
    pub(super) fn of(content: &[u8]) -> Self {
        Self(ring::digest::digest(&ring::digest::SHA256, content))
    }

    pub(super) fn to_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(self.0.as_ref())
    }
}

impl Manifest {
    /// The manifest of a boot folder.
    pub fn read(boot: &Path) -> Result<Self, ImageError> {
        let path = boot.join(MANIFEST);
        let text = fs::read(&path).map_err(ImageError::at(&path))?;
        serde_json::from_slice(&text).map_err(ImageError::Json)
    }

    /// The files of a boot folder that are missing or not what the manifest
    /// says, by name. Reads them whole.
    pub fn differing(&self, boot: &Path) -> Vec<String> {
        let same = |file: &&BootFile| {
            fs::read(boot.join(&file.name)).is_ok_and(|c| Stored::of(&c) == file.stored)
        };
        self.files
            .iter()
            .filter(|file| !same(file))
            .map(|file| file.name.clone())
            .collect()
    }
}

/// Puts the files into `boot` and the manifest last. All are written and
/// synced in a folder beside their places before the first one is renamed, so
/// a full disk leaves the old image whole.
pub(super) fn publish(
    boot: &Path,
    files: &[(&str, &[u8])],
    manifest: &Manifest,
) -> Result<(), ImageError> {
    fs::create_dir_all(boot).map_err(ImageError::at(boot))?;
    let staging = boot.join(format!(".building-{}", std::process::id()));
    fs::create_dir_all(&staging).map_err(ImageError::at(&staging))?;
    let result = stage_and_rename(boot, &staging, files, manifest);
    // Empty after success; after a failure what is in it is of no use.
    let _ = fs::remove_dir_all(&staging);
    result
}

fn stage_and_rename(
    boot: &Path,
    staging: &Path,
    files: &[(&str, &[u8])],
    manifest: &Manifest,
) -> Result<(), ImageError> {
    let mut json = serde_json::to_vec_pretty(manifest).map_err(ImageError::Json)?;
    json.push(b'\n');
    let all: Vec<(&str, &[u8])> = files
        .iter()
        .copied()
        .chain([(MANIFEST, &json[..])])
        .collect();
    for (name, content) in &all {
        let path = staging.join(name);
        make_folder_of(&path)?;
        durable::write(&path, content, Access::Public).map_err(ImageError::at(&path))?;
    }
    for (name, _) in &all {
        let path = boot.join(name);
        make_folder_of(&path)?;
        fs::rename(staging.join(name), &path).map_err(ImageError::at(&path))?;
        if name.contains('/') {
            durable::sync_folder_of(&path).map_err(ImageError::at(&path))?;
        }
    }
    let manifest = boot.join(MANIFEST);
    durable::sync_folder_of(&manifest).map_err(ImageError::at(&manifest))
}

fn make_folder_of(path: &Path) -> Result<(), ImageError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(ImageError::at(folder))
}
