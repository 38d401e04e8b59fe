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
//! The modes beside authority (ProxyDHCP, relays with their own subnets) take
//! the same [`Request`], [`BootClient`] and [`BootService::offer_for`]; only who
//! assigns the address differs.

pub mod arch;
pub mod boot;
pub mod client;
mod leases;
mod options;
pub mod probe;
pub mod reply;
pub mod server;
pub mod subnet;
#[cfg(test)]
mod tests_support;
pub mod wire;

pub use arch::{Arch, Platform};
pub use boot::{BootService, Loaders};
pub use client::{BootClient, Quirk};
pub use leases::{ClientKey, Lease, LeaseEvent, LeaseState};
pub use reply::{Destination, Reply, ReplyKind};
pub use server::{Ignored, Outcome, Server, Verdict};
pub use subnet::{Subnet, SubnetConfig, SubnetError};
pub use wire::{MessageKind, Request, RequestError};

/// The UDP port servers and relays listen on.
pub const SERVER_PORT: u16 = 67;
/// The UDP port clients listen on.
pub const CLIENT_PORT: u16 = 68;
