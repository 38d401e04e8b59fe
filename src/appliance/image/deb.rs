//! A reader of Debian packages that trusts nothing in them.
//!
//! Format: deb(5): an `ar` archive of `debian-binary`, `control.tar.*` and
//! `data.tar.*`. Nothing is ever written under a name from the package, and no
//! link is followed. The container is read here and not by the `ar` crate,
//! which allocates what a header promises (its name table: up to 10 GB), and
//! the tar entries are taken raw, because long names would otherwise be read
//! into memory without a limit.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use tar::EntryType;

use super::Arch;

const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
/// Limits a real kernel package (400 MB, 6,000 entries) stays far below.
const MAX_MEMBERS: usize = 16;
const MAX_CONTROL: u64 = 16 << 20;
const MAX_DATA: u64 = 4 << 30;
const MAX_ENTRIES: usize = 200_000;
const MAX_NAME: u64 = 4096;
/// What the decompressors may use; `xz -9` needs 65 MiB.
const MAX_XZ_MEMORY: u64 = 256 << 20;
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// Reading or decompressing failed.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Not this container.
    #[error("is not a Debian package ({0})")]
    NotDeb(&'static str),
    /// Compressed in a way that kernel packages are not.
    #[error("has a member {0}; only .tar, .tar.xz and .tar.zst can be read")]
    Compression(String),
    /// More than any real package holds.
    #[error("is refused: {0}")]
    TooMuch(String),
    /// A path that leaves the package's own tree, or is not text.
    #[error("is refused: it holds a file called {0:?}, which no Debian package does")]
    HostilePath(String),
    /// For another machine.
    #[error("is a package for {found}, not for {wanted}")]
    Architecture {
        /// Its `Architecture` field.
        found: String,
        /// What the image is for.
        wanted: Arch,
    },
    /// A field of `control` is absent.
    #[error("is not a Debian package (its control file has no {0})")]
    Field(&'static str),
}

/// A package whose container and control file have been checked.
#[derive(Debug)]
pub(super) struct Deb {
    file: File,
    data: Member,
    /// `Package`.
    pub(super) package: String,
    /// `Version`.
    pub(super) version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    start: u64,
    size: u64,
}

/// What an entry of `data.tar` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An ordinary file.
    File,
    /// A link, hard or symbolic, a device, or whatever else.
    Other,
}

/// One entry of `data.tar`, its content not read yet.
pub(super) struct Entry<'a> {
    /// Relative, clean: `lib/modules/6.1.0-56-amd64/modules.order`.
    pub(super) path: String,
    pub(super) kind: Kind,
    content: &'a mut dyn Read,
    size: u64,
}

impl Entry<'_> {
    /// The content, if it has at most `limit` bytes.
    pub(super) fn read(self, limit: u64) -> Result<Vec<u8>, DebError> {
        if self.size > limit {
            return Err(DebError::TooMuch(format!(
                "{} has {} bytes, the limit is {limit}",
                self.path, self.size
            )));
        }
        let mut content = Vec::new();
        self.content.take(limit).read_to_end(&mut content)?;
        if content.len() as u64 == self.size {
            Ok(content)
        } else {
            Err(cut_off())
        }
    }
}

impl Deb {
    /// Opens a package and checks that it is one for `arch`, or for all.
    pub(super) fn open(path: &Path, arch: Arch) -> Result<Self, DebError> {
        let mut file = File::open(path)?;
        let members = members(&mut file)?;
        let find = |stem: &str| members.iter().find(|m| m.name.starts_with(stem)).cloned();
        if members.first().is_none_or(|m| m.name != "debian-binary") {
            return Err(DebError::NotDeb("debian-binary does not come first"));
        }
        let control = find("control.tar").ok_or(DebError::NotDeb("it has no control.tar"))?;
        let data = find("data.tar").ok_or(DebError::NotDeb("it has no data.tar"))?;
        let text = control_file(&file, &control)?;
        let field = |name| control_field(&text, name).ok_or(DebError::Field(name));
        let found = field("Architecture")?;
        if found != arch.debian() && found != "all" {
            return Err(DebError::Architecture {
                found,
                wanted: arch,
            });
        }
        Ok(Self {
            package: field("Package")?,
            version: field("Version")?,
            file,
            data,
        })
    }

    /// Hands every file (and link) of the package to `visit`, in the package's
    /// order. `wrap` turns this room's errors into the visitor's.
    pub(super) fn for_each<E>(
        &self,
        wrap: &dyn Fn(DebError) -> E,
        visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        walk(&self.file, &self.data, MAX_DATA, wrap, visit)
    }
}

/// The members of the `ar` archive.
fn members(file: &mut File) -> Result<Vec<Member>, DebError> {
    let mut magic = [0; 8];
    file.read_exact(&mut magic)
        .map_err(|_| DebError::NotDeb("it is too short"))?;
    if magic != *AR_MAGIC {
        return Err(DebError::NotDeb(
            "its first bytes are not those of an ar archive",
        ));
    }
    let end = file.metadata()?.len();
    let (mut at, mut members) = (8, Vec::new());
    while at < end {
        if members.len() == MAX_MEMBERS {
            return Err(DebError::TooMuch(format!(
                "more than {MAX_MEMBERS} members"
            )));
        }
        let mut header = [0; 60];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header).map_err(|_| cut_off())?;
        let member = member(&header, at + 60)
            .ok_or(DebError::NotDeb("a header of its ar archive is damaged"))?;
        at = member.start + member.size;
        if at > end {
            return Err(cut_off());
        }
        at += at % 2;
        members.push(member);
    }
    Ok(members)
}

