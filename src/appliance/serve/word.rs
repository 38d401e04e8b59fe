//! The word that DHCP itself must give: a machine whose loader is a whole image
//! gets its own disk's loader instead, once there is nothing to provision, or the
//! one that says on the screen that the machine is held.

use std::path::PathBuf;
use std::sync::Arc;

use groundcrew_netboot::dhcp::{BootClient, BootWord, Loaders, MessageKind, Request};
use groundcrew_netboot::ipxe::{BootDecision, IpxeQuery};
use groundcrew_netboot::story::Order;

use super::order;
use super::texts::{describe, why};
use crate::office::{Claim, Office};
use crate::site::{Settings, Site};

/// Looks machines up for DHCP, where their loader needs it.
pub struct Words {
    office: Arc<Office>,
    loaders: Loaders,
    boot: PathBuf,
}

impl Words {
    /// Asks `office` only of machines whose loader asks nobody itself.
    pub fn new(site: &Site, settings: &Settings, office: &Arc<Office>) -> Self {
        Self {
            office: Arc::clone(office),
            loaders: settings.boot.loaders(site.has_arm64()),
            boot: site.boot_dir(),
        }
    }

    /// By UUID; by hardware address where firmware tells no UUID. With an order for
    /// one boot, which is used up once the client knows: [`Words::told`].
    pub fn of(&self, request: &Request) -> (BootWord, Option<Claim>) {
        let client = BootClient::of(request);
        if !self.loaders.tells(&client) {
            return (BootWord::Agent, None);
        }
        let office = &self.office;
        let query = IpxeQuery {
            mac: Some(request.mac),
            uuid: request.uuid,
            ..IpxeQuery::default()
        };
        let (decision, order) = order::by_dhcp(office, &query);
        // What it loads asks nobody, so the story is told here.
        if request.kind == MessageKind::Request {
            let flight = office.flight();
            match (&decision, order) {
                (_, Some(_)) => flight.told_by_dhcp(&query, Order::Once, &describe(&decision)),
                (BootDecision::Held { .. }, None) => {
                    flight.told_by_dhcp(&query, Order::Held, &why(&decision));
                }
                _ => {}
            }
        }
        let word = match decision {
            BootDecision::OwnDisk { .. } => BootWord::OwnDisk,
            // An image of an earlier version cannot tell it: at least its disk starts.
            BootDecision::Held { .. } if !self.is_there(&client, BootWord::Held) => {
                BootWord::OwnDisk
            }
            BootDecision::Held { .. } => BootWord::Held,
            _ => BootWord::Agent,
        };
        (word, order)
    }

    /// The client was told: its order is used up.
    pub fn told(&self, order: Claim) {
        let office = Arc::clone(&self.office);
        tokio::spawn(async move { office.claimed(order).await });
    }

    fn is_there(&self, client: &BootClient, word: BootWord) -> bool {
        let loader = client.arch().and_then(|arch| arch.loader);
        let file = loader.and_then(|loader| self.loaders.file(loader, word));
        file.is_some_and(|file| self.boot.join(file.as_str()).is_file())
    }
}
