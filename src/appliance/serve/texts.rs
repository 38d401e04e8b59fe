//! What a device shall boot, and the texts that say so in its loader's language.

use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_netboot::ARM64;
use groundcrew_netboot::ipxe::{
    AgentBoot, AgentFiles, BootDecision, IpxeQuery, OnFailure, ScriptSettings,
};
use groundcrew_netboot::path::BootPath;
use groundcrew_netboot::story::Order;
use groundcrew_netboot::text::{Machine, Syntax, TextRequest};
use groundcrew_registry::boot::BootState;

use super::order;
use crate::office::{Claim, Office};
use crate::site::{Network, Settings};

/// What all texts of a site have in common on one of its networks.
pub fn settings(settings: &Settings, network: &Network) -> ScriptSettings {
    ScriptSettings {
        http: SocketAddrV4::new(network.address.address, settings.ports.http),
        https_port: settings.ports.https,
        appliance: format!("groundcrew {}", env!("CARGO_PKG_VERSION")),
        site: format!("{} ({})", settings.site, settings.organisation),
        attempts: 3,
        on_failure: OnFailure::OwnDisk,
    }
}

/// A text, and the order for one boot that it carries.
pub struct Made {
    /// The text.
    pub text: String,
    order: Option<Claim>,
}

/// Makes the texts that loaders ask for by TFTP.
pub struct Texts {
    office: Arc<Office>,
    settings: ScriptSettings,
}

impl Texts {
    /// Asks `office` what devices are to do.
    pub fn new(office: Arc<Office>, settings: ScriptSettings) -> Self {
        Self { office, settings }
    }

    /// Somebody at that address took a file: it was no forged request.
    pub fn seen(&self, peer: IpAddr) {
        self.office.seen(peer);
    }

    /// The text of that name for whoever asks from `peer`; `None` where the
    /// name is an ordinary file's.
    pub fn of(&self, path: &BootPath, peer: IpAddr) -> Option<Made> {
        let request = TextRequest::of(path)?;
        let (mac, uuid) = self.machine(request.machine, peer);
        let query = IpxeQuery {
            mac,
            uuid,
            ..IpxeQuery::default()
        };
        let (decision, order) = match request.syntax {
            // The same for all: it asks by HTTP, where an order is told.
            Syntax::Ipxe => (decide(&self.office.boot_state(&query)), None),
            _ => order::by_tftp(&self.office, &query, Some(peer)),
        };
        let (told, why) = match order {
            Some(_) => (Order::Once, describe(&decision)),
            None => (told(&decision), why(&decision)),
        };
        let flight = self.office.flight();
        flight.text(&query, Some(peer), told, &why);
        let device = mac.map(|mac| mac.to_string());
        let device = device.or(uuid.map(|uuid| uuid.to_string()));
        tracing::info!(%peer, file = %path, mac = mac.map(tracing::field::display), "boot text: {}", describe(&decision));
        let device = device.unwrap_or_default();
        let text = request.text(&decision, &self.settings, &device, mac);
        Some(Made { text, order })
    }

    /// A text was taken to its last byte: the order in it is used up.
    pub async fn taken(&self, made: &Made) {
        if let Some(order) = made.order {
            self.office.claimed(order).await;
        }
    }

    /// What is known of the machine: by the name it asks for, and by its lease.
    fn machine(&self, machine: Machine, peer: IpAddr) -> (Option<MacAddr>, Option<SmbiosUuid>) {
        let lease = || self.office.leased_to(peer).unwrap_or((None, None));
        match machine {
            Machine::Mac(mac) => match lease() {
                (Some(leased), uuid) if leased == mac => (Some(mac), uuid),
                _ => (Some(mac), None),
            },
            Machine::Uuid(uuid) => (lease().0, Some(uuid)),
            Machine::Asking => lease(),
        }
    }
}

/// What a device shall boot, by what the registry knows of it.
pub fn decide(state: &BootState) -> BootDecision {
    let own_disk = |why: String| BootDecision::OwnDisk { why };
    match state {
        BootState::Provision { .. } | BootState::Unknown => agent(),
        BootState::OwnDisk {
            device,
            bundle,
            since,
        } => own_disk(format!("{device} has {bundle} since {since}")),
        BootState::Failed { device, reason, .. } => {
            own_disk(format!("{device} could not be provisioned: {reason}"))
        }
        BootState::Held { device, reason, .. } => own_disk(format!("{device} is held: {reason}")),
        BootState::Rejected { device, reason, .. } => {
            own_disk(format!("{device} was refused: {reason}"))
        }
    }
}

fn agent() -> BootDecision {
    agent_boot().map_or_else(
        || BootDecision::OwnDisk {
            why: "this appliance has no boot image".to_owned(),
        },
        BootDecision::Agent,
    )
}

/// The agent's kernel and initrd, as `image build` names them.
pub fn agent_boot() -> Option<AgentBoot> {
    Some(AgentBoot {
        files: AgentFiles::standard("")?,
        arm64: AgentFiles::standard(ARM64)?,
        args: Vec::new(),
    })
}

/// The decision, as stories tell it.
pub fn told(decision: &BootDecision) -> Order {
    match decision {
        BootDecision::Agent(_) => Order::Agent,
        BootDecision::OwnDisk { .. } => Order::OwnDisk,
        BootDecision::Hold { .. } => Order::Wait,
        BootDecision::Held { .. } => Order::Held,
        BootDecision::Menu(_) => Order::Menu,
        BootDecision::Shell | BootDecision::Memtest => Order::Once,
    }
}

/// Why, as stories tell it behind [`told`].
pub fn why(decision: &BootDecision) -> String {
    match decision {
        BootDecision::OwnDisk { why } => why.clone(),
        other => describe(other),
    }
}

/// The decision in a word, for the log.
pub fn describe(decision: &BootDecision) -> String {
    match decision {
        BootDecision::Agent(_) => "load the agent".to_owned(),
        BootDecision::OwnDisk { why } => format!("own disk ({why})"),
        BootDecision::Hold { message, .. } => format!("hold ({message})"),
        BootDecision::Held { lines, .. } => {
            lines.iter().take(2).cloned().collect::<Vec<_>>().join(" ")
        }
        BootDecision::Menu(menu) => format!("a menu, else {}", describe(&menu.default)),
        BootDecision::Shell => "the shell of iPXE".to_owned(),
        BootDecision::Memtest => "the memory test".to_owned(),
    }
}
