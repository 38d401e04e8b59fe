//! Standing rules: which unknown devices are let in without a technician.
//!
//! A rule only ever lets in strangers, never a known device with changed
//! hardware or a second key: those might be somebody who copied what is printed
//! on the box. Every rule has a number of devices at which it ends; who was let
//! in by it stands in the journal, so the count survives a restart.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use groundcrew_core::UnixTime;
use groundcrew_core::hardware::Identity;
use groundcrew_core::hardware::identity::text_key;
use groundcrew_core::ids::Slug;
use serde::{Deserialize, Deserializer};

use crate::device::Tag;

/// One rule, as `site.toml` holds it (`[[enrollment.rule]]`). What is absent
/// does not matter; all that is there must fit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// Its name, for the journal.
    pub name: Slug,
    /// The tag that devices let in by it get.
    pub tag: Option<Tag>,
    /// SMBIOS system manufacturer. Compared without regard to case.
    pub manufacturer: Option<String>,
    /// SMBIOS product name. Compared without regard to case.
    pub model: Option<String>,
    /// Where the device asks from.
    pub subnet: Option<Subnet>,
    /// Not before.
    pub from: Option<UnixTime>,
    /// Not from then on.
    pub until: Option<UnixTime>,
    /// How many devices it lets in, ever.
    pub at_most: u32,
}

/// A set of rules that is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuleError {
    /// Two rules of one name.
    #[error("two enrollment rules are named `{0}`: rename one, the journal counts by name")]
    Name(Slug),
    /// It lets nobody in.
    #[error(
        "enrollment rule `{0}` has at-most = 0 and lets nobody in: remove it or raise the number"
    )]
    Nobody(Slug),
    /// It is never valid.
    #[error("enrollment rule `{name}` ends at {until}, before it begins at {from}")]
    Never {
        /// The rule.
        name: Slug,
        /// Its beginning.
        from: UnixTime,
        /// Its end.
        until: UnixTime,
    },
}

impl RuleError {
    /// The rule it is about.
    pub const fn rule(&self) -> &Slug {
        match self {
            Self::Name(name) | Self::Nobody(name) | Self::Never { name, .. } => name,
        }
    }
}

/// What is known of a request besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// When.
    pub now: UnixTime,
    /// Where from.
    pub peer: Option<IpAddr>,
}

/// A site's rules; the first that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Checks a set of rules.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let mut names = BTreeSet::new();
        for rule in &rules {
            if !names.insert(&rule.name) {
                return Err(RuleError::Name(rule.name.clone()));
            }
            if rule.at_most == 0 {
                return Err(RuleError::Nobody(rule.name.clone()));
            }
            if let (Some(from), Some(until)) = (rule.from, rule.until)
                && until <= from
            {
                let name = rule.name.clone();
                return Err(RuleError::Never { name, from, until });
            }
        }
        Ok(Self(rules))
    }

    /// All rules, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.0.iter()
    }

    /// The first rule that lets a stranger in; `used` says how many devices a
    /// rule has let in.
    pub fn fitting(
        &self,
        stranger: &Identity,
        seen: Circumstances,
        used: impl Fn(&Slug) -> u32,
    ) -> Option<&Rule> {
        self.iter()
            .find(|rule| rule.fits(stranger, seen) && used(&rule.name) < rule.at_most)
    }
}

impl Rule {
    fn fits(&self, stranger: &Identity, seen: Circumstances) -> bool {
        let text = |wanted: &Option<String>, found: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| {
                found
                    .as_deref()
                    .is_some_and(|found| text_key(found) == text_key(wanted))
            })
        };
        let subnet = self
            .subnet
            .is_none_or(|subnet| seen.peer.is_some_and(|peer| subnet.holds(peer)));
        subnet
            && text(&self.manufacturer, &stranger.manufacturer)
            && text(&self.model, &stranger.product)
            && self.from.is_none_or(|from| from <= seen.now)
            && self.until.is_none_or(|until| seen.now < until)
    }
}

