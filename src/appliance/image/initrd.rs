//! The initrd: three archives, one after the other.
//!
//! | part | form | changes with |
//! |---|---|---|
//! | kernel | modules as `.ko.zst` in a plain archive, then the depmod texts in a zstd one | kernel package, recipe |
//! | agent | `/init`, folders and console in a zstd archive | agent |
//! | trust | `/etc/groundcrew/trust.json` in a plain archive | site |
//!
//! Why modules are compressed one by one and their archive is not: the kernel
//! then copies 9 MiB instead of unpacking 42, and the agent unpacks only the
//! few that it loads. Debian's 6.1, 198 modules, the same static test program
//! as `/init`, QEMU in software with 256 MiB on a shared machine, best of three
//! (the first row on a hand-made prototype of this layout):
//!
//! | form of the initrd | MB | s to `/init` | s to 27 modules loaded |
//! |---|---|---|---|
//! | this | 9.8 | 1.8 | 2.7 |
//! | one zstd archive | 8.7 | 2.2 | 3.0 |
//! | one xz archive | 7.8 | 3.9 | 4.7 |
//! | one lz4 archive | 14.6 | 2.1 | 2.9 |
//!
//! Given 96, 112 and 128 MiB of RAM, this one starts from 112 on, one zstd
//! archive at none of them.

use super::ImageError;
use super::cpio::{Tree, pad};
use super::depmod::Indexes;

/// Where the agent looks for the site's trust root.
const TRUST: &str = "etc/groundcrew/trust.json";

/// The slow and small end; decompression speed does not depend on it.
pub(super) const ZSTD_LEVEL: i32 = 19;

/// For [`program_part`].
const PROGRAM_LEVEL: i32 = 9;
/// What a module's file name gains.
pub(super) const MODULE_SUFFIX: &str = ".zst";

/// One module, packed: its path below `lib/modules/VERSION` without the suffix.
pub(super) struct PackedModule {
    pub(super) path: String,
    pub(super) content: Vec<u8>,
}

/// The part that only the kernel package and the recipe decide.
pub(super) fn kernel_part(
    version: &str,
    modules: &[PackedModule],
    texts: &Texts,
) -> Result<Vec<u8>, ImageError> {
    let base = format!("lib/modules/{version}");
    let mut plain = Tree::default();
    for module in modules {
        plain.file(
            &format!("{base}/{}{MODULE_SUFFIX}", module.path),
            0o644,
            &module.content,
        );
    }
    let mut indexes = Tree::default();
    let Texts {
        indexes: Indexes {
            dep,
            alias,
            softdep,
        },
        builtin,
        order,
    } = texts;
    let files = [
        ("dep", dep),
        ("alias", alias),
        ("softdep", softdep),
        ("builtin", builtin),
        ("order", order),
    ];
    for (name, text) in files {
        indexes.file(&format!("{base}/modules.{name}"), 0o644, text.as_bytes());
    }
    let mut out = plain.to_newc()?;
    out.extend(compressed(&indexes.to_newc()?)?);
    pad(&mut out);
    Ok(out)
}

/// The texts beside the modules.
pub(super) struct Texts {
    pub(super) indexes: Indexes,
    /// `modules.builtin` and `modules.order` as the package has them.
    pub(super) builtin: String,
    pub(super) order: String,
}

/// The agent as `/init`, and the few things that must exist before it mounts
/// anything: the kernel opens `/dev/console` for it.
pub(super) fn agent_part(agent: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut tree = Tree::default();
    for folder in ["dev", "etc", "mnt", "proc", "run", "sys"] {
        tree.directory(folder, 0o755);
    }
    tree.directory("root", 0o700);
    tree.directory("tmp", 0o1777);
    tree.character_device("dev/console", 0o600, (5, 1));
    tree.character_device("dev/null", 0o666, (1, 3));
    tree.file("init", 0o755, agent);
    let mut out = compressed(&tree.to_newc()?)?;
    pad(&mut out);
    Ok(out)
}

