//! Files over HTTP: whole or a range, from one folder and never from outside
//! it. What is answered says which bytes of which file follow ([`FileBody`]);
//! the connection sends them.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::flight::Watch;

/// The bytes of a file that are an answer's content, as an extension of the
/// response. Its `Content-Length` says their number.
#[derive(Clone, Debug)]
pub struct FileBody {
    /// The file, open: replaced under its name, it stays what it was.
    pub file: Arc<File>,
    /// As the peer asked for it, for people.
    pub name: String,
    /// The first byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// Who records how far it went.
    pub watch: Option<Watch>,
}

/// A folder that is served.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<PathBuf>,
}

impl Tree {
    /// Serves what lies below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: Arc::new(root.into()),
        }
    }

    /// Opens a regular file below the root. The kernel refuses to leave the
    /// folder by `..`, by an absolute path or by any symlink.
    pub fn open(&self, path: &str) -> std::io::Result<File> {
        let root = File::open(self.root.as_path())?;
        let inside =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat2(
            &root,
            path,
            flags,
            Mode::empty(),
            inside,
        )?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(std::io::Error::from(std::io::ErrorKind::NotFound))
        }
    }

    /// Answers a GET or HEAD for `path`.
    pub async fn answer(&self, method: &Method, headers: &HeaderMap, path: &str) -> Response {
        let (tree, name) = (self.clone(), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let file = tree.open(&name)?;
            let metadata = file.metadata()?;
            Ok::<_, std::io::Error>((name, file, metadata))
        });
        match opened.await {
            Ok(Ok((name, file, metadata))) => send(method, headers, (name, file), &metadata),
            Ok(Err(error)) if is_missing(&error) => plain(StatusCode::NOT_FOUND, "no such file\n"),
            Ok(Err(error)) => {
                tracing::error!(file = path, "a boot file cannot be opened: {error}");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                plain(status, "the appliance cannot open the file\n")
            }
            // A panic, which the runtime has told already.
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "\n"),
        }
    }
}

/// Whether it says that there is no such file to serve: none of that name, or
/// one that a symlink or `..` leads to. All else is the appliance's trouble.
pub(super) fn is_missing(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let missing = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::LOOP,
        Errno::XDEV,
        Errno::NAMETOOLONG,
    ];
    error.kind() == std::io::ErrorKind::NotFound
        || missing
            .map(|errno| Some(errno.raw_os_error()))
            .contains(&error.raw_os_error())
}

/// A short answer in text.
pub fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn send(
    method: &Method,
    headers: &HeaderMap,
    (name, file): (String, File),
    metadata: &std::fs::Metadata,
) -> Response {
    let size = metadata.len();
    let etag = format!(
        "\"{:x}-{size:x}-{:x}\"",
        metadata.ino(),
        metadata.mtime_nsec() ^ metadata.mtime()
    );
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &etag)) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        if let Ok(value) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(header::ETAG, value);
        }
        return response;
    }
    // A range of another version of the file would splice two files.
    let same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let range = if same {
        text(header::RANGE).map_or(Range::Whole, |text| parse_range(text, size))
    } else {
        Range::Whole
    };
    let (status, start, end) = match range {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
        Range::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
    };
    let mut response = Response::new(Body::empty());
    if method != Method::HEAD && start < end {
        let file = Arc::new(file);
        response.extensions_mut().insert(FileBody {
            file,
            name,
            start,
            end,
            watch: None,
        });
    }
    *response.status_mut() = status;
    let fields = response.headers_mut();
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            fields.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/octet-stream".into());
    set(header::ACCEPT_RANGES, "bytes".into());
    set(header::CONTENT_LENGTH, (end - start).to_string());
    set(header::ETAG, etag);
    match status {
        StatusCode::PARTIAL_CONTENT => set(
            header::CONTENT_RANGE,
            format!("bytes {start}-{}/{size}", end - 1),
        ),
        StatusCode::RANGE_NOT_SATISFIABLE => set(header::CONTENT_RANGE, format!("bytes */{size}")),
        _ => {}
    }
    response
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// From the first byte to before the last.
    Part(u64, u64),
    Unsatisfiable,
}

/// RFC 9110 §14.2. Several ranges at once, or anything that is not understood,
/// gets the whole file, as the RFC allows.
fn parse_range(text: &str, size: u64) -> Range {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|spec| spec.split_once('-'))
    else {
        return Range::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), _) if last.is_empty() && first < size => Range::Part(first, size),
        (Ok(first), Ok(last)) if first <= last && first < size => {
            Range::Part(first, size.min(last.saturating_add(1)))
        }
        (Err(_), Ok(tail)) if first.is_empty() && tail > 0 && size > 0 => {
            Range::Part(size.saturating_sub(tail), size)
        }
        (Ok(first), Ok(last)) if first > last => Range::Whole,
        (Ok(_), Ok(_)) => Range::Unsatisfiable,
        (Ok(_), Err(_)) if last.is_empty() => Range::Unsatisfiable,
        _ => Range::Whole,
    }
}

/// RFC 9110 §13.1.2: any of a list, compared weakly, or a star.
fn matches(tags: &str, etag: &str) -> bool {
    let mut tags = tags.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn ranges_as_the_rfc_has_them() {
        for (text, want) in [
            ("bytes=0-0", Range::Part(0, 1)),
            ("bytes=5-", Range::Part(5, 10)),
            ("bytes=-3", Range::Part(7, 10)),
            ("bytes=-30", Range::Part(0, 10)),
            ("bytes=2-99", Range::Part(2, 10)),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=10-20", Range::Unsatisfiable),
            ("bytes=4-2", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("lines=0-1", Range::Whole),
            (
                "bytes=18446744073709551615-18446744073709551615",
                Range::Unsatisfiable,
            ),
        ] {
            assert_eq!(parse_range(text, 10), want, "{text}");
        }
    }

    #[test]
    fn never_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(folder.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("sub/file"), "ok").unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink("sub", root.join("dir")).unwrap();
        let tree = Tree::new(&root);
        assert!(tree.open("sub/file").is_ok());
        for bad in [
            "../secret",
            "link",
            "dir/file",
            "sub",
            "/etc/hostname",
            "sub/../../secret",
            "",
        ] {
            assert!(tree.open(bad).is_err(), "{bad}");
        }
    }
}
