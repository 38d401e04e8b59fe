//! The configuration blob: the resolved steps, and a digest and size for each
//! file of content; and the [`Bundle`] that it makes with its manifest.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::limits;
use super::manifest::{Descriptor, Manifest};
use super::path::{Mode, RelPath, TargetPath, link_stays_in};
use super::step::{Action, Content, FileStep, Step, TreeStep, writable};
use super::template::Template;
use crate::digest::Digest;
use crate::enroll::BundleRef;
use crate::ids::{Slug, Version};

/// The layout of the configuration blob that this code writes and reads.
const SCHEMA: u32 = 1;

/// A bundle's configuration blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    schema: u32,
    /// The bundle's name.
    pub name: Slug,
    /// Its version.
    pub version: Version,
    /// One line for people.
    pub description: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The content that steps refer to.
    pub content: Inventory,
}

/// Everything in the bundle's content, each list in ascending order of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Folders, for `tree` steps.
    pub directories: Vec<RelPath>,
    /// Files.
    pub files: Vec<FileEntry>,
    /// Symlinks, for `tree` steps; none leads out of its tree.
    pub links: Vec<Link>,
}

/// One file of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path in the bundle.
    pub path: RelPath,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// 0755 for a program, else 0644.
    pub mode: Mode,
    /// Where its bytes are.
    pub stored: Stored,
}

/// Where a file's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stored {
    /// In the content tree's blob, as an entry of the same path.
    Tree,
    /// A blob of its own, named by the file's digest.
    Blob,
}

/// A symlink of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its path in the bundle.
    pub path: RelPath,
    /// What it points to, relative.
    pub target: String,
}

/// Bytes that are not a bundle's configuration, or not this manifest's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BundleError {
    /// Not what the manifest names.
    #[error(
        "the configuration is not the one that the manifest names: expected {expected}, found {found}"
    )]
    WrongConfig {
        /// The manifest's digest of it.
        expected: Digest,
        /// What was given.
        found: Digest,
    },
    /// Not JSON of this shape.
    #[error("the configuration cannot be read: {0}")]
    Json(String),
    /// Written by a later version.
    #[error(
        "the configuration has layout {0}, and this program reads layout 1: it needs a newer groundcrew"
    )]
    Schema(u32),
    /// Contradicts itself or its manifest.
    #[error("{0}")]
    Inconsistent(String),
}

fn wrong(why: impl Into<String>) -> BundleError {
    BundleError::Inconsistent(why.into())
}

impl Config {
    /// A configuration, checked as one that is read.
    pub fn new(source: super::Source, content: Inventory) -> Result<Self, BundleError> {
        let config = Self {
            schema: SCHEMA,
            name: source.name,
            version: source.version,
            description: source.description,
            steps: source.steps,
            content,
        };
        config.check()?;
        Ok(config)
    }

