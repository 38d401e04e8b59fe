//! How often strangers may make the site write: each request that is new costs
//! a line of the journal, which is never shortened.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use groundcrew_core::DeviceId;
use tokio::time::Instant;

/// Requests a second, and how many may come at once.
#[derive(Clone, Copy)]
struct Rate {
    each_second: f64,
    burst: f64,
}

/// One device asks once, and again when it restarts. Many may share an address
/// behind a router.
const ADDRESS: Rate = Rate {
    each_second: 20.0,
    burst: 200.0,
};

/// Of all addresses together: a thousand devices switched on at once.
const ALL: Rate = Rate {
    each_second: 200.0,
    burst: 2000.0,
};

/// How often one device that was let in may be let in anew: each time costs
/// three lines of the journal. A device that restarts needs a minute for it.
const AGAIN: Rate = Rate {
    each_second: 1.0 / 60.0,
    burst: 10.0,
};

/// Addresses (or devices) remembered; past it the table starts anew, which only forgives.
const ADDRESSES: usize = 4096;

/// Guesses at a code: forty bits, so that a minute's worth of them is nothing.
const GUESSES: Rate = Rate {
    each_second: 0.1,
    burst: 5.0,
};

/// Of all addresses together; a code of 40 bits lasts ten thousand years of it.
const ALL_GUESSES: Rate = Rate {
    each_second: 1.0,
    burst: 60.0,
};

/// Token buckets, one for each address and one for all.
pub struct Pace {
    address: Rate,
    all: Rate,
    state: Mutex<State>,
    again: Mutex<HashMap<DeviceId, Bucket>>,
}

#[derive(Default)]
struct State {
    all: Option<Bucket>,
    addresses: HashMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            address: ADDRESS,
            all: ALL,
            state: Mutex::default(),
            again: Mutex::default(),
        }
    }
}

impl Pace {
    /// For guesses at a code instead of enrollments.
    pub fn of_guesses() -> Self {
        Self {
            address: GUESSES,
            all: ALL_GUESSES,
            state: Mutex::default(),
            again: Mutex::default(),
        }
    }

    /// Whether a request of `peer` may be carried out now.
    pub fn admits(&self, peer: IpAddr, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.addresses.len() >= ADDRESSES && !state.addresses.contains_key(&peer) {
            state.addresses.clear();
        }
        let of_address = state
            .addresses
            .entry(peer)
            .or_insert(full(self.address, now));
        // The own bucket first: a flood of one address does not empty the other.
        take(of_address, self.address, now)
            && take(state.all.get_or_insert(full(self.all, now)), self.all, now)
    }
}

impl Pace {
    /// Whether a device that was let in before may be let in anew now.
    pub fn admits_again(&self, device: &DeviceId, now: Instant) -> bool {
        let mut again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        if again.len() >= ADDRESSES && !again.contains_key(device) {
            again.clear();
        }
        let bucket = again.entry(device.clone()).or_insert(full(AGAIN, now));
        take(bucket, AGAIN, now)
    }
}

fn full(rate: Rate, now: Instant) -> Bucket {
    Bucket {
        tokens: rate.burst,
        at: now,
    }
}

fn take(bucket: &mut Bucket, rate: Rate, now: Instant) -> bool {
    let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * rate.each_second;
    bucket.tokens = (bucket.tokens + gained).min(rate.burst);
    bucket.at = now;
    let admitted = bucket.tokens >= 1.0;
    if admitted {
        bucket.tokens -= 1.0;
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_of_one_address_leaves_room_for_others() {
        let (pace, now) = (Pace::default(), Instant::now());
        let flood: IpAddr = "10.0.0.1".parse().unwrap();
        let admitted = (0..10_000).filter(|_| pace.admits(flood, now)).count();
        assert_eq!(admitted, 200);
        assert!(pace.admits("10.0.0.2".parse().unwrap(), now));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| pace.admits(flood, later)).count(), 20);
    }

    #[test]
    fn many_addresses_are_bounded_together() {
        let (pace, now) = (Pace::default(), Instant::now());
        let address = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(n));
        assert_eq!(
            (0..20_000)
                .filter(|n| pace.admits(address(*n), now))
                .count(),
            2000
        );
        let remembered = pace.state.lock().unwrap().addresses.len();
        assert!(remembered <= ADDRESSES);
    }
}
