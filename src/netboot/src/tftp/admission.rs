//! Which requests begin a transfer: caps, repeats of one already under way, and
//! who makes room when all places are taken.

use std::collections::{HashMap, VecDeque};
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
    Begin {
        /// That peer's transfer made room and must end; it is finished already
        /// as far as this goes. Its peer was never heard since it asked, and it
        /// is the oldest such: a machine that is alive answers in milliseconds,
        /// a forged request never.
        ends: Option<SocketAddr>,
    },
    /// The same peer port has one running: the client repeats itself. Tell that
    /// transfer ([`Transfer::repeated`](super::Transfer::repeated)).
    Repeat,
    /// Too many of this address; drop it, the client will ask again.
    AddressBusy,
    /// Too many in all, and all are alive; drop it, the client will ask again.
    Busy,
}

/// The transfers under way, by their peers. Bounded by [`Caps::total`].
#[derive(Debug)]
pub struct Admission {
    caps: Caps,
    /// Whether the peer was heard since it asked.
    peers: HashMap<SocketAddr, bool>,
    of_address: HashMap<IpAddr, usize>,
    /// Peers in the order they asked; those that were heard or have left are
    /// dropped when they come to the front. At most twice [`Caps::total`].
    unheard: VecDeque<SocketAddr>,
}

impl Admission {
    /// None under way.
    pub fn new(caps: Caps) -> Self {
        Self {
            caps,
            peers: HashMap::new(),
            of_address: HashMap::new(),
            unheard: VecDeque::new(),
        }
    }

    /// Decides on a request of `peer`; a transfer id is its address and port (RFC 1350 §4).
    pub fn admit(&mut self, peer: SocketAddr) -> Admit {
        if self.peers.contains_key(&peer) {
            return Admit::Repeat;
        }
        let running = self.of_address.get(&peer.ip()).copied().unwrap_or(0);
        if running >= self.caps.per_address {
            return Admit::AddressBusy;
        }
        let mut ends = None;
        if self.peers.len() >= self.caps.total {
            ends = self.oldest_unheard();
            let Some(silent) = ends else {
                return Admit::Busy;
            };
            self.finished(silent);
        }
        *self.of_address.entry(peer.ip()).or_default() += 1;
        self.peers.insert(peer, false);
        if self.unheard.len() >= self.caps.total.saturating_mul(2) {
            let peers = &self.peers;
            self.unheard.retain(|peer| peers.get(peer) == Some(&false));
        }
        self.unheard.push_back(peer);
        Admit::Begin { ends }
    }

    /// The peer answered, so the request was its own.
    pub fn heard(&mut self, peer: SocketAddr) {
        if let Some(heard) = self.peers.get_mut(&peer) {
            *heard = true;
        }
    }

    fn oldest_unheard(&mut self) -> Option<SocketAddr> {
        while let Some(peer) = self.unheard.pop_front() {
            if self.peers.get(&peer) == Some(&false) {
                return Some(peer);
            }
        }
        None
    }

    /// The transfer of `peer` has ended.
    pub fn finished(&mut self, peer: SocketAddr) {
        if self.peers.remove(&peer).is_none() {
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

    const BEGIN: Admit = Admit::Begin { ends: None };

    #[test]
    fn caps_and_repeats() {
        let mut admission = Admission::new(Caps {
            total: 3,
            per_address: 2,
        });
        let peer = |host: u8, port| SocketAddr::from(([10, 77, 0, host], port));
        assert_eq!(admission.admit(peer(1, 1)), BEGIN);
        assert_eq!(admission.admit(peer(1, 1)), Admit::Repeat);
        assert_eq!(admission.admit(peer(1, 2)), BEGIN);
        assert_eq!(admission.admit(peer(1, 3)), Admit::AddressBusy);
        assert_eq!(admission.admit(peer(2, 1)), BEGIN);
        let ends = Some(peer(1, 1));
        assert_eq!(admission.admit(peer(3, 1)), Admit::Begin { ends });
        admission.finished(peer(1, 1));
        assert_eq!(
            admission.admit(peer(1, 1)),
            Admit::Begin {
                ends: Some(peer(1, 2))
            }
        );
        for (host, port) in [(1, 1), (3, 1), (2, 1)] {
            admission.finished(peer(host, port));
        }
        assert_eq!((admission.running(), admission.of_address.len()), (0, 0));
    }

    #[test]
    fn whoever_never_answered_makes_room_and_nobody_else() {
        let caps = Caps {
            total: 3,
            per_address: 9,
        };
        let mut admission = Admission::new(caps);
        let peer = |port| SocketAddr::from(([10, 77, 0, 9], port));
        for port in 1..=3 {
            assert_eq!(admission.admit(peer(port)), BEGIN);
        }
        admission.heard(peer(1));
        let instead_of = |port| Admit::Begin {
            ends: Some(peer(port)),
        };
        assert_eq!(admission.admit(peer(4)), instead_of(2));
        assert_eq!(admission.admit(peer(5)), instead_of(3), "each once");
        admission.heard(peer(4));
        admission.heard(peer(5));
        assert_eq!(admission.admit(peer(6)), Admit::Busy, "all are alive");
        admission.finished(peer(4));
        admission.finished(peer(5));
        assert_eq!(admission.admit(peer(4)), BEGIN);
        // Memory stays bounded however many come and go.
        for port in 5..1000 {
            admission.finished(peer(port - 1));
            assert_eq!(admission.admit(peer(port)), BEGIN);
            assert!(admission.unheard.len() <= 6);
        }
    }
}
