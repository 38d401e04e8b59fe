//! Changing a file system that nobody has mounted, so that it may be pulled at
//! any moment: all of a change or nothing of it, by ext4's own journal.
//!
//! `debugfs` alone writes bitmaps, inodes and folders in an order of its own;
//! a medium that is pulled meanwhile has a damaged file system. So it works on
//! a copy, which needs no more than the structure (`e2image`), and what came
//! out goes to the medium in steps:
//!
//! 1. blocks that were free get what new files hold; nobody looks there yet
//! 2. every changed block of the structure goes into the journal
//! 3. the file system's superblock says that it is to be recovered
//! 4. the journal's superblock says that there is something in it: from here on
//!    whoever mounts or checks the file system finishes the change
//! 5. we finish it ourselves, and take both back in the reverse order
//!
//! The journal's format is left to e2fsprogs as well: a copy gets the
//! transaction, another one replays it, and the replay must give what was
//! wanted before anything is written to the medium.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::ext4::{self, BLOCK, Ext4, Placed, Script, succeeded, tool};
use super::steps::Steps;

/// Blocks that one line of debugfs' script has room for.
const AT_ONCE: usize = 400;
/// Of the journal's 4096 blocks; descriptors and commits need some.
const MOST: usize = 3500;

/// A block's number.
type Block = u64;

/// Copies of a file system's structure, in sparse files.
struct Bench {
    folder: tempfile::TempDir,
}

/// What a change does to which block.
struct Changed {
    /// Were free and are used.
    fresh: BTreeSet<Block>,
    /// Were used and have other content.
    structure: Vec<Block>,
}

/// The steps that carry a script out on a file system of `bytes` inside of a
/// medium. Nothing is written yet but copies.
pub fn steps(medium: &Ext4, bytes: u64, script: Script) -> anyhow::Result<Steps> {
    let bench = Bench {
        folder: tempfile::tempdir()?,
    };
    let before = bench.structure_of(medium, bytes)?;
    let after = bench.copy(&before, "after")?;
    let files = Ext4::at(&after, 0).lay(script)?;
    let changed = changed(&before, &after)?;
    ensure!(
        changed.structure.len() <= MOST,
        "{} blocks of the stick's file system would change at once, and its journal holds {MOST}: \
         build the stick anew",
        changed.structure.len()
    );
    let journalled = bench.journalled(&before, &after, &changed.structure)?;
    let finished = bench.copy(&journalled, "finished")?;
    run(tool("debugfs").args(["-w", "-R", "jr"]).arg(&finished))?;
    let (after, journalled, finished) = (open(&after)?, open(&journalled)?, open(&finished)?);
    for block in changed.structure.iter().filter(|block| **block != 0) {
        ensure!(
            read(&after, *block)? == read(&finished, *block)?,
            "e2fsprogs replays a journal into something else than it was given: block {block}"
        );
    }
    let journal = journal_superblock(&before)?;
    let logged = differing(&File::open(&before)?, &journalled)?;
    let at = |block: Block| medium.offset() + block * BLOCK;
    let mut steps = Steps::default();
    let content = contents(&files, medium.offset(), &mut steps)?;
    let structure = changed
        .fresh
        .into_iter()
        .filter(|block| !content.contains(block));
    for (first, count) in runs(structure) {
        steps.copy(at(first), &after, first * BLOCK, count * BLOCK);
    }
    let plain = |block: &Block| ![0, journal].contains(block);
    for (first, count) in runs(logged.into_iter().filter(plain)) {
        steps.copy(at(first), &journalled, first * BLOCK, count * BLOCK);
    }
    steps.sync();
    for block in [0, journal] {
        steps.write(at(block), read(&journalled, block)?);
        steps.sync();
    }
    for (first, count) in runs(changed.structure.into_iter().filter(plain)) {
        steps.copy(at(first), &finished, first * BLOCK, count * BLOCK);
    }
    steps.sync();
    for block in [journal, 0] {
        steps.write(at(block), read(&finished, block)?);
        steps.sync();
    }
    Ok(steps)
}

