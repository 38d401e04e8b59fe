//! `site.toml`: the raw file, and the checked [`Settings`] made of it once.
//! Mistakes are shown with file, line and caret. Nothing here looks at the
//! machine: `groundcrew check` does.

mod boot;
mod network;
mod served;
mod stick;
mod trust;

use groundcrew_core::SiteId;
use groundcrew_core::toml_error;
use groundcrew_registry::profile::{Profile, ProfileError, Profiles};
use groundcrew_registry::rules::{Rule, Rules};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

pub use boot::{BiosLoader, Boot, HttpLoader, UefiLoader};
use network::RawNetwork;
pub use network::{Network, RelayedSubnet};
pub use stick::{StickMode, StickSettings};
pub use trust::Staleness;

/// The port that devices ask for the time (RFC 4330).
const SNTP: u16 = 123;

/// What `site.toml` says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The site's short name.
    pub site: SiteId,
    /// The organisation, as devices show it.
    pub organisation: String,
    /// The interfaces it is served on, at least one.
    pub networks: Vec<Network>,
    /// Which loaders are given out.
    pub boot: Boot,
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

/// Where services listen, on the site's address on each network.
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
    // Option 42 of DHCP names an address and no port (RFC 2132, 8.3).
    let sntp = raw.time.sntp && *raw.ports.sntp.get_ref() == SNTP;
    let networks = network::networks(file, text, raw.network, sntp)?;
    check_ports(file, text, &raw.ports)?;
    let profiles = check_profiles(file, text, raw.profile)?;
    let rules = check_rules(file, text, raw.enrollment.rule)?;
    Ok(Settings {
        site: raw.site.name,
        organisation: raw.site.organisation,
        networks,
        boot: raw.boot.checked(),
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
        stick: stick::check(file, text, raw.stick)?,
    })
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
    #[serde(default)]
    network: Vec<Spanned<RawNetwork>>,
    #[serde(default)]
    boot: boot::RawBoot,
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
    #[serde(default = "stick::unwritten")]
    stick: Spanned<StickSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSite {
    name: SiteId,
    organisation: String,
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
            sntp: port(SNTP),
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
        assert_eq!(settings.networks[0].address.to_string(), "10.77.0.1/24");
        assert_eq!(settings.profiles.iter().len(), 1);
        assert_eq!(settings.networks[0].lease_seconds, 3600);
    }

    #[test]
    fn a_bogus_key_in_any_table_is_refused() {
        let headers: Vec<&str> = SAMPLE
            .lines()
            .filter(|line| line.starts_with('['))
            .collect();
        assert!(headers.len() >= 4, "{headers:?}");
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
