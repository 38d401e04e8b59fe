//! The site's side, pure: who a device is, what became of it, what it gets.
//!
//! ```text
//! CSV -> import -> Registered ┐
//! request -> matching ------- ┼-> state: Changes -> record -> journal Entries
//! technician, receipt ------- ┘        (fold: state + Entry -> state)
//! ```
//! A decision never changes anything: it returns [`event::Change`]s. The caller's
//! one writer hands them to [`Registry::record`], which folds them into memory
//! and returns the journal's [`journal::Entry`]s; the store commits those, and
//! only then is the answer sent. Sessions, secrets and grants' bytes are the
//! store's, not the registry's.

pub mod boot;
pub mod checkpoint;
pub mod device;
pub mod event;
pub mod export;
pub mod hostname;
pub mod import;
pub mod index;
pub mod journal;
pub mod junk;
pub mod matching;
pub mod profile;
pub mod rules;
pub mod search;
pub mod snapshot;
pub mod state;
pub mod transfer;

pub use device::{Device, Phase, Registration};
pub use event::{Actor, Cause, Change, Event};
pub use journal::Entry;
pub use junk::Junk;
pub use state::Registry;
