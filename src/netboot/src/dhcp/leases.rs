//! Who has which address: leases in memory, rebuilt from rows.
//!
//! A lease outlives its time: the row stays until the address is needed, so
//! that a client gets its address again. Offers live about half a minute and
//! in memory only. Nothing here walks the pool: every step is O(log n), and
//! memory is bounded by the pool, whoever knocks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use groundcrew_core::UnixTime;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::strangers::Strangers;
use super::subnet::Subnet;

/// How long an offered address is kept for the client, in seconds. OVMF collects
/// offers for 4 s and BIOS clients for some 8 s before they take one.
pub const OFFER_SECONDS: u64 = 30;

/// How long an offer is safe from others where the pool has nothing else left.
pub const OFFER_PATIENCE: u64 = 10;

/// Who holds a lease: the client identifier, or the hardware address where there
/// is none (RFC 2131 §4.2). An identifier that only spells the hardware address
/// (type 1) is the hardware address: firmware sends none, iPXE and Linux send
/// that, and the machine is the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientKey {
    /// Known by its hardware address.
    Mac(MacAddr),
    /// Known by option 61, 2 to 255 bytes.
    Id(Vec<u8>),
}

impl ClientKey {
    /// The key of a client.
    pub fn of(client_id: Option<&[u8]>, mac: MacAddr) -> Self {
        match client_id {
            Some([1, address @ ..]) if *address == mac.0 => Self::Mac(mac),
            Some(id) => Self::Id(id.to_vec()),
            None => Self::Mac(mac),
        }
    }
}

/// Text that is not a [`ClientKey`].
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("not a client key: it looks like mac:52:54:00:77:00:01 or id:00a1b2")]
pub struct ClientKeyError;

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "mac:{mac}"),
            Self::Id(id) => {
                f.write_str("id:")?;
                id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClientKey {
    type Err = ClientKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(mac) = text.strip_prefix("mac:") {
            return mac.parse().map(Self::Mac).map_err(|_| ClientKeyError);
        }
        let hex = text.strip_prefix("id:").ok_or(ClientKeyError)?;
        let id = crate::ipxe::decode_hex(hex).ok_or(ClientKeyError)?;
        if (2..=255).contains(&id.len()) {
            Ok(Self::Id(id))
        } else {
            Err(ClientKeyError)
        }
    }
}

/// What a row says of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Given to the client until the lease's end.
    Bound,
    /// Given back; kept to give the client the same again.
    Released,
    /// The client found somebody else using it; nobody gets it until the end.
    Declined,
}

impl LeaseState {
    /// The word in a row.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Released => "released",
            Self::Declined => "declined",
        }
    }

    /// From the word in a row.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Bound, Self::Released, Self::Declined]
            .into_iter()
            .find(|s| s.as_str() == word)
    }
}

/// One row: the primary key is `ip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: Ipv4Addr,
    /// Who holds or held it.
    pub key: ClientKey,
    /// The hardware address it came from.
    pub mac: MacAddr,
    /// Option 97, if sent.
    pub uuid: Option<SmbiosUuid>,
    /// Option 12, if sent.
    pub hostname: Option<String>,
    /// When it ends, or ended.
    pub expires_at: UnixTime,
    /// What it is.
    pub state: LeaseState,
}

impl Lease {
    /// Nobody else may use the address at `now`.
    pub fn holds(&self, now: UnixTime) -> bool {
        self.state != LeaseState::Released && self.expires_at > now
    }
}

/// A change of rows. It must be durable before the reply of the same outcome is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Write this row, replacing the one of the same address.
    Put(Lease),
    /// Remove the row of this address.
    Delete(Ipv4Addr),
}

/// All leases and offers of one subnet.
#[derive(Debug)]
pub(super) struct Leases {
    by_ip: HashMap<Ipv4Addr, Lease>,
    by_key: HashMap<ClientKey, Ipv4Addr>,
    /// When each lease ends, soonest first, without those whose address is on offer.
    ends: BTreeSet<(UnixTime, Ipv4Addr)>,
    offers: BTreeMap<Ipv4Addr, Offer>,
    offer_of: HashMap<ClientKey, Ipv4Addr>,
    offer_ends: BTreeSet<(UnixTime, Ipv4Addr)>,
    /// Addresses from here on were never looked at.
    next_fresh: Option<u32>,
    /// Addresses before it that have neither lease nor offer.
    returned: BTreeSet<Ipv4Addr>,
    /// Reserved addresses: never in `ends` or `returned`, so never for strangers.
    kept: BTreeSet<Ipv4Addr>,
    strangers: Strangers,
}

