//! The data partition's file system, made and filled without being mounted: by
//! e2fsprogs, which every Debian has, and so without root and with the same
//! bytes for the same files.
//!
//! `mke2fs -d` is not used: it takes the times and owners of the files it
//! finds. `debugfs` writes what it is told.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, bail, ensure};

use super::gpt::Guid;

/// Every time in a new file system: 2025-01-01.
const EPOCH: &str = "1735689600";
/// What ext4 of the last ten years has; written out, so that a machine's own
/// mke2fs.conf changes nothing.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// debugfs's order to tell where a file lies.
const ASK_EXTENTS: &str = "dump_extents";
/// Bytes of a block.
pub const BLOCK: u64 = 4096;
/// How much of a file is in memory at once: whole blocks.
const PIECE: usize = 4 << 20;

/// A file system inside of an image or a medium.
#[derive(Clone, Debug)]
pub struct Ext4 {
    file: PathBuf,
    offset: u64,
}

/// What is done to one: first what needs room, then what gives some free, so
/// that no block changes hands within one script.
#[derive(Debug, Default)]
pub struct Script {
    text: String,
    removals: String,
    replaced: usize,
    files: Vec<Placed>,
}

/// A file in the order of its bytes, and where they are in the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where the content is taken from.
    pub from: PathBuf,
    /// Its path in the file system when it was made.
    pub path: String,
    /// In bytes.
    pub bytes: u64,
    /// First block and number of blocks, in the order of the content.
    pub runs: Vec<(u64, u64)>,
}

/// Who may read a file: keys and registry are 0600.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// 0644.
    Public,
    /// 0755.
    Program,
    /// 0600.
    Secret,
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A plain file.
    File,
    /// A link, a socket.
    Other,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Of a file, its size.
    pub bytes: u64,
}

impl Entry {
    /// From `/inode/mode/uid/gid/name/size/`. Not the folder itself and the one
    /// above it.
    fn read(line: &str) -> Option<Self> {
        let mut parts = line.split('/').skip(1);
        let (inode, mode) = (parts.next()?, parts.next()?);
        let name = parts.nth(2)?;
        if inode == "0" || matches!(name, "" | "." | "..") {
            return None;
        }
        let kind = match mode.get(..2) {
            Some("04") => Kind::Folder,
            Some("10") => Kind::File,
            _ => Kind::Other,
        };
        Some(Self {
            name: name.to_owned(),
            kind,
            bytes: parts.next().and_then(|size| size.parse().ok()).unwrap_or(0),
        })
    }
}

impl Script {
    /// Makes a folder, whose parent must be there.
    pub fn folder(&mut self, path: &str) -> anyhow::Result<()> {
        line(&mut self.text, "mkdir", &[path])
    }

    /// Whether nothing is to be done.
    pub const fn is_empty(&self) -> bool {
        self.text.is_empty() && self.removals.is_empty()
    }

    /// Copies a file of this machine to `path`, where none may be.
    pub fn file(&mut self, from: &Path, path: &str, rights: Rights) -> anyhow::Result<()> {
        let bytes = fs::metadata(from)
            .with_context(|| format!("looking at {}", from.display()))?
            .len();
        let text = &mut self.text;
        // Only its room: debugfs copies block by block, and what is in its way is
        // the slowest of a build.
        line(text, "write", &["/dev/null", path])?;
        if let Some(last) = bytes.div_ceil(BLOCK).checked_sub(1) {
            line(text, "fallocate", &[path, "0", &last.to_string()])?;
        }
        line(text, "sif", &[path, "size", &bytes.to_string()])?;
        let mode = match rights {
            Rights::Public => "0100644",
            Rights::Program => "0100755",
            Rights::Secret => "0100600",
        };
        line(text, "sif", &[path, "mode", mode])?;
        self.files.push(Placed {
            from: from.to_owned(),
            path: path.to_owned(),
            bytes,
            runs: Vec::new(),
        });
        Ok(())
    }

    /// Copies a file of this machine to `path`, in place of the one that is there.
    pub fn replace(&mut self, from: &Path, path: &str, rights: Rights) -> anyhow::Result<()> {
        self.replaced += 1;
        let new = format!("/.new-{}", self.replaced);
        self.file(from, &new, rights)?;
        line(&mut self.removals, "rm", &[path])?;
        // Neither counts a file's names: together they rename.
        line(&mut self.removals, "ln", &[&new, path])?;
        line(&mut self.removals, "unlink", &[&new])
    }

    /// Makes a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) -> anyhow::Result<()> {
        line(&mut self.text, "symlink", &[path, to])
    }

    /// Removes a file.
    pub fn remove(&mut self, path: &str) -> anyhow::Result<()> {
        line(&mut self.removals, "rm", &[path])
    }
}

