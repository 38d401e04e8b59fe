//! The few requests to the kernel that the standard library has no word for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// `BLKPG` of linux/blkpg.h and its operation that moves a partition's end.
const BLKPG: u64 = 0x1269;
const RESIZE_PARTITION: i32 = 3;
/// `BLKFLSBUF` of linux/fs.h: forgets what is cached of a block device.
const BLKFLSBUF: u64 = 0x1261;
/// `BLKGETSIZE64` of linux/fs.h.
const BLKGETSIZE64: u64 = 0x8008_1272;
/// `BLKSSZGET` of linux/fs.h: bytes of a logical block, as an int.
const BLKSSZGET: u64 = 0x1268;
/// `EXT4_IOC_RESIZE_FS` of ext4.h: `_IOW('f', 16, __u64)`, in blocks.
const EXT4_RESIZE: u64 = 0x4008_6610;

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArg {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut BlkpgPartition,
}

/// Tells the kernel that partition `number` of a disk is so long now, in
/// bytes. It may be in use.
pub fn resize_partition(disk: &File, number: u32, start: u64, length: u64) -> io::Result<()> {
    let fit = |value: u64| i64::try_from(value).map_err(io::Error::other);
    let mut partition = BlkpgPartition {
        start: fit(start)?,
        length: fit(length)?,
        number: i32::try_from(number).map_err(io::Error::other)?,
        names: [0; 128],
    };
    let mut argument = BlkpgArg {
        operation: RESIZE_PARTITION,
        flags: 0,
        length: size_of::<BlkpgPartition>() as i32,
        data: &raw mut partition,
    };
    // SAFETY: BLKPG reads a `blkpg_ioctl_arg` whose `data` points to `length`
    // bytes; both live until the call returns, and nothing is kept.
    let done = unsafe { nix::libc::ioctl(disk.as_raw_fd(), BLKPG, &raw mut argument) };
    result(done)
}

/// Makes what is read next come from the medium and not from memory.
pub fn forget_cache(disk: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    result(unsafe { nix::libc::ioctl(disk.as_raw_fd(), BLKFLSBUF, 0) })
}

/// Bytes of a block device.
pub fn device_bytes(disk: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to where the argument points.
    result(unsafe { nix::libc::ioctl(disk.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

/// Bytes of a block device's logical block.
pub fn block_bytes(disk: &File) -> io::Result<u32> {
    let mut bytes = 0_i32;
    // SAFETY: BLKSSZGET writes one int to where the argument points.
    result(unsafe { nix::libc::ioctl(disk.as_raw_fd(), BLKSSZGET, &raw mut bytes) })?;
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Grows the ext4 that is mounted at `mount` to so many blocks.
pub fn grow_ext4(mount: &Path, blocks: u64) -> io::Result<()> {
    let root = File::open(mount)?;
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64 from where the argument points.
    result(unsafe { nix::libc::ioctl(root.as_raw_fd(), EXT4_RESIZE, &raw const blocks) })
}

fn result(done: i32) -> io::Result<()> {
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
