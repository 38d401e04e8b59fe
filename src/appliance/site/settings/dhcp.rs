//! What `[dhcp]` says beyond its pool: mode, networks behind relays, addresses
//! kept for devices.

use std::net::Ipv4Addr;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_netboot::dhcp::{Mode, Reservation, Who};
use serde::Deserialize;
use toml::Spanned;

use super::{Lease, RawDhcp, SettingsError, at, from_text, from_text_spanned};
use crate::site::{Cidr, Pool};

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

/// `auto` takes a network over only by two written words: a pool, and the will.
pub(super) fn check_mode(file: &str, text: &str, dhcp: &RawDhcp) -> Result<Mode, SettingsError> {
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

pub(super) fn relayed_subnets(
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

pub(super) fn reservations(
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubnet {
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
pub(super) struct RawReservation {
    address: Spanned<Ipv4Addr>,
    mac: Option<MacAddr>,
    client_id: Option<String>,
    uuid: Option<SmbiosUuid>,
}

/// Without a word about it nobody's network is disturbed: `auto`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawMode {
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
}