/// Finishes what a pulled stick left half-written: its journal. e2fsck on the
/// medium itself would write its superblock word by word. `file` is the medium,
/// held by whoever calls.
pub fn settle(medium: &Ext4, bytes: u64, file: &File) -> anyhow::Result<()> {
    if !medium.needs_recovery()? {
        return Ok(());
    }
    let bench = Bench {
        folder: tempfile::tempdir()?,
    };
    let before = bench.structure_of(medium, bytes)?;
    let after = bench.copy(&before, "after")?;
    ext4::mend(&after)?;
    let journal = journal_superblock(&before)?;
    let after = open(&after)?;
    let changed = differing(&File::open(&before)?, &after)?;
    let at = |block: Block| medium.offset() + block * BLOCK;
    let mut steps = Steps::default();
    let plain = |block: &Block| ![0, journal].contains(block);
    for (first, count) in runs(changed.into_iter().filter(plain)) {
        steps.copy(at(first), &after, first * BLOCK, count * BLOCK);
    }
    steps.sync();
    for block in [journal, 0] {
        steps.write(at(block), read(&after, block)?);
        steps.sync();
    }
    steps.carry_out(file, &mut |_| {})?;
    medium.check().map(drop)
}

/// Copies a file system with all that its files hold to `copy`, and finishes
/// there what a pulled stick left half-written. The medium is only read; blocks
/// that it does not give are zeros. `tell` hears how many bytes of how many are
/// done.
pub fn settled_copy(
    medium: &Ext4,
    bytes: u64,
    file: &File,
    copy: &Path,
    tell: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<()> {
    let bench = Bench {
        folder: tempfile::tempdir()?,
    };
    // What the journal makes of the structure comes first: before that, blocks of
    // files that are in the journal only would be taken for free ones.
    let before = bench.structure_of(medium, bytes)?;
    run(Command::new("cp")
        .arg("--sparse=always")
        .arg(&before)
        .arg(copy))?;
    ext4::mend(copy)?;
    let to = fs::OpenOptions::new().read(true).write(true).open(copy)?;
    let replayed = differing(&File::open(&before)?, &to)?;
    let replayed: BTreeSet<Block> = replayed.into_iter().collect();
    let free = free(copy)?;
    let used = (0..block_count(&to)?.min(bytes / BLOCK)).filter(|block| !within(&free, *block));
    let used: Vec<Block> = used.filter(|block| !replayed.contains(block)).collect();
    let of = used.len() as u64 * BLOCK;
    let (mut content, zeros) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
    for (done, block) in (1..).zip(used) {
        match file.read_exact_at(&mut content, medium.offset() + block * BLOCK) {
            Ok(()) if content == zeros => {}
            Ok(()) => to
                .write_all_at(&content, block * BLOCK)
                .with_context(|| format!("writing {}", copy.display()))?,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => {}
            Err(error) => return Err(error).context("reading the stick"),
        }
        tell(done * BLOCK, of);
    }
    Ok(())
}

/// How many blocks a file system has, by its superblock.
fn block_count(image: &File) -> anyhow::Result<u64> {
    let number = |at: u64| {
        let mut bytes = [0; 4];
        image.read_exact_at(&mut bytes, 1024 + at)?;
        anyhow::Ok(u64::from(u32::from_le_bytes(bytes)))
    };
    Ok(number(4)? | number(0x150)? << 32)
}

impl Bench {
    /// The medium's structure without what files hold, which reads as zeros.
    fn structure_of(&self, medium: &Ext4, bytes: u64) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("before");
        let mut command = tool("e2image");
        command.args(["-r", "-o", &medium.offset().to_string()]);
        run(command.arg(medium.file()).arg(&path))?;
        fs::OpenOptions::new()
            .write(true)
            .open(&path)?
            .set_len(bytes)?;
        Ok(path)
    }

    fn copy(&self, from: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let to = self.folder.path().join(name);
        run(Command::new("cp").arg("--sparse=always").arg(from).arg(&to))?;
        Ok(to)
    }

    /// A copy of `before` with the blocks of `after` as a transaction in its
    /// journal, to be replayed.
    fn journalled(
        &self,
        before: &Path,
        after: &Path,
        structure: &[Block],
    ) -> anyhow::Result<PathBuf> {
        let path = self.copy(before, "journalled")?;
        let marked = marked(after)?;
        let after = File::open(after)?;
        let mut script = "jo -c -v 3\n".to_owned();
        for (number, part) in structure.chunks(AT_ONCE).enumerate() {
            let file = self.folder.path().join(format!("blocks-{number}"));
            let mut bytes = Vec::with_capacity(part.len() * BLOCK as usize);
            for block in part {
                match block {
                    0 => bytes.extend_from_slice(&marked),
                    block => bytes.extend(read(&after, *block)?),
                }
            }
            fs::write(&file, bytes)?;
            let list: Vec<String> = part.iter().map(ToString::to_string).collect();
            writeln!(script, "jw -b {} {}", list.join(","), file.display())?;
        }
        script.push_str("jc\n");
        let file = self.folder.path().join("journal");
        fs::write(&file, script)?;
        run(tool("debugfs").args(["-w", "-f"]).arg(&file).arg(&path))?;
        Ok(path)
    }
}