/// `name[16] mtime[12] uid[6] gid[6] mode[8] size[10] "`\n"`, in ASCII.
fn member(header: &[u8; 60], start: u64) -> Option<Member> {
    let text = std::str::from_utf8(header).ok()?;
    let name = text.get(..16)?.trim_end().trim_end_matches('/');
    let size = text.get(48..58)?.trim_end().parse().ok()?;
    (text.get(58..) == Some("`\n")).then(|| Member {
        name: name.to_owned(),
        start,
        size,
    })
}

fn cut_off() -> DebError {
    DebError::Read(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "it is cut off; fetch it again",
    ))
}

/// The decompressed content of a `.tar.*` member.
fn open_tar<'a>(file: &'a File, member: &Member) -> Result<Box<dyn Read + 'a>, DebError> {
    let mut file = file;
    file.seek(SeekFrom::Start(member.start))?;
    let raw = BufReader::with_capacity(256 << 10, file.take(member.size));
    match member.name.split_once(".tar").map(|(_, form)| form) {
        Some("") => Ok(Box::new(raw)),
        Some(".xz") => {
            let stream = xz2::stream::Stream::new_stream_decoder(MAX_XZ_MEMORY, 0)
                .map_err(io::Error::from)?;
            Ok(Box::new(BufReader::with_capacity(
                256 << 10,
                xz2::bufread::XzDecoder::new_stream(raw, stream),
            )))
        }
        Some(".zst") => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
            Ok(Box::new(decoder))
        }
        _ => Err(DebError::Compression(member.name.clone())),
    }
}

fn control_file(file: &File, member: &Member) -> Result<String, DebError> {
    let mut text = None;
    walk(file, member, MAX_CONTROL, &|error| error, &mut |entry| {
        if entry.path == "control" && entry.kind == Kind::File {
            text = Some(entry.read(1 << 20)?);
        }
        Ok(())
    })?;
    let text = text.ok_or(DebError::NotDeb("it has no control file"))?;
    String::from_utf8(text).map_err(|_| DebError::NotDeb("its control file is not text"))
}

/// The value of a one-line field, as deb-control(5) has them.
fn control_field(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?
        .trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn walk<E>(
    file: &File,
    member: &Member,
    limit: u64,
    wrap: &dyn Fn(DebError) -> E,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut limited = open_tar(file, member).map_err(wrap)?.take(limit);
    let walked = walk_tar(&mut limited, wrap, visit);
    if limited.limit() == 0 {
        return Err(wrap(DebError::TooMuch(format!(
            "{} holds more than {limit} bytes",
            member.name
        ))));
    }
    walked
}

fn walk_tar<E>(
    tar: &mut dyn Read,
    wrap: &dyn Fn(DebError) -> E,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let wrap_io = |error| wrap(DebError::Read(error));
    let mut archive = tar::Archive::new(tar);
    let mut long_name = None;
    for (count, entry) in archive.entries().map_err(wrap_io)?.raw(true).enumerate() {
        let mut entry = entry.map_err(wrap_io)?;
        if count == MAX_ENTRIES {
            return Err(wrap(DebError::TooMuch(format!(
                "more than {MAX_ENTRIES} files"
            ))));
        }
        if let Some((path, kind)) = classify(&mut entry, &mut long_name).map_err(wrap)? {
            let size = entry.size();
            visit(Entry {
                path,
                kind,
                size,
                content: &mut entry,
            })?;
        }
    }
    Ok(())
}

/// Path and kind of an entry; none for folders and for the entries that only
/// name the next one.
fn classify<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    long_name: &mut Option<Vec<u8>>,
) -> Result<Option<(String, Kind)>, DebError> {
    let kind = match entry.header().entry_type() {
        EntryType::GNULongName => {
            *long_name = Some(gnu_long_name(entry)?);
            return Ok(None);
        }
        // dpkg writes neither; both could rename what follows.
        EntryType::XHeader | EntryType::XGlobalHeader => {
            return Err(DebError::TooMuch(
                "it has pax headers, which dpkg does not write".to_owned(),
            ));
        }
        // The target of the link that follows; no link is followed here.
        EntryType::GNULongLink => return Ok(None),
        EntryType::Directory => None,
        EntryType::Regular | EntryType::Continuous => Some(Kind::File),
        _ => Some(Kind::Other),
    };
    let raw = long_name
        .take()
        .unwrap_or_else(|| entry.path_bytes().into_owned());
    let path = clean_path(&raw)?;
    Ok(kind.map(|kind| (path, kind)))
}

fn gnu_long_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, DebError> {
    if entry.size() > MAX_NAME {
        return Err(DebError::TooMuch(format!(
            "a file name of {} bytes",
            entry.size()
        )));
    }
    let mut name = Vec::new();
    entry.take(MAX_NAME).read_to_end(&mut name)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// `./lib/x` is `lib/x`; what leads out of the tree or is not plain text is an
/// error, even where nobody would have used it.
fn clean_path(raw: &[u8]) -> Result<String, DebError> {
    let hostile =
        || DebError::HostilePath(String::from_utf8_lossy(raw).chars().take(200).collect());
    let text = std::str::from_utf8(raw).map_err(|_| hostile())?;
    let inner = text.strip_prefix("./").unwrap_or(text);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let clean = |part: &str| !part.is_empty() && part != "." && part != "..";
    // The root itself, `./`, is an entry of every package.
    let root = text == "./" || text == ".";
    if !root && (!inner.split('/').all(clean) || inner.contains(char::is_control)) {
        return Err(hostile());
    }
    Ok(inner.to_owned())
}

#[cfg(test)]
pub(super) mod tests;
