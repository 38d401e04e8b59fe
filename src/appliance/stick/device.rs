//! Whether a medium may be written: only what can be pulled out, and what
//! nobody uses. It is held from the first look on, so that nobody begins to use
//! it meanwhile: a desktop that mounts what is plugged in, another `groundcrew`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::gpt::SECTOR;
use super::kernel;

/// How often, and how long each time, somebody who only looks is waited for:
/// udev looks at what was just plugged in, and holds it meanwhile.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(50);

/// What a medium is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read only. It may be write-protected.
    Reading,
    /// To be changed.
    Writing,
}

/// A medium, or the image of one, that nobody else works on as long as this
/// lives. The kernel then mounts nothing of it, and udev leaves it alone.
#[derive(Debug)]
pub struct Claim(File);

/// A medium that may be overwritten, and is held.
#[derive(Debug)]
pub struct Medium {
    claim: Claim,
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
        "{0} ({1}) is built in and is not overwritten; a stick hangs on USB, is an SD card, or says that it is removable"
    )]
    Internal(PathBuf, String),
    /// In use.
    #[error("{0} is in use ({1}); unmount it first: umount {1}")]
    Mounted(String, String),
    /// In use by something else than a mount.
    #[error("{0} is in use by {1}")]
    Held(String, String),
    /// In use by another program.
    #[error(
        "{0} is in use by another program (another `groundcrew stick`, or one that looks at its \
         partitions); let it end, and try again"
    )]
    Busy(PathBuf),
    /// Needs root, say.
    #[error("{0} may not be opened by this user; try it with sudo")]
    Denied(PathBuf),
    /// A card reader without a card.
    #[error("{0} has no medium in it; put the card in")]
    Empty(PathBuf),
    /// Blocks of 4 KiB, say.
    #[error(
        "{0} has blocks of {1} bytes, and a stick's partition table counts in {SECTOR}; take another one"
    )]
    Blocks(PathBuf, u32),
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

impl Claim {
    /// Holds a medium that nobody uses, or an image file.
    pub fn take(path: &Path, access: Access) -> Result<Self, MediumError> {
        let metadata = fs::metadata(path).map_err(|error| io_of(path, error))?;
        if metadata.is_file() {
            return Self::of_image(path, access);
        }
        Medium::examine(path, access).map(|medium| medium.claim)
    }

    /// What is held.
    pub const fn file(&self) -> &File {
        &self.0
    }

    fn of_image(path: &Path, access: Access) -> Result<Self, MediumError> {
        let file = opened(path, access, 0)?;
        let lock = match access {
            Access::Reading => FlockOperation::NonBlockingLockShared,
            Access::Writing => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, lock) {
            Ok(()) => Ok(Self(file)),
            Err(Errno::WOULDBLOCK) => Err(MediumError::Busy(path.to_owned())),
            Err(errno) => Err(io_of(path, errno.into())),
        }
    }

    /// `O_EXCL`: the kernel gives a block device to one such user, mounts and
    /// swap space among them. The lock is what udev heeds.
    fn of_device(path: &Path, access: Access) -> Result<Self, MediumError> {
        let file = opened(path, access, nix::libc::O_EXCL)?;
        for _ in 0..LOOKS {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOOK),
                Err(errno) => return Err(io_of(path, errno.into())),
            }
        }
        Err(MediumError::Busy(path.to_owned()))
    }
}

/// An error, and where it is one of a medium itself, words for it.
pub fn failing(error: anyhow::Error, path: &Path) -> anyhow::Error {
    const DYING: [Errno; 6] = [
        Errno::IO,
        Errno::NODATA,
        Errno::NXIO,
        Errno::NODEV,
        Errno::NOMEDIUM,
        Errno::REMOTEIO,
    ];
    let dying = error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        let errno = io.and_then(Errno::from_io_error);
        errno.is_some_and(|errno| DYING.contains(&errno))
            // What programs of e2fsprogs say of it.
            || cause.to_string().contains("Input/output error")
    });
    if !dying {
        return error;
    }
    error.context(format!(
        "{} does not read or write as it should: it is worn out, or was pulled. Another port may \
         help; else save a used one with `groundcrew stick backup`, and take another",
        path.display()
    ))
}

fn opened(path: &Path, access: Access, flags: i32) -> Result<File, MediumError> {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::Writing);
    let file = options.custom_flags(flags).open(path);
    file.map_err(|error| {
        let path = path.to_owned();
        match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => MediumError::Busy(path),
            Some(Errno::ROFS) => MediumError::ReadOnly(path),
            Some(Errno::ACCESS | Errno::PERM) => MediumError::Denied(path),
            Some(Errno::NOMEDIUM) => MediumError::Empty(path),
            _ => MediumError::Io { path, error },
        }
    })
}

