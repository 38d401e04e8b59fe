//! Which boot file a request means: one policy for HTTP and TFTP.
//!
//! A [`BootPath`] cannot leave the boot tree by its spelling. Symlinks are the
//! caller's matter: it opens the file without following any (`RESOLVE_NO_SYMLINKS`)
//! or keeps the tree in memory.

use std::fmt;

/// The longest path accepted, in bytes after decoding.
pub const MAX_LEN: usize = 255;
/// The most components accepted.
pub const MAX_DEPTH: usize = 12;

/// A relative path inside the boot tree: one to [`MAX_DEPTH`] components joined
/// by single slashes, printable ASCII, none of them hidden, `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootPath(String);

/// Why a requested path is refused.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// Nothing is left once slashes are removed.
    #[error("the path names no file")]
    Empty,
    /// More than [`MAX_LEN`] bytes.
    #[error("the path is longer than {MAX_LEN} bytes")]
    TooLong,
    /// More than [`MAX_DEPTH`] components.
    #[error("the path is deeper than {MAX_DEPTH} folders")]
    TooDeep,
    /// `..`, `.` or a name that begins with a dot.
    #[error("the path has a component that begins with a dot")]
    Dot,
    /// A byte that is not printable ASCII, or a backslash where none may be.
    #[error("the path has a byte that is not plain text")]
    Byte,
    /// `%` that is not followed by two hexadecimal digits.
    #[error("the path has a broken percent escape")]
    Escape,
}

impl BootPath {
    /// From an HTTP request target in origin form (RFC 9112 §3.2.1): the query
    /// is dropped, percent escapes are decoded once, repeated slashes collapse
    /// (shim asks for `//grubx64.efi`; capture `uefi-secureboot-shim-grub`).
    pub fn from_http(target: &str) -> Result<Self, PathError> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        if path.len() > 3 * MAX_LEN {
            return Err(PathError::TooLong);
        }
        Self::from_bytes(&percent_decode(path)?)
    }

    /// From a TFTP file name: leading and repeated slashes collapse (GRUB asks
    /// for `/grub/grub.cfg`), backslashes count as slashes (Windows loaders).
    pub fn from_tftp(name: &str) -> Result<Self, PathError> {
        if name.len() > 3 * MAX_LEN {
            return Err(PathError::TooLong);
        }
        Self::from_bytes(name.replace('\\', "/").as_bytes())
    }

    /// The path as text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path's components, first to last.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The path as it stands in a URL: everything but unreserved characters and
    /// slashes is escaped (RFC 3986 §2.3).
    pub fn to_url_path(&self) -> String {
        let mut url = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    url.push(char::from(byte));
                }
                _ => url.push_str(&format!("%{byte:02X}")),
            }
        }
        url
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, PathError> {
        let mut path = String::with_capacity(bytes.len().min(MAX_LEN));
        let components = bytes.split(|&b| b == b'/').filter(|c| !c.is_empty());
        for (depth, component) in components.enumerate() {
            if depth == MAX_DEPTH {
                return Err(PathError::TooDeep);
            }
            if depth > 0 {
                path.push('/');
            }
            path.push_str(checked_component(component)?);
            if path.len() > MAX_LEN {
                return Err(PathError::TooLong);
            }
        }
        if path.is_empty() {
            Err(PathError::Empty)
        } else {
            Ok(Self(path))
        }
    }
}

fn checked_component(component: &[u8]) -> Result<&str, PathError> {
    if component.starts_with(b".") {
        return Err(PathError::Dot);
    }
    if component
        .iter()
        .any(|&b| !(b' '..=b'~').contains(&b) || b == b'\\')
    {
        return Err(PathError::Byte);
    }
    std::str::from_utf8(component).map_err(|_| PathError::Byte)
}

/// Decodes `%XX` once. The result may hold any byte; the caller checks it.
pub(crate) fn percent_decode(text: &str) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return Err(PathError::Escape),
        }
    }
    Ok(out)
}

impl fmt::Display for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn http(target: &str) -> Result<String, PathError> {
        BootPath::from_http(target).map(|p| p.to_string())
    }

    #[test]
    fn loaders_ask_in_many_spellings() {
        for (asked, meant) in [
            ("/boot/ipxe.efi", "boot/ipxe.efi"),
            ("//grubx64.efi", "grubx64.efi"),
            ("/boot//x/%76mlinuz?try=1", "boot/x/vmlinuz"),
            ("/a%20b", "a b"),
        ] {
            assert_eq!(http(asked).as_deref(), Ok(meant), "{asked}");
        }
        let tftp = |name| BootPath::from_tftp(name).map(|p| p.to_string());
        assert_eq!(tftp("/grub/grub.cfg").as_deref(), Ok("grub/grub.cfg"));
        assert_eq!(
            tftp("\\Boot\\x64\\pxe.n12").as_deref(),
            Ok("Boot/x64/pxe.n12")
        );
        assert_eq!(tftp("a..b").as_deref(), Ok("a..b"));
        assert_eq!(tftp("100%25").as_deref(), Ok("100%25"));
    }

    #[test]
    fn nothing_leaves_the_tree() {
        for target in [
            "/../x",
            "/a/../../x",
            "/%2e%2e/x",
            "/a%2f..%2fx",
            "/.git/config",
            "/a/./b",
        ] {
            assert_eq!(http(target), Err(PathError::Dot), "{target}");
        }
        assert_eq!(http("/a%00b"), Err(PathError::Byte));
        assert_eq!(http("/a\\..\\b"), Err(PathError::Byte));
        assert_eq!(http("/%zz"), Err(PathError::Escape));
        assert_eq!(http("/%2"), Err(PathError::Escape));
        assert_eq!(http("///"), Err(PathError::Empty));
        assert_eq!(
            http(&format!("/{}", "a".repeat(256))),
            Err(PathError::TooLong)
        );
        assert_eq!(http(&"/a".repeat(13)), Err(PathError::TooDeep));
        assert_eq!(BootPath::from_tftp("..\\..\\secret"), Err(PathError::Dot));
    }

    #[test]
    fn a_url_reads_back_as_the_same_path() {
        let path = BootPath::from_tftp("a b/100%/c#?.efi").unwrap();
        assert_eq!(BootPath::from_http(&path.to_url_path()), Ok(path));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_safe_path_or_none(text in "\\PC{0,80}|[/.%a2eE\\\\0]{0,60}") {
            for path in [BootPath::from_http(&text), BootPath::from_tftp(&text)].into_iter().flatten() {
                prop_assert!(path.components().count() <= MAX_DEPTH && path.as_str().len() <= MAX_LEN);
                for component in path.components() {
                    prop_assert!(!component.is_empty() && !component.starts_with('.'));
                    prop_assert!(component.bytes().all(|b| b.is_ascii_graphic() || b == b' '));
                }
                prop_assert_eq!(BootPath::from_http(&path.to_url_path()), Ok(path));
            }
        }
    }
}
