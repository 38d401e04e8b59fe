//! Everything a running appliance does, as one process: sockets are bound
//! first, all of them, then it is ready; one order stops it.

pub mod api;
mod bind;
mod boot;
mod cached;
pub mod control;
mod dhcp;
mod files;
mod http;
mod order;
pub mod plain;
mod ra;
mod run;
mod sntp;
mod texts;
mod tftp;
mod tls;
mod upkeep;
mod word;

pub use http::Peer;
pub use run::{run, run_as};

use tokio::sync::watch;

/// The order to stop, as every task hears it.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Whoever holds this gives the order.
pub struct Stopper(watch::Sender<bool>);

impl Shutdown {
    /// A new order that nobody has given yet.
    pub fn new() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Self(receiver))
    }

    /// Returns when the order was given, at once if it was given before.
    pub async fn ordered(&mut self) {
        // An error means that the stopper is gone, which is an order too.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

impl Stopper {
    /// Gives the order.
    pub fn stop(&self) {
        let _ = self.0.send(true);
    }
}
