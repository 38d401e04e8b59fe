//! The kernel's initramfs format: a cpio archive in the "newc" form, written
//! deterministically.
//!
//! Source: `Documentation/driver-api/early-userspace/buffer-format.rst` of the
//! Linux kernel. An initrd is any number of archives one after the other, each
//! plain or compressed; a plain one must begin at a multiple of four, zeros in
//! between are skipped, and a directory must come before what lies in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Archives and names are padded to this.
const ALIGN: usize = 4;

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// What an archive will hold. Written sorted by name, so parents come first;
/// owner root, time 0, inodes counted from 1: same content, same bytes.
#[derive(Debug, Default)]
pub(super) struct Tree<'a> {
    nodes: BTreeMap<String, Node<'a>>,
}

#[derive(Debug)]
struct Node<'a> {
    mode: u32,
    device: (u32, u32),
    content: &'a [u8],
}

/// A file that newc cannot describe: its size field has 32 bits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name} has {bytes} bytes; a file of a boot image is at most 4 GiB")]
pub(super) struct TooLarge {
    name: String,
    bytes: usize,
}

impl<'a> Tree<'a> {
    /// A directory and those above it. Names are relative, without `./`.
    pub(super) fn directory(&mut self, name: &str, permissions: u32) {
        self.parents_of(name);
        self.put(name, S_IFDIR | permissions, (0, 0), b"");
    }

    /// A file; the directories above it come along as 0755.
    pub(super) fn file(&mut self, name: &str, permissions: u32, content: &'a [u8]) {
        self.parents_of(name);
        self.put(name, S_IFREG | permissions, (0, 0), content);
    }

    /// A character device such as `dev/console` (5, 1).
    pub(super) fn character_device(&mut self, name: &str, permissions: u32, device: (u32, u32)) {
        self.parents_of(name);
        self.put(name, S_IFCHR | permissions, device, b"");
    }

    fn parents_of(&mut self, name: &str) {
        for (at, _) in name.match_indices('/') {
            let parent = name.get(..at).unwrap_or_default();
            if !self.nodes.contains_key(parent) {
                self.put(parent, S_IFDIR | 0o755, (0, 0), b"");
            }
        }
    }

    fn put(&mut self, name: &str, mode: u32, device: (u32, u32), content: &'a [u8]) {
        let node = Node {
            mode,
            device,
            content,
        };
        self.nodes.insert(name.to_owned(), node);
    }

    /// The archive, its length a multiple of four.
    pub(super) fn to_newc(&self) -> Result<Vec<u8>, TooLarge> {
        let total: usize = self
            .nodes
            .iter()
            .map(|(name, node)| 128 + name.len() + node.content.len())
            .sum();
        let mut out = Vec::with_capacity(total);
        for (ino, (name, node)) in (1..).zip(&self.nodes) {
            write_entry(&mut out, ino, name, node)?;
        }
        let trailer = Node {
            mode: 0,
            device: (0, 0),
            content: b"",
        };
        write_entry(&mut out, 0, TRAILER, &trailer)?;
        Ok(out)
    }
}

fn write_entry(out: &mut Vec<u8>, ino: u32, name: &str, node: &Node<'_>) -> Result<(), TooLarge> {
    let too_large = || TooLarge {
        name: name.to_owned(),
        bytes: node.content.len(),
    };
    let size = u32::try_from(node.content.len()).map_err(|_| too_large())?;
    let name_size = u32::try_from(name.len() + 1).map_err(|_| too_large())?;
    let links = if node.mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
    let (major, minor) = node.device;
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [
        ino, node.mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
    ];
    let mut header = String::from("070701");
    for field in fields {
        // Writing into a String does not fail.
        let _ = write!(header, "{field:08x}");
    }
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(node.content);
    pad(out);
    Ok(())
}

/// Zeros up to the next multiple of four.
pub(super) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An entry as the kernel's `init/initramfs.c` would see it.
    #[derive(Debug, PartialEq, Eq)]
    pub(in crate::image) struct Seen {
        pub name: String,
        pub mode: u32,
        pub device: (u32, u32),
        pub content: Vec<u8>,
    }

    /// An independent reader of one archive: entries, and what follows it.
    pub(in crate::image) fn read_newc(mut rest: &[u8]) -> (Vec<Seen>, &[u8]) {
        let mut seen = Vec::new();
        loop {
            assert_eq!(&rest[..6], b"070701");
            let field = |i: usize| {
                u32::from_str_radix(
                    std::str::from_utf8(&rest[6 + i * 8..14 + i * 8]).unwrap(),
                    16,
                )
                .unwrap()
            };
            let (mode, mtime, size, name_size) =
                (field(1), field(5), field(6) as usize, field(11) as usize);
            assert_eq!((field(2), field(3), mtime), (0, 0, 0), "root, time 0");
            let device = (field(9), field(10));
            let name = String::from_utf8(rest[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(rest[110 + name_size - 1], 0);
            let start = (110 + name_size).next_multiple_of(4);
            let content = rest[start..start + size].to_vec();
            rest = &rest[(start + size).next_multiple_of(4)..];
            if name == TRAILER {
                return (seen, rest);
            }
            seen.push(Seen {
                name,
                mode,
                device,
                content,
            });
        }
    }

    #[test]
    fn parents_come_first_and_bytes_are_stable() {
        let mut tree = Tree::default();
        tree.file("lib/modules/x/a.ko", 0o644, b"12345");
        tree.character_device("dev/console", 0o600, (5, 1));
        tree.directory("tmp", 0o1777);
        let bytes = tree.to_newc().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let (seen, rest) = read_newc(&bytes);
        assert!(rest.is_empty());
        let names: Vec<_> = seen.iter().map(|s| (s.name.as_str(), s.mode)).collect();
        assert_eq!(
            names,
            [
                ("dev", 0o040_755),
                ("dev/console", 0o020_600),
                ("lib", 0o040_755),
                ("lib/modules", 0o040_755),
                ("lib/modules/x", 0o040_755),
                ("lib/modules/x/a.ko", 0o100_644),
                ("tmp", 0o041_777),
            ]
        );
        assert_eq!(seen[1].device, (5, 1));
        assert_eq!(seen[5].content, b"12345");
        assert_eq!(tree.to_newc().unwrap(), bytes);
    }

    proptest::proptest! {
        #[test]
        fn every_file_is_read_back(files in proptest::collection::btree_map("[a-z]{1,9}(/[a-z]{1,9}x){0,3}", proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40), 0..20)) {
            let mut tree = Tree::default();
            for (name, content) in &files {
                tree.file(name, 0o644, content);
            }
            let bytes = tree.to_newc().unwrap();
            let (seen, rest) = read_newc(&bytes);
            proptest::prop_assert!(rest.is_empty());
            for one in &seen {
                let parent_seen = one.name.rsplit_once('/').is_none_or(|(p, _)| seen.iter().take_while(|s| s.name != one.name).any(|s| s.name == p));
                proptest::prop_assert!(parent_seen);
            }
            for (name, content) in &files {
                let one = seen.iter().find(|s| s.name == *name).unwrap();
                // A name that is also a parent stays the file that was put last; both forms keep the content.
                proptest::prop_assert_eq!(&one.content, content);
            }
        }
    }
}
