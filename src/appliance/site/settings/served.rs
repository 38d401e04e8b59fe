//! A network as the DHCP service knows it.

use groundcrew_netboot::dhcp::{Subnet, SubnetConfig, check_apart};

use super::network::Network;
use crate::site::Cidr;

/// Whether these networks can be served beside each other.
///
/// # Errors
/// What does not fit, in words for who wrote `site.toml`.
pub(super) fn check(networks: &[Network]) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for network in networks {
        let (own, relayed) = network.served()?;
        all.push(own);
        all.extend(relayed);
    }
    Ok(check_apart(&all)?)
}

impl Network {
    /// Its own subnet, then those behind relays.
    ///
    /// # Errors
    /// Values that do not fit each other, in words for who wrote `site.toml`.
    pub fn served(&self) -> anyhow::Result<(Subnet, Vec<Subnet>)> {
        let server = self.address.address;
        let reserved = |on: Cidr| {
            let mut inside = self.reservations.clone();
            inside.retain(|reservation| on.holds_host(reservation.ip));
            inside
        };
        let own = Subnet::new(SubnetConfig {
            server,
            behind_relay: None,
            prefix: self.address.prefix,
            pool_first: self.pool.first,
            pool_last: self.pool.last,
            router: self.router,
            dns: self.dns.clone(),
            ntp: self.ntp.clone(),
            search: self.search.clone(),
            domain: self.domain.clone(),
            lease_seconds: self.lease_seconds,
            reservations: reserved(self.address),
        })?;
        let relayed = self.subnets.iter().map(|subnet| {
            Subnet::new(SubnetConfig {
                server,
                behind_relay: Some(subnet.relay.address),
                prefix: subnet.relay.prefix,
                pool_first: subnet.pool.first,
                pool_last: subnet.pool.last,
                router: Some(subnet.router),
                dns: subnet.dns.clone(),
                ntp: subnet.ntp.clone(),
                search: subnet.search.clone(),
                domain: subnet.domain.clone(),
                lease_seconds: subnet.lease_seconds,
                reservations: reserved(subnet.relay),
            })
        });
        Ok((own, relayed.collect::<Result<_, _>>()?))
    }
}
