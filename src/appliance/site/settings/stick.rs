//! `[stick]`, and the settings of a site that is served from one.

use std::net::Ipv4Addr;

use groundcrew_netboot::dhcp::Mode;
use toml::Spanned;

use super::{Settings, SettingsError, at};
use crate::site::Cidr;
use crate::stick::StickSettings;

/// A menu that nobody can read in time helps nobody.
pub(super) fn check(
    file: &str,
    text: &str,
    stick: Spanned<StickSettings>,
) -> Result<StickSettings, SettingsError> {
    let span = stick.span();
    let stick = stick.into_inner();
    if stick.seconds > 600 {
        let message = "the menu waits ten minutes at most: write `seconds` as 0 to 600";
        return Err(at(file, text, span, message));
    }
    Ok(stick)
}

/// Where the table is left out.
pub(super) fn unwritten() -> Spanned<StickSettings> {
    Spanned::new(0..0, StickSettings::default())
}

impl Settings {
    /// For a machine that provisions itself: reachable from nowhere else.
    pub fn on_loopback(mut self) -> Self {
        let address = Cidr {
            address: Ipv4Addr::LOCALHOST,
            prefix: 8,
        };
        self.sntp = false;
        self.moved_to("lo", address, Mode::Off)
    }

    /// For a stick on a network that it finds. What holds for another network
    /// than the first one of site.toml is left out.
    pub fn on_network(self, interface: &str, address: Cidr, leased: bool) -> Self {
        let mode = Mode::Auto {
            serve_if_alone: !leased,
        };
        self.moved_to(interface, address, mode)
    }

    fn moved_to(mut self, interface: &str, address: Cidr, mode: Mode) -> Self {
        self.networks.truncate(1);
        for network in &mut self.networks {
            interface.clone_into(&mut network.interface);
            network.mode = mode;
            if network.address != address {
                network.pool = address.default_pool();
                network.router = None;
                network.subnets.clear();
                network.reservations.clear();
                network.address = address;
            }
        }
        self
    }
}
