//! A `[[network]]`: one interface, who gives addresses there, the networks that
//! relays bring to it, and the addresses kept for devices.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_netboot::dhcp::{Mode, Reservation, Who};
use serde::Deserialize;
use toml::Spanned;

use super::{Lease, SettingsError, at, from_text, from_text_spanned};
use crate::site::{Cidr, Pool};

/// The most interfaces one site is served on.
const MOST: usize = 32;

/// An interface that devices are plugged into, and what is served there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The interface's name.
    pub interface: String,
    /// The appliance's address there.
    pub address: Cidr,
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
    /// Domains that short names are looked up in.
    pub search: Vec<String>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
}

impl Network {
    /// Whether devices with this address are served here, by a relay or without.
    pub fn holds(&self, ip: Ipv4Addr) -> bool {
        let relayed = self.subnets.iter().map(|subnet| subnet.relay);
        [self.address]
            .into_iter()
            .chain(relayed)
            .any(|network| network.holds_host(ip))
    }
}

/// Checks all of them, each for itself and beside the others. `sntp`: whether
/// the appliance tells the time where DHCP can say so.
pub(super) fn networks(
    file: &str,
    text: &str,
    raw: Vec<Spanned<RawNetwork>>,
    sntp: bool,
) -> Result<Vec<Network>, SettingsError> {
    if raw.is_empty() || raw.len() > MOST {
        let message = format!(
            "{} [[network]] tables: a site is served on 1 to {MOST} interfaces",
            raw.len()
        );
        return Err(at(file, text, 0..0, &message));
    }
    let (mut checked, mut names) = (Vec::new(), BTreeSet::new());
    for raw in raw {
        let raw = raw.into_inner();
        let span = raw.interface.span();
        let network = network(file, text, raw, sntp)?;
        if !names.insert(network.interface.clone()) {
            let message = format!(
                "the interface {} has a [[network]] already: write one table for each interface",
                network.interface
            );
            return Err(at(file, text, span, &message));
        }
        checked.push(network);
        // What only shows when everything is put together: overlaps, doubles.
        super::served::check(&checked).map_err(|error| at(file, text, span, &error.to_string()))?;
    }
    Ok(checked)
}

fn network(file: &str, text: &str, raw: RawNetwork, sntp: bool) -> Result<Network, SettingsError> {
    let interface = raw.interface.get_ref();
    if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']) {
        let message = format!("`{interface}` cannot be an interface's name; `ip link` lists them");
        return Err(at(file, text, raw.interface.span(), &message));
    }
    let mode = check_mode(file, text, &raw)?;
    let pool = check_pool(file, text, &raw)?;
    if let Some(router) = &raw.router
        && !raw.address.holds_host(*router.get_ref())
    {
        let message = format!(
            "the router {} is not in the network of {}; devices could not reach it: leave it out where there is none",
            router.get_ref(),
            raw.address
        );
        return Err(at(file, text, router.span(), &message));
    }
    let subnets = relayed_subnets(file, text, &raw, sntp)?;
    let reservations = reservations(file, text, &raw, &subnets)?;
    Ok(Network {
        ntp: raw.time_servers(sntp),
        interface: raw.interface.into_inner(),
        address: raw.address,
        mode,
        conflict_probe: raw.conflict_probe.unwrap_or(true),
        pool,
        lease_seconds: raw.lease.0,
        router: raw.router.map(Spanned::into_inner),
        dns: raw.dns,
        domain: raw.domain,
        search: raw.search,
        subnets,
        reservations,
    })
}

fn check_pool(file: &str, text: &str, raw: &RawNetwork) -> Result<Pool, SettingsError> {
    let network = raw.address;
    let Some(written) = &raw.pool else {
        return Ok(network.default_pool());
    };
    let pool = *written.get_ref();
    let wrong = if !network.holds_host(pool.first) || !network.holds_host(pool.last) {
        format!("the pool {pool} is not inside the network of {network}")
    } else if pool.contains(network.address) {
        format!(
            "the pool holds the appliance's own address {}",
            network.address
        )
    } else {
        return Ok(pool);
    };
    let message = format!("{wrong}; write one such as {}", network.default_pool());
    Err(at(file, text, written.span(), &message))
}

/// `auto` takes a network over only by two written words: a pool, and the will.
fn check_mode(file: &str, text: &str, dhcp: &RawNetwork) -> Result<Mode, SettingsError> {
    let wish = dhcp.serve_if_alone.as_ref();
    let serve_if_alone = wish.is_some_and(|wish| *wish.get_ref());
    Ok(match (dhcp.mode, wish) {
        (RawMode::Auto, Some(wish)) if serve_if_alone && dhcp.pool.is_none() => {
            let message = "`serve_if_alone` needs a pool to give addresses from: write `pool`";
            return Err(at(file, text, wish.span(), message));
        }
        (RawMode::Auto, _) => Mode::Auto { serve_if_alone },
        // Beside these modes the wish means nothing, and may stay.
        (RawMode::Authoritative, _) => Mode::Authoritative,
        (RawMode::Proxy, _) => Mode::Proxy,
        (RawMode::Off, _) => Mode::Off,
    })
}

