//! What the client refuses, and why, in plain words.

use super::signed::{MetadataError, ThresholdUnmet};
use crate::ids::shown;
use crate::time::UnixTime;

/// Why a metadata file was refused. Whatever was trusted before stays trusted,
/// and the same file may be fed again from another source.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TufError {
    /// Not a metadata file of this role.
    #[error("{role}.json is malformed: {reason}")]
    Malformed {
        /// The role.
        role: String,
        /// What is wrong with it.
        reason: MetadataError,
    },
    /// Too few signatures: a forgery, or a key that is no longer trusted.
    #[error("{role}.json version {version} is not signed as {by} demands: {reason}")]
    Signatures {
        /// The role.
        role: String,
        /// The version the file claims.
        version: u64,
        /// The file that says who must sign, `root version 3`.
        by: String,
        /// How many signatures were good.
        reason: ThresholdUnmet,
    },
    /// Not the version that was announced (mix-and-match).
    #[error("{role}.json has version {found}, but {by} asks for version {expected}")]
    Version {
        /// The role.
        role: String,
        /// The file's version.
        found: u64,
        /// The version announced.
        expected: u64,
        /// Who announced it.
        by: String,
    },
    /// An older version than is already known.
    #[error(
        "{role}.json has version {found}, older than version {known} known from {from}: refused as a rollback"
    )]
    Rollback {
        /// The role.
        role: String,
        /// The version offered.
        found: u64,
        /// The least version acceptable.
        known: u64,
        /// Where that is known from.
        from: &'static str,
    },
    /// A file that was listed is no longer, or never was.
    #[error("the snapshot version {version} does not list {file}")]
    NotListed {
        /// The snapshot's version.
        version: u64,
        /// The file name, `targets.json`.
        file: String,
    },
    /// Older than it may be (freeze).
    #[error("{role}.json version {version} expired at {expires}; it is {now}")]
    Expired {
        /// The role.
        role: String,
        /// The file's version.
        version: u64,
        /// When it ceased to be valid.
        expires: UnixTime,
        /// The time at which this update began.
        now: UnixTime,
    },
    /// Not the bytes that were announced (mix-and-match).
    #[error("{role}.json is not the file that {by} announced: its length or hash differs")]
    Announced {
        /// The role.
        role: String,
        /// Who announced it.
        by: String,
    },
    /// More bytes than asked for (endless data).
    #[error("{role}.json has more than the {limit} bytes that are allowed")]
    TooLarge {
        /// The role.
        role: String,
        /// The most bytes.
        limit: u64,
    },
    /// The other side does not have it.
    #[error("{0} is missing at the repository")]
    Missing(String),
    /// A file was fed that nobody asked for.
    #[error("no metadata is wanted now")]
    NotAsked,
}

impl TufError {
    pub(super) fn malformed(role: &str, reason: MetadataError) -> Self {
        let role = shown(role);
        Self::Malformed { role, reason }
    }

    pub(super) fn expired(role: &str, version: u64, expires: UnixTime, now: UnixTime) -> Self {
        Self::Expired {
            role: shown(role),
            version,
            expires,
            now,
        }
    }
}
