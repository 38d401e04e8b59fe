//! Mounting the installed system: untouched to look at it, writable to work
//! on it, and gone again before the restart.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::Installed;
use super::superblock::Content;
use crate::root::Root;

/// Where candidates are looked at, and where the chosen one is worked on.
const PROBE: &str = "/run/groundcrew/probe";
const SYSTEM: &str = "/run/groundcrew/system";

/// Where distributions put their root on btrfs; the default first.
const SUBVOLUMES: [Option<&str>; 4] = [None, Some("@"), Some("@rootfs"), Some("root")];

/// Mounts without writing, looks, unmounts.
pub(super) fn probe(device: &Path, content: Content) -> Option<Installed> {
    let subvolumes = match content {
        Content::Btrfs => &SUBVOLUMES[..],
        _ => &[None],
    };
    subvolumes.iter().find_map(|subvolume| {
        let mounted =
            Mounted::attach(device, content, *subvolume, PROBE, Access::Untouched).ok()?;
        let name = super::identify(mounted.root());
        name.map(|name| Installed {
            device: device.to_owned(),
            content,
            subvolume: *subvolume,
            name,
        })
    })
}

/// How a system is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Not a byte on the disk changes.
    Untouched,
    /// To be worked on.
    Writable,
}

/// A mounted system; unmounted when dropped. The fields are dropped in this
/// order: open descriptors first, or the kernel calls the file system busy.
#[derive(Debug)]
pub struct Mounted {
    root: Root,
    point: MountPoint,
}

/// What is mounted inside a system for its commands; unmounted when dropped.
#[derive(Debug)]
pub struct Furniture<'a> {
    system: &'a Mounted,
    points: Vec<MountPoint>,
}

/// Unmounts when dropped.
#[derive(Debug)]
struct MountPoint(PathBuf);

impl Drop for MountPoint {
    fn drop(&mut self) {
        if unmount(&self.0, UnmountFlags::NOFOLLOW).is_err() {
            // Something still runs in there; detached, it goes with that.
            let _ = unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

impl Mounted {
    /// Mounts the installed system.
    pub fn system(installed: &Installed, access: Access) -> io::Result<Self> {
        let Installed {
            device,
            content,
            subvolume,
            ..
        } = installed;
        Self::attach(device, *content, *subvolume, SYSTEM, access)
    }

    fn attach(
        device: &Path,
        content: Content,
        subvolume: Option<&str>,
        at: &str,
        access: Access,
    ) -> io::Result<Self> {
        let kind = content
            .root_filesystem()
            .ok_or(io::ErrorKind::Unsupported)?;
        fs::create_dir_all(at)?;
        let mut flags = MountFlags::NOATIME;
        let mut options: Vec<String> = Vec::new();
        if access == Access::Untouched {
            flags |=
                MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
            options.push(content.untouched_options().to_owned());
        }
        options.extend(subvolume.map(|name| format!("subvol={name}")));
        options.retain(|option| !option.is_empty());
        let data = CString::new(options.join(",")).map_err(io::Error::other)?;
        mount(device, at, kind, flags, data.as_c_str())?;
        let point = MountPoint(at.into());
        Ok(Self {
            root: Root::open(Path::new(at))?,
            point,
        })
    }

    /// The system's files.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point.0
    }

    /// Mounts what commands inside expect: `/proc`, `/sys`, `/dev` and an
    /// empty `/run` (nothing a command leaves there may live on).
    pub fn furnish(&self) -> io::Result<Furniture<'_>> {
        let mut inside = Furniture {
            system: self,
            points: Vec::new(),
        };
        let none = MountFlags::empty();
        let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        inside.mount("proc", "proc", safe)?;
        inside.mount("sys", "sysfs", safe | MountFlags::RDONLY)?;
        inside.mount("dev", "devtmpfs", none)?;
        inside.mount("run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV)?;
        // Without pseudo terminals most commands still work.
        let _ = inside.mount("dev/pts", "devpts", none);
        Ok(inside)
    }
}

impl Furniture<'_> {
    fn mount(&mut self, name: &str, kind: &str, flags: MountFlags) -> io::Result<()> {
        let at = self.system.path().join(name);
        // A symlink of that name could lead the mount anywhere.
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::other(format!(
                    "/{name} on the disk is no directory"
                )));
            }
            Err(_) => fs::create_dir(&at)?,
        }
        mount(kind, &at, kind, flags, None)?;
        // Dropped first to last: what was mounted last goes first.
        self.points.insert(0, MountPoint(at));
        Ok(())
    }
}
