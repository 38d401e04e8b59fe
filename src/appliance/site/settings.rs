//! `site.toml`: the raw file, and the checked [`Settings`] made of it once.
//! Mistakes are shown with file, line and caret. Nothing here looks at the
//! machine: `groundcrew check` does.

mod dhcp;
mod trust;

use std::net::Ipv4Addr;

use groundcrew_core::SiteId;
use groundcrew_core::toml_error;
use groundcrew_netboot::dhcp::{Mode, Reservation};
use groundcrew_registry::profile::{Profile, ProfileError, Profiles};
use groundcrew_registry::rules::{Rule, Rules};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{Cidr, Pool};
use crate::stick::StickSettings;
pub use dhcp::RelayedSubnet;
use dhcp::{RawMode, RawReservation, RawSubnet, check_mode, relayed_subnets, reservations};
pub use trust::Staleness;

/// What `site.toml` says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The site's short name.
    pub site: SiteId,
    /// The organisation, as devices show it.
    pub organisation: String,
    /// The interface on the devices' network.
    pub interface: String,
    /// The appliance's address there.
    pub address: Cidr,
    /// What DHCP hands out.
    pub dhcp: Dhcp,
    /// Where services listen.
    pub ports: Ports,
    /// What groups of devices get.
    pub profiles: Profiles,
    /// Whether devices get the time from here.
    pub sntp: bool,
    /// How long the site may be without HQ.
    pub staleness: Staleness,
    /// Which unknown devices are let in without a technician.
    pub rules: Rules,
    /// What a stick of this site does when it is started.
    pub stick: StickSettings,
}

impl Settings {
    /// For a machine that provisions itself: reachable from nowhere else.
    pub fn on_loopback(mut self) -> Self {
        let address = Cidr {
            address: Ipv4Addr::LOCALHOST,
            prefix: 8,
        };
        self.sntp = false;
        self.dhcp.mode = Mode::Off;
        self.moved_to("lo", address)
    }

    /// For a stick on a network that it finds. What holds for another network
    /// than the one in site.toml is left out.
    pub fn on_network(mut self, interface: &str, address: Cidr, leased: bool) -> Self {
        self.dhcp.mode = Mode::Auto {
            serve_if_alone: !leased,
        };
        self.moved_to(interface, address)
    }

    fn moved_to(mut self, interface: &str, address: Cidr) -> Self {
        interface.clone_into(&mut self.interface);
        if self.address != address {
            self.dhcp.pool = address.default_pool();
            self.dhcp.router = None;
            self.dhcp.subnets.clear();
            self.dhcp.reservations.clear();
            self.address = address;
        }
        self
    }
}

/// What DHCP hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp {
    /// Who gives the addresses.
    pub mode: Mode,
    /// Ask by ARP whether an address is in use before it is offered.
    pub conflict_probe: bool,
    /// Addresses for devices.
    pub pool: Pool,
    /// How long an address is lent, in seconds.
    pub lease_seconds: u32,
    /// Default router, where devices have one.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain of host names.
    pub domain: Option<String>,
    /// Domains that short names are looked up in.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Networks behind relays.
    pub subnets: Vec<RelayedSubnet>,
    /// Addresses kept for devices, on whichever of the networks they lie.
    pub reservations: Vec<Reservation>,
}

/// Where services listen, on the site's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// TFTP, UDP.
    pub tftp: u16,
    /// Boot files, bundles and TUF metadata, TCP.
    pub http: u16,
    /// Enrollment, TCP.
    pub https: u16,
    /// The time, UDP.
    pub sntp: u16,
}

/// A mistake in `site.toml`, ready to be shown: file, line, caret, and what
/// would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

fn at(file: &str, text: &str, span: std::ops::Range<usize>, message: &str) -> SettingsError {
    SettingsError(toml_error::at(file, text, Some(span), message))
}

