//! The boot side, pure: what the appliance answers on DHCP, TFTP and at the
//! iPXE text, without a socket, a clock or a random number of its own.
//!
//! A packet comes in as bytes, becomes a checked type once, and a machine
//! decides: `(packet, now) -> (answer, events)`. The caller owns the sockets,
//! makes the events durable and only then sends the answer.
//!
//! Two clocks, both handed in: DHCP counts in [`groundcrew_core::UnixTime`],
//! because leases are rows that outlive the process; TFTP counts in a
//! [`std::time::Duration`] since any fixed start, because a transfer must not
//! notice when somebody sets the clock.
//!
//! The way through it follows a device: [`dhcp`] gives it an address and says
//! what to load, [`tftp`] carries the loader, [`ipxe`] writes the text made for
//! it, [`path`] says which boot file a request means, and [`ra`] spares iPXE its
//! wait for an IPv6 router. [`sntp`] tells it the time, and [`quirk`] lists how
//! firmware differs from the book.

pub mod dhcp;
pub mod ipxe;
pub mod path;
pub mod quirk;
pub mod ra;
pub mod sntp;
pub mod story;
pub mod text;
pub mod tftp;

/// The folder of the boot tree with what 64-bit ARM machines load. It has the
/// same files by the same names as the tree itself has for x86.
pub const ARM64: &str = "arm64";