/// Who asks for an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub key: &'a ClientKey,
    /// The address kept for it.
    pub reserved: Option<Ipv4Addr>,
    /// The site knows it, or it has had an address before.
    pub known: bool,
    /// Nobody is offered an address before ARP was asked for it.
    pub probed: bool,
}

#[derive(Debug)]
struct Offer {
    key: ClientKey,
    until: UnixTime,
    /// ARP found nobody there; see [`Leases::nobody_at`].
    nobody_there: bool,
}

impl Leases {
    /// Rows outside the pool are left out: the pool was changed, and their
    /// holders must move when they next ask.
    pub(super) fn from_rows(subnet: &Subnet, rows: impl IntoIterator<Item = Lease>) -> Self {
        let mut leases = Self {
            by_ip: HashMap::new(),
            by_key: HashMap::new(),
            ends: BTreeSet::new(),
            offers: BTreeMap::new(),
            offer_of: HashMap::new(),
            offer_ends: BTreeSet::new(),
            next_fresh: Some(*subnet.pool().start()),
            returned: BTreeSet::new(),
            kept: subnet.kept().clone(),
            strangers: Strangers::default(),
        };
        for row in rows {
            if subnet.gives(row.ip) {
                leases.insert(row);
            }
        }
        leases
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_ip.values()
    }

    pub(super) fn at(&self, ip: Ipv4Addr) -> Option<&Lease> {
        self.by_ip.get(&ip)
    }

    pub(super) fn of(&self, key: &ClientKey) -> Option<&Lease> {
        self.by_ip.get(self.by_key.get(key)?)
    }

    pub(super) fn offered_to(&self, key: &ClientKey) -> Option<Ipv4Addr> {
        self.offer_of.get(key).copied()
    }

    pub(super) fn offers(&self) -> usize {
        self.offers.len()
    }

    /// Whether who asks may have `ip` at `now`: nobody else is promised it, and
    /// no lease of another holds it. A reserved address is its client's alone,
    /// and that client gets no other while it is free.
    pub(super) fn may_have(
        &self,
        subnet: &Subnet,
        asker: Asker<'_>,
        ip: Ipv4Addr,
        now: UnixTime,
    ) -> bool {
        let allowed = match asker.reserved {
            Some(own) if own == ip => true,
            Some(own) => subnet.in_pool(ip) && !self.free_for(asker.key, own, now),
            None => subnet.in_pool(ip),
        };
        allowed && self.free_for(asker.key, ip, now)
    }

    fn free_for(&self, key: &ClientKey, ip: Ipv4Addr, now: UnixTime) -> bool {
        let promised = self.offers.get(&ip).is_some_and(|o| o.key != *key);
        let held = self.by_ip.get(&ip).is_some_and(|lease| {
            let own = lease.key == *key && lease.state != LeaseState::Declined;
            // Offered only after ARP found nobody there, see `strangers`.
            let given_up = self.strangers.doubted(ip) && self.offered_to(key) == Some(ip);
            !own && !given_up && lease.holds(now)
        });
        !promised && !held
    }

    /// Drops offers that were not taken in time, and doubts about leases that ended.
    pub(super) fn lapse(&mut self, subnet: &Subnet, now: UnixTime) {
        self.strangers.lapse(subnet.lease_seconds(), now);
        while let Some(&(until, ip)) = self.offer_ends.first() {
            if until > now {
                break;
            }
            // Popped first: whatever else may be wrong, this loop ends.
            self.offer_ends.pop_first();
            self.withdraw(ip);
        }
    }

