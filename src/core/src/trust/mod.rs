//! Why a device may believe what it is told: The Update Framework (TUF 1.0),
//! the charter that HQ signs for a site, and the root of both that lies in the
//! boot image.
//!
//! The way through it: [`image::ImageTrust`] is verified with no network and
//! yields the first [`charter::Charter`], which names the TLS key to talk to;
//! over that connection [`tuf::client::Client`] brings the site's metadata up
//! to date; a newer charter and the bundles are targets in it, checked by
//! [`tuf::target`]. The other side, [`tuf::repo`], writes what the client reads.

pub mod charter;
pub mod downgrade;
pub mod image;
pub mod tuf;

pub use charter::{Charter, CharterError};
pub use downgrade::{Downgrade, DowngradeError, Downgrades};
pub use image::{ImageTrust, TrustError};
pub use tuf::client::{Client, Trusted};
