//! The status page: what the branch without a shell sees of its devices, and
//! where it approves or rejects those that wait.
//!
//! It is served by HTTPS only, with the key that the charter names; the plain
//! port sends browsers there. Strangers see a log-in and the site's name, and
//! nothing of devices. Whoever types the set-up code from the console gets a
//! cookie that no other site can use (`__Host-`, `SameSite=Strict`), and every
//! form carries a token besides. The page works without scripts; with one, it
//! follows the registry by server-sent events.

use std::net::Ipv4Addr;

mod gate;
mod one;
mod render;
mod routes;

pub use gate::{Gate, PageAddress, PageCode};
pub use render::invitation;
pub use routes::{Site as PageSite, routes};

/// Where the page is.
pub fn url(address: Ipv4Addr, https_port: u16) -> String {
    match https_port {
        443 => format!("https://{address}/"),
        port => format!("https://{address}:{port}/"),
    }
}
