//! Whether a medium may be written: only what can be pulled out, and what
//! nobody uses.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::kernel;

/// A medium that may be overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// `/dev/sdX`.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What it calls itself.
    pub model: String,
}

/// Why it is left alone.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// A file, or nothing.
    #[error("{0} is no block device; `lsblk` lists them, and --out writes a file")]
    NotADevice(PathBuf),
    /// `/dev/sda1`.
    #[error("{0} is a partition; name the whole medium ({1})")]
    Partition(PathBuf, String),
    /// Somebody's disk.
    #[error(
        "{0} ({1}) is built in and is not overwritten; a stick hangs on USB or says that it is removable"
    )]
    Internal(PathBuf, String),
    /// In use.
    #[error("{0} is in use ({1}); unmount it first: umount {1}")]
    Mounted(String, String),
    /// In use by something else than a mount.
    #[error("{0} is in use by {1}")]
    Held(String, String),
    /// The little slider.
    #[error("{0} is write-protected; slide its switch, or take another one")]
    ReadOnly(PathBuf),
    /// Too small.
    #[error("{path} has {there} MiB and the stick needs {needed} MiB")]
    Small {
        /// Which.
        path: PathBuf,
        /// What it has.
        there: u64,
        /// What is needed.
        needed: u64,
    },
    /// The system.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Its words.
        error: std::io::Error,
    },
}

impl Medium {
    /// Looks at a medium, and refuses what is not one to be overwritten.
    pub fn examine(path: &Path) -> Result<Self, MediumError> {
        let io = |error| MediumError::Io {
            path: path.to_owned(),
            error,
        };
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.file_type().is_block_device() {
            return Err(MediumError::NotADevice(path.to_owned()));
        }
        let number = metadata.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let sys = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).map_err(io)?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(io)?;
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        judge(path, &sys, &mounts, &swaps)?;
        let bytes = kernel::device_bytes(&File::open(path).map_err(io)?).map_err(io)?;
        let word =
            |name: &str| fs::read_to_string(sys.join("device").join(name)).unwrap_or_default();
        let model = format!("{} {}", word("vendor").trim(), word("model").trim());
        Ok(Self {
            path: path.to_owned(),
            bytes,
            model: named(&model),
        })
    }

    /// Whether it has so many bytes.
    pub fn holds(&self, bytes: u64) -> Result<(), MediumError> {
        if self.bytes >= bytes {
            return Ok(());
        }
        Err(MediumError::Small {
            path: self.path.clone(),
            there: self.bytes >> 20,
            needed: bytes.div_ceil(1 << 20),
        })
    }
}

/// What a medium calls itself, which loop devices and virtual disks do not.
fn named(model: &str) -> String {
    match model.trim() {
        "" => "without a name".to_owned(),
        model => groundcrew_core::ids::shown(model),
    }
}

/// The decision, from what the system says. `sys` is the medium's folder below
/// `/sys/devices`.
fn judge(path: &Path, sys: &Path, mounts: &str, swaps: &str) -> Result<(), MediumError> {
    let word = |folder: &Path, name: &str| {
        fs::read_to_string(folder.join(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let name_of = |folder: &Path| {
        folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let name = name_of(sys);
    if sys.join("partition").exists() {
        let disk = sys.parent().map(name_of).unwrap_or_default();
        return Err(MediumError::Partition(
            path.to_owned(),
            format!("/dev/{disk}"),
        ));
    }
    // A loop device is a file of whoever made it.
    let usb = sys
        .components()
        .any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
    if word(sys, "removable") != "1" && !usb && !name.starts_with("loop") {
        let model = named(&word(&sys.join("device"), "model"));
        return Err(MediumError::Internal(path.to_owned(), model));
    }
    if word(sys, "ro") == "1" {
        return Err(MediumError::ReadOnly(path.to_owned()));
    }
    let entries = fs::read_dir(sys).into_iter().flatten().flatten();
    let partitions = entries
        .map(|entry| entry.path())
        .filter(|p| p.join("partition").exists());
    for part in std::iter::once(sys.to_owned()).chain(partitions) {
        let (device, number) = (format!("/dev/{}", name_of(&part)), word(&part, "dev"));
        let mounted = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(2);
            (words.next() == Some(number.as_str()))
                .then(|| words.nth(1))
                .flatten()
        });
        if let Some(at) = mounted {
            return Err(MediumError::Mounted(device, at.to_owned()));
        }
        if swaps
            .lines()
            .any(|line| line.split_whitespace().next() == Some(device.as_str()))
        {
            return Err(MediumError::Held(
                device,
                "the system as swap space".to_owned(),
            ));
        }
        let holder = fs::read_dir(part.join("holders"))
            .ok()
            .and_then(|mut all| all.next()?.ok());
        if let Some(holder) = holder {
            let holder = holder.file_name().to_string_lossy().into_owned();
            return Err(MediumError::Held(device, holder));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A medium as sysfs shows it.
    fn sysfs(place: &str, removable: &str, read_only: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join(place).join("sdb");
        fs::create_dir_all(disk.join("sdb1/holders")).unwrap();
        fs::create_dir_all(disk.join("holders")).unwrap();
        fs::create_dir_all(disk.join("device")).unwrap();
        for (name, text) in [
            ("removable", removable),
            ("ro", read_only),
            ("dev", "8:16"),
            ("sdb1/partition", "1"),
            ("sdb1/dev", "8:17"),
            ("device/model", "Cruiser"),
        ] {
            fs::write(disk.join(name), format!("{text}\n")).unwrap();
        }
        (root, disk)
    }

    fn judged(disk: &Path, mounts: &str, swaps: &str) -> Result<(), MediumError> {
        judge(Path::new("/dev/sdb"), disk, mounts, swaps)
    }

    #[test]
    fn what_hangs_on_usb_or_is_removable_may_be_written() {
        for (place, removable) in [("pci0/usb1/1-2", "0"), ("pci0/mmc", "1")] {
            let (_root, disk) = sysfs(place, removable, "0");
            judged(&disk, "", "").unwrap();
        }
        let (_root, disk) = sysfs("pci0/ata1", "0", "0");
        let refused = judged(&disk, "", "").unwrap_err();
        assert!(matches!(refused, MediumError::Internal(..)), "{refused}");
    }

    #[test]
    fn what_is_used_or_protected_is_refused_and_named() {
        let (_root, disk) = sysfs("usb1", "1", "0");
        let mounts = "36 35 8:17 / /media/stick rw,noatime - vfat /dev/sdb1 rw\n";
        let refused = judged(&disk, mounts, "").unwrap_err().to_string();
        assert!(refused.contains("umount /media/stick"), "{refused}");
        let swaps = "Filename Type\n/dev/sdb1 partition 1 0 -2\n";
        assert!(matches!(
            judged(&disk, "", swaps),
            Err(MediumError::Held(..))
        ));
        fs::write(disk.join("sdb1/holders/dm-0"), "").unwrap();
        assert!(matches!(judged(&disk, "", ""), Err(MediumError::Held(..))));
        let (_root, disk) = sysfs("usb1", "1", "1");
        assert!(matches!(
            judged(&disk, "", ""),
            Err(MediumError::ReadOnly(_))
        ));
        let partition = judged(&disk.join("sdb1"), "", "").unwrap_err().to_string();
        assert!(
            partition.contains("name the whole medium (/dev/sdb)"),
            "{partition}"
        );
    }

    #[test]
    fn a_file_is_no_medium() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            Medium::examine(file.path()),
            Err(MediumError::NotADevice(_))
        ));
    }
}
