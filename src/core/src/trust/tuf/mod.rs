//! The Update Framework, specification 1.0 (<https://theupdateframework.github.io/specification/>),
//! with no I/O: bytes and the time are handed in, names of files to fetch and
//! checked values are handed out. Comments with a number such as 5.3.4 name the
//! step of the specification's section 5 that the line carries out.

pub(super) mod check;
pub mod client;
mod delegated;
mod draft;
pub mod error;
pub mod key;
pub mod metadata;
mod pattern;
pub mod repo;
mod search;
mod sign;
pub mod signed;
pub mod target;

pub use check::percent_encoded;
pub use client::{Client, Fetch, Limits, MinimumVersions, NotFound, Poll, Trusted};
pub use error::TufError;
pub use metadata::{Root, Snapshot, TargetFile, Targets, Timestamp};
pub use repo::{Repo, RepoError, RepoFile};
pub use target::{TargetCheck, TargetError};