/// Reads and checks the text of a `site.toml`; `file` is its name in errors.
pub fn parse(file: &str, text: &str) -> Result<Settings, SettingsError> {
    let raw: Raw = toml::from_str(text)
        .map_err(|error| SettingsError(toml_error::explain(file, text, &error, &[])))?;
    let wrong = |span, message: String, help: &str| {
        Err(at(file, text, span, &format!("{message}; {help}")))
    };
    let mode = check_mode(file, text, &raw.dhcp)?;
    let network = raw.network.address;
    let pool = match &raw.dhcp.pool {
        None => network.default_pool(),
        Some(pool) => {
            let (span, pool) = (pool.span(), *pool.get_ref());
            if !network.holds_host(pool.first) || !network.holds_host(pool.last) {
                let help = format!("write one such as {}", network.default_pool());
                return wrong(
                    span,
                    format!("the pool {pool} is not inside the network of {network}"),
                    &help,
                );
            }
            if pool.contains(network.address) {
                let help = format!("write one such as {}", network.default_pool());
                return wrong(
                    span,
                    format!(
                        "the pool holds the appliance's own address {}",
                        network.address
                    ),
                    &help,
                );
            }
            pool
        }
    };
    if let Some(router) = &raw.dhcp.router
        && !network.holds_host(*router.get_ref())
    {
        let message = format!(
            "the router {} is not in the network of {network}",
            router.get_ref()
        );
        return wrong(
            router.span(),
            message,
            "devices could not reach it: leave it out where there is none",
        );
    }
    let subnets = relayed_subnets(file, text, &raw.dhcp)?;
    let reservations = reservations(file, text, &raw.dhcp, network, &subnets)?;
    let interface = raw.network.interface.get_ref();
    if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']) {
        let message = format!("`{interface}` cannot be an interface's name");
        return wrong(
            raw.network.interface.span(),
            message,
            "`ip link` lists them",
        );
    }
    check_ports(file, text, &raw.ports)?;
    let profiles = check_profiles(file, text, raw.profile)?;
    let rules = check_rules(file, text, raw.enrollment.rule)?;
    let settings = Settings {
        site: raw.site.name,
        organisation: raw.site.organisation,
        interface: raw.network.interface.into_inner(),
        address: network,
        dhcp: Dhcp {
            mode,
            conflict_probe: raw.dhcp.conflict_probe.unwrap_or(true),
            pool,
            lease_seconds: raw.dhcp.lease.0,
            router: raw.dhcp.router.map(Spanned::into_inner),
            dns: raw.dhcp.dns,
            domain: raw.dhcp.domain,
            search: raw.dhcp.search,
            ntp: raw.dhcp.ntp,
            subnets,
            reservations,
        },
        ports: Ports {
            tftp: raw.ports.tftp.into_inner(),
            http: raw.ports.http.into_inner(),
            https: raw.ports.https.into_inner(),
            sntp: raw.ports.sntp.into_inner(),
        },
        sntp: raw.time.sntp,
        staleness: raw.trust.checked(file, text)?,
        profiles,
        rules,
        stick: check_stick(file, text, raw.stick)?,
    };
    // What only shows when everything is put together: overlaps, doubles.
    crate::lan::networks(&settings)
        .map_err(|error| SettingsError(toml_error::at(file, text, None, &error.to_string())))?;
    Ok(settings)
}

fn check_ports(file: &str, text: &str, ports: &RawPorts) -> Result<(), SettingsError> {
    for port in [&ports.tftp, &ports.http, &ports.https, &ports.sntp] {
        if *port.get_ref() == 0 {
            return Err(at(
                file,
                text,
                port.span(),
                "port 0 is nobody's: use 1 to 65535",
            ));
        }
    }
    if ports.http.get_ref() == ports.https.get_ref() {
        let message = "HTTP and HTTPS cannot share a port: use another one, such as 443";
        return Err(at(file, text, ports.https.span(), message));
    }
    Ok(())
}

