//! The word that DHCP itself must give: a machine whose loader is a whole image
//! gets its own disk's loader instead, once there is nothing to provision, or the
//! one that says on the screen that the machine is held.

use std::sync::Arc;

use groundcrew_netboot::dhcp::{BootClient, BootWord, MessageKind, Request};
use groundcrew_netboot::ipxe::{BootDecision, IpxeQuery};
use groundcrew_netboot::story::Asks;

use super::order;
use super::texts::{decide, why};
use crate::office::Office;
use crate::site::Settings;

/// Looks machines up for DHCP, at sites where a loader needs it.
pub struct Words {
    office: Option<Arc<Office>>,
}

impl Words {
    /// Asks `office` only where `site.toml` names a loader that asks nobody itself.
    pub fn new(settings: &Settings, office: &Arc<Office>) -> Self {
        let needed = settings.boot.loaders(false).need_word();
        Self {
            office: needed.then(|| Arc::clone(office)),
        }
    }

    /// By UUID; by hardware address where firmware tells no UUID.
    pub fn of(&self, request: &Request) -> BootWord {
        let boots = BootClient::of(request) != BootClient::Plain;
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
                BootWord::Held
            }
            _ => BootWord::Agent,
        }
    }
}
