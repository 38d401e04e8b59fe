//! `[stick]`: what a stick does when it is started; and the settings of a site
//! that is served from one.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use groundcrew_netboot::dhcp::Mode;
use serde::Deserialize;
use toml::Spanned;

use super::{Settings, SettingsError, at};
use crate::site::Cidr;

/// The three entries of the menu.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StickMode {
    /// Provision the machine it is plugged into, with no network.
    #[default]
    Provision,
    /// Serve the network it is plugged into.
    Appliance,
    /// Say what this machine and its network are.
    Check,
}

impl StickMode {
    /// In the menu's order.
    pub const ALL: [Self; 3] = [Self::Provision, Self::Appliance, Self::Check];

    /// As the menu shows it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Provision => "Provision this machine (no network needed)",
            Self::Appliance => "Be the appliance for the network on the cable",
            Self::Check => "Check this machine: hardware, disks, network",
        }
    }
}

impl fmt::Display for StickMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provision => "provision",
            Self::Appliance => "appliance",
            Self::Check => "check",
        })
    }
}

/// Not one of the three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing a stick does: provision, appliance or check")]
pub struct NoMode(String);

impl FromStr for StickMode {
    type Err = NoMode;

    fn from_str(text: &str) -> Result<Self, NoMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.to_string() == text);
        found.ok_or_else(|| NoMode(groundcrew_core::ids::shown(text)))
    }
}

/// `[stick]` of site.toml.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StickSettings {
    /// What the menu starts by itself.
    pub default: StickMode,
    /// After so many seconds.
    pub seconds: u16,
}

impl Default for StickSettings {
    fn default() -> Self {
        Self {
            default: StickMode::Provision,
            seconds: 10,
        }
    }
}

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
