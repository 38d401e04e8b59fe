//! Commands about addresses: the running DHCP service carries them out, or,
//! where nobody serves the site, the rows do.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Office, Outcome};
use crate::lan::{self, Desk};
use crate::store;

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
        Ok(Outcome::Net(Box::new(desk.net())))
    }
}