/// The site's trust root.
pub(super) fn trust_part(trust_json: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut tree = Tree::default();
    tree.file(TRUST, 0o644, trust_json);
    Ok(tree.to_newc()?)
}

/// One program in an archive of its own: what a stick has beside this image.
/// Packed for speed: 14 MB take half a second instead of ten, and a tenth more.
pub(super) fn program_part(name: &str, program: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut tree = Tree::default();
    tree.file(name, 0o755, program);
    let newc = tree.to_newc()?;
    let mut out = zstd::bulk::compress(&newc, PROGRAM_LEVEL).map_err(ImageError::Compress)?;
    pad(&mut out);
    Ok(out)
}

/// One zstd frame. The checksum is left out: who reads it has verified nothing
/// by it, and firmware-speed machines pay for it.
pub(super) fn compressed(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(ImageError::Compress)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cpio::tests::{Seen, read_newc};
    use super::*;

    /// Reads a concatenation the way the kernel does: skip zeros, then a plain
    /// archive (only at a multiple of four) or one zstd frame.
    pub(in crate::image) fn read_initrd(whole: &[u8]) -> Vec<Seen> {
        let (mut seen, mut at) = (Vec::new(), 0);
        while let Some(rest) = whole.get(at..).filter(|r| !r.is_empty()) {
            if rest[0] == 0 {
                at += 1;
            } else if rest[0] == b'0' {
                assert_eq!(at % 4, 0, "a plain archive begins at a multiple of four");
                let (entries, after) = read_newc(rest);
                seen.extend(entries);
                at = whole.len() - after.len();
            } else {
                let size = zstd::zstd_safe::find_frame_compressed_size(rest).unwrap();
                let plain = zstd::stream::decode_all(&rest[..size]).unwrap();
                let (entries, after) = read_newc(&plain);
                assert!(
                    after.iter().all(|b| *b == 0),
                    "junk at the end of a compressed archive"
                );
                seen.extend(entries);
                at += size;
            }
        }
        seen
    }

    #[test]
    fn the_kernel_finds_every_file_in_the_concatenation() {
        let modules = [PackedModule {
            path: "kernel/fs/x.ko".into(),
            content: compressed(b"module").unwrap(),
        }];
        let indexes = Indexes {
            dep: "kernel/fs/x.ko.zst:\n".into(),
            alias: "alias fs-x x\n".into(),
            softdep: "#\n".into(),
        };
        let texts = Texts {
            indexes,
            builtin: "kernel/b.ko\n".into(),
            order: String::new(),
        };
        let mut whole = kernel_part("6.1.0-1-amd64", &modules, &texts).unwrap();
        // Any length of agent must leave the trust archive aligned.
        for filler in 0..4 {
            let agent = vec![b'a'; 100 + filler];
            whole.truncate(
                kernel_part("6.1.0-1-amd64", &modules, &texts)
                    .unwrap()
                    .len(),
            );
            whole.extend(agent_part(&agent).unwrap());
            whole.extend(trust_part(b"{}").unwrap());
            let seen = read_initrd(&whole);
            let content = |name: &str| {
                seen.iter()
                    .find(|s| s.name == name)
                    .map(|s| s.content.clone())
                    .unwrap()
            };
            assert_eq!(content("init"), agent);
            assert_eq!(content("etc/groundcrew/trust.json"), b"{}");
            assert_eq!(
                zstd::stream::decode_all(
                    &content("lib/modules/6.1.0-1-amd64/kernel/fs/x.ko.zst")[..]
                )
                .unwrap(),
                b"module"
            );
            assert_eq!(
                content("lib/modules/6.1.0-1-amd64/modules.alias"),
                b"alias fs-x x\n"
            );
            let console = seen.iter().find(|s| s.name == "dev/console").unwrap();
            assert_eq!((console.mode, console.device), (0o020_600, (5, 1)));
        }
    }
}