/// The first block as it is replayed: its superblock must still say that there
/// is something to be replayed, as a cut may come in the middle of it.
fn marked(image: &Path) -> anyhow::Result<Vec<u8>> {
    let file = fs::OpenOptions::new().read(true).write(true).open(image)?;
    let plain = read(&file, 0)?;
    let mark = "feature needs_recovery";
    run(tool("debugfs").args(["-w", "-R", mark]).arg(image))?;
    let marked = read(&file, 0)?;
    file.write_all_at(&plain, 0)?;
    ensure!(marked != plain, "debugfs marks no file system");
    Ok(marked)
}

/// The steps that write what new files hold, and the blocks that do.
fn contents(files: &[Placed], offset: u64, steps: &mut Steps) -> anyhow::Result<BTreeSet<Block>> {
    let mut blocks = BTreeSet::new();
    for file in files {
        let from = open(&file.from)?;
        let mut at = 0;
        for (first, count) in &file.runs {
            blocks.extend(*first..first + count);
            let whole = (file.bytes - at).min(count * BLOCK) / BLOCK * BLOCK;
            let place = offset + first * BLOCK;
            if whole > 0 {
                steps.copy(place, &from, at, whole);
            }
            at += whole;
            let rest = usize::try_from(file.bytes - at)?;
            if rest > 0 && whole < count * BLOCK {
                // A whole block: what an earlier use left behind a file's end is nobody's to read.
                let mut last = vec![0; BLOCK as usize];
                let part = last
                    .get_mut(..rest)
                    .context("the end of a file is less than a block")?;
                from.read_exact_at(part, at)?;
                steps.write(place + whole, last);
                at = file.bytes;
            }
        }
    }
    Ok(blocks)
}

fn changed(before: &Path, after: &Path) -> anyhow::Result<Changed> {
    let (was_free, is_free) = (free(before)?, free(after)?);
    ensure!(
        !is_free.is_empty(),
        "dumpe2fs tells of no free blocks: the stick would be full; build it anew on a larger one"
    );
    let fresh: BTreeSet<Block> = was_free
        .iter()
        .flat_map(|(first, end)| *first..=*end)
        .filter(|block| !within(&is_free, *block))
        .collect();
    let structure = differing(&File::open(before)?, &File::open(after)?)?;
    let structure = structure
        .into_iter()
        .filter(|block| !fresh.contains(block))
        .collect();
    Ok(Changed { fresh, structure })
}

/// First block and length of what lies in a row.
fn runs(blocks: impl Iterator<Item = Block>) -> Vec<(Block, u64)> {
    let mut runs: Vec<(Block, u64)> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == block => *count += 1,
            _ => runs.push((block, 1)),
        }
    }
    runs
}