    /// Promises `key` an address for [`OFFER_SECONDS`]: the one it was promised,
    /// the one it had, the one it asks for, one never used, or the one whose
    /// lease ended longest ago. `None`: the pool is exhausted.
    pub(super) fn offer(
        &mut self,
        subnet: &Subnet,
        asker: Asker<'_>,
        wish: Option<Ipv4Addr>,
        now: UnixTime,
    ) -> Option<Ipv4Addr> {
        let ip = self.choose(subnet, asker, wish, now)?;
        let key = asker.key;
        // Who asks again takes the same offer, and may take it while it is asked again.
        let same = self.offers.get(&ip).filter(|offer| offer.key == *key);
        let nobody_there = same.is_some_and(|offer| offer.nobody_there);
        if let Some(earlier) = self.offered_to(key) {
            self.withdraw(earlier);
        }
        self.returned.remove(&ip);
        if let Some(lease) = self.by_ip.get(&ip) {
            self.ends.remove(&(lease.expires_at, ip));
        }
        let until = now.plus(OFFER_SECONDS);
        self.offers.insert(
            ip,
            Offer {
                key: key.clone(),
                until,
                nobody_there,
            },
        );
        self.offer_of.insert(key.clone(), ip);
        self.offer_ends.insert((until, ip));
        Some(ip)
    }

    fn choose(
        &mut self,
        subnet: &Subnet,
        asker: Asker<'_>,
        wish: Option<Ipv4Addr>,
        now: UnixTime,
    ) -> Option<Ipv4Addr> {
        let own = [
            asker.reserved,
            self.offered_to(asker.key),
            self.by_key.get(asker.key).copied(),
        ];
        if let Some(ip) = own
            .into_iter()
            .flatten()
            .find(|&ip| self.may_have(subnet, asker, ip, now))
        {
            return Some(ip);
        }
        // A wish is granted only where it costs nobody the address he had.
        let unused =
            |ip: &Ipv4Addr| !self.by_ip.contains_key(ip) && self.may_have(subnet, asker, *ip, now);
        if let Some(ip) = wish.filter(unused) {
            return Some(ip);
        }
        if !asker.known && self.strangers.crowd(self.offers.len(), subnet.pool_size()) {
            let recycled = self.stale_offer(now);
            return recycled.or_else(|| self.abandoned(asker, now));
        }
        self.unused(subnet)
            .or_else(|| self.longest_ended(now))
            .or_else(|| self.stale_offer(now))
            .or_else(|| self.abandoned(asker, now))
    }

    /// An address whose holder showed one exchange and nothing since, where
    /// somebody asks by ARP before it is offered.
    fn abandoned(&self, asker: Asker<'_>, now: UnixTime) -> Option<Ipv4Addr> {
        let free = |ip| !self.offers.contains_key(&ip);
        self.strangers.oldest(now, free).filter(|_| asker.probed)
    }

    /// The lease of a client that has shown one exchange.
    pub(super) fn doubt(&mut self, ip: Ipv4Addr, now: UnixTime) {
        self.strangers.doubt(ip, now);
    }

    /// Somebody is there: whoever was promised the address gets another.
    pub(super) fn trust(&mut self, ip: Ipv4Addr) {
        if self.strangers.trust(ip) {
            self.withdraw(ip);
        }
    }

    /// ARP found nobody at a doubted address that is on offer: now it may be taken.
    /// `false`: it is not on offer any more, because somebody was heard.
    pub(super) fn nobody_at(&mut self, ip: Ipv4Addr) -> bool {
        let doubted = self.strangers.doubted(ip);
        match self.offers.get_mut(&ip).filter(|_| doubted) {
            Some(offer) => {
                offer.nobody_there = true;
                true
            }
            None => false,
        }
    }

    /// Whether an address that another's lease holds waits for ARP's word: whoever
    /// guesses it meanwhile must not get it.
    pub(super) fn is_unasked(&self, ip: Ipv4Addr) -> bool {
        let offer = self.offers.get(&ip);
        self.strangers.doubted(ip) && offer.is_some_and(|offer| !offer.nobody_there)
    }

    pub(super) fn strangers(&self) -> &Strangers {
        &self.strangers
    }

    /// An offer that a living client would have taken by now, where nothing else
    /// is left: who floods with invented addresses blocks a pool no longer.
    fn stale_offer(&mut self, now: UnixTime) -> Option<Ipv4Addr> {
        let &(until, ip) = self.offer_ends.first()?;
        let made_long_ago = until <= now.plus(OFFER_SECONDS - OFFER_PATIENCE);
        if !made_long_ago || self.kept.contains(&ip) {
            return None;
        }
        self.withdraw(ip);
        Some(ip)
    }

