//! What goes on a stick: every file with its digest, the places of the four
//! partitions, and ids that are made of the content, so that the same input
//! gives the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use ring::digest::{Context as Sha256, SHA256, digest};

use super::anchor::{Anchor, AnchorKey};
use super::ext4::{self, Rights, Script};
use super::gpt::{Guid, Partition, SECTOR, Table, kind};
use super::grub::{self, BiosGrub};
use super::meanwhile::Meanwhile;
use super::start::StartParts;
use super::vault::{Pin, Sealing};
use super::{KEYS_IN_MEMORY, file};
use crate::site::keys::file as key;
use crate::site::{Site, charter};
use crate::store;

const MIB: u64 = 1 << 20;
const BIOS_BOOT: (u64, u64) = (MIB, MIB);
const ESP: (u64, u64) = (2 * MIB, 96 * MIB);
const ANCHOR: (u64, u64) = (98 * MIB, MIB);
const DATA: u64 = 99 * MIB;
/// Journal, inodes, and room to start in before the partition has grown.
const DATA_SLACK: u64 = 64 * MIB;
/// After the last partition: the copy of the table.
const TAIL: u64 = MIB;

/// What to build a stick from.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The stick's site, with what `image build` made.
    pub site: Site,
    /// The static `groundcrew` that runs on it.
    pub binary: PathBuf,
    /// What opens its vault.
    pub pin: Pin,
    /// `/usr/lib`, where GRUB and shim are.
    pub usr_lib: PathBuf,
}

/// Everything that will be written.
pub struct Plan {
    /// For a BIOS.
    pub grub: Meanwhile<BiosGrub>,
    /// All else but the data partition.
    pub frame: Frame,
    /// The data partition.
    pub data: Data,
    /// What the site may do, in a sentence.
    pub terms: String,
}

/// What is around the data partition.
pub struct Frame {
    /// Partitions and ids.
    pub table: Table,
    /// On the start partition, by path.
    pub start: Vec<(String, Vec<u8>)>,
    /// The start partition's serial number.
    pub volume: u32,
    /// On the anchor's partition.
    pub anchor: Vec<u8>,
}

/// What is on the data partition.
pub struct Data {
    /// Its files.
    pub files: Vec<DataFile>,
    /// Its folders, parents first.
    pub folders: Vec<String>,
    /// Ids of its file system.
    pub uuid: Guid,
    /// See `uuid`.
    pub hash_seed: Guid,
    /// Until [`Data::seal`].
    sealing: Option<Sealing>,
    /// The vault and the copy of the registry, until they are written.
    _scratch: tempfile::TempDir,
}

/// A file of the data partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Where it lies now.
    pub from: PathBuf,
    /// Where it goes: `/site/trust/metadata/1.root.json`.
    pub path: String,
    /// Who may read it there.
    pub rights: Rights,
    /// In bytes.
    pub bytes: u64,
    /// SHA-256; of a blob, what its name says. Of the vault, see [`Data::seal`].
    pub sha256: [u8; 32],
}

impl Plan {
    /// Reads everything; `tell` hears what is done.
    pub fn make(spec: &Spec, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        let site = &spec.site;
        let settings = site.settings()?;
        tell("packing the program, and sealing the keys");
        let (bios, _) = grub::halves(BIOS_BOOT.0 / SECTOR, BIOS_BOOT.1);
        let secrets = secrets(site)?;
        let sealing = Sealing::begin(secrets.clone(), spec.pin.clone(), &settings.site);
        let parts = StartParts::make(site, &spec.binary, &spec.usr_lib, bios)?;
        let scratch = tempfile::tempdir()?;
        let vault = scratch.path().join(file::VAULT);
        fs::write(&vault, sealing.blank().to_json()?)?;
        let registry = scratch.path().join("registry.db");
        store::snapshot(&site.registry_file(), &registry)?;
        let anchor = first_anchor(&registry, &secrets)?;
        tell("reading the site");
        let mut tree = Tree::default();
        // A blank one gives the ids: see `seal`.
        tree.file(&vault, Data::vault(), Rights::Secret)?;
        tree.site(site, &registry, &parts.boot)?;
        let ids = Ids::of(&parts, &tree.files, &settings.stick);
        let volume = ids.volume();
        let menu = parts.menu(ids.guid("data"), volume);
        let mut start = parts.start;
        start.push(menu);
        Ok(Self {
            grub: parts.grub,
            frame: Frame {
                table: ids.table(data_bytes(&tree.files)),
                start,
                volume,
                anchor,
            },
            data: Data {
                files: tree.files,
                folders: tree.folders,
                uuid: ids.guid("file system"),
                hash_seed: ids.guid("hash seed"),
                sealing: Some(sealing),
                _scratch: scratch,
            },
            terms: terms(site)?,
        })
    }
}