fn line(script: &mut String, command: &str, words: &[&str]) -> anyhow::Result<()> {
    script.push_str(command);
    for word in words {
        // debugfs splits at blanks and has quotes, but nothing within them.
        ensure!(
            !word.contains(|c: char| c == '"' || c.is_control()),
            "{} has a name that cannot be written to a stick",
            groundcrew_core::ids::shown(word)
        );
        write!(script, " \"{word}\"")?;
    }
    script.push('\n');
    Ok(())
}

impl Ext4 {
    /// The file system at `offset` bytes of a file or a medium.
    pub fn at(file: &Path, offset: u64) -> Self {
        Self {
            file: file.to_owned(),
            offset,
        }
    }

    /// The image or the medium.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Where it begins there, in bytes.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Makes an empty one of `bytes`, which may grow to 2 TiB while mounted.
    /// What lies there must be zeros, and is not written again.
    pub fn make(&self, bytes: u64, uuid: Guid, hash_seed: Guid) -> anyhow::Result<()> {
        let options = format!(
            "offset={},hash_seed={hash_seed},resize={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,nodiscard",
            self.offset,
            (2_u64 << 40) / BLOCK,
        );
        let mut command = tool("mke2fs");
        command.args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            FEATURES,
            "-J",
            "size=16",
            "-I",
            "256",
            "-L",
            "groundcrew",
            "-m",
            "0",
        ]);
        command.args(["-U", &uuid.to_string(), "-E", &options]);
        command.arg(&self.file).arg((bytes / BLOCK).to_string());
        succeeded(&mut command)?;
        Ok(())
    }

    /// Carries a script out, but for what the new files hold: that is left to
    /// whoever called, and told with its place.
    pub fn lay(&self, script: Script) -> anyhow::Result<Vec<Placed>> {
        let Script {
            mut text,
            removals,
            mut files,
            ..
        } = script;
        files.retain(|file| file.bytes > 0);
        for file in &files {
            line(&mut text, ASK_EXTENTS, &["-l", &file.path])?;
        }
        let told = format!("\n{}", self.debugfs(&text)?);
        // debugfs repeats each command before what comes of it.
        let mut answers = told
            .split("\ndebugfs: ")
            .filter(|one| one.starts_with(ASK_EXTENTS));
        let mut marks = String::new();
        for file in &mut files {
            let extents: Vec<Extent> = answers
                .next()
                .unwrap_or_default()
                .lines()
                .filter_map(Extent::read)
                .collect();
            let count: u64 = extents.iter().map(|extent| extent.count).sum();
            ensure!(
                count >= file.bytes.div_ceil(BLOCK),
                "debugfs made no room for {}",
                file.path
            );
            // What is allocated without content reads as zeros until it is marked.
            line(&mut marks, "extent_open", &[&file.path])?;
            for Extent {
                logical,
                physical,
                count,
            } in &extents
            {
                writeln!(
                    marks,
                    "next_leaf\nreplace_node {logical} {count} {physical}"
                )?;
            }
            marks.push_str("extent_close\n");
            let runs = extents.iter().map(|extent| (extent.physical, extent.count));
            file.runs = runs.collect();
        }
        self.debugfs(&format!("{marks}{removals}"))?;
        Ok(files)
    }

    /// Carries a script out with all that the new files hold.
    pub fn run(&self, script: Script) -> anyhow::Result<()> {
        let image = OpenOptions::new().write(true).open(&self.file)?;
        for file in self.lay(script)? {
            file.each_piece(|at, piece| Ok(image.write_all_at(piece, self.offset + at)?))?;
        }
        Ok(())
    }

    /// Runs commands. `debugfs` goes on after an error and ends with 0; what it
    /// says besides its name is taken for an error.
    fn debugfs(&self, commands: &str) -> anyhow::Result<String> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("script");
        fs::write(&file, commands)?;
        let mut command = tool("debugfs");
        command.args(["-w", "-f"]).arg(&file).arg(self.name());
        let done = succeeded(&mut command)?;
        let said = String::from_utf8_lossy(&done.stderr);
        if let Some(error) = said.lines().nth(1) {
            bail!("writing the data partition: {error}");
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// One command's output; nothing is changed.
    fn ask(&self, request: &str) -> anyhow::Result<Output> {
        let mut command = tool("debugfs");
        command.args(["-R", request]).arg(self.name());
        succeeded(&mut command)
    }

    /// What lies in a folder, sorted. A folder that is not there is empty.
    pub fn list(&self, folder: &str) -> anyhow::Result<Vec<Entry>> {
        let done = self.ask(&format!("ls -p \"{folder}\""))?;
        let text = String::from_utf8_lossy(&done.stdout);
        let mut entries: Vec<_> = text.lines().filter_map(Entry::read).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Bytes that are free.
    pub fn free(&self) -> anyhow::Result<u64> {
        let done = self.ask("stats -h")?;
        let text = String::from_utf8_lossy(&done.stdout);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Free blocks:"));
        let blocks: u64 = line
            .context("debugfs tells no free blocks")?
            .trim()
            .parse()?;
        Ok(blocks * BLOCK)
    }

    /// Copies a file out. An error where there is none.
    pub fn dump(&self, path: &str, to: &Path) -> anyhow::Result<()> {
        let to_text = to.to_str().context("a path that is not UTF-8")?;
        let done = self.ask(&format!("dump \"{path}\" \"{to_text}\""))?;
        let said = String::from_utf8_lossy(&done.stderr);
        if let Some(error) = said.lines().nth(1) {
            bail!("reading {path} from the stick: {error}");
        }
        Ok(())
    }

    /// `INCOMPAT_RECOVER` of the superblock: it was not unmounted.
    pub fn needs_recovery(&self) -> anyhow::Result<bool> {
        let mut flags = [0; 4];
        File::open(&self.file)?.read_exact_at(&mut flags, self.offset + 1024 + 0x60)?;
        Ok(u32::from_le_bytes(flags) & 4 != 0)
    }

    /// Reads all of its structure and changes nothing. What `e2fsck` says last.
    pub fn check(&self) -> anyhow::Result<String> {
        let mut command = tool("e2fsck");
        command.args(["-f", "-n"]).arg(self.name());
        let done = succeeded(&mut command)?;
        let text = String::from_utf8_lossy(&done.stdout);
        Ok(text.lines().last().unwrap_or_default().to_owned())
    }

    fn name(&self) -> String {
        format!("{}?offset={}", self.file.display(), self.offset)
    }
}

/// A part of a file.
struct Extent {
    logical: u64,
    physical: u64,
    count: u64,
}

impl Extent {
    /// From ` 0/ 0   1/  1     0 -  2441  8065 - 10506   2442 Uninit`.
    fn read(line: &str) -> Option<Self> {
        let plain = line.replace(['/', '-'], " ");
        let numbers: Vec<u64> = plain
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        match numbers.as_slice() {
            [_, _, _, _, logical, _, physical, _, count] => Some(Self {
                logical: *logical,
                physical: *physical,
                count: *count,
            }),
            _ => None,
        }
    }
}

impl Placed {
    /// Reads the content and hands on piece by piece with its place in the file
    /// system, in bytes; the last one filled up with zeros to a whole block.
    pub fn each_piece(
        &self,
        mut take: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let reading = || format!("reading {}", self.from.display());
        let file = File::open(&self.from).with_context(reading)?;
        ensure!(
            file.metadata()?.len() == self.bytes,
            "{} changed while the stick was written",
            self.from.display()
        );
        let (mut at, mut buffer) = (0, vec![0; PIECE]);
        for (block, count) in &self.runs {
            let (mut done, room) = (0, count * BLOCK);
            while done < room && at < self.bytes {
                let whole = usize::try_from(room - done)?.min(PIECE);
                let length = usize::try_from(self.bytes - at)?.min(whole);
                let filled = length.next_multiple_of(BLOCK as usize);
                let (Some(content), true) = (buffer.get_mut(..length), filled <= PIECE) else {
                    bail!("a piece is larger than its buffer; this is a bug");
                };
                file.read_exact_at(content, at).with_context(reading)?;
                if let Some(rest) = buffer.get_mut(length..filled) {
                    rest.fill(0);
                }
                take(
                    block * BLOCK + done,
                    buffer.get(..filled).unwrap_or_default(),
                )?;
                (at, done) = (at + length as u64, done + filled as u64);
            }
        }
        Ok(())
    }
}

/// Replays the journal of a copy that begins where its file does (e2fsck 1.47
/// forgets an offset when it reads the file system again after that), and mends
/// what can be mended without asking.
pub fn mend(copy: &Path) -> anyhow::Result<()> {
    let mut command = tool("e2fsck");
    // Without -f only the journal is replayed, and counts that ext4 corrects at
    // its next mount are left for `check` to complain about.
    command.args(["-f", "-p"]).arg(copy);
    let done = command.output().context("starting e2fsck")?;
    match done.status.code() {
        // 1: something was mended.
        Some(0 | 1) => Ok(()),
        _ => bail!(
            "the stick's data partition is damaged: {}; `e2fsck` says more",
            String::from_utf8_lossy(&done.stdout).trim()
        ),
    }
}

/// A program of e2fsprogs, whose output is the same on every machine.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.env("E2FSPROGS_FAKE_TIME", EPOCH).env("LC_ALL", "C");
    command.env("MKE2FS_CONFIG", "/dev/null");
    command
}

/// Where it lies: a user's PATH on Debian leaves out these places. Not told to the
/// standard library by the variable, or it would copy this process, with all of
/// its memory, for every one that it starts.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).filter(|place| place.is_absolute());
    let mut files = places.chain(more).map(|place| place.join(name));
    files.find(|file| runs(file)).unwrap_or_else(|| name.into())
}

fn runs(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Runs it to its end, which must be a good one.
pub fn succeeded(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command
        .output()
        .with_context(|| format!("starting {name}: `apt-get install e2fsprogs` brings it"))?;
    if !done.status.success() {
        bail!(
            "{name} failed: {}{}",
            String::from_utf8_lossy(&done.stdout).trim(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(done)
}