    /// An address without lease and offer. The cursor passes each address once
    /// in the life of the process, so this is O(log n) over time.
    fn unused(&mut self, subnet: &Subnet) -> Option<Ipv4Addr> {
        if let Some(&ip) = self.returned.first() {
            return Some(ip);
        }
        while let Some(number) = self.next_fresh {
            self.next_fresh = number.checked_add(1).filter(|n| subnet.pool().contains(n));
            let ip = Ipv4Addr::from(number);
            if subnet.in_pool(ip) && !self.by_ip.contains_key(&ip) && !self.offers.contains_key(&ip)
            {
                // Until somebody takes it, it is one that was returned.
                self.returned.insert(ip);
                return Some(ip);
            }
        }
        None
    }

    fn longest_ended(&self, now: UnixTime) -> Option<Ipv4Addr> {
        self.ends
            .first()
            .filter(|(end, _)| *end <= now)
            .map(|&(_, ip)| ip)
    }

    /// Takes an offer back.
    pub(super) fn withdraw(&mut self, ip: Ipv4Addr) {
        let Some(offer) = self.offers.remove(&ip) else {
            return;
        };
        self.offer_ends.remove(&(offer.until, ip));
        if self.offer_of.get(&offer.key) == Some(&ip) {
            self.offer_of.remove(&offer.key);
        }
        match self.by_ip.get(&ip) {
            Some(lease) if !self.kept.contains(&ip) => {
                self.ends.insert((lease.expires_at, ip));
            }
            Some(_) => (),
            None => self.give_back(ip),
        }
    }

    /// Writes a lease; the caller has asked [`Leases::may_have`]. A lease the
    /// client had elsewhere is deleted: one client, one address.
    pub(super) fn put(&mut self, lease: Lease) -> Vec<LeaseEvent> {
        let mut events = Vec::with_capacity(1);
        for promised in [self.offered_to(&lease.key), Some(lease.ip)]
            .into_iter()
            .flatten()
        {
            self.withdraw(promised);
        }
        if lease.state == LeaseState::Bound
            && let Some(&elsewhere) = self.by_key.get(&lease.key)
            && elsewhere != lease.ip
        {
            self.forget(elsewhere);
            self.give_back(elsewhere);
            events.push(LeaseEvent::Delete(elsewhere));
        }
        events.push(LeaseEvent::Put(lease.clone()));
        self.insert(lease);
        events
    }

    /// Nobody is at a declined address any more.
    pub(super) fn drop_declined(&mut self, ip: Ipv4Addr) -> LeaseEvent {
        self.forget(ip);
        self.give_back(ip);
        LeaseEvent::Delete(ip)
    }

    fn insert(&mut self, lease: Lease) {
        self.forget(lease.ip);
        self.returned.remove(&lease.ip);
        if !self.kept.contains(&lease.ip) {
            self.ends.insert((lease.expires_at, lease.ip));
        }
        if lease.state != LeaseState::Declined && self.is_newest_of_its_key(&lease) {
            self.by_key.insert(lease.key.clone(), lease.ip);
        }
        self.by_ip.insert(lease.ip, lease);
    }

    /// Rows written by an older version or by hand may name a client twice.
    fn is_newest_of_its_key(&self, lease: &Lease) -> bool {
        self.of(&lease.key)
            .is_none_or(|known| known.expires_at <= lease.expires_at)
    }

    fn forget(&mut self, ip: Ipv4Addr) {
        self.strangers.trust(ip);
        if let Some(old) = self.by_ip.remove(&ip) {
            self.ends.remove(&(old.expires_at, ip));
            if self.by_key.get(&old.key) == Some(&ip) {
                self.by_key.remove(&old.key);
            }
        }
    }

    /// An address without lease may be promised to somebody already.
    fn give_back(&mut self, ip: Ipv4Addr) {
        if !self.offers.contains_key(&ip) && !self.kept.contains(&ip) {
            self.returned.insert(ip);
        }
    }
}
