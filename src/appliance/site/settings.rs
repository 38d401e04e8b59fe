//! `site.toml`: the raw file, and the checked [`Settings`] made of it once.
//! Mistakes are shown with file, line and caret. Nothing here looks at the
//! machine: `groundcrew check` does.

use std::net::Ipv4Addr;

use groundcrew_core::SiteId;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_core::toml_error;
use groundcrew_netboot::dhcp::{Mode, Reservation, Who};
use groundcrew_registry::profile::{Profile, ProfileError, Profiles};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{Cidr, Pool};

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
}

/// What DHCP hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp {
    /// Who gives the addresses.
    pub mode: Mode,
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

/// A network that a relay brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayedSubnet {
    /// The relay's address there.
    pub relay: Cidr,
    /// Addresses for devices.
    pub pool: Pool,
    /// How long an address is lent, in seconds.
    pub lease_seconds: u32,
    /// Default router: the relay, where nothing else is written.
    pub router: Ipv4Addr,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain of host names.
    pub domain: Option<String>,
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
    let settings = Settings {
        site: raw.site.name,
        organisation: raw.site.organisation,
        interface: raw.network.interface.into_inner(),
        address: network,
        dhcp: Dhcp {
            mode,
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
        },
        profiles,
    };
    // What only shows when everything is put together: overlaps, doubles.
    crate::lan::networks(&settings)
        .map_err(|error| SettingsError(toml_error::at(file, text, None, &error.to_string())))?;
    Ok(settings)
}

fn relayed_subnets(
    file: &str,
    text: &str,
    dhcp: &RawDhcp,
) -> Result<Vec<RelayedSubnet>, SettingsError> {
    let checked = |raw: &RawSubnet| {
        let relay = raw.relay;
        let pool = match &raw.pool {
            None => relay.default_pool(),
            Some(pool) => {
                let (span, pool) = (pool.span(), *pool.get_ref());
                if !relay.holds_host(pool.first) || !relay.holds_host(pool.last) {
                    let message = format!(
                        "the pool {pool} is not inside the network of the relay {relay}; write one such as {}",
                        relay.default_pool()
                    );
                    return Err(at(file, text, span, &message));
                }
                pool
            }
        };
        Ok(RelayedSubnet {
            relay,
            pool,
            lease_seconds: raw.lease.unwrap_or(dhcp.lease).0,
            router: raw.router.unwrap_or(relay.address),
            dns: raw.dns.clone().unwrap_or_else(|| dhcp.dns.clone()),
            domain: raw.domain.clone().or_else(|| dhcp.domain.clone()),
        })
    };
    dhcp.subnet.iter().map(checked).collect()
}

fn reservations(
    file: &str,
    text: &str,
    dhcp: &RawDhcp,
    own: Cidr,
    subnets: &[RelayedSubnet],
) -> Result<Vec<Reservation>, SettingsError> {
    let checked = |raw: &RawReservation| {
        let ip = *raw.address.get_ref();
        let wrong = |message: &str| Err(at(file, text, raw.address.span(), message));
        if !own.holds_host(ip) && !subnets.iter().any(|subnet| subnet.relay.holds_host(ip)) {
            return wrong(&format!(
                "{ip} is on none of the networks served; reserve an address of {own} or of a [[dhcp.subnet]]"
            ));
        }
        let id = match raw.client_id.as_deref().map(client_id) {
            Some(None) => {
                return wrong("a `client_id` is written in hex, 2 to 255 bytes: ff00a1b2");
            }
            Some(Some(id)) => Some(id),
            None => None,
        };
        let names = [
            raw.mac.map(Who::Mac),
            id.map(Who::Id),
            raw.uuid.map(Who::Uuid),
        ];
        let mut names = names.into_iter().flatten();
        match (names.next(), names.next()) {
            (Some(who), None) => Ok(Reservation { ip, who }),
            _ => wrong("say for whom: one of `mac`, `client_id` and `uuid`"),
        }
    };
    dhcp.reservation.iter().map(checked).collect()
}

fn client_id(text: &str) -> Option<Vec<u8>> {
    let id = data_encoding::HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .ok()?;
    (2..=255).contains(&id.len()).then_some(id)
}

/// `auto` takes a network over only by two written words: a pool, and the will.
fn check_mode(file: &str, text: &str, dhcp: &RawDhcp) -> Result<Mode, SettingsError> {
    let wish = dhcp.serve_if_alone.as_ref();
    let serve_if_alone = wish.is_some_and(|wish| *wish.get_ref());
    if let Some(wish) = wish.filter(|wish| *wish.get_ref()) {
        let message = match dhcp.mode {
            RawMode::Auto if dhcp.pool.is_some() => None,
            RawMode::Auto => {
                Some("`serve_if_alone` needs a pool to give addresses from: write `pool`")
            }
            _ => Some("`serve_if_alone` goes with `mode = \"auto\"`: leave one of the two out"),
        };
        if let Some(message) = message {
            return Err(at(file, text, wish.span(), message));
        }
    }
    Ok(match dhcp.mode {
        RawMode::Authoritative => Mode::Authoritative,
        RawMode::Proxy => Mode::Proxy,
        RawMode::Auto => Mode::Auto { serve_if_alone },
        RawMode::Off => Mode::Off,
    })
}

