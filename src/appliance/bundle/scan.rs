//! The source folder, read so that nothing outside it gets into a bundle:
//! every path is resolved by the kernel with `openat2(RESOLVE_BENEATH)`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use groundcrew_core::bundle::path::link_stays_in;
use groundcrew_core::bundle::{Action, Content, Link, Mode, RelPath, Source, limits};
use rustix::fs::{self, FileType, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Error;

/// Deepest folder.
const MAX_DEPTH: usize = 64;

/// What a bundle's steps refer to, in ascending order.
#[derive(Debug, Default)]
pub struct Scan {
    pub directories: BTreeSet<RelPath>,
    pub files: BTreeMap<RelPath, ScannedFile>,
    pub links: BTreeMap<RelPath, Link>,
}

/// A file of the source.
#[derive(Debug)]
pub struct ScannedFile {
    pub size: u64,
    pub mode: Mode,
}

/// An open source folder.
pub struct SourceFolder {
    fd: OwnedFd,
    path: PathBuf,
}

impl SourceFolder {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, fs::Mode::empty()).map_err(|err| Error::Io {
            doing: "open the bundle's source",
            path: path.to_owned(),
            source: err.into(),
        })?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// A regular file. Links are followed within the folder.
    pub fn file(&self, path: &str) -> Result<(File, u64, Mode), Error> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = fs::fstat(&fd).map_err(|err| self.failed("look at", path, err))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.refused(path, "is not a regular file"));
        }
        // git's rule, so that another umask gives the same bundle
        let mode = if stat.st_mode & 0o111 == 0 {
            Mode::FILE
        } else {
            Mode::PROGRAM
        };
        Ok((
            File::from(fd),
            u64::try_from(stat.st_size).unwrap_or(0),
            mode,
        ))
    }

    /// Everything that the steps refer to.
    pub fn scan(&self, source: &Source) -> Result<Scan, Error> {
        let mut scan = Scan::default();
        for step in &source.steps {
            match &step.action {
                Action::File(file) => {
                    if let Content::Stored(path) = &file.content {
                        self.add_file(&mut scan, path)?;
                    }
                }
                Action::Tree(tree) => {
                    add_with_parents(&mut scan.directories, &tree.source);
                    self.walk(&mut scan, &tree.source, &tree.source, 0)?;
                }
                _ => {}
            }
        }
        let parents: Vec<RelPath> = scan
            .files
            .keys()
            .chain(scan.links.keys())
            .filter_map(parent)
            .collect();
        parents
            .iter()
            .for_each(|path| add_with_parents(&mut scan.directories, path));
        Ok(scan)
    }

    fn add_file(&self, scan: &mut Scan, path: &RelPath) -> Result<(), Error> {
        let (_, size, mode) = self.file(path.as_str())?;
        scan.files.insert(path.clone(), ScannedFile { size, mode });
        if scan.files.len() > limits::ENTRIES {
            return Err(self.refused(
                path.as_str(),
                "is one file too many: pack some into an archive",
            ));
        }
        Ok(())
    }

    fn walk(
        &self,
        scan: &mut Scan,
        top: &RelPath,
        folder: &RelPath,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(self.refused(folder.as_str(), "is nested too deeply"));
        }
        // a folder reached through a link would be read twice, or for ever
        let fd = self.resolve(
            folder.as_str(),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        )?;
        let entries =
            fs::Dir::read_from(&fd).map_err(|err| self.failed("list", folder.as_str(), err))?;
        for entry in entries {
            let entry = entry.map_err(|err| self.failed("list", folder.as_str(), err))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = std::str::from_utf8(name)
                .map_err(|_| self.refused(folder.as_str(), "holds a name that is not UTF-8"))?;
            let path: RelPath = format!("{folder}/{name}").parse()?;
            let stat = fs::statat(&fd, name, fs::AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|err| self.failed("look at", path.as_str(), err))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    scan.directories.insert(path.clone());
                    self.walk(scan, top, &path, depth + 1)?;
                }
                FileType::RegularFile => self.add_file(scan, &path)?,
                FileType::Symlink => self.add_link(scan, top, path, &fd, name)?,
                _ => return Err(self.refused(path.as_str(), "is neither file, folder nor symlink")),
            }
        }
        Ok(())
    }

    fn add_link(
        &self,
        scan: &mut Scan,
        top: &RelPath,
        path: RelPath,
        folder: &OwnedFd,
        name: &str,
    ) -> Result<(), Error> {
        let target = fs::readlinkat(folder, name, Vec::new())
            .map_err(|err| self.failed("read the link", path.as_str(), err))?
            .into_string()
            .map_err(|_| self.refused(path.as_str(), "points to a name that is not UTF-8"))?;
        if !link_stays_in(top, &path, &target) {
            let why = format!(
                "is a symlink to `{target}`, which leaves `{top}`: put a copy there, or link by a relative path inside"
            );
            return Err(self.refused(path.as_str(), &why));
        }
        scan.links.insert(path.clone(), Link { path, target });
        Ok(())
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match fs::openat2(
                &self.fd,
                path,
                flags | OFlags::CLOEXEC,
                fs::Mode::empty(),
                how,
            ) {
                Err(Errno::AGAIN | Errno::INTR) if tries < 16 => tries += 1,
                Err(Errno::XDEV) => {
                    return Err(self.refused(path, "is a symlink that leaves the bundle's folder"));
                }
                Err(Errno::LOOP | Errno::NOTDIR) if flags.contains(OFlags::DIRECTORY) => {
                    return Err(self.refused(path, "is not a folder (a `tree` step needs one)"));
                }
                Err(err) => return Err(self.failed("open", path, err)),
                Ok(fd) => return Ok(fd),
            }
        }
    }

    pub fn refused(&self, path: &str, why: &str) -> Error {
        Error::Content {
            path: self.path.join(path),
            why: why.to_owned(),
        }
    }

    fn failed(&self, doing: &'static str, path: &str, err: Errno) -> Error {
        Error::Io {
            doing,
            path: self.path.join(path),
            source: err.into(),
        }
    }
}

fn parent(path: &RelPath) -> Option<RelPath> {
    path.as_str().rsplit_once('/')?.0.parse().ok()
}

fn add_with_parents(directories: &mut BTreeSet<RelPath>, path: &RelPath) {
    let mut next = Some(path.clone());
    while let Some(path) = next {
        next = parent(&path);
        directories.insert(path);
    }
}
