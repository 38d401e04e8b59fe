//! The system that is installed on this machine: found, or refused with a
//! reason. Until the device is granted and the bundle's manifest is verified,
//! nothing here writes to a disk, not even by replaying a journal.

pub mod mount;
pub mod superblock;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use groundcrew_core::words::Trouble;
use superblock::Content;

use crate::failure::Failure;
use crate::hardware::is_disk;
use crate::modules::{self, Loader, Missing};
use crate::root::Root;
use crate::uevent::Uevents;

/// How long to wait for a first disk, for a first Linux, and for more of them
/// after one was found. A second look before the first write catches what is
/// slower still.
const NO_DISK: Duration = Duration::from_secs(20);
const NO_SYSTEM: Duration = Duration::from_secs(3);
const ONE_SYSTEM: Duration = Duration::from_millis(100);

/// An installed Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its device, `/dev/vda3`.
    pub device: PathBuf,
    /// What is on it.
    pub content: Content,
    /// Where below the file system its root lies, for btrfs: `@`.
    pub subvolume: Option<&'static str>,
    /// `PRETTY_NAME` of its os-release.
    pub name: String,
}

/// Why there is no system to work on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SystemError {
    /// No disk at all.
    #[error("this machine has no disk{}", .0.iter().map(|m| format!("; {m}")).collect::<String>())]
    NoDisk(Vec<Missing>),
    /// Disks, and no system on them.
    #[error("no installed system found; looked at {0}")]
    None(String),
    /// More than one.
    #[error("more than one installed system: {0}")]
    Several(String),
    /// Something is there that this version does not work on.
    #[error("{device} holds {content}, which this version cannot provision")]
    Foreign {
        /// The device.
        device: String,
        /// What is on it.
        content: Content,
    },
}

impl SystemError {
    /// What somebody in front of the machine can do.
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::NoDisk(_) => {
                "Check that a disk is fitted and, in the firmware's settings, that its controller is in AHCI or NVMe mode (not RAID)."
            }
            Self::None(_) => "Install an operating system on this machine first.",
            Self::Several(_) => {
                "Remove one of the systems or its disk, so that it is clear which one is meant."
            }
            Self::Foreign { content, .. } => match content {
                Content::Ntfs | Content::BitLocker => {
                    "Windows is not provisioned by this version. Nothing was changed on the disk."
                }
                _ => {
                    "Install the system on a plain ext4, XFS or btrfs partition. Nothing was changed on the disk."
                }
            },
        }
    }
}

impl From<SystemError> for Failure {
    fn from(error: SystemError) -> Self {
        let trouble = match error {
            SystemError::NoDisk(_) => Trouble::NoDisk,
            SystemError::None(_) => Trouble::NoSystem,
            SystemError::Several(_) => Trouble::SeveralSystems,
            SystemError::Foreign { .. } => Trouble::ForeignSystem,
        };
        Self::refused(&error, error.advice()).about(trouble)
    }
}

/// What is known of one block device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    content: Option<Content>,
    /// A Linux root, if it holds one.
    installed: Option<Installed>,
}

/// Everything seen so far, by kernel name.
type Scan = BTreeMap<String, Device>;

/// Finds the one installed system, waiting for slow disks by their events.
pub fn find(loader: &Loader) -> Result<Installed, SystemError> {
    let events = Uevents::open();
    let mut scan = Scan::new();
    let deadline = Instant::now() + NO_DISK;
    loop {
        look(&mut scan, loader);
        let patience = match scan
            .values()
            .filter(|device| device.installed.is_some())
            .count()
        {
            0 if scan.is_empty() => NO_DISK,
            0 => NO_SYSTEM,
            _ => ONE_SYSTEM,
        };
        let until = deadline.min(Instant::now() + patience);
        let more = match &events {
            Ok(events) => block_event(events, until),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(200));
                Instant::now() < until
            }
        };
        if !more {
            return judge(&scan);
        }
    }
}

fn block_event(events: &Uevents, until: Instant) -> bool {
    while let Ok(Some(event)) = events.next(until) {
        // An event without a subsystem: some were lost, so look again.
        if event.subsystem == "block" || event.subsystem.is_empty() {
            return true;
        }
    }
    false
}