/// The runs of free blocks, first and last, in order.
fn free(image: &Path) -> anyhow::Result<Vec<(Block, Block)>> {
    let told = run(tool("dumpe2fs").arg(image))?;
    let mut found = Vec::new();
    for line in told.lines() {
        let Some(list) = line.trim_start().strip_prefix("Free blocks:") else {
            continue;
        };
        // The superblock's own line has a count, and stands before the first group.
        if !line.starts_with(' ') {
            continue;
        }
        for part in list
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            found.push((first.parse()?, last.parse()?));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn within(runs: &[(Block, Block)], block: Block) -> bool {
    let behind = runs.partition_point(|(first, _)| *first <= block);
    let run = behind.checked_sub(1).and_then(|at| runs.get(at));
    run.is_some_and(|(_, last)| block <= *last)
}

/// The block that says how far the journal is.
fn journal_superblock(image: &Path) -> anyhow::Result<Block> {
    // -c: without bitmaps, which a cut leaves with other checksums than the journal's.
    let told = run(tool("debugfs").args(["-c", "-R", "bmap <8> 0"]).arg(image))?;
    let number = told.lines().find_map(|line| line.trim().parse().ok());
    number.context("the stick's file system has no journal; build it anew")
}

/// Blocks that differ between two copies of one length. Only where the second
/// one has data: nothing that is done to a copy makes holes.
fn differing(one: &File, other: &File) -> anyhow::Result<Vec<Block>> {
    let end = other.metadata()?.len();
    let (mut at, mut found) = (0, Vec::new());
    while at < end {
        let begin = match rustix::fs::seek(other, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(other, SeekFrom::Hole(begin))?;
        for block in begin / BLOCK..hole.div_ceil(BLOCK) {
            if read(one, block)? != read(other, block)? {
                found.push(block);
            }
        }
        at = hole.max(begin + 1);
    }
    Ok(found)
}

fn read(file: &File, block: Block) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; BLOCK as usize];
    file.read_exact_at(&mut bytes, block * BLOCK)?;
    Ok(bytes)
}

fn open(path: &Path) -> anyhow::Result<Arc<File>> {
    Ok(Arc::new(File::open(path)?))
}

/// What a program says; debugfs ends with 0 whatever happens, and is judged by
/// what comes of it.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let done = succeeded(command)?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::ext4::Rights;
    use super::super::gpt::Guid;
    use super::*;

    const BYTES: u64 = 36 << 20;
    const NAMES: [&str; 3] = ["/site/kept", "/site/changed", "/site/new"];

    struct Medium {
        folder: tempfile::TempDir,
        ext4: Ext4,
    }

    impl Medium {
        /// A file system that begins behind others' bytes, with two files.
        fn new(offset: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("medium");
            File::create(&path)
                .unwrap()
                .set_len(offset + BYTES)
                .unwrap();
            let ext4 = Ext4::at(&path, offset);
            ext4.make(BYTES, Guid::of(1), Guid::of(2)).unwrap();
            let medium = Self { folder, ext4 };
            let mut script = Script::default();
            script.folder("/site").unwrap();
            for (name, byte, length) in [(NAMES[0], 1, 5000), (NAMES[1], 2, 100_000)] {
                script
                    .file(&medium.local(byte, length), name, Rights::Public)
                    .unwrap();
            }
            medium.ext4.run(script).unwrap();
            medium
        }

        fn local(&self, byte: u8, length: usize) -> PathBuf {
            let path = self.folder.path().join(format!("from-{byte}"));
            // Blocks of zeros are content, too.
            let mut bytes = vec![byte; length];
            bytes.iter_mut().skip(4096).take(4096).for_each(|b| *b = 0);
            fs::write(&path, bytes).unwrap();
            path
        }

        fn content(&self, name: &str) -> Option<Vec<u8>> {
            let to = self.folder.path().join("dumped");
            let _ = fs::remove_file(&to);
            self.ext4.dump(name, &to).ok()?;
            fs::read(to).ok()
        }

        /// One file changes, one comes, one goes.
        fn change(&self) -> Steps {
            let mut script = Script::default();
            let rights = Rights::Public;
            script
                .replace(&self.local(3, 130_001), NAMES[1], rights)
                .unwrap();
            script.file(&self.local(4, 9000), NAMES[2], rights).unwrap();
            script.remove(NAMES[0]).unwrap();
            steps(&self.ext4, BYTES, script).unwrap()
        }

        fn is_changed(&self) -> bool {
            self.state_of(&self.ext4)
        }

        fn state_of(&self, ext4: &Ext4) -> bool {
            let content = |name| {
                let to = self.folder.path().join("dumped");
                let _ = fs::remove_file(&to);
                ext4.dump(name, &to).ok()?;
                fs::read(to).ok()
            };
            let first = |name| content(name).map(|bytes| (bytes[0], bytes.len()));
            match NAMES.map(first) {
                [Some((1, 5000)), Some((2, 100_000)), None] => false,
                [None, Some((3, 130_001)), Some((4, 9000))] => true,
                other => panic!("neither before nor after: {other:?}"),
            }
        }
    }

    #[test]
    fn a_change_is_made_where_the_file_system_is() {
        let medium = Medium::new(3 << 20);
        let steps = medium.change();
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(medium.ext4.file())
            .unwrap();
        // What an earlier use of the medium left where a file's zeros belong.
        let free = free(&{
            let bench = Bench {
                folder: tempfile::tempdir().unwrap(),
            };
            let image = bench.structure_of(&medium.ext4, BYTES).unwrap();
            let kept = medium.folder.path().join("structure");
            fs::copy(image, &kept).unwrap();
            kept
        });
        for (first, last) in free.unwrap() {
            let at = (3 << 20) + first * BLOCK;
            file.write_all_at(&vec![0xee; ((last - first + 1) * BLOCK) as usize], at)
                .unwrap();
        }
        assert!(!medium.is_changed());
        steps.carry_out(&file, &mut |_| {}).unwrap();
        steps.verify(&file).unwrap();
        assert!(medium.is_changed());
        medium.ext4.check().unwrap();
        let changed = medium.content(NAMES[1]).unwrap();
        assert!(changed == fs::read(medium.local(3, 130_001)).unwrap());
        // And once more from there, with the journal where it is now.
        let mut script = Script::default();
        script
            .replace(&medium.local(5, 70_000), NAMES[1], Rights::Secret)
            .unwrap();
        let steps = super::steps(&medium.ext4, BYTES, script).unwrap();
        assert!(steps.bytes() < 300_000, "{}", steps.bytes());
        steps.carry_out(&file, &mut |_| {}).unwrap();
        medium.ext4.check().unwrap();
        assert_eq!(medium.content(NAMES[1]).unwrap().len(), 70_000);
    }

    #[test]
    fn pulled_at_any_step_it_is_the_old_state_or_the_new_one() {
        let medium = Medium::new(0);
        let steps = medium.change();
        let before = fs::read(medium.ext4.file()).unwrap();
        let rounds = if std::env::var_os("GROUNDCREW_FULL").is_some() {
            8
        } else {
            1
        };
        let (mut seed, mut states) = (77_u64, [0; 2]);
        let mut stays = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            seed >> 63 == 0
        };
        for count in 0..=steps.moments() {
            for _ in 0..rounds {
                let mut image = before.clone();
                steps.pulled(&mut image, count, &mut stays);
                fs::write(medium.ext4.file(), &image).unwrap();
                // Read only: a copy is put in order, and comes to the same.
                let copy = medium.folder.path().join(format!("copy-{count}"));
                let read = File::open(medium.ext4.file()).unwrap();
                settled_copy(&medium.ext4, BYTES, &read, &copy, &mut |_, _| {}).unwrap();
                assert!(image == fs::read(medium.ext4.file()).unwrap());
                let saved = medium.state_of(&Ext4::at(&copy, 0));
                fs::remove_file(copy).unwrap();
                let mut options = fs::OpenOptions::new();
                let file = options.read(true).write(true).open(medium.ext4.file());
                let file = file.unwrap();
                settle(&medium.ext4, BYTES, &file).unwrap();
                medium.ext4.check().unwrap();
                assert_eq!(medium.is_changed(), saved);
                states[usize::from(saved)] += 1;
            }
        }
        println!("{} steps; found old and new {states:?}", steps.moments());
        assert!(states[0] > 3 && states[1] > 3, "{states:?}");
    }
}
