//! Commands about addresses: the running DHCP service carries them out, or,
//! where nobody serves the site, the rows do.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_netboot::dhcp::{Known, Request};

use super::{Office, Outcome};
use crate::lan::{self, Lan, Machines};
use crate::store;
use crate::transfers::TransfersView;

impl Office {
    /// Hands over the DHCP services that run beside this office. Once.
    pub fn attach(&self, lan: Arc<Lan>) {
        // A second one would be a second service on one site: the first stays.
        let _ = self.lan.set(lan);
    }

    /// Who has this address asked for something to boot.
    pub fn seen(&self, ip: IpAddr) {
        if let (IpAddr::V4(ip), Some(lan)) = (ip, self.lan.get()) {
            lan.seen(ip);
        }
    }

    /// What the registry knows of who asks for an address.
    pub fn known(&self, request: &Request) -> Option<Known> {
        let inner = self.lock();
        let device = inner
            .registry
            .booting(None, request.uuid, Some(request.mac))?;
        let junk = inner.registry.junk();
        Some(Known {
            hostname: self.profiles.name_for(device, &self.name, junk),
        })
    }

    pub(super) fn leases(&self) -> anyhow::Result<Outcome> {
        Ok(Outcome::Leases(match self.lan.get() {
            Some(lan) => lan.leases(),
            None => lan::stored(
                &store::leases(&self.registry_file)?,
                &self.site.settings()?.networks,
            ),
        }))
    }

    pub(super) async fn release_lease(&self, ip: Ipv4Addr) -> anyhow::Result<Outcome> {
        if let Some(lan) = self.lan.get() {
            return lan.release(ip).await.map(Outcome::Done);
        }
        let place = self.writer.place()?;
        let (row, line) = lan::stored_release(store::leases(&self.registry_file)?, ip)?;
        place.write(vec![row]).done().await;
        Ok(Outcome::Done(line))
    }

    pub(super) fn net(&self) -> anyhow::Result<Outcome> {
        let lan = self.lan.get().ok_or_else(|| {
            anyhow::anyhow!("nobody serves this site at the moment: start `groundcrew serve`")
        })?;
        let mut net = lan.net();
        net.transfers = self.transfers.view();
        self.name_peers(&mut net.transfers, &lan.machines());
        Ok(Outcome::Net(Box::new(net)))
    }

    /// The hardware address and UUID of the machine that leases `ip` here.
    pub fn leased_to(&self, ip: IpAddr) -> Option<(Option<MacAddr>, Option<SmbiosUuid>)> {
        let IpAddr::V4(ip) = ip else { return None };
        let (mac, uuid) = self.lan.get()?.machine(ip)?;
        Some((Some(mac), uuid))
    }

    /// Says which machines and devices transfers go to, as far as leases tell.
    fn name_peers(&self, transfers: &mut TransfersView, machines: &Machines) {
        let inner = self.lock();
        let lists = [
            &mut transfers.running,
            &mut transfers.done,
            &mut transfers.failed,
        ];
        for transfer in lists.into_iter().flatten() {
            let IpAddr::V4(ip) = transfer.peer else {
                continue;
            };
            if let Some((mac, uuid)) = machines.get(&ip) {
                let state = inner.registry.lookup_boot(None, *uuid, Some(*mac));
                transfer.mac = Some(mac.to_string());
                transfer.device = state.device().map(ToString::to_string);
            }
        }
    }
}