impl Frame {
    /// Bytes of the image.
    pub const fn bytes(&self) -> u64 {
        self.table.sectors * SECTOR
    }

    /// A partition, by its number.
    pub fn partition(&self, number: usize) -> anyhow::Result<&Partition> {
        let found = self.table.partitions.get(number.wrapping_sub(1));
        found.context("a stick has four partitions; this is a bug")
    }
}

impl Data {
    /// Puts the sealed vault in the place of the blank one. Its key takes as long
    /// as a small build, and only the vault's own bytes depend on it: ids are
    /// made of the blank one, whose salt is another one for all other keys or PIN.
    pub fn seal(&mut self) -> anyhow::Result<()> {
        let Some(sealing) = self.sealing.take() else {
            return Ok(());
        };
        let sealed = sealing.finish()?.to_json()?;
        let path = Self::vault();
        let vault = self.files.iter_mut().find(|file| file.path == path);
        let vault = vault.context("a stick has a vault; this is a bug")?;
        ensure!(
            sealed.len() as u64 == vault.bytes,
            "the vault has not the length that was planned; this is a bug"
        );
        fs::write(&vault.from, &sealed)?;
        vault.sha256 = sha256_of_bytes(&sealed);
        Ok(())
    }

    /// The path of the vault, which has its content from [`Self::seal`] on.
    pub fn vault() -> String {
        format!("/{}", file::VAULT)
    }

    /// The digests of its files, by path.
    pub fn sums(&self) -> BTreeMap<&str, [u8; 32]> {
        let files = self.files.iter();
        files.map(|one| (one.path.as_str(), one.sha256)).collect()
    }

    /// What fills it.
    pub fn script(&self) -> anyhow::Result<Script> {
        let mut script = Script::default();
        for folder in &self.folders {
            script.folder(folder)?;
        }
        for file in &self.files {
            script.file(&file.from, &file.path, file.rights)?;
        }
        script.link(&format!("/{}/keys", file::SITE), KEYS_IN_MEMORY)?;
        Ok(script)
    }
}

/// The site's private keys, as the vault holds them: names and PEM texts.
fn secrets(site: &Site) -> anyhow::Result<Vec<u8>> {
    let names = [
        key::SNAPSHOT,
        key::TIMESTAMP,
        key::GRANT,
        key::JOURNAL,
        key::TLS,
    ];
    let read = |name: &'static str| {
        let path = site.keys_dir().join(name);
        let text = fs::read_to_string(&path);
        text.map(|text| (name, text))
            .with_context(|| format!("reading {}", path.display()))
    };
    // Sorted by the map: the same keys give the same bytes.
    let keys = names
        .into_iter()
        .map(read)
        .collect::<anyhow::Result<std::collections::BTreeMap<_, _>>>()?;
    Ok(serde_json::to_vec(&keys)?)
}

fn first_anchor(registry: &Path, secrets: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (entries, head) = journal_end(registry)?;
    let mut anchor = Anchor::default();
    anchor.take(entries, head, &AnchorKey::of(secrets));
    Ok(anchor.advance().1)
}

