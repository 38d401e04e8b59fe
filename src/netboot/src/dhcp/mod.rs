//! DHCPv4 for one site: address and boot file for whoever is switched on.
//!
//! [`Request::parse`] reads a packet once; [`Server::handle`] decides on it with
//! the state of the leases and says what to write down and what to send:
//!
//! ```text
//! bytes -> Request -> Server::handle(request, now) -> Outcome { verdict, events }
//!                     events: make durable FIRST      verdict: send, or why not
//! ```
//!
//! [`Service`] stands above both the address server and ProxyDHCP
//! ([`proxy`]): it listens for other servers ([`mode`]), limits floods
//! ([`limit`]) and lets the role of the moment answer.

pub mod arch;
pub mod boot;
pub mod client;
pub mod conflict;
pub mod frame;
mod leases;
pub mod limit;
pub mod mode;
mod options;
pub mod probe;
pub mod proxy;
mod relay;
pub mod reply;
pub mod server;
pub mod service;
mod strangers;
pub mod subnet;
#[cfg(test)]
mod tests_support;
pub mod told;
mod turn;
pub mod wire;

pub use arch::{Arch, Platform};
pub use boot::{BootService, BootWord, Instead, LoaderFile, Loaders};
pub use client::{BootClient, Quirk};
pub use leases::{ClientKey, Lease, LeaseEvent, LeaseState};
pub use mode::{Evidence, Mode, Notice, Role};
pub use proxy::{PXE_PORT, Via};
pub use reply::{Destination, Reply, ReplyKind};
pub use server::{Ignored, Known, Network, Outcome, Server, Verdict, check_apart};
pub use service::{Counters, Handled, Identity, Moment, Service};
pub use subnet::{Reservation, Subnet, SubnetConfig, SubnetError, Who};
pub use wire::{MessageKind, Request, RequestError};

/// The UDP port servers and relays listen on.
pub const SERVER_PORT: u16 = 67;
/// The UDP port clients listen on.
pub const CLIENT_PORT: u16 = 68;
