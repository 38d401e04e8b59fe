//! Paths and modes that a bundle may name. Each is checked once, where it
//! enters, so that no later code has to think of `..` again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::shown;

/// Longest path on the device, bytes.
const MAX_TARGET: usize = 1024;
/// Longest name of one file, bytes (Linux `NAME_MAX`).
const MAX_NAME: usize = 255;
/// Fields of a ustar header (POSIX.1-1988): name, and the prefix before it.
const TAR_NAME: usize = 100;
const TAR_PREFIX: usize = 155;

/// A path on the device: absolute, normalised, no `.` or `..`, at most 1024
/// bytes. `/` itself is one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPath(String);

/// A path inside a bundle's content: relative, normalised, no `.` or `..`,
/// and short enough for a plain ustar header (at most 100 bytes, or 155 more
/// before a slash).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(String);

/// Permission bits, 0 to 0o7777; written as `0644`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u32);

/// Text that is not a path of the kind wanted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// A path on the device that does not begin with `/`.
    #[error("`{0}` is not absolute: write `/{0}`")]
    NotAbsolute(String),
    /// A path in the bundle that begins with `/`.
    #[error("`{0}` is absolute: name it relative to the folder of bundle.toml")]
    NotRelative(String),
    /// `.`, `..`, `//` or a slash at the end.
    #[error("`{0}` is not normalised: leave out `.`, `..`, doubled slashes and a slash at the end")]
    NotNormal(String),
    /// A control character, such as a line break.
    #[error("`{0}` contains a control character")]
    Control(String),
    /// Too long as a whole or in one part.
    #[error("`{0}` is too long: {1}")]
    TooLong(String, &'static str),
}

impl TargetPath {
    /// The path with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path without its leading slash; empty for `/`.
    pub fn relative(&self) -> &str {
        self.0.trim_start_matches('/')
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The folder it is in and its name there; none for `/`.
    pub fn split(&self) -> Option<(&str, &str)> {
        let relative = self.relative();
        if relative.is_empty() {
            return None;
        }
        Some(relative.rsplit_once('/').unwrap_or(("", relative)))
    }

    /// This path with `inner` below it.
    pub fn join(&self, inner: &str) -> Result<Self, PathError> {
        let base = if self.is_root() { "" } else { self.as_str() };
        format!("{base}/{inner}").parse()
    }

    /// Whether this is `folder` or lies below it.
    pub fn is_within(&self, folder: &str) -> bool {
        self.0
            .strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for TargetPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let relative = text
            .strip_prefix('/')
            .ok_or_else(|| PathError::NotAbsolute(shown(text)))?;
        if text.len() > MAX_TARGET {
            return Err(PathError::TooLong(
                shown(text),
                "a path has at most 1024 bytes",
            ));
        }
        if !relative.is_empty() {
            check_parts(text, relative)?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl RelPath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The rest of this path below `folder`, where it lies there.
    pub fn below(&self, folder: &Self) -> Option<&str> {
        self.0.strip_prefix(folder.as_str())?.strip_prefix('/')
    }

    /// The (prefix, name) fields of its ustar header.
    pub fn tar_fields(&self) -> (&str, &str) {
        split_for_tar(&self.0).unwrap_or(("", ""))
    }
}

impl FromStr for RelPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.starts_with('/') {
            return Err(PathError::NotRelative(shown(text)));
        }
        check_parts(text, text)?;
        if split_for_tar(text).is_none() {
            let why = "content paths have at most 100 bytes, or 155 more before a slash";
            return Err(PathError::TooLong(shown(text), why));
        }
        Ok(Self(text.to_owned()))
    }
}

fn check_parts(whole: &str, relative: &str) -> Result<(), PathError> {
    if whole.chars().any(char::is_control) {
        return Err(PathError::Control(shown(whole)));
    }
    for part in relative.split('/') {
        if matches!(part, "" | "." | "..") {
            return Err(PathError::NotNormal(shown(whole)));
        }
        if part.len() > MAX_NAME {
            return Err(PathError::TooLong(
                shown(whole),
                "a name has at most 255 bytes",
            ));
        }
    }
    Ok(())
}

fn split_for_tar(path: &str) -> Option<(&str, &str)> {
    if path.len() <= TAR_NAME {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| {
            (
                path.get(..at).unwrap_or(""),
                path.get(at + 1..).unwrap_or(""),
            )
        })
        .find(|(prefix, name)| prefix.len() <= TAR_PREFIX && name.len() <= TAR_NAME)
}

/// Where a symlink at `link` pointing to `target` leads, when it stays in
/// `top`, a folder above it. Lexical: both are names inside the bundle.
pub fn link_stays_in(top: &RelPath, link: &RelPath, target: &str) -> bool {
    link.below(top)
        .is_some_and(|inner| leads_inside(inner.matches('/').count(), target))
}

/// Whether a symlink to `target`, in a folder `depth` folders below some top,
/// leads to a place below that top. Lexical.
pub fn leads_inside(mut depth: usize, target: &str) -> bool {
    let plain = !target.is_empty()
        && target.len() <= MAX_TARGET
        && !target.starts_with('/')
        && !target.chars().any(char::is_control);
    plain
        && target.split('/').all(|part| match part {
            "" | "." => true,
            ".." => depth.checked_sub(1).map(|up| depth = up).is_some(),
            _ => {
                depth += 1;
                true
            }
        })
}

impl Mode {
    /// A file that everybody reads: 0644.
    pub const FILE: Self = Self(0o644);
    /// A program or folder that everybody uses: 0755.
    pub const PROGRAM: Self = Self(0o755);

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// Text that is not a [`Mode`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a mode: write three or four octal digits in quotes, such as \"0644\"")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| octal);
        bits.map(Self).ok_or_else(|| ModeError(shown(text)))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

crate::text_form::text_form!(TargetPath, RelPath);

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ModeVisitor)
    }
}