/// A network of addresses, as in `10.77.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// Text that is not a [`Subnet`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a network: write it as 10.77.0.0/24, with zeros behind the prefix")]
pub struct SubnetError(String);

impl Subnet {
    /// Whether an address lies in it.
    pub fn holds(self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits() & mask(self.prefix) == self.network.to_bits(),
            IpAddr::V6(_) => false,
        }
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl std::str::FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let read = || {
            let (network, prefix) = text.split_once('/')?;
            let network: Ipv4Addr = network.parse().ok()?;
            let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            (network.to_bits() & !mask(prefix) == 0).then_some(Self { network, prefix })
        };
        read().ok_or_else(|| SubnetError(groundcrew_core::ids::shown(text)))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(toml: &str) -> Result<Rules, RuleError> {
        #[derive(Deserialize)]
        struct File {
            rule: Vec<Rule>,
        }
        let file: File = toml::from_str(toml).unwrap();
        Rules::new(file.rule)
    }

    const FULL: &str = r#"
        [[rule]]
        name = "first-floor"
        tag = "kiosk"
        manufacturer = "EXAMPLE corp"
        model = "Model One"
        subnet = "10.77.0.0/24"
        from = "2026-11-22T08:00:00Z"
        until = "2026-11-22T18:00:00Z"
        at-most = 2
    "#;

    fn stranger() -> Identity {
        Identity {
            manufacturer: Some("Example Corp".into()),
            product: Some("model one".into()),
            ..Identity::default()
        }
    }

    fn seen(at: &str, peer: &str) -> Circumstances {
        Circumstances {
            now: at.parse().unwrap(),
            peer: peer.parse().ok(),
        }
    }

    #[test]
    fn all_that_is_written_must_fit() {
        let rules = rules(FULL).unwrap();
        let fits = |who: &Identity, at: &str, peer: &str, used: u32| {
            rules.fitting(who, seen(at, peer), |_| used).is_some()
        };
        let (noon, here) = ("2026-11-22T12:00:00Z", "10.77.0.9");
        assert!(fits(&stranger(), noon, here, 1));
        assert!(fits(&stranger(), noon, "::ffff:10.77.0.9", 0));
        assert!(!fits(&stranger(), noon, here, 2), "used up");
        assert!(!fits(&stranger(), noon, "10.77.1.9", 0), "from elsewhere");
        assert!(!fits(&stranger(), noon, "?", 0), "from nobody knows where");
        assert!(!fits(&stranger(), "2026-11-22T07:59:59Z", here, 0));
        assert!(!fits(&stranger(), "2026-11-22T18:00:00Z", here, 0));
        assert!(!fits(&Identity::default(), noon, here, 0), "says nothing");
    }

    #[test]
    fn rules_that_make_no_sense_are_refused_with_their_name() {
        let twice = format!("{FULL}{FULL}");
        assert_eq!(
            rules(&twice),
            Err(RuleError::Name("first-floor".parse().unwrap()))
        );
        let none = rules("[[rule]]\nname = \"x\"\nat-most = 0");
        assert!(none.unwrap_err().to_string().contains("lets nobody in"));
        let never = rules(&FULL.replace("T18", "T08"));
        assert!(matches!(never, Err(RuleError::Never { .. })));
        assert!(
            toml::from_str::<Rule>("name = \"x\"").is_err(),
            "a rule without an end"
        );
    }

    #[test]
    fn networks() {
        let all: Subnet = "0.0.0.0/0".parse().unwrap();
        assert!(
            all.holds("203.0.113.7".parse().unwrap()) && !all.holds("fe80::1".parse().unwrap())
        );
        let one: Subnet = "10.0.0.7/32".parse().unwrap();
        assert!(one.holds("10.0.0.7".parse().unwrap()) && !one.holds("10.0.0.6".parse().unwrap()));
        for bad in ["10.77.0.1/24", "10.77.0.0", "10.77.0.0/33", "x/8"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        assert_eq!(one.to_string(), "10.0.0.7/32");
    }
}
