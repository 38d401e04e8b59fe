//! Token buckets: so many packets of one hardware address, so many in all.
//!
//! Memory is fixed, whoever knocks. A hardware address falls into one bucket of
//! each of two rows, chosen by a keyed hash; it is turned away only where both
//! are empty, so that a flood from one address seldom touches another's.

use std::time::Duration;

use groundcrew_core::hardware::MacAddr;

/// Packets per second of one hardware address, and how many at once. A device
/// that boots sends about a dozen in a minute; docks lend one address to many.
const PER_MAC: Rate = Rate {
    per_second: 5,
    burst: 25,
};

/// Packets per second in all that begin something, and how many at once: far above
/// any site's morning, below what keeps the disk from its other work. Who takes
/// what was promised is not counted: that work is half done, and dropping it
/// makes the client begin again.
const IN_ALL: Rate = Rate {
    per_second: 30_000,
    burst: 30_000,
};

/// Buckets of one row. 60,000 devices that start together send 120,000 packets
/// within seconds: seven a bucket.
const WIDTH: usize = 16 * 1024;

/// Thousandths of a packet.
const UNIT: u32 = 1000;

#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: u32,
    burst: u32,
}

/// Why a packet is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// This hardware address asks too often.
    Client,
    /// There are too many packets altogether.
    Total,
}

/// The buckets.
#[derive(Debug)]
pub struct Limiter {
    key: u64,
    total: Bucket,
    rows: [Vec<Bucket>; 2],
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// In thousandths.
    tokens: u32,
    /// In milliseconds; begins again every seven weeks.
    filled: u32,
}

impl Limiter {
    /// Full buckets. `key` is random, so that nobody can aim at a bucket.
    pub fn new(key: u64) -> Self {
        let full = |rate: Rate| Bucket {
            tokens: rate.burst * UNIT,
            filled: 0,
        };
        Self {
            key,
            total: full(IN_ALL),
            rows: [vec![full(PER_MAC); WIDTH], vec![full(PER_MAC); WIDTH]],
        }
    }

    /// Whether a packet of `mac` may be answered at `now`; `promised`: it takes
    /// what was offered. One that is turned away for its address costs the others
    /// nothing.
    pub fn admit(&mut self, mac: MacAddr, promised: bool, now: Duration) -> Result<(), Limited> {
        // Only differences count, so the upper bits may go.
        let now = (now.as_millis() & u128::from(u32::MAX)) as u32;
        let hash = mix(self.key, mac);
        let places = [hash, hash >> 32];
        let mut admitted = false;
        for (row, place) in self.rows.iter_mut().zip(places) {
            let index = usize::try_from(place).unwrap_or(0) % WIDTH;
            if let Some(bucket) = row.get_mut(index) {
                admitted |= bucket.take(PER_MAC, now);
            }
        }
        if !admitted {
            return Err(Limited::Client);
        }
        if promised || self.total.take(IN_ALL, now) {
            Ok(())
        } else {
            Err(Limited::Total)
        }
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: u32) -> bool {
        // One packet per second is one thousandth per millisecond.
        let gained = now
            .wrapping_sub(self.filled)
            .saturating_mul(rate.per_second);
        self.tokens = self.tokens.saturating_add(gained).min(rate.burst * UNIT);
        self.filled = now;
        match self.tokens.checked_sub(UNIT) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

/// splitmix64 under a key: spread, not secrecy beyond this process.
fn mix(key: u64, mac: MacAddr) -> u64 {
    let number = mac
        .0
        .iter()
        .fold(0u64, |n, byte| (n << 8) | u64::from(*byte));
    [key, key.rotate_left(29)]
        .into_iter()
        .fold(number, |n, key| {
            let mut z = (n ^ key).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    #[test]
    fn one_that_floods_is_slowed_and_the_others_are_not() {
        let mut limiter = Limiter::new(7);
        let admitted = (0..10_000u64)
            .filter(|n| {
                limiter
                    .admit(mac(1), false, Duration::from_millis(*n))
                    .is_ok()
            })
            .count();
        assert_eq!(
            admitted,
            25 + 49,
            "a burst, then five a second for ten seconds"
        );
        let now = Duration::from_secs(10);
        let refused = (2..1000)
            .filter(|n| limiter.admit(mac(*n), false, now).is_err())
            .count();
        assert_eq!(refused, 0);
    }

    #[test]
    fn all_together_have_a_bound_and_it_passes() {
        let mut limiter = Limiter::new(9);
        let now = Duration::from_secs(1);
        let outcomes: Vec<_> = (0..40_000)
            .map(|n| limiter.admit(mac(n), false, now))
            .collect();
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 30_000);
        assert!(outcomes.contains(&Err(Limited::Total)));
        let promised = limiter.admit(mac(60_000), true, now);
        assert_eq!(promised, Ok(()), "work that is half done is finished");
        assert_eq!(
            limiter.admit(mac(50_000), false, Duration::from_secs(2)),
            Ok(())
        );
    }

    #[test]
    fn a_crowd_that_starts_together_is_not_slowed() {
        let mut limiter = Limiter::new(11);
        // Two packets each within four seconds; the second takes what was promised.
        let refused = (0..120_000u32)
            .filter(|n| {
                let now = Duration::from_micros(u64::from(*n) * 33);
                limiter.admit(mac(n / 2), n % 2 == 1, now).is_err()
            })
            .count();
        assert_eq!(refused, 0);
    }
}
