//! Files over HTTP: whole or a range, from one folder and never from outside
//! it, streamed with bounded memory.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Bytes read and sent at a time.
const PIECE: u64 = 256 * 1024;

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
        let (tree, path) = (self.clone(), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let file = tree.open(&path)?;
            let metadata = file.metadata()?;
            Ok::<_, std::io::Error>((file, metadata))
        });
        match opened.await {
            Ok(Ok((file, metadata))) => send(method, headers, file, &metadata),
            _ => plain(StatusCode::NOT_FOUND, "no such file\n"),
        }
    }
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
    file: File,
    metadata: &std::fs::Metadata,
) -> Response {
    let size = metadata.len();
    let etag = format!(
        "\"{:x}-{size:x}-{:x}\"",
        metadata.ino(),
        metadata.mtime_nsec() ^ metadata.mtime()
    );
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH) == Some(etag.as_str()) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
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
    let body = if method == Method::HEAD || start == end {
        Body::empty()
    } else {
        stream(file, start, end)
    };
    let mut response = Response::new(body);
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

/// Reads a piece when the peer is ready for it: a peer that stalls holds a
/// connection, but no thread.
fn stream(file: File, start: u64, end: u64) -> Body {
    let next = move |(file, at): (Arc<File>, u64)| async move {
        if at >= end {
            return None;
        }
        let length = PIECE.min(end - at);
        let source = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || read_piece(&source, at, length)).await;
        // A failed read cuts the answer short, and so tells the peer.
        let piece = read.map_err(std::io::Error::other).and_then(|read| read);
        Some((piece.map(Frame::data), (file, at + length)))
    };
    let pieces = futures_util::stream::unfold((Arc::new(file), start), next);
    Body::new(StreamBody::new(pieces))
}

fn read_piece(file: &File, at: u64, length: u64) -> std::io::Result<Bytes> {
    let mut piece = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut piece, at)?;
    Ok(Bytes::from(piece))
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