impl RawNetwork {
    /// Who tells the time: what is written (none, where that is `[]`), else
    /// the appliance itself, where it does.
    fn time_servers(&self, sntp: bool) -> Vec<Ipv4Addr> {
        let own = || sntp.then_some(self.address.address).into_iter().collect();
        self.ntp.clone().unwrap_or_else(own)
    }
}

fn relayed_subnets(
    file: &str,
    text: &str,
    dhcp: &RawNetwork,
    sntp: bool,
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
            search: raw.search.clone().unwrap_or_else(|| dhcp.search.clone()),
            ntp: raw.ntp.clone().unwrap_or_else(|| dhcp.time_servers(sntp)),
        })
    };
    dhcp.subnet.iter().map(checked).collect()
}

fn reservations(
    file: &str,
    text: &str,
    dhcp: &RawNetwork,
    subnets: &[RelayedSubnet],
) -> Result<Vec<Reservation>, SettingsError> {
    let own = dhcp.address;
    let checked = |raw: &RawReservation| {
        let ip = *raw.address.get_ref();
        let wrong = |message: &str| Err(at(file, text, raw.address.span(), message));
        if !own.holds_host(ip) && !subnets.iter().any(|subnet| subnet.relay.holds_host(ip)) {
            return wrong(&format!(
                "{ip} is on none of the networks served; reserve an address of {own} or of a [[network.subnet]]"
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
            (Some(who), None) => Ok(Reservation {
                ip,
                who,
                hostname: raw.hostname.clone(),
            }),
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    interface: Spanned<String>,
    #[serde(deserialize_with = "from_text")]
    address: Cidr,
    #[serde(default)]
    mode: RawMode,
    conflict_probe: Option<bool>,
    serve_if_alone: Option<Spanned<bool>>,
    #[serde(default, deserialize_with = "from_text_spanned")]
    pool: Option<Spanned<Pool>>,
    #[serde(default)]
    lease: Lease,
    router: Option<Spanned<Ipv4Addr>>,
    #[serde(default)]
    dns: Vec<Ipv4Addr>,
    domain: Option<String>,
    #[serde(default)]
    search: Vec<String>,
    ntp: Option<Vec<Ipv4Addr>>,
    #[serde(default)]
    subnet: Vec<RawSubnet>,
    #[serde(default)]
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
    search: Option<Vec<String>>,
    ntp: Option<Vec<Ipv4Addr>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReservation {
    address: Spanned<Ipv4Addr>,
    mac: Option<MacAddr>,
    client_id: Option<String>,
    uuid: Option<SmbiosUuid>,
    hostname: Option<String>,
}

/// Without a word about it nobody's network is disturbed: `auto`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawMode {
    Authoritative,
    Proxy,
    #[default]
    Auto,
    Off,
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const SAMPLE: &str = include_str!("../../../../config/site.toml");
    const AUTO: &str = "mode = \"auto\"\nserve_if_alone = true";

    #[test]
    fn without_a_written_mode_nobody_is_disturbed() {
        let mode = |dhcp: &str| {
            let text = SAMPLE.replacen(AUTO, dhcp, 1);
            parse("site.toml", &text).map(|settings| settings.networks[0].mode)
        };
        assert_eq!(
            parse("site.toml", SAMPLE).unwrap().networks[0].mode,
            Mode::Auto {
                serve_if_alone: true
            },
            "the sample disturbs nobody, and serves where it is alone"
        );
        assert_eq!(
            mode(""),
            Ok(Mode::Auto {
                serve_if_alone: false
            })
        );
        assert_eq!(mode("mode = \"off\""), Ok(Mode::Off));
        assert_eq!(
            mode("mode = \"proxy\"\nserve_if_alone = true"),
            Ok(Mode::Proxy)
        );
        let poolless = SAMPLE.replacen("pool =", "# pool =", 1);
        let wrong = parse("site.toml", &poolless).unwrap_err();
        assert!(wrong.to_string().contains("write `pool`"), "{wrong}");
        let wrong = mode("mode = \"server\"").unwrap_err();
        assert!(wrong.to_string().contains("authoritative"), "{wrong}");
    }

    #[test]
    fn devices_ask_the_appliance_for_the_time_unless_something_else_is_written() {
        let relayed = "[[network.subnet]]\nrelay = \"10.88.0.1/24\"\n\n[ports]";
        let servers = |network: &str, more: [&str; 2]| {
            let text = SAMPLE.replacen("# ntp = [\"10.77.0.53\"]      # or []: nobody", network, 1);
            let text = text.replacen(more[0], more[1], 1);
            let network = &parse("site.toml", &text.replacen("[ports]", relayed, 1))
                .unwrap()
                .networks[0];
            let texts = [&network.ntp, &network.subnets[0].ntp];
            texts.map(|ntp| ntp.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let same = ["", ""];
        assert_eq!(servers("", same), [["10.77.0.1"], ["10.77.0.1"]]);
        let other = servers("ntp = [\"10.77.0.53\"]", same);
        assert_eq!(other, [["10.77.0.53"], ["10.77.0.53"]]);
        let nobody: [Vec<String>; 2] = Default::default();
        assert_eq!(servers("ntp = []", same), nobody);
        assert_eq!(servers("", ["sntp = true", "sntp = false"]), nobody);
        assert_eq!(servers("", ["sntp = 123", "sntp = 1123"]), nobody);
    }

    #[test]
    fn subnets_and_reservations_are_checked_together() {
        let with = |more: &str| {
            parse(
                "site.toml",
                &SAMPLE.replacen("[ports]", &format!("{more}\n[ports]"), 1),
            )
        };
        let settings = with(
            "[[network.subnet]]\nrelay = \"10.88.0.1/24\"\n\
             [[network.reservation]]\naddress = \"10.88.0.9\"\nmac = \"52:54:00:77:00:01\"\n",
        )
        .unwrap();
        let subnet = &settings.networks[0].subnets[0];
        assert_eq!(subnet.router.to_string(), "10.88.0.1");
        assert_eq!(
            (
                subnet.lease_seconds,
                settings.networks[0].reservations.len()
            ),
            (3600, 1)
        );
        let wrong = |more: &str| with(more).unwrap_err().to_string();
        let text = wrong("[[network.subnet]]\nrelay = \"10.77.0.9/25\"\n");
        assert!(text.contains("overlap"), "{text}");
        let text =
            wrong("[[network.reservation]]\naddress = \"10.9.0.9\"\nmac = \"52:54:00:77:00:01\"\n");
        assert!(text.contains("none of the networks"), "{text}");
        let text = wrong("[[network.reservation]]\naddress = \"10.77.0.9\"\n");
        assert!(text.contains("say for whom"), "{text}");
        let one = "[[network.reservation]]\naddress = \"10.77.0.9\"\nclient_id = \"ff01\"\n";
        assert!(with(one).is_ok());
        let text = wrong(&format!("{one}{one}"));
        assert!(text.contains("reserved twice"), "{text}");
        let text =
            wrong("[[network.subnet]]\nrelay = \"10.88.0.1/24\"\npool = \"10.99.0.1-10.99.0.2\"\n");
        assert!(
            text.contains("not inside the network of the relay"),
            "{text}"
        );
    }

    #[test]
    fn every_interface_has_its_own_network() {
        let with = |more: &str| {
            let more = format!("[[network]]\n{more}\n[ports]");
            parse("site.toml", &SAMPLE.replacen("[ports]", &more, 1))
        };
        let two = "interface = \"eth2\"\naddress = \"10.99.0.1/24\"\nmode = \"proxy\"\n";
        let settings = with(two).unwrap();
        let shown: Vec<_> = settings
            .networks
            .iter()
            .map(|n| (n.interface.as_str(), n.mode))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    "eth1",
                    Mode::Auto {
                        serve_if_alone: true
                    }
                ),
                ("eth2", Mode::Proxy)
            ]
        );
        assert!(settings.networks[1].holds(Ipv4Addr::new(10, 99, 0, 7)));
        assert!(!settings.networks[0].holds(Ipv4Addr::new(10, 99, 0, 7)));
        let wrong = |more: &str| with(more).unwrap_err().to_string();
        let text = wrong("interface = \"eth1\"\naddress = \"10.99.0.1/24\"");
        assert!(text.contains("one table for each interface"), "{text}");
        let text = wrong("interface = \"eth2\"\naddress = \"10.77.0.9/24\"");
        assert!(text.contains("overlap"), "{text}");
        let behind = format!("{two}[[network.subnet]]\nrelay = \"10.77.0.129/25\"");
        let text = wrong(&behind);
        assert!(text.contains("overlap"), "{text}");
        let none = SAMPLE.replacen("[[network]]", "[[networks]]", 1);
        let text = parse("site.toml", &none).unwrap_err().to_string();
        assert!(text.contains("network"), "{text}");
    }

    #[test]
    fn names_of_reservations_are_names() {
        let with = |name: &str| {
            let more = format!(
                "[[network.reservation]]\naddress = \"10.77.0.9\"\nmac = \"52:54:00:77:00:01\"\nhostname = \"{name}\"\n[ports]"
            );
            parse("site.toml", &SAMPLE.replacen("[ports]", &more, 1))
        };
        let kept = with("front-desk").unwrap();
        let kept = &kept.networks[0].reservations[0];
        assert_eq!(kept.hostname.as_deref(), Some("front-desk"));
        let text = with("front desk").unwrap_err().to_string();
        assert!(text.contains("`front desk` is not"), "{text}");
    }
}
