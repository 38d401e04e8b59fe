//! How often strangers may make the site write: each request that is new costs
//! a line of the journal, which is never shortened.

use std::collections::HashMap;
use std::hash::Hash;
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
const REMEMBERED: usize = 4096;

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

/// Token buckets: one for each address, one for all, one for each device.
pub struct Pace {
    asking: Mutex<Asking>,
    again: Mutex<Buckets<DeviceId>>,
}

struct Asking {
    addresses: Buckets<IpAddr>,
    all: Buckets<()>,
}

/// A bucket for each of those who were seen lately.
struct Buckets<K> {
    rate: Rate,
    of: HashMap<K, Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(ADDRESS, ALL)
    }
}

impl Pace {
    /// For guesses at a code instead of enrollments.
    pub fn of_guesses() -> Self {
        Self::new(GUESSES, ALL_GUESSES)
    }

    fn new(address: Rate, all: Rate) -> Self {
        Self {
            asking: Mutex::new(Asking {
                addresses: Buckets::new(address),
                all: Buckets::new(all),
            }),
            again: Mutex::new(Buckets::new(AGAIN)),
        }
    }

    /// Whether a request of `peer` may be carried out now.
    pub fn admits(&self, peer: IpAddr, now: Instant) -> bool {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // The own bucket first: a flood of one address does not empty the other.
        asking.addresses.take(peer, now) && asking.all.take((), now)
    }

    /// Whether a device that was let in before may be let in anew now.
    pub fn admits_again(&self, device: &DeviceId, now: Instant) -> bool {
        let mut again = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        again.take(device.clone(), now)
    }
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Rate) -> Self {
        let of = HashMap::new();
        Self { rate, of }
    }

    fn take(&mut self, key: K, now: Instant) -> bool {
        if self.of.len() >= REMEMBERED && !self.of.contains_key(&key) {
            self.of.clear();
        }
        let rate = self.rate;
        let bucket = self.of.entry(key).or_insert(Bucket {
            tokens: rate.burst,
            at: now,
        });
        let gone = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + gone * rate.each_second).min(rate.burst);
        bucket.at = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
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
        let remembered = pace.asking.lock().unwrap().addresses.of.len();
        assert!(remembered <= REMEMBERED);
    }
}
