//! The stick itself, seen from within: found by the GUID of its data partition,
//! grown to the size of its medium, mounted.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::super::anchor::{self, Anchor};
use super::super::ext4::BLOCK;
use super::super::gpt::{Guid, HEAD_SECTORS, SECTOR, TAIL_SECTORS, Table};
use super::super::kernel;

/// Where the data partition is mounted.
pub const MOUNT: &str = "/run/groundcrew/stick";
/// USB hubs and slow firmware take their time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Less than this free, and the journal may soon not grow.
const LOW: u64 = 32 << 20;
/// Less than this, and it may not grow by a device more.
const FULL: u64 = 4 << 20;
/// The medium's last sectors are left alone, as `sgdisk` and `parted` align.
const ALIGN: u64 = 2048;

/// The stick this machine was started from.
#[derive(Debug)]
pub struct Stick {
    disk: PathBuf,
    table: Table,
    data: PathBuf,
    /// The number of the data partition, from 1.
    number: usize,
}

impl Stick {
    /// Waits for it.
    pub fn find(data: Guid) -> anyhow::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = Vec::new();
            for entry in fs::read_dir("/sys/block")
                .context("reading /sys/block")?
                .flatten()
            {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.extend(Self::look(&name, data));
            }
            match (found.pop(), found.len()) {
                (Some(stick), 0) => return Ok(stick),
                (Some(_), _) => bail!(
                    "two media of the same build are plugged in: leave only the stick that was started"
                ),
                (None, _) if Instant::now() >= deadline => bail!(
                    "the stick's data partition {data} does not appear; plug it straight into the \
                     machine, not into a hub, and start again"
                ),
                // Devices appear in /sys without an event that this program gets.
                (None, _) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Reads a disk's table. Whatever cannot be read is no stick of ours.
    fn look(name: &str, data: Guid) -> Option<Self> {
        let disk = Path::new("/dev").join(name);
        let mut head = vec![0; (HEAD_SECTORS * SECTOR) as usize];
        File::open(&disk).ok()?.read_exact_at(&mut head, 0).ok()?;
        let table = Table::parse(&head).ok()?;
        let index = table.partitions.iter().position(|one| one.guid == data)?;
        let number = index + 1;
        let device = partition(name, number).filter(|path| path.exists())?;
        Some(Self {
            disk,
            table,
            data: device,
            number,
        })
    }

    /// Whether it is still plugged in.
    pub fn is_there(&self) -> bool {
        let name = self.disk.file_name().unwrap_or_default();
        Path::new("/sys/block").join(name).exists()
    }

    /// Takes the whole medium for the data partition, and mounts it. What was
    /// done, in words, and what should be known early.
    pub fn mount(&mut self) -> anyhow::Result<Vec<String>> {
        let mut notes = Vec::new();
        ensure!(
            !self.is_read_only(),
            "the stick is write-protected: slide its switch; what devices report could not be kept"
        );
        if let Some(grown) = self
            .grow_partition()
            .context("growing the data partition")?
        {
            notes.push(format!("the data partition has {} MiB now", grown >> 20));
        }
        fs::create_dir_all(MOUNT)?;
        let flags =
            MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(&self.data, MOUNT, "ext4", flags, Some(c"errors=remount-ro")).with_context(|| {
            format!(
                "mounting {}: is the stick damaged? `e2fsck` on another machine tells",
                self.data.display()
            )
        })?;
        // Before anything is written: a full one must not be taken for a worn one.
        self.grow_file_system(&mut notes);
        let free = free_bytes()?;
        ensure!(
            free >= FULL,
            "the stick is full ({} KiB are left), and what devices report could not be kept: take \
             bundles away with `groundcrew stick sync`, or put its `stick backup` onto a larger one",
            free >> 10
        );
        let probe = Path::new(MOUNT).join(".written");
        crate::durable::write(&probe, b"", crate::durable::Access::Public)
            .context("the stick cannot be written")?;
        let _ = fs::remove_file(probe);
        notes.extend(nearly_full(free));
        Ok(notes)
    }

    /// Gives everything back. It may be pulled afterwards.
    pub fn unmount(&self) {
        rustix::fs::sync();
        if unmount(MOUNT, UnmountFlags::NOFOLLOW).is_err() {
            let _ = unmount(MOUNT, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        rustix::fs::sync();
    }

    /// Reads the anchor.
    pub fn anchor(&self) -> anyhow::Result<(Anchor, AnchorPlace)> {
        let place = self
            .table
            .partitions
            .iter()
            .find(|one| one.kind == super::super::gpt::kind::ANCHOR);
        let offset = place
            .context("the stick has no anchor; build it anew")?
            .offset();
        let file = OpenOptions::new().read(true).write(true).open(&self.disk)?;
        let mut sectors = vec![0; anchor::LENGTH];
        file.read_exact_at(&mut sectors, offset)?;
        Ok((Anchor::read(&sectors), AnchorPlace { file, offset }))
    }

    fn is_read_only(&self) -> bool {
        let name = self.disk.file_name().unwrap_or_default();
        let told = fs::read_to_string(Path::new("/sys/block").join(name).join("ro"));
        told.is_ok_and(|text| text.trim() == "1")
    }

    /// Rewrites the table for the medium's real size: the copy at the end first.
    /// While it is written the head is whole, old as it is; while the head is
    /// written the copy is, and firmware and kernels take that one.
    fn grow_partition(&mut self) -> anyhow::Result<Option<u64>> {
        let disk = OpenOptions::new().read(true).write(true).open(&self.disk)?;
        let sectors = kernel::device_bytes(&disk)? / SECTOR;
        let mut table = self.table.clone();
        let last = self.number == table.partitions.len();
        let Some(data) = table.partitions.last_mut().filter(|_| last) else {
            return Ok(None);
        };
        let end = (sectors - TAIL_SECTORS) / ALIGN * ALIGN;
        if sectors < table.sectors || end <= data.first + data.sectors {
            return Ok(None);
        }
        data.sectors = end - data.first;
        table.sectors = sectors;
        let (head, tail) = table.encode()?;
        disk.write_all_at(&tail, (sectors - TAIL_SECTORS) * SECTOR)?;
        disk.sync_data()?;
        // The boot code in the first 440 bytes stays.
        disk.write_all_at(head.get(440..).unwrap_or_default(), 440)?;
        disk.sync_data()?;
        self.table = table;
        self.tell_kernel(&disk)
    }

    fn tell_kernel(&self, disk: &File) -> anyhow::Result<Option<u64>> {
        let Some(data) = self.table.partitions.last() else {
            return Ok(None);
        };
        let number = u32::try_from(self.number)?;
        kernel::resize_partition(disk, number, data.offset(), data.bytes())?;
        Ok(Some(data.bytes()))
    }

    /// The mounted file system follows its partition. One that stays small
    /// works, too.
    fn grow_file_system(&self, notes: &mut Vec<String>) {
        let Some(data) = self.table.partitions.last() else {
            return;
        };
        let wanted = data.bytes() / BLOCK;
        let there =
            rustix::fs::statvfs(MOUNT).map_or(wanted, |stat| stat.f_blocks * stat.f_frsize / BLOCK);
        // What ext4 needs for itself is not among the blocks it tells of.
        if wanted <= there + there / 8 + 16_384 {
            return;
        }
        match kernel::grow_ext4(Path::new(MOUNT), wanted) {
            Ok(()) => notes.push("the file system grew to the whole stick".to_owned()),
            Err(error) => notes.push(format!("the file system stays small: {error}")),
        }
    }
}

/// Where the anchor is written.
#[derive(Debug)]
pub struct AnchorPlace {
    file: File,
    offset: u64,
}

impl AnchorPlace {
    /// Writes it, synced.
    pub fn write(&self, anchor: &mut Anchor) -> anyhow::Result<()> {
        let (at, bytes) = anchor.advance();
        self.file
            .write_all_at(&bytes, self.offset + at as u64)
            .context("writing the stick's anchor")?;
        self.file.sync_data().context("writing the stick's anchor")
    }
}

/// What is free on the mounted data partition.
pub fn free_bytes() -> anyhow::Result<u64> {
    let stat = rustix::fs::statvfs(MOUNT)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// What should be said of so little room.
pub fn nearly_full(free: u64) -> Option<String> {
    (free < LOW).then(|| format!("the stick is nearly full: {} MiB are left", free >> 20))
}

/// What a technician can do about an error of the medium itself.
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    let errno = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        let os = io.and_then(std::io::Error::raw_os_error);
        os.or_else(|| Some(cause.downcast_ref::<Errno>()?.raw_os_error()))
    };
    match error.chain().find_map(errno).map(Errno::from_raw_os_error) {
        Some(Errno::IO | Errno::NODATA | Errno::NXIO | Errno::NODEV) => Some(
            "The stick does not read or write as it should: it is worn out, or was pulled.\n\
             Another port may help; `groundcrew stick backup` on another machine saves what\n\
             it knows.",
        ),
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Some(
            "The stick takes no writes: slide its switch, or take another one. Worn sticks\n\
             write-protect themselves.",
        ),
        Some(Errno::NOSPC) => Some(
            "The stick is full: take bundles away with `groundcrew stick sync`, or put its\n\
             `groundcrew stick backup` onto a larger one.",
        ),
        _ => None,
    }
}

/// `sdb` and 4 are `/dev/sdb4`; `mmcblk0` and 4 are `/dev/mmcblk0p4`.
fn partition(disk: &str, number: usize) -> Option<PathBuf> {
    let folder = Path::new("/sys/block").join(disk);
    let entries = fs::read_dir(folder).ok()?.flatten();
    let wanted = number.to_string();
    entries
        .map(|entry| entry.path())
        .find(|path| {
            let told = fs::read_to_string(path.join("partition"));
            told.is_ok_and(|text| text.trim() == wanted)
        })
        .and_then(|path| Some(Path::new("/dev").join(path.file_name()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_medium_come_with_advice_and_others_do_not() {
        let of = |errno: Errno| {
            let error = std::io::Error::from(errno);
            advice(&anyhow::Error::from(error).context("reading vault.json"))
        };
        assert!(of(Errno::IO).unwrap().contains("worn out"));
        assert!(of(Errno::ROFS).unwrap().contains("no writes"));
        assert!(of(Errno::NOSPC).unwrap().contains("full"));
        for errno in [Errno::IO, Errno::ROFS, Errno::NOSPC] {
            assert!(of(errno).unwrap().lines().all(|line| line.len() <= 80));
        }
        assert_eq!(of(Errno::NOENT), None);
        let plain = anyhow::Error::from(Errno::IO).context("mounting /dev/sda4");
        assert!(advice(&plain).is_some());
        assert_eq!(advice(&anyhow::anyhow!("something else")), None);
        assert_eq!(nearly_full(LOW), None);
        assert!(nearly_full(3 << 20).unwrap().contains("3 MiB"));
    }
}
