//! What lies on a block device, by the magic numbers in its first sectors.

/// How much of a device [`detect`] looks at: btrfs's superblock ends at
/// 68 KiB.
pub const LOOKED_AT: usize = 72 * 1024;

/// A file system or container that is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT12, 16 or 32.
    Fat,
    /// exFAT.
    ExFat,
    /// NTFS: a Windows system or data partition.
    Ntfs,
    /// BitLocker.
    BitLocker,
    /// LUKS, version 1 or 2.
    Luks,
    /// A physical volume of LVM2.
    Lvm,
    /// A member of a Linux software RAID.
    Raid,
    /// Swap space.
    Swap,
    /// ISO 9660: a boot medium.
    Iso9660,
    /// squashfs: a boot medium.
    Squashfs,
}

impl Content {
    /// The kernel's name for mounting it, if an installed Linux can lie on it.
    pub const fn root_filesystem(self) -> Option<&'static str> {
        match self {
            Self::Ext => Some("ext4"),
            Self::Xfs => Some("xfs"),
            Self::Btrfs => Some("btrfs"),
            _ => None,
        }
    }

    /// Mount options under which nothing is written, not even a journal's
    /// replay.
    pub const fn untouched_options(self) -> &'static str {
        match self {
            Self::Ext => "noload",
            Self::Xfs => "norecovery",
            Self::Btrfs => "rescue=nologreplay",
            _ => "",
        }
    }
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ext => "ext4",
            Self::Xfs => "XFS",
            Self::Btrfs => "btrfs",
            Self::Fat => "FAT",
            Self::ExFat => "exFAT",
            Self::Ntfs => "NTFS",
            Self::BitLocker => "BitLocker",
            Self::Luks => "LUKS",
            Self::Lvm => "LVM",
            Self::Raid => "software RAID",
            Self::Swap => "swap",
            Self::Iso9660 => "ISO 9660",
            Self::Squashfs => "squashfs",
        })
    }
}

/// Where each magic number stands. Containers come before file systems: a
/// RAID member may show the superblock of what is inside it.
const MAGICS: &[(Content, usize, &[u8])] = &[
    (Content::BitLocker, 3, b"-FVE-FS-"),
    (Content::Luks, 0, b"LUKS\xba\xbe"),
    (Content::Raid, 4096, b"\xfc\x4e\x2b\xa9"), // md 1.2
    (Content::Raid, 0, b"\xfc\x4e\x2b\xa9"),    // md 1.1
    (Content::Ntfs, 3, b"NTFS    "),
    (Content::ExFat, 3, b"EXFAT   "),
    (Content::Xfs, 0, b"XFSB"),
    (Content::Btrfs, 0x1_0040, b"_BHRfS_M"),
    (Content::Ext, 0x438, b"\x53\xef"),
    (Content::Swap, 4086, b"SWAPSPACE2"),
    (Content::Swap, 4086, b"SWAP-SPACE"),
    (Content::Iso9660, 0x8001, b"CD001"),
    (Content::Squashfs, 0, b"hsqs"),
];

/// Names what begins with `head`, the first [`LOOKED_AT`] bytes of a device
/// (or fewer, if it is smaller). `None`: nothing known, or a partition table.
pub fn detect(head: &[u8]) -> Option<Content> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    // LVM2: a label in one of the first four sectors.
    let lvm = (0..4).any(|n| at(n * 512, b"LABELONE") && at(n * 512 + 24, b"LVM2 001"));
    if lvm {
        return Some(Content::Lvm);
    }
    let found = MAGICS.iter().find(|(_, offset, magic)| at(*offset, magic));
    if let Some((content, ..)) = found {
        return Some(*content);
    }
    // A FAT's names lie inside code; the boot signature and a sane sector
    // size must agree.
    let named = at(0x52, b"FAT32   ") || at(0x36, b"FAT16   ") || at(0x36, b"FAT12   ");
    let sector = head.get(11..13).and_then(|bytes| bytes.try_into().ok());
    let sane = matches!(
        sector.map(u16::from_le_bytes),
        Some(512 | 1024 | 2048 | 4096)
    );
    (named && sane && at(510, b"\x55\xaa")).then_some(Content::Fat)
}

/// md 0.90 and 1.0 keep their superblock at the end; `tail` is the device's
/// last 128 KiB (0.90: in the last 64 KiB-aligned block; 1.0: 8 KiB before
/// the end, rounded down to 4 KiB).
pub fn is_raid_by_tail(tail: &[u8]) -> bool {
    let magic = [0xfc, 0x4e, 0x2b, 0xa9];
    let aligned = tail.chunks(4096).filter_map(|block| block.get(..4));
    aligned.into_iter().any(|head| head == magic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; LOOKED_AT];
        for (at, part) in parts {
            bytes[*at..*at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    #[test]
    fn each_by_its_magic() {
        for (content, at, magic) in MAGICS {
            assert_eq!(detect(&disk(&[(*at, magic)])), Some(*content));
        }
        let lvm = disk(&[(512, b"LABELONE"), (536, b"LVM2 001")]);
        assert_eq!(detect(&lvm), Some(Content::Lvm));
    }

    #[test]
    fn fat_needs_more_than_a_name() {
        let fat = disk(&[
            (11, &512u16.to_le_bytes()),
            (0x52, b"FAT32   "),
            (510, b"\x55\xaa"),
        ]);
        assert_eq!(detect(&fat), Some(Content::Fat));
        assert_eq!(
            detect(&disk(&[(0x52, b"FAT32   "), (510, b"\x55\xaa")])),
            None
        );
        assert_eq!(
            detect(&disk(&[(510, b"\x55\xaa")])),
            None,
            "a partition table"
        );
        assert_eq!(detect(&disk(&[])), None, "a blank disk");
    }

    #[test]
    fn a_raid_member_is_not_its_content() {
        let member = disk(&[(4096, b"\xfc\x4e\x2b\xa9"), (0x438, b"\x53\xef")]);
        assert_eq!(detect(&member), Some(Content::Raid));
        let mut tail = vec![0; 128 * 1024];
        assert!(!is_raid_by_tail(&tail));
        tail[64 * 1024..64 * 1024 + 4].copy_from_slice(b"\xfc\x4e\x2b\xa9");
        assert!(is_raid_by_tail(&tail));
    }

    #[test]
    fn windows_is_known() {
        assert_eq!(detect(b"\xeb\x52\x90NTFS    "), Some(Content::Ntfs));
        assert_eq!(
            detect(b"\xeb\x58\x90-FVE-FS-\x00\x02"),
            Some(Content::BitLocker)
        );
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = detect(&bytes);
            let _ = is_raid_by_tail(&bytes);
        }
    }
}
