//! Leases of clients that have shown no more than one exchange.
//!
//! Who wants to empty the pool invents hardware addresses, and each exchange
//! costs him two packets. What he does not have is machines: nobody there boots,
//! renews, or answers ARP. So a lease is doubted until its client comes back,
//! asks for something to boot, or answers ARP, and what is doubted
//!
//! - may be taken again after [`PATIENCE`] where nothing else is left and ARP
//!   finds nobody at the address;
//! - may fill the pool but for one part in [`KEPT_BACK`], [`MOST_KEPT`] at most,
//!   which is left to clients that the site knows or that have shown more.
//!
//! Nothing of that happens before the pool runs dry, and after a restart nobody
//! is doubted: to honest clients it makes no difference.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use groundcrew_core::UnixTime;

/// How long a doubted lease is safe, in seconds. A machine between its loader and
/// its system answers no ARP for some time; by then it has asked for both.
pub const PATIENCE: u64 = 120;

/// One address in so many is not for strangers while they hold all others.
pub const KEPT_BACK: usize = 8;

/// Addresses that are kept back at most: as many known devices start in
/// [`PATIENCE`] seconds, and in a large pool more would be taken from honest
/// newcomers for nothing.
pub const MOST_KEPT: usize = 256;

/// Pools below that are too small to keep anything back.
const SMALL: usize = 16;

/// The doubted leases of one network; bounded by its pool.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    since: HashMap<Ipv4Addr, UnixTime>,
    order: BTreeSet<(UnixTime, Ipv4Addr)>,
}

impl Strangers {
    pub(super) fn doubt(&mut self, ip: Ipv4Addr, now: UnixTime) {
        self.trust(ip);
        self.since.insert(ip, now);
        self.order.insert((now, ip));
    }

    /// Whether it was doubted.
    pub(super) fn trust(&mut self, ip: Ipv4Addr) -> bool {
        match self.since.remove(&ip) {
            Some(since) => self.order.remove(&(since, ip)),
            None => false,
        }
    }

    pub(super) fn doubted(&self, ip: Ipv4Addr) -> bool {
        self.since.contains_key(&ip)
    }

    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    /// Forgets leases that ended: their addresses are free.
    pub(super) fn lapse(&mut self, lease_seconds: u32, now: UnixTime) {
        while let Some(&(since, ip)) = self.order.first() {
            if since.plus(u64::from(lease_seconds)) > now {
                return;
            }
            self.order.pop_first();
            self.since.remove(&ip);
        }
    }

    /// The one doubted longest, where that is long enough.
    pub(super) fn oldest(
        &self,
        now: UnixTime,
        free: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let ripe = |(since, _): &&(UnixTime, Ipv4Addr)| since.plus(PATIENCE) <= now;
        let mut ripe = self.order.iter().take_while(ripe);
        // Those on offer already are few beside the ones that are not.
        ripe.find(|(_, ip)| free(*ip)).map(|&(_, ip)| ip)
    }

    /// Whether strangers hold so much of a pool that the rest is kept from them.
    pub(super) fn crowd(&self, offers: usize, pool: usize) -> bool {
        pool >= SMALL && self.len() + offers >= pool - (pool / KEPT_BACK).min(MOST_KEPT)
    }
}
