//! Bundles: versioned sets of steps and content that turn a device into its
//! profile. Public, never confidential.
//!
//! ```text
//! bundle.toml ── source::Source ──┐
//! folder ─────── inventory ───────┴─ Config ── digest ── Manifest (a TUF target)
//!                                      │                    │
//! on the device: Manifest::parse ── Manifest::bundle(config bytes) ── Bundle
//! ```
//! A [`Bundle`] exists only where a manifest and the configuration it names
//! agree with each other in every file, size and digest. That the *manifest*
//! is the site's is what [`crate::trust`] is for.
//!
//! What is deliberately absent: logic in templates, includes, conditions
//! between steps, secrets.

pub mod config;
pub mod manifest;
pub mod path;
pub mod source;
pub mod step;
pub mod template;
pub mod tree;

pub use config::{Bundle, BundleError, Config, FileEntry, Inventory, Link, Stored};
pub use manifest::{Descriptor, Index, Manifest, ManifestError};
pub use path::{Mode, PathError, RelPath, TargetPath};
pub use source::{Source, SourceError};
pub use step::{
    AccountName, Action, Argv, CommandStep, Content, DirectoryStep, FileStep, HostnameStep, SshKey,
    Step, StepName, TreeStep, UserStep,
};
pub use template::{Template, Variables};

/// What a bundle may at most hold. A reader that keeps to these has bounded
/// memory whatever it is given.
pub mod limits {
    /// The manifest, bytes.
    pub const MANIFEST: u64 = 1 << 20;
    /// The configuration blob, bytes.
    pub const CONFIG: u64 = 8 << 20;
    /// `bundle.toml`, bytes.
    pub const SOURCE: u64 = 1 << 20;
    /// Steps.
    pub const STEPS: usize = 1024;
    /// Files, folders and links each.
    pub const ENTRIES: usize = 32_768;
    /// Blobs besides the configuration.
    pub const BLOBS: usize = 256;
    /// One blob, bytes.
    pub const BLOB: u64 = 64 << 30;
    /// From this size on a file is a blob of its own, bytes.
    pub const LARGE_FILE: u64 = 8 << 20;
    /// A template, and the text in `content`, bytes.
    pub const TEMPLATE: u64 = 1 << 20;
    /// log2 of the window that unpacking the content tree needs, so that the
    /// device's memory is known beforehand.
    pub const ZSTD_WINDOW_LOG: u32 = 21;
}