fn check_ports(file: &str, text: &str, ports: &RawPorts) -> Result<(), SettingsError> {
    for port in [&ports.tftp, &ports.http, &ports.https] {
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
    profile: Vec<Spanned<Profile>>,
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
#[serde(deny_unknown_fields)]
struct RawSubnet {
    #[serde(deserialize_with = "from_text")]
    relay: Cidr,
    #[serde(default, deserialize_with = "from_text_spanned")]
    pool: Option<Spanned<Pool>>,
    lease: Option<Lease>,
    router: Option<Ipv4Addr>,
    dns: Option<Vec<Ipv4Addr>>,
    domain: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReservation {
    address: Spanned<Ipv4Addr>,
    mac: Option<MacAddr>,
    client_id: Option<String>,
    uuid: Option<SmbiosUuid>,
}

/// Without a word about it nobody's network is disturbed: `auto`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawMode {
    Authoritative,
    Proxy,
    #[default]
    Auto,
    Off,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPorts {
    tftp: Spanned<u16>,
    http: Spanned<u16>,
    https: Spanned<u16>,
}

impl Default for RawPorts {
    fn default() -> Self {
        let port = |port| Spanned::new(0..0, port);
        Self {
            tftp: port(69),
            http: port(80),
            https: port(443),
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

fn from_text_spanned<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Spanned<Pool>>, D::Error> {
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
    fn without_a_written_mode_nobody_is_disturbed() {
        let mode = |dhcp: &str| {
            let text = SAMPLE.replacen("mode = \"authoritative\"", dhcp, 1);
            parse("site.toml", &text).map(|settings| settings.dhcp.mode)
        };
        assert_eq!(
            parse("site.toml", SAMPLE).unwrap().dhcp.mode,
            Mode::Authoritative
        );
        assert_eq!(
            mode(""),
            Ok(Mode::Auto {
                serve_if_alone: false
            })
        );
        let alone = "mode = \"auto\"\nserve_if_alone = true";
        assert_eq!(
            mode(alone),
            Ok(Mode::Auto {
                serve_if_alone: true
            })
        );
        assert_eq!(mode("mode = \"off\""), Ok(Mode::Off));
        let wrong = mode("mode = \"proxy\"\nserve_if_alone = true").unwrap_err();
        assert!(
            wrong.to_string().contains("goes with `mode = \"auto\"`"),
            "{wrong}"
        );
        let poolless = SAMPLE
            .replacen("mode = \"authoritative\"", alone, 1)
            .replacen("pool =", "# pool =", 1);
        let wrong = parse("site.toml", &poolless).unwrap_err();
        assert!(wrong.to_string().contains("write `pool`"), "{wrong}");
        let wrong = mode("mode = \"server\"").unwrap_err();
        assert!(wrong.to_string().contains("authoritative"), "{wrong}");
    }

    #[test]
    fn subnets_and_reservations_are_checked_together() {
        let with = |more: &str| parse("site.toml", &format!("{SAMPLE}\n{more}"));
        let settings = with(
            "[[dhcp.subnet]]\nrelay = \"10.88.0.1/24\"\n\
             [[dhcp.reservation]]\naddress = \"10.88.0.9\"\nmac = \"52:54:00:77:00:01\"\n",
        )
        .unwrap();
        let subnet = &settings.dhcp.subnets[0];
        assert_eq!(subnet.router.to_string(), "10.88.0.1");
        assert_eq!(
            (subnet.lease_seconds, settings.dhcp.reservations.len()),
            (3600, 1)
        );
        let wrong = |more: &str| with(more).unwrap_err().to_string();
        let text = wrong("[[dhcp.subnet]]\nrelay = \"10.77.0.9/25\"\n");
        assert!(text.contains("overlap"), "{text}");
        let text =
            wrong("[[dhcp.reservation]]\naddress = \"10.9.0.9\"\nmac = \"52:54:00:77:00:01\"\n");
        assert!(text.contains("none of the networks"), "{text}");
        let text = wrong("[[dhcp.reservation]]\naddress = \"10.77.0.9\"\n");
        assert!(text.contains("say for whom"), "{text}");
        let one = "[[dhcp.reservation]]\naddress = \"10.77.0.9\"\nclient_id = \"ff01\"\n";
        assert!(with(one).is_ok());
        let text = wrong(&format!("{one}{one}"));
        assert!(text.contains("reserved twice"), "{text}");
        let text =
            wrong("[[dhcp.subnet]]\nrelay = \"10.88.0.1/24\"\npool = \"10.99.0.1-10.99.0.2\"\n");
        assert!(
            text.contains("not inside the network of the relay"),
            "{text}"
        );
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
        assert!(
            twice.contains("`standard` and `other` both take every other device"),
            "{twice}"
        );
    }
}