/// How many lines a registry's journal has, and the digest of the last one;
/// every line names the one before it.
pub fn journal_end(registry: &Path) -> anyhow::Result<(u64, [u8; 32])> {
    let (mut entries, mut last) = (0, String::new());
    store::each_journal_line(registry, |line| {
        entries += 1;
        line.clone_into(&mut last);
        Ok(())
    })?;
    if entries == 0 {
        return Ok((0, [0; 32]));
    }
    Ok((entries, line_digest(&last)))
}

/// What the anchor remembers of a journal's line.
pub fn line_digest(line: &str) -> [u8; 32] {
    sha256_of_bytes(line.as_bytes())
}

fn sha256_of_bytes(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn terms(site: &Site) -> anyhow::Result<String> {
    let name = site.settings()?.site;
    let charter = charter::read(site, &name)?;
    let tags = match charter.tags.as_slice() {
        [] => "any tag".to_owned(),
        tags => {
            let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
            format!("the tags {}", tags.join(", "))
        }
    };
    Ok(format!(
        "{name} may let in {} devices with {tags} until {}",
        charter.devices, charter.expires
    ))
}

/// Files that `sync` brings: what HQ and whoever writes bundles change. Registry
/// and boot files are a stick's own until `update` or `restore`.
pub fn is_synced(path: &str) -> bool {
    let below = path.strip_prefix(&format!("/{}/", file::SITE));
    let top = below.unwrap_or_default().split('/').next();
    matches!(top, Some("site.toml" | "trust" | "blobs" | "sources"))
}

/// What of a site's folder lies on its stick.
pub fn content(site: &Site) -> anyhow::Result<Vec<DataFile>> {
    let mut tree = Tree::default();
    tree.site(site, &site.registry_file(), &BTreeMap::new())?;
    Ok(tree.files)
}

/// The data partition's files, and its folders, parents first.
#[derive(Default)]
struct Tree {
    files: Vec<DataFile>,
    folders: Vec<String>,
    /// Digests that need not be made again.
    known: BTreeMap<PathBuf, [u8; 32]>,
}

impl Tree {
    /// Everything of a site but its keys, and a registry of one moment. Of boot
    /// files the digests may be known.
    fn site(
        &mut self,
        site: &Site,
        registry: &Path,
        boot: &BTreeMap<String, [u8; 32]>,
    ) -> anyhow::Result<()> {
        self.known = boot
            .iter()
            .map(|(name, sha256)| (site.boot_dir().join(name), *sha256))
            .collect();
        let root = format!("/{}", file::SITE);
        self.folders.push(root.clone());
        self.file(
            &site.settings_file(),
            format!("{root}/site.toml"),
            Rights::Public,
        )?;
        self.file(registry, format!("{root}/registry.db"), Rights::Secret)?;
        for (folder, name) in [
            (site.trust_dir(), "trust"),
            (site.blobs_dir(), "blobs"),
            (site.boot_dir(), "boot"),
            (site.sources_dir(), "sources"),
        ] {
            self.folder(&folder, &format!("{root}/{name}"))?;
        }
        Ok(())
    }

    fn folder(&mut self, from: &Path, path: &str) -> anyhow::Result<()> {
        let reading = || format!("reading {}", from.display());
        let mut entries = fs::read_dir(from)
            .with_context(reading)?
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        self.folders.push(path.to_owned());
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_str().with_context(reading)?;
            let kind = entry.file_type()?;
            // What was being written when somebody stopped.
            if name.starts_with('.') {
                continue;
            }
            let inner = format!("{path}/{name}");
            if kind.is_dir() {
                self.folder(&entry.path(), &inner)?;
            } else if kind.is_file() {
                let program = entry.metadata()?.permissions().mode() & 0o100 != 0;
                let rights = if program {
                    Rights::Program
                } else {
                    Rights::Public
                };
                self.file(&entry.path(), inner, rights)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, path: String, rights: Rights) -> anyhow::Result<()> {
        let known = self.known.get(from).copied();
        let (bytes, sha256) = match known.or_else(|| named(from)) {
            // Read once, when it is written, and compared then.
            Some(sha256) => (fs::metadata(from)?.len(), sha256),
            None => sha256_of(from)?,
        };
        self.files.push(DataFile {
            from: from.to_owned(),
            path,
            rights,
            bytes,
            sha256,
        });
        Ok(())
    }
}

/// The digest that a blob's name is.
fn named(path: &Path) -> Option<[u8; 32]> {
    let folder = path.parent()?;
    if !folder.ends_with("blobs/sha256") {
        return None;
    }
    let name = path.file_name()?.to_str()?;
    let bytes = data_encoding::HEXLOWER.decode(name.as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// Length and SHA-256 of a file, read in pieces.
pub fn sha256_of(path: &Path) -> anyhow::Result<(u64, [u8; 32])> {
    use std::io::Read as _;
    let reading = || format!("reading {}", path.display());
    let mut file = fs::File::open(path).with_context(reading)?;
    let mut context = Sha256::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let length = file.read(&mut buffer).with_context(reading)?;
        let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else {
            break;
        };
        context.update(piece);
        bytes += length as u64;
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    Ok((bytes, sha256))
}

fn data_bytes(files: &[DataFile]) -> u64 {
    let content: u64 = files
        .iter()
        .map(|file| file.bytes.next_multiple_of(ext4::BLOCK))
        .sum();
    // One part in 32 for inodes, checksums and bitmaps.
    (content + content / 32 + DATA_SLACK).next_multiple_of(MIB)
}

/// Ids made of everything that is written but GRUB for a BIOS, which is the same
/// for every site: so nobody waits for it.
struct Ids {
    seed: [u8; 32],
}

impl Ids {
    fn of(parts: &StartParts, data: &[DataFile], settings: &super::StickSettings) -> Self {
        let mut context = Sha256::new(&SHA256);
        let mut add = |name: &str, sum: &[u8]| {
            context.update(&(name.len() as u64).to_be_bytes());
            context.update(name.as_bytes());
            context.update(sum);
        };
        add(
            &format!("{} {}", settings.default, settings.seconds),
            &[0; 32],
        );
        for (name, content) in &parts.start {
            // Kernel and initrd: as they lie in the boot folder.
            let known = parts.boot.get(name).copied();
            add(name, &known.unwrap_or_else(|| sha256_of_bytes(content)));
        }
        for file in data {
            add(&file.path, &file.sha256);
        }
        let mut seed = [0; 32];
        seed.copy_from_slice(context.finish().as_ref());
        Self { seed }
    }

    fn bits(&self, label: &str) -> [u8; 16] {
        let mut context = Sha256::new(&SHA256);
        context.update(&self.seed);
        context.update(label.as_bytes());
        *context.finish().as_ref().first_chunk().unwrap_or(&[0; 16])
    }

    fn guid(&self, label: &str) -> Guid {
        Guid::custom(self.bits(label))
    }

    fn volume(&self) -> u32 {
        u32::from_be_bytes(*self.bits("volume").first_chunk().unwrap_or(&[0; 4]))
    }

    fn table(&self, data_bytes: u64) -> Table {
        let part = |kind, label: &str, (first, bytes): (u64, u64)| Partition {
            kind,
            guid: self.guid(label),
            first: first / SECTOR,
            sectors: bytes / SECTOR,
            name: format!("groundcrew {label}"),
        };
        Table {
            disk: self.guid("disk"),
            sectors: (DATA + data_bytes + TAIL) / SECTOR,
            partitions: vec![
                part(kind::BIOS_BOOT, "bios", BIOS_BOOT),
                part(kind::EFI_SYSTEM, "start", ESP),
                part(kind::ANCHOR, "anchor", ANCHOR),
                part(kind::LINUX, "data", (DATA, data_bytes)),
            ],
        }
    }
}
