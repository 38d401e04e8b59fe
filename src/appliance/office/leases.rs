//! Commands about addresses: the running DHCP service carries them out, or,
//! where nobody serves the site, the rows do.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::{Office, Outcome};
use crate::lan::{self, Desk, Machines};
use crate::store;
use crate::transfers::TransfersView;

impl Office {
    /// Hands over the DHCP service that runs beside this office. Once.
    pub fn attach(&self, desk: Arc<Desk>) {
        // A second one would be a second service on one site: the first stays.
        let _ = self.desk.set(desk);
    }

    pub(super) fn leases(&self) -> anyhow::Result<Outcome> {
        Ok(Outcome::Leases(match self.desk.get() {
            Some(desk) => desk.leases(),
            None => lan::stored(&store::leases(&self.registry_file)?),
        }))
    }

    pub(super) async fn release_lease(&self, ip: Ipv4Addr) -> anyhow::Result<Outcome> {
        if let Some(desk) = self.desk.get() {
            return desk.release(ip).await.map(Outcome::Done);
        }
        let place = self.writer.place()?;
        let (row, line) = lan::stored_release(store::leases(&self.registry_file)?, ip)?;
        place.write(vec![row]).done().await;
        Ok(Outcome::Done(line))
    }

    pub(super) fn net(&self) -> anyhow::Result<Outcome> {
        let desk = self.desk.get().ok_or_else(|| {
            anyhow::anyhow!("nobody serves this site at the moment: start `groundcrew serve`")
        })?;
        let mut net = desk.net();
        net.transfers = self.transfers.view();
        self.name_peers(&mut net.transfers, &desk.machines());
        Ok(Outcome::Net(Box::new(net)))
    }

    /// The hardware address and UUID of the machine that leases `ip` here.
    pub fn leased_to(&self, ip: IpAddr) -> Option<(Option<MacAddr>, Option<SmbiosUuid>)> {
        let IpAddr::V4(ip) = ip else { return None };
        let (mac, uuid) = self.desk.get()?.machine(ip)?;
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
