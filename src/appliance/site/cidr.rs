//! IPv4 networks and address pools, checked when parsed.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An address and the length of its network's prefix, such as `10.77.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The host's own address.
    pub address: Ipv4Addr,
    /// Prefix length, 8 to 30: smaller networks have no room for a device.
    pub prefix: u8,
}

impl Cidr {
    /// The network mask.
    pub const fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.prefix))
    }

    /// The first address: the network's own.
    pub const fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask().to_bits())
    }

    /// The last address: the broadcast address.
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask().to_bits())
    }

    /// Whether a host of this network may have `address`.
    pub fn holds_host(self, address: Ipv4Addr) -> bool {
        address > self.network() && address < self.broadcast()
    }

    /// A pool for devices: the upper half of the network (at most 4096
    /// addresses), on whichever side of the appliance's own address has more room.
    pub fn default_pool(self) -> Pool {
        let (low, own, high) = (
            self.network().to_bits(),
            self.address.to_bits(),
            self.broadcast().to_bits(),
        );
        let (first, last) = if high - own > own - low {
            (own + 1, high - 1)
        } else {
            (low + 1, own - 1)
        };
        let middle = low + (high - low).div_ceil(2);
        let first = if (first..=last).contains(&middle) {
            middle
        } else {
            first
        };
        let last = last.min(first + 4095);
        Pool {
            first: Ipv4Addr::from_bits(first),
            last: Ipv4Addr::from_bits(last),
        }
    }
}

/// Text that is not a [`Cidr`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    /// Not `A.B.C.D/N`.
    #[error("`{0}` is not an address with a prefix length: it looks like 10.77.0.1/24")]
    Form(String),
    /// A prefix that no site can use.
    #[error("a prefix of /{0} does not fit a site's network: use /8 to /30")]
    Prefix(u8),
    /// The network or broadcast address.
    #[error(
        "{0} is the network's own or its broadcast address: give the appliance one between them"
    )]
    NotAHost(Ipv4Addr),
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || CidrError::Form(groundcrew_core::ids::shown(text));
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        if !(8..=30).contains(&prefix) {
            return Err(CidrError::Prefix(prefix));
        }
        let cidr = Self { address, prefix };
        if cidr.holds_host(address) {
            Ok(cidr)
        } else {
            Err(CidrError::NotAHost(address))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A range of addresses, both ends included, such as `10.77.0.100-10.77.0.200`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The lowest address.
    pub first: Ipv4Addr,
    /// The highest address.
    pub last: Ipv4Addr,
}

impl Pool {
    /// How many addresses.
    pub const fn len(self) -> u32 {
        self.last.to_bits() - self.first.to_bits() + 1
    }

    /// Never: a pool has at least one address.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether `address` is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

/// Text that is not a [`Pool`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PoolError {
    /// Not `A.B.C.D-E.F.G.H`.
    #[error("`{0}` is not a range of addresses: it looks like 10.77.0.100-10.77.0.200")]
    Form(String),
    /// The ends are swapped.
    #[error("the pool ends at {1}, before it starts at {0}: swap the two")]
    Backwards(Ipv4Addr, Ipv4Addr),
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || PoolError::Form(groundcrew_core::ids::shown(text));
        let (first, last) = text.split_once('-').ok_or_else(form)?;
        let end = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| form());
        let (first, last) = (end(first)?, end(last)?);
        if first > last {
            Err(PoolError::Backwards(first, last))
        } else {
            Ok(Self { first, last })
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_networks_and_says_what_is_wrong() {
        let cidr: Cidr = "10.77.0.1/24".parse().unwrap();
        assert_eq!(cidr.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(cidr.default_pool().to_string(), "10.77.0.128-10.77.0.254");
        assert_eq!(
            "10.77.0.0/24".parse::<Cidr>(),
            Err(CidrError::NotAHost(cidr.network()))
        );
        assert_eq!("10.77.0.1/31".parse::<Cidr>(), Err(CidrError::Prefix(31)));
        assert!(matches!(
            "10.77.0.1".parse::<Cidr>(),
            Err(CidrError::Form(_))
        ));
        assert!(matches!(
            "10.0.0.9-10.0.0.1".parse::<Pool>(),
            Err(PoolError::Backwards(..))
        ));
    }

    proptest! {
        #[test]
        fn the_default_pool_is_hosts_and_not_us(bits: u32, prefix in 8u8..=30) {
            let cidr = Cidr { address: Ipv4Addr::from_bits(bits), prefix };
            prop_assume!(cidr.holds_host(cidr.address));
            let pool = cidr.default_pool();
            prop_assert!(pool.first <= pool.last);
            prop_assert!(cidr.holds_host(pool.first) && cidr.holds_host(pool.last));
            prop_assert!(!pool.contains(cidr.address));
        }
    }
}