/// A menu that nobody can read in time helps nobody.
fn check_stick(
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

/// Two profiles that take the same device are shown at the second one.
fn check_profiles(
    file: &str,
    text: &str,
    profiles: Vec<Spanned<Profile>>,
) -> Result<Profiles, SettingsError> {
    let spans: Vec<_> = profiles
        .iter()
        .map(|p| (p.get_ref().name.clone(), p.span()))
        .collect();
    Profiles::new(profiles.into_iter().map(Spanned::into_inner).collect()).map_err(|error| {
        let culprit = match &error {
            ProfileError::Name(name)
            | ProfileError::Tie { second: name, .. }
            | ProfileError::Length { profile: name, .. } => name,
        };
        let span = spans
            .iter()
            .rev()
            .find(|(name, _)| name == culprit)
            .map_or(0..0, |(_, span)| span.clone());
        at(file, text, span, &error.to_string())
    })
}

/// A rule that makes no sense is shown where it stands.
fn check_rules(file: &str, text: &str, rules: Vec<Spanned<Rule>>) -> Result<Rules, SettingsError> {
    let spans: Vec<_> = rules
        .iter()
        .map(|r| (r.get_ref().name.clone(), r.span()))
        .collect();
    Rules::new(rules.into_iter().map(Spanned::into_inner).collect()).map_err(|error| {
        let span = spans.iter().rev().find(|(name, _)| name == error.rule());
        at(
            file,
            text,
            span.map_or(0..0, |(_, span)| span.clone()),
            &error.to_string(),
        )
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawEnrollment {
    rule: Vec<Spanned<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    site: RawSite,
    network: RawNetwork,
    #[serde(default)]
    dhcp: RawDhcp,
    #[serde(default)]
    ports: RawPorts,
    #[serde(default)]
    time: trust::RawTime,
    #[serde(default)]
    trust: trust::RawTrust,
    #[serde(default)]
    profile: Vec<Spanned<Profile>>,
    #[serde(default)]
    enrollment: RawEnrollment,
    #[serde(default = "no_stick")]
    stick: Spanned<StickSettings>,
}

fn no_stick() -> Spanned<StickSettings> {
    Spanned::new(0..0, StickSettings::default())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSite {
    name: SiteId,
    organisation: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    interface: Spanned<String>,
    #[serde(deserialize_with = "from_text")]
    address: Cidr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDhcp {
    mode: RawMode,
    conflict_probe: Option<bool>,
    serve_if_alone: Option<Spanned<bool>>,
    #[serde(deserialize_with = "from_text_spanned")]
    pool: Option<Spanned<Pool>>,
    lease: Lease,
    router: Option<Spanned<Ipv4Addr>>,
    dns: Vec<Ipv4Addr>,
    domain: Option<String>,
    search: Vec<String>,
    ntp: Vec<Ipv4Addr>,
    subnet: Vec<RawSubnet>,
    reservation: Vec<RawReservation>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPorts {
    tftp: Spanned<u16>,
    http: Spanned<u16>,
    https: Spanned<u16>,
    sntp: Spanned<u16>,
}

impl Default for RawPorts {
    fn default() -> Self {
        let port = |port| Spanned::new(0..0, port);
        Self {
            tftp: port(69),
            http: port(80),
            https: port(443),
            sntp: port(123),
        }
    }
}

/// A lease time: a number and `s`, `m`, `h` or `d`; two minutes to a week.
#[derive(Clone, Copy, Debug)]
struct Lease(u32);

impl Default for Lease {
    fn default() -> Self {
        Self(3600)
    }
}

impl std::str::FromStr for Lease {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => 0,
        };
        match number
            .parse::<u32>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
        {
            Some(seconds) if (120..=604_800).contains(&seconds) => Ok(Self(seconds)),
            Some(_) if factor > 0 => {
                Err(format!("a lease of {text} is out of bounds: use 2m to 7d"))
            }
            _ => Err(format!(
                "`{}` is not a lease time: write it as 30m, 1h or 2d",
                groundcrew_core::ids::shown(text)
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Lease {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

fn from_text_spanned<'de, D, T>(deserializer: D) -> Result<Option<Spanned<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = Spanned::<String>::deserialize(deserializer)?;
    let pool = text.get_ref().parse().map_err(serde::de::Error::custom)?;
    Ok(Some(Spanned::new(text.span(), pool)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../../config/site.toml");

    fn error(change: impl Fn(&str) -> String) -> String {
        let changed = change(SAMPLE);
        assert_ne!(
            changed, SAMPLE,
            "the sample no longer has what this test changes"
        );
        parse("site.toml", &changed).unwrap_err().to_string()
    }

    #[test]
    fn the_sample_is_valid() {
        let settings = parse("site.toml", SAMPLE).unwrap();
        assert_eq!(settings.address.to_string(), "10.77.0.1/24");
        assert_eq!(settings.profiles.iter().len(), 1);
        assert_eq!(settings.dhcp.lease_seconds, 3600);
    }

    #[test]
    fn a_bogus_key_in_any_table_is_refused() {
        let headers: Vec<&str> = SAMPLE
            .lines()
            .filter(|line| line.starts_with('['))
            .collect();
        assert!(headers.len() >= 5, "{headers:?}");
        for header in headers.iter().filter(|h| !h.contains("variables")) {
            let text = error(|s| s.replacen(header, &format!("{header}\nbogus = 1"), 1));
            assert!(text.contains("unknown key `bogus`"), "{header}: {text}");
        }
    }

    #[test]
    fn a_typo_gets_the_nearest_key() {
        let text = error(|s| s.replacen("interface =", "interfase =", 1));
        assert!(text.contains("did you mean `interface`?"), "{text}");
    }

    #[test]
    fn values_that_cannot_work_together_are_pointed_at() {
        let pool = |value: &str| {
            error(|s| {
                s.replacen(
                    "pool = \"10.77.0.128-10.77.0.254\"",
                    &format!("pool = \"{value}\""),
                    1,
                )
            })
        };
        assert!(pool("10.78.0.1-10.78.0.9").contains("not inside the network"));
        assert!(pool("10.77.0.1-10.77.0.9").contains("appliance's own address"));
        assert!(pool("10.77.0.9-10.77.0.2").contains("swap the two"));
        assert!(
            error(|s| s.replacen("lease = \"1h\"", "lease = \"1w\"", 1)).contains("30m, 1h or 2d")
        );
        assert!(error(|s| s.replacen("https = 443", "https = 80", 1)).contains("cannot share"));
        let twice = error(|s| {
            format!("{s}\n[[profile]]\nname = \"other\"\nbundle = \"welcome\"\ndefault = true\n")
        });
        let rule = error(|s| format!("{s}\n[[enrollment.rule]]\nname = \"any\"\nat-most = 0\n"));
        assert!(rule.contains("lets nobody in"), "{rule}");
        let rule = error(|s| format!("{s}\n[[enrollment.rule]]\nname = \"any\"\n"));
        assert!(rule.contains("at-most"), "{rule}");
        assert!(
            twice.contains("`standard` and `other` both take every other device"),
            "{twice}"
        );
    }
}
