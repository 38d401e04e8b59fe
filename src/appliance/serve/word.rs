//! The word that DHCP itself must give: a machine whose loader is a whole image
//! gets its own disk's loader instead, once there is nothing to provision, or the
//! one that says on the screen that the machine is held.

use std::path::PathBuf;
use std::sync::Arc;

use groundcrew_netboot::dhcp::{BootClient, BootWord, Loaders, MessageKind, Request};
use groundcrew_netboot::ipxe::{BootDecision, IpxeQuery};
use groundcrew_netboot::story::Asks;

use super::order;
use super::texts::{decide, why};
use crate::office::Office;
use crate::site::{Settings, Site};

/// Looks machines up for DHCP, at sites where a loader needs it.
pub struct Words {
    office: Option<Arc<Office>>,
    loaders: Loaders,
    boot: PathBuf,
}

impl Words {
    /// Asks `office` only where `site.toml` names a loader that asks nobody itself.
    pub fn new(site: &Site, settings: &Settings, office: &Arc<Office>) -> Self {
        let loaders = settings.boot.loaders(site.has_arm64());
        Self {
            office: loaders.need_word().then(|| Arc::clone(office)),
            loaders,
            boot: site.boot_dir(),
        }
    }

    /// By UUID; by hardware address where firmware tells no UUID.
    pub fn of(&self, request: &Request) -> BootWord {
        let client = BootClient::of(request);
        let boots = client != BootClient::Plain;
        let Some(office) = self.office.as_ref().filter(|_| boots) else {
            return BootWord::Agent;
        };
        let query = IpxeQuery {
            mac: Some(request.mac),
            uuid: request.uuid,
            ..IpxeQuery::default()
        };
        let decision = decide(&office.boot_state(&query));
        match order::unless_held(office, decision, &query, None, Asks::ByDhcp) {
            BootDecision::OwnDisk { .. } => BootWord::OwnDisk,
            decision @ BootDecision::Held { .. } => {
                // What it loads asks nobody, so the story is told here.
                if request.kind == MessageKind::Request {
                    office.flight().held_by_dhcp(&query, &why(&decision));
                }
                match self.is_there(&client, BootWord::Held) {
                    true => BootWord::Held,
                    // An image of an earlier version: at least its disk starts.
                    false => BootWord::OwnDisk,
                }
            }
            _ => BootWord::Agent,
        }
    }

    fn is_there(&self, client: &BootClient, word: BootWord) -> bool {
        let loader = client.arch().and_then(|arch| arch.loader);
        let file = loader.and_then(|loader| self.loaders.file(loader, word));
        file.is_some_and(|file| self.boot.join(file.as_str()).is_file())
    }
}
