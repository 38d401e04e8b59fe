//! What the appliance and the agent share, with no I/O, no clock and no
//! randomness of its own: bytes come in, become a checked type once, and a
//! value goes out. Callers bring the time, the entropy and the transport.
//!
//! The way through it follows a device: [`hardware`] says what the machine is,
//! [`enroll`] how it asks to be let in and what it is granted, [`trust`] why it
//! may believe the answer, [`bundle`] what it then does, and [`time`] what time
//! it can honestly claim to know meanwhile.

pub mod bundle;
pub mod digest;
pub mod dsse;
pub mod encoding;
pub mod enroll;
pub mod hardware;
pub mod ids;
pub mod keys;
mod text_form;
pub mod time;
pub mod toml_error;
pub mod trust;
pub mod words;

pub use digest::Digest;
pub use dsse::Verified;
pub use ids::{DeviceId, SiteId};
pub use time::UnixTime;