fn io_of(path: &Path, error: io::Error) -> MediumError {
    let path = path.to_owned();
    MediumError::Io { path, error }
}

impl Medium {
    /// Looks at a medium, refuses what is not one to be used so, and holds it.
    pub fn examine(path: &Path, access: Access) -> Result<Self, MediumError> {
        let io = |error| io_of(path, error);
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.file_type().is_block_device() {
            return Err(MediumError::NotADevice(path.to_owned()));
        }
        let number = metadata.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let sys = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).map_err(io)?;
        let judged = || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(io)?;
            let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
            judge(path, &sys, access, &mounts, &swaps)
        };
        // Once for words that name who uses it, and once when nobody can begin to.
        judged()?;
        let claim = Claim::of_device(path, access)?;
        judged()?;
        let block = kernel::block_bytes(claim.file()).map_err(io)?;
        if u64::from(block) != SECTOR {
            return Err(MediumError::Blocks(path.to_owned(), block));
        }
        let bytes = kernel::device_bytes(claim.file()).map_err(io)?;
        Ok(Self {
            claim,
            path: path.to_owned(),
            bytes,
            model: model(&sys),
        })
    }

    /// What is held.
    pub const fn file(&self) -> &File {
        self.claim.file()
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

/// Maker and model; a card has a name instead.
fn model(sys: &Path) -> String {
    let word = |name: &str| {
        let text = fs::read_to_string(sys.join("device").join(name)).unwrap_or_default();
        text.trim().to_owned()
    };
    let words = ["vendor", "model", "name"].map(word);
    // SCSI has no `name`, and MMC nothing else.
    named(&words.join(" "))
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
fn judge(
    path: &Path,
    sys: &Path,
    access: Access,
    mounts: &str,
    swaps: &str,
) -> Result<(), MediumError> {
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
    // The kernel calls no card removable; eMMC, which is soldered, has the type MMC.
    let card = word(&sys.join("device"), "type") == "SD";
    if word(sys, "removable") != "1" && !usb && !card && !name.starts_with("loop") {
        return Err(MediumError::Internal(path.to_owned(), model(sys)));
    }
    if word(sys, "ro") == "1" && access == Access::Writing {
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
        judge(Path::new("/dev/sdb"), disk, Access::Writing, mounts, swaps)
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
        for (kind, good) in [("SD", true), ("MMC", false)] {
            let (_root, disk) = sysfs("pci0/mmc_host/mmc0/mmc0:0001/block", "0", "0");
            fs::write(disk.join("device/type"), format!("{kind}\n")).unwrap();
            assert_eq!(judged(&disk, "", "").is_ok(), good, "{kind}");
        }
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
        // What cannot be written can still be saved.
        judge(Path::new("/dev/sdb"), &disk, Access::Reading, "", "").unwrap();
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
            Medium::examine(file.path(), Access::Writing),
            Err(MediumError::NotADevice(_))
        ));
    }

    #[test]
    fn a_dying_medium_is_told_from_other_faults() {
        let of = |errno: Errno| {
            let error = anyhow::Error::from(io::Error::from(errno)).context("reading at 3 MiB");
            format!("{:#}", failing(error, Path::new("/dev/sdb")))
        };
        let said = of(Errno::IO);
        assert!(
            said.starts_with("/dev/sdb does not read or write"),
            "{said}"
        );
        assert!(
            said.contains("worn out") && said.contains("at 3 MiB"),
            "{said}"
        );
        assert!(of(Errno::NOSPC).starts_with("reading at 3 MiB"));
        let said = failing(
            anyhow::anyhow!("e2image failed: Input/output error"),
            Path::new("/dev/sdb"),
        );
        assert!(said.to_string().contains("worn out"), "{said}");
    }

    #[test]
    fn an_image_is_written_by_one_and_read_by_many() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let take = |access| Claim::take(file.path(), access);
        let writing = take(Access::Writing).unwrap();
        for access in [Access::Writing, Access::Reading] {
            let refused = take(access).unwrap_err();
            assert!(matches!(refused, MediumError::Busy(_)), "{refused}");
        }
        drop(writing);
        let reading = [
            take(Access::Reading).unwrap(),
            take(Access::Reading).unwrap(),
        ];
        assert!(take(Access::Writing).is_err());
        drop(reading);
        take(Access::Writing).unwrap();
    }
}