/// Examines devices that were not there before, and forgets those that left.
fn look(scan: &mut Scan, loader: &Loader) {
    let names = candidates(Path::new("/sys/class/block"));
    scan.retain(|name, _| names.contains(name));
    for name in names {
        if let Entry::Vacant(place) = scan.entry(name) {
            let device = examine(place.key(), loader);
            place.insert(device);
        }
    }
}

/// Partitions, and disks without any, of fixed disks.
fn candidates(class: &Path) -> Vec<String> {
    let entries = fs::read_dir(class).into_iter().flatten().flatten();
    let all: Vec<String> = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let is_one = |path: PathBuf| fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
    let usable = |name: &&String| {
        let dir = class.join(name);
        // A partition's directory lies in its disk's.
        let disk = match dir.join("partition").exists() {
            true => fs::canonicalize(&dir)
                .ok()
                .and_then(|d| d.parent().map(Path::to_owned)),
            false => Some(dir.clone()),
        };
        let removable = disk.is_none_or(|disk| is_one(disk.join("removable")));
        let size = fs::read_to_string(dir.join("size")).unwrap_or_default();
        is_disk(name) && !removable && !is_one(dir.join("hidden")) && size.trim() != "0"
    };
    let has_partitions = |name: &String| {
        let inside = fs::read_dir(class.join(name))
            .into_iter()
            .flatten()
            .flatten();
        inside
            .into_iter()
            .any(|entry| entry.path().join("partition").exists())
    };
    let found = all
        .iter()
        .filter(usable)
        .filter(|name| !has_partitions(name));
    found.cloned().collect()
}

fn examine(name: &str, loader: &Loader) -> Device {
    let path = Path::new("/dev").join(name);
    let content = read_content(&path).ok().flatten();
    let installed = content.and_then(|content| {
        let kind = content.root_filesystem()?;
        // Not there as a module: built in, or the mount will say so.
        let _ = loader.load_alias(&format!("fs-{kind}"));
        mount::probe(&path, content)
    });
    Device { content, installed }
}

fn read_content(path: &Path) -> io::Result<Option<Content>> {
    let mut file = fs::File::open(path)?;
    let mut head = Vec::new();
    file.by_ref()
        .take(superblock::LOOKED_AT as u64)
        .read_to_end(&mut head)?;
    let found = superblock::detect(&head);
    if found.is_some_and(|content| content.root_filesystem().is_some()) {
        let size = file.seek(SeekFrom::End(0))?;
        // The last 128 KiB that begin on a 4 KiB boundary.
        file.seek(SeekFrom::Start((size.saturating_sub(128 << 10)) & !4095))?;
        let mut tail = Vec::new();
        file.take(132 << 10).read_to_end(&mut tail)?;
        if superblock::is_raid_by_tail(&tail) {
            return Ok(Some(Content::Raid));
        }
    }
    Ok(found)
}

/// Exactly one Linux is what we work on. Windows beside it is a second
/// system; an encrypted or LVM volume beside it is data.
fn judge(scan: &Scan) -> Result<Installed, SystemError> {
    let windows = |content| matches!(content, Content::Ntfs | Content::BitLocker);
    let linux: Vec<&Installed> = scan.values().filter_map(|d| d.installed.as_ref()).collect();
    let foreign = |wanted: &dyn Fn(Content) -> bool| {
        let mut all = scan.iter().filter_map(|(name, d)| Some((name, d.content?)));
        all.find(|(_, content)| wanted(*content))
    };
    let refusal = |(name, content): (&String, Content)| SystemError::Foreign {
        device: format!("/dev/{name}"),
        content,
    };
    match (linux.as_slice(), foreign(&windows)) {
        ([one], None) => Ok((*one).clone()),
        ([], Some(windows)) => Err(refusal(windows)),
        ([], None) => {
            let container = |c| matches!(c, Content::Luks | Content::Lvm | Content::Raid);
            Err(foreign(&container).map_or_else(|| nothing(scan), refusal))
        }
        (some, windows) => {
            let linux = some
                .iter()
                .map(|one| format!("{} on {}", one.name, one.device.display()));
            let windows =
                windows.map(|(name, content)| format!("{content} (Windows?) on /dev/{name}"));
            let all: Vec<String> = linux.chain(windows).collect();
            Err(SystemError::Several(all.join(", ")))
        }
    }
}

