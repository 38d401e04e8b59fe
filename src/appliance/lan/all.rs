//! All networks of a site together: what commands ask and order.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_netboot::dhcp::{Lease, LeaseState};

use super::{Desk, LeaseView, Machines, NetView, view};
use crate::site::Network;
use crate::store::Change;
use crate::transfers::TransfersView;

/// The DHCP services of a site, one for each network.
pub struct Lan {
    desks: Vec<Arc<Desk>>,
}

impl Lan {
    /// The services, in the order of `site.toml`.
    pub fn new(desks: Vec<Arc<Desk>>) -> Self {
        Self { desks }
    }

    /// Every lease, by address.
    pub fn leases(&self) -> Vec<LeaseView> {
        let now = crate::clock::read();
        let leases = self.desks.iter().flat_map(|desk| desk.leases(now));
        view::by_address(leases)
    }

    /// Takes a lease away, durably.
    pub async fn release(&self, ip: Ipv4Addr) -> anyhow::Result<String> {
        for desk in &self.desks {
            if let Some(commit) = desk.release(ip)? {
                commit.done().await;
                return Ok(released(ip));
            }
        }
        anyhow::bail!(no_lease(ip))
    }

    /// The machine that holds `ip` at this moment.
    pub fn machine(&self, ip: Ipv4Addr) -> Option<(MacAddr, Option<SmbiosUuid>)> {
        let now = crate::clock::read();
        self.desks.iter().find_map(|desk| desk.machine(ip, now))
    }

    /// The machines that hold addresses at this moment.
    pub fn machines(&self) -> Machines {
        let now = crate::clock::read();
        let all = self.desks.iter().flat_map(|desk| desk.machines(now));
        all.collect()
    }

    /// The networks as this appliance sees them.
    pub fn net(&self) -> NetView {
        NetView {
            interfaces: self.desks.iter().map(|desk| desk.view()).collect(),
            transfers: TransfersView::default(),
        }
    }

    /// Who has this address asked for something to boot.
    pub fn seen(&self, ip: Ipv4Addr) {
        for desk in &self.desks {
            desk.seen(ip);
        }
    }
}

/// The leases of a site that nobody serves.
pub fn stored(leases: &[Lease], networks: &[Network]) -> Vec<LeaseView> {
    let now = crate::clock::read();
    let of = |lease: &Lease| networks.iter().find(|network| network.holds(lease.ip));
    view::by_address(leases.iter().map(|lease| {
        let interface = of(lease).map(|network| network.interface.as_str());
        view::lease(lease, interface, now)
    }))
}

/// The row that takes a lease away from a site that nobody serves.
pub fn stored_release(leases: Vec<Lease>, ip: Ipv4Addr) -> anyhow::Result<(Change, String)> {
    let lease = leases.into_iter().find(|lease| lease.ip == ip);
    let lease = lease.with_context(|| no_lease(ip))?;
    let row = Lease {
        state: LeaseState::Released,
        expires_at: crate::clock::read(),
        ..lease
    };
    Ok((Change::PutLease(row), released(ip)))
}

fn no_lease(ip: Ipv4Addr) -> String {
    format!("{ip} is leased to nobody; `groundcrew lease list` shows the leases")
}

fn released(ip: Ipv4Addr) -> String {
    format!("{ip} is free; the device that had it moves when it next asks")
}
