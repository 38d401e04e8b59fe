//! What a stick does when it is started, and what `[stick]` in site.toml says
//! about that.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// The three entries of the menu.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Provision the machine it is plugged into, with no network.
    #[default]
    Provision,
    /// Serve the network it is plugged into.
    Appliance,
    /// Say what this machine and its network are.
    Check,
}

impl Mode {
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

impl fmt::Display for Mode {
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

impl FromStr for Mode {
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
    pub default: Mode,
    /// After so many seconds.
    pub seconds: u16,
}

impl Default for StickSettings {
    fn default() -> Self {
        Self {
            default: Mode::Provision,
            seconds: 10,
        }
    }
}