    /// The bytes of the blob: the same for the same configuration.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BundleError> {
        let bytes = serde_json::to_vec(self).map_err(|err| BundleError::Json(err.to_string()))?;
        if bytes.len() as u64 > limits::CONFIG {
            return Err(wrong(
                "the configuration exceeds 8 MiB: use fewer files, or pack them into an archive",
            ));
        }
        Ok(bytes)
    }

    /// Reads the bytes of the blob.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() as u64 > limits::CONFIG {
            return Err(wrong("the configuration exceeds 8 MiB"));
        }
        let config: Self =
            serde_json::from_slice(bytes).map_err(|err| BundleError::Json(err.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The file of content at `path`.
    pub fn file(&self, path: &RelPath) -> Option<&FileEntry> {
        self.content.file(path)
    }

    fn check(&self) -> Result<(), BundleError> {
        if self.schema != SCHEMA {
            return Err(BundleError::Schema(self.schema));
        }
        if self.steps.len() > limits::STEPS {
            return Err(wrong(format!("more than {} steps", limits::STEPS)));
        }
        self.content.check()?;
        let mut names = BTreeSet::new();
        for step in &self.steps {
            if !names.insert(&step.name) {
                return Err(wrong(format!("two steps are called `{}`", step.name)));
            }
            self.check_step(&step.action)
                .map_err(|why| wrong(format!("step `{}`: {why}", step.name)))?;
        }
        Ok(())
    }

    fn check_step(&self, action: &Action) -> Result<(), String> {
        action.check().map_err(|err| err.to_string())?;
        match action {
            Action::File(step) => self.check_file(step),
            Action::Tree(step) => self.check_tree(step),
            _ => Ok(()),
        }
    }

    fn check_file(&self, step: &FileStep) -> Result<(), String> {
        match &step.content {
            Content::Stored(path) if step.template => {
                Err(format!("the template `{path}` is not in the step"))
            }
            Content::Stored(path) => self
                .file(path)
                .map(|_| ())
                .ok_or(format!("no file `{path}` in the bundle")),
            Content::Inline(text) if text.len() as u64 > limits::TEMPLATE => {
                Err("text in a step has at most 1 MiB: give it a file of its own (`source`)".into())
            }
            Content::Inline(text) if step.template => text
                .parse::<Template>()
                .map(|_| ())
                .map_err(|err| err.to_string()),
            Content::Inline(_) => Ok(()),
        }
    }

    fn check_tree(&self, step: &TreeStep) -> Result<(), String> {
        if !self.content.directories.contains(&step.source) {
            return Err(format!("no folder `{}` in the bundle", step.source));
        }
        for path in self.content.below(&step.source) {
            let target = step.path.join(path.below).map_err(|err| err.to_string())?;
            // the folder /etc itself, say, may be in the tree; only what is in it is judged
            writable(&target).map_err(|err| err.to_string())?;
        }
        for link in self
            .content
            .links
            .iter()
            .filter(|link| link.path.below(&step.source).is_some())
        {
            if !link_stays_in(&step.source, &link.path, &link.target) {
                return Err(format!(
                    "the symlink `{}` leads out of `{}`",
                    link.path, step.source
                ));
            }
        }
        Ok(())
    }
}

/// Something of content that lies below a folder.
#[derive(Clone, Copy, Debug)]
pub struct Below<'a> {
    /// Its path relative to the folder.
    pub below: &'a str,
    /// What it is.
    pub item: Item<'a>,
}

/// What a path of content is.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A folder.
    Directory,
    /// A file.
    File(&'a FileEntry),
    /// A symlink and where it points.
    Link(&'a str),
}

impl Inventory {
    /// The file at `path`.
    pub fn file(&self, path: &RelPath) -> Option<&FileEntry> {
        let at = self
            .files
            .binary_search_by(|entry| entry.path.cmp(path))
            .ok()?;
        self.files.get(at)
    }

    /// The files that are in the content tree's blob, in the blob's order.
    pub fn tree_files(&self) -> Vec<&FileEntry> {
        self.files
            .iter()
            .filter(|entry| entry.stored == Stored::Tree)
            .collect()
    }

    /// What lies below `folder`: folders (each before what is in it), files,
    /// then links.
    pub fn below<'a>(&'a self, folder: &'a RelPath) -> impl Iterator<Item = Below<'a>> {
        let directories = self.directories.iter().map(|path| (path, Item::Directory));
        let files = self
            .files
            .iter()
            .map(|entry| (&entry.path, Item::File(entry)));
        let links = self
            .links
            .iter()
            .map(|link| (&link.path, Item::Link(link.target.as_str())));
        directories
            .chain(files)
            .chain(links)
            .filter_map(move |(path, item)| path.below(folder).map(|below| Below { below, item }))
    }

    fn check(&self) -> Result<(), BundleError> {
        let counts = [self.directories.len(), self.files.len(), self.links.len()];
        if counts.iter().any(|&count| count > limits::ENTRIES) {
            return Err(wrong(format!(
                "more than {} files, folders or links",
                limits::ENTRIES
            )));
        }
        let files = self.files.iter().map(|entry| &entry.path);
        let links = self.links.iter().map(|link| &link.path);
        ascending(self.directories.iter())?;
        ascending(files.clone())?;
        ascending(links.clone())?;
        let folders: BTreeSet<&str> = self.directories.iter().map(RelPath::as_str).collect();
        let mut leaves = BTreeSet::new();
        for path in files.chain(links) {
            if !leaves.insert(path.as_str()) || folders.contains(path.as_str()) {
                return Err(wrong(format!("`{path}` is listed twice")));
            }
        }
        for path in folders.iter().chain(&leaves) {
            let parent = path.rsplit_once('/').map(|(parent, _)| parent);
            if parent.is_some_and(|parent| !folders.contains(parent)) {
                return Err(wrong(format!("the folder of `{path}` is not listed")));
            }
        }
        self.files.iter().try_for_each(check_stored)
    }
}

fn ascending<'a>(mut paths: impl Iterator<Item = &'a RelPath> + Clone) -> Result<(), BundleError> {
    let next = paths.clone().skip(1);
    match paths.by_ref().zip(next).find(|(a, b)| a >= b) {
        Some((_, path)) => Err(wrong(format!("`{path}` is out of order"))),
        None => Ok(()),
    }
}