struct ModeVisitor;

impl serde::de::Visitor<'_> for ModeVisitor {
    type Value = Mode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mode as text, such as \"0644\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Mode, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_could_leave_their_tree_do_not_parse() {
        for bad in [
            "",
            "etc",
            "//",
            "/etc/",
            "/etc//x",
            "/etc/../x",
            "/.",
            "/..",
            "/a\nb",
            "/a\0b",
        ] {
            assert!(bad.parse::<TargetPath>().is_err(), "{bad:?}");
        }
        for bad in [
            "", "/etc", ".", "..", "a/..", "../a", "a//b", "a/", "./a", "a\0",
        ] {
            assert!(bad.parse::<RelPath>().is_err(), "{bad:?}");
        }
        assert!("/".parse::<TargetPath>().unwrap().is_root());
        assert!("/etc/..x".parse::<TargetPath>().is_ok());
    }

    #[test]
    fn joins_and_splits() {
        let etc: TargetPath = "/etc".parse().unwrap();
        assert_eq!(etc.join("a/b").unwrap().as_str(), "/etc/a/b");
        assert!(etc.join("../a").is_err());
        let root: TargetPath = "/".parse().unwrap();
        assert_eq!(root.join("a").unwrap().split(), Some(("", "a")));
        assert_eq!(root.split(), None);
        assert!(etc.is_within("/etc") && !etc.is_within("/et"));
    }

    #[test]
    fn links_are_judged_by_where_they_lead() {
        let top: RelPath = "tree".parse().unwrap();
        let link: RelPath = "tree/a/link".parse().unwrap();
        for good in ["x", "../x", "../a/../b", "./x", "../.."].iter().take(4) {
            assert!(link_stays_in(&top, &link, good), "{good}");
        }
        for bad in [
            "../..",
            "../../x",
            "/etc/passwd",
            "",
            "x/../../../y",
            "a\nb",
        ] {
            assert!(!link_stays_in(&top, &link, bad), "{bad}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!("0644".parse::<Mode>().unwrap().bits(), 0o644);
        assert_eq!("4755".parse::<Mode>().unwrap().to_string(), "4755");
        for bad in ["", "64", "0888", "07777", "+644", "rw-"] {
            assert!(bad.parse::<Mode>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_has_only_plain_parts(text in "[/.a\\x00é]{0,24}") {
            if let Ok(path) = text.parse::<TargetPath>() {
                prop_assert!(path.is_root() || path.relative().split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
            }
            if let Ok(path) = text.parse::<RelPath>() {
                prop_assert!(!path.as_str().starts_with('/') && path.as_str().split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
            }
        }

        #[test]
        fn tar_fields_rebuild_the_path(parts in proptest::collection::vec("[a-z]{1,60}", 1..6)) {
            if let Ok(path) = parts.join("/").parse::<RelPath>() {
                let (prefix, name) = path.tar_fields();
                let whole = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
                prop_assert_eq!(whole, path.as_str());
            }
        }
    }
}
