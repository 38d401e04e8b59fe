//! Which requests begin a transfer: caps, and repeats of one already under way.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// How many transfers may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// For one address; a loader needs one or two at a time.
    pub per_address: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            total: 4096,
            per_address: 16,
        }
    }
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Begin a transfer; call [`Admission::finished`] when it ends.
    Begin,
    /// The same peer port has one running: the client repeats itself. Tell that
    /// transfer ([`Transfer::repeated`](super::Transfer::repeated)).
    Repeat,
    /// Too many of this address; drop it, the client will ask again.
    AddressBusy,
    /// Too many in all; drop it and count it.
    Busy,
}

/// The transfers under way, by their peers. Bounded by [`Caps::total`].
#[derive(Debug)]
pub struct Admission {
    caps: Caps,
    peers: HashSet<SocketAddr>,
    of_address: HashMap<IpAddr, usize>,
}

impl Admission {
    /// None under way.
    pub fn new(caps: Caps) -> Self {
        Self {
            caps,
            peers: HashSet::new(),
            of_address: HashMap::new(),
        }
    }

    /// Decides on a request of `peer`; a transfer id is its address and port (RFC 1350 §4).
    pub fn admit(&mut self, peer: SocketAddr) -> Admit {
        if self.peers.contains(&peer) {
            return Admit::Repeat;
        }
        if self.peers.len() >= self.caps.total {
            return Admit::Busy;
        }
        let running = self.of_address.entry(peer.ip()).or_default();
        if *running >= self.caps.per_address {
            return Admit::AddressBusy;
        }
        *running += 1;
        self.peers.insert(peer);
        Admit::Begin
    }

    /// The transfer of `peer` has ended.
    pub fn finished(&mut self, peer: SocketAddr) {
        if !self.peers.remove(&peer) {
            return;
        }
        if let Some(running) = self.of_address.get_mut(&peer.ip()) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.of_address.remove(&peer.ip());
            }
        }
    }

    /// How many are under way.
    pub fn running(&self) -> usize {
        self.peers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_and_repeats() {
        let mut admission = Admission::new(Caps {
            total: 3,
            per_address: 2,
        });
        let peer = |host: u8, port| SocketAddr::from(([10, 77, 0, host], port));
        assert_eq!(admission.admit(peer(1, 1)), Admit::Begin);
        assert_eq!(admission.admit(peer(1, 1)), Admit::Repeat);
        assert_eq!(admission.admit(peer(1, 2)), Admit::Begin);
        assert_eq!(admission.admit(peer(1, 3)), Admit::AddressBusy);
        assert_eq!(admission.admit(peer(2, 1)), Admit::Begin);
        assert_eq!(admission.admit(peer(3, 1)), Admit::Busy);
        admission.finished(peer(1, 1));
        admission.finished(peer(1, 1));
        assert_eq!(admission.admit(peer(1, 3)), Admit::Begin);
        for (host, port) in [(1, 2), (1, 3), (2, 1)] {
            admission.finished(peer(host, port));
        }
        assert_eq!((admission.running(), admission.of_address.len()), (0, 0));
    }
}