fn nothing(scan: &Scan) -> SystemError {
    if scan.is_empty() {
        return SystemError::NoDisk(modules::missing_drivers());
    }
    let seen = scan.iter().map(|(name, device)| match device.content {
        Some(content) => format!("{name} ({content})"),
        None => format!("{name} (nothing known)"),
    });
    SystemError::None(seen.collect::<Vec<_>>().join(", "))
}

/// Whether a mounted file system is a Linux that can start, and its name.
fn identify(root: &Root) -> Option<String> {
    let inits = [
        "sbin/init",
        "usr/lib/systemd/systemd",
        "usr/sbin/init",
        "bin/init",
    ];
    if !inits.iter().any(|path| root.exists(path).unwrap_or(false)) {
        return None;
    }
    let text = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| root.read(path, 64 * 1024).ok().flatten())?;
    Some(pretty_name(&String::from_utf8_lossy(&text.0)))
}

/// `PRETTY_NAME` of os-release(5), without its quotes.
fn pretty_name(os_release: &str) -> String {
    let field = |key: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(key))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| groundcrew_core::ids::shown(value))
    };
    field("PRETTY_NAME=")
        .or_else(|| field("NAME="))
        .unwrap_or_else(|| "Linux".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(content: Option<Content>, linux: Option<&str>) -> Device {
        let installed = linux.map(|name| Installed {
            device: "/dev/x".into(),
            content: Content::Ext,
            subvolume: None,
            name: name.into(),
        });
        Device { content, installed }
    }

    fn scan(devices: &[(&str, Option<Content>, Option<&str>)]) -> Scan {
        let one = |(name, content, linux): &(&str, Option<Content>, Option<&str>)| {
            ((*name).to_owned(), device(*content, *linux))
        };
        devices.iter().map(one).collect()
    }

    #[test]
    fn exactly_one_linux() {
        let debian = ("vda3", Some(Content::Ext), Some("Debian"));
        let esp = ("vda2", Some(Content::Fat), None);
        let data = ("vdb", Some(Content::Luks), None);
        assert_eq!(judge(&scan(&[esp, debian, data])).unwrap().name, "Debian");
        let ubuntu = ("vdc1", Some(Content::Btrfs), Some("Ubuntu"));
        let several = judge(&scan(&[debian, ubuntu])).unwrap_err();
        assert!(
            several.to_string().contains("Debian on /dev/x, Ubuntu on"),
            "{several}"
        );
        let windows = ("sda3", Some(Content::Ntfs), None);
        assert!(matches!(
            judge(&scan(&[debian, windows])),
            Err(SystemError::Several(_))
        ));
    }

    #[test]
    fn refusals_name_what_is_there() {
        let esp = ("sda1", Some(Content::Fat), None);
        for content in [
            Content::Ntfs,
            Content::BitLocker,
            Content::Luks,
            Content::Lvm,
            Content::Raid,
        ] {
            let refusal = judge(&scan(&[esp, ("sda2", Some(content), None)])).unwrap_err();
            assert_eq!(
                refusal,
                SystemError::Foreign {
                    device: "/dev/sda2".into(),
                    content
                }
            );
            assert!(refusal.advice().contains("Nothing was changed"));
        }
        let blank = judge(&scan(&[("vda", None, None)])).unwrap_err();
        assert!(blank.to_string().contains("vda (nothing known)"));
        assert!(matches!(judge(&Scan::new()), Err(SystemError::NoDisk(_))));
    }

    #[test]
    fn names_from_os_release() {
        assert_eq!(
            pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
        assert_eq!(pretty_name("NAME='Alpine'"), "Alpine");
        assert_eq!(pretty_name(""), "Linux");
        assert!(!pretty_name("PRETTY_NAME=\x1b[31mred").contains('\x1b'));
    }

    #[test]
    fn a_folder_with_init_and_os_release_is_a_system() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/os-release"), "PRETTY_NAME=Test").unwrap();
        assert_eq!(identify(&root), None);
        fs::create_dir_all(dir.path().join("sbin")).unwrap();
        fs::write(dir.path().join("sbin/init"), "").unwrap();
        assert_eq!(identify(&root).as_deref(), Some("Test"));
    }
}