fn check_stored(entry: &FileEntry) -> Result<(), BundleError> {
    let large = entry.size >= limits::LARGE_FILE;
    if large != (entry.stored == Stored::Blob) || entry.size > limits::BLOB {
        return Err(wrong(format!(
            "`{}` is not stored as its size demands",
            entry.path
        )));
    }
    Ok(())
}

/// A manifest and its configuration, which agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    manifest: Manifest,
    config: Config,
}

impl Bundle {
    /// Joins a manifest with the bytes of the configuration that it names.
    pub fn assemble(manifest: Manifest, config_bytes: &[u8]) -> Result<Self, BundleError> {
        let expected = manifest.config().digest;
        let found = Digest::of(config_bytes);
        if found != expected || config_bytes.len() as u64 != manifest.config().size {
            return Err(BundleError::WrongConfig { expected, found });
        }
        let bundle = Self {
            config: Config::parse(config_bytes)?,
            manifest,
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its name and version, to be compared with the grant's.
    pub fn reference(&self) -> BundleRef {
        BundleRef {
            name: self.config.name.clone(),
            version: self.config.version,
        }
    }

    fn check(&self) -> Result<(), BundleError> {
        let named = (self.manifest.name(), self.manifest.version());
        if named != (&self.config.name, self.config.version) {
            return Err(wrong(format!(
                "the manifest is of {} {}, the configuration of {} {}",
                named.0, named.1, self.config.name, self.config.version
            )));
        }
        let has_tree = self
            .config
            .content
            .files
            .iter()
            .any(|entry| entry.stored == Stored::Tree);
        if has_tree != self.manifest.tree().is_some() {
            return Err(wrong(
                "the manifest's layers and the configuration's files do not agree on a content tree",
            ));
        }
        self.check_blobs()
    }

    fn check_blobs(&self) -> Result<(), BundleError> {
        let key = |blob: &Descriptor| (blob.digest, blob.size);
        let layers: BTreeSet<_> = self.manifest.files().iter().map(key).collect();
        let entries: BTreeSet<_> = self
            .config
            .content
            .files
            .iter()
            .filter(|entry| entry.stored == Stored::Blob)
            .map(|entry| (entry.digest, entry.size))
            .collect();
        match layers.symmetric_difference(&entries).next() {
            Some((digest, _)) => Err(wrong(format!(
                "manifest and configuration do not agree on the blob {digest}"
            ))),
            None => Ok(()),
        }
    }
}

/// The paths on the device that a `tree` step makes: for plans and listings.
pub fn tree_targets<'a>(
    config: &'a Config,
    step: &'a TreeStep,
) -> impl Iterator<Item = (TargetPath, Item<'a>)> {
    config
        .content
        .below(&step.source)
        .filter_map(|found| Some((step.path.join(found.below).ok()?, found.item)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::Layers;
    use crate::bundle::source::Source;

    fn entry(path: &str, size: u64, stored: Stored) -> FileEntry {
        FileEntry {
            path: path.parse().unwrap(),
            digest: Digest::of(path.as_bytes()),
            size,
            mode: Mode::FILE,
            stored,
        }
    }

    fn inventory() -> Inventory {
        Inventory {
            directories: vec!["tree".parse().unwrap(), "tree/etc".parse().unwrap()],
            files: vec![
                entry("big", limits::LARGE_FILE, Stored::Blob),
                entry("motd", 5, Stored::Tree),
                entry("tree/etc/x", 5, Stored::Tree),
            ],
            links: vec![Link {
                path: "tree/etc/y".parse().unwrap(),
                target: "x".into(),
            }],
        }
    }

    fn source(steps: &str) -> Source {
        Source::parse("f", &format!("name = \"a\"\nversion = \"1\"\n{steps}")).unwrap()
    }

    fn config() -> Config {
        let steps = "[[step]]\nname = \"m\"\nfile = { path = \"/etc/motd\", source = \"motd\" }\n\
                     [[step]]\nname = \"t\"\ntree = { path = \"/\", source = \"tree\" }\n";
        Config::new(source(steps), inventory()).unwrap()
    }

    fn manifest(config: &Config) -> (Manifest, Vec<u8>) {
        let bytes = config.to_bytes().unwrap();
        let big = Descriptor::file(Digest::of(b"big"), limits::LARGE_FILE);
        let layers = Layers {
            tree: Some(Descriptor::tree(Digest::of(b"t"), 9)),
            files: vec![big],
        };
        (Manifest::new(config, &bytes, layers).unwrap(), bytes)
    }

    #[test]
    fn travels_and_reads_back() {
        let config = config();
        let (manifest, bytes) = manifest(&config);
        let again = Manifest::parse(&manifest.to_bytes()).unwrap();
        let bundle = Bundle::assemble(again, &bytes).unwrap();
        assert_eq!(bundle.config(), &config);
        assert_eq!(bundle.reference().to_string(), "a 1.0.0");
        assert_eq!(bundle.config().to_bytes().unwrap(), bytes);
    }

    #[test]
    fn a_changed_byte_of_the_configuration_is_refused() {
        let (manifest, mut bytes) = manifest(&config());
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            bytes[at] ^= 1;
            let refused = Bundle::assemble(manifest.clone(), &bytes);
            assert!(matches!(refused, Err(BundleError::WrongConfig { .. })));
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn layers_and_files_must_agree() {
        let config = config();
        let bytes = config.to_bytes().unwrap();
        let big = Descriptor::file(Digest::of(b"big"), limits::LARGE_FILE);
        let tree = Descriptor::tree(Digest::of(b"t"), 9);
        let other = Descriptor::file(Digest::of(b"other"), limits::LARGE_FILE);
        for layers in [
            Layers {
                tree: None,
                files: vec![big.clone()],
            },
            Layers {
                tree: Some(tree.clone()),
                files: vec![],
            },
            Layers {
                tree: Some(tree.clone()),
                files: vec![other],
            },
        ] {
            let manifest = Manifest::new(&config, &bytes, layers).unwrap();
            assert!(matches!(
                Bundle::assemble(manifest, &bytes),
                Err(BundleError::Inconsistent(_))
            ));
        }
    }

    #[test]
    fn inventories_that_lie_are_refused() {
        let mut twice = inventory();
        twice.files.push(entry("tree/etc/x", 5, Stored::Tree));
        let mut as_folder = inventory();
        as_folder.files.push(entry("tree/etc", 5, Stored::Tree));
        as_folder.files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut orphan = inventory();
        orphan.files.push(entry("x/y", 5, Stored::Tree));
        let mut bomb = inventory();
        bomb.files.push(entry("zz", u64::MAX, Stored::Tree));
        let mut link = inventory();
        link.links[0].target = "../../../etc/shadow".into();
        for (bad, why) in [
            (twice, "order"),
            (as_folder, "twice"),
            (orphan, "folder of"),
            (bomb, "size"),
            (link, "leads out"),
        ] {
            let mut config = config();
            config.content = bad;
            let bytes = serde_json::to_vec(&config).unwrap();
            let told = Config::parse(&bytes).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn trees_cannot_replace_accounts() {
        let mut content = inventory();
        content
            .files
            .push(entry("tree/etc/shadow", 5, Stored::Tree));
        content.files.sort_by(|a, b| a.path.cmp(&b.path));
        let steps = "[[step]]\nname = \"t\"\ntree = { path = \"/\", source = \"tree\" }\n";
        let told = Config::new(source(steps), content).unwrap_err().to_string();
        assert!(told.contains("`user` step"), "{told}");
    }

    #[test]
    fn a_later_layout_says_so() {
        let mut config = config();
        config.schema = 2;
        let bytes = serde_json::to_vec(&config).unwrap();
        assert_eq!(Config::parse(&bytes), Err(BundleError::Schema(2)));
    }
}
