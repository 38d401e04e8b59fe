//! Profiles: what a group of devices gets, and which device belongs to which.
//!
//! A device named by a profile beats a tag, a tag beats a rule for its model (a
//! rule with a model beats one for the whole maker), and the default takes the
//! rest. Two profiles that claim the same are refused when they are loaded, so
//! selection never depends on an order.

use std::collections::BTreeMap;
use std::fmt;

use groundcrew_core::DeviceId;
use groundcrew_core::enroll::BundleRef;
use groundcrew_core::hardware::identity::text_key;
use groundcrew_core::ids::{Slug, Version};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::device::{Device, Tag};
use crate::hostname::{HostnameTemplate, LABEL, NameError, Naming};
use crate::junk::Junk;

/// One profile, as `site.toml` holds it (`[[profile]]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: Slug,
    /// The bundle its devices get.
    pub bundle: Slug,
    /// Which version of it.
    #[serde(default)]
    pub version: Wanted,
    /// How its devices are called.
    #[serde(default = "default_hostname")]
    pub hostname: HostnameTemplate,
    /// The most characters of a name: 63, or 15 for Windows' NetBIOS.
    #[serde(default = "default_length")]
    pub hostname_length: usize,
    /// Values for the bundle's templates. Not secret: they travel in grants.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Devices it takes by name.
    #[serde(default)]
    pub devices: Vec<DeviceId>,
    /// Tags it takes.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// Models it takes.
    #[serde(default)]
    pub models: Vec<ModelRule>,
    /// Whether it takes everything else.
    #[serde(default)]
    pub default: bool,
}

fn default_hostname() -> HostnameTemplate {
    #[allow(clippy::expect_used, reason = "a constant; a test makes it")]
    "{{site}}-{{serial-tail}}"
        .parse()
        .expect("the default name template is valid")
}

const fn default_length() -> usize {
    LABEL
}

/// Which version of a bundle a profile wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The newest that is published: `latest`.
    #[default]
    Latest,
    /// This one.
    Exactly(Version),
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "latest" => Ok(Self::Latest),
            text => text
                .parse()
                .map(Self::Exactly)
                .map_err(|e| serde::de::Error::custom(format!("{e}, or `latest`"))),
        }
    }
}

impl Serialize for Wanted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Latest => serializer.serialize_str("latest"),
            Self::Exactly(version) => serializer.collect_str(version),
        }
    }
}

/// A maker's devices, or one model of them. Compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRule {
    /// SMBIOS system manufacturer.
    pub manufacturer: String,
    /// SMBIOS product name; absent takes every model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A set of profiles that is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProfileError {
    /// Two profiles of one name.
    #[error("two profiles are named `{0}`: rename one")]
    Name(Slug),
    /// Two profiles claim the same.
    #[error("the profiles `{first}` and `{second}` both take {what}: only one may")]
    Tie {
        /// What both claim.
        what: String,
        /// The one that came first.
        first: Slug,
        /// The other one.
        second: Slug,
    },
    /// A length that no host name has.
    #[error("profile `{profile}`: hostname-length is {length}, use 1 to {LABEL} (15 for Windows)")]
    Length {
        /// The profile.
        profile: Slug,
        /// What it says.
        length: usize,
    },
}

/// A site's profiles, without ties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profiles {
    profiles: Vec<Profile>,
    by: BTreeMap<Selector, usize>,
}

/// What a profile takes, in the form that is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Selector {
    Device(DeviceId),
    /// In small letters.
    Tag(String),
    Model(String, String),
    Maker(String),
    Default,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "device {device}"),
            Self::Tag(tag) => write!(f, "tag `{tag}`"),
            Self::Model(maker, model) => write!(f, "model `{model}` of `{maker}`"),
            Self::Maker(maker) => write!(f, "manufacturer `{maker}`"),
            Self::Default => f.write_str("every other device (default = true)"),
        }
    }
}

/// What a device is to get: the fields of its grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The profile.
    pub profile: Slug,
    /// Why this one: `tag `lab``, for people.
    pub because: String,
    /// The bundle.
    pub bundle: BundleRef,
    /// The system's name.
    pub hostname: String,
    /// Values for the bundle's templates.
    pub variables: BTreeMap<String, String>,
}

/// Why a device gets nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// No profile takes it.
    #[error("no profile takes {device}{tag}: give one the tag, or `default = true`")]
    NoProfile {
        /// The device.
        device: DeviceId,
        /// Its tag, in words.
        tag: String,
    },
    /// The bundle is not there.
    #[error("profile `{profile}` wants bundle `{bundle}`, which is not published at this site")]
    NoBundle {
        /// The profile.
        profile: Slug,
        /// The bundle, with its version where one is fixed.
        bundle: String,
    },
    /// The name cannot be made.
    #[error("profile `{profile}`: {error}")]
    Name {
        /// The profile.
        profile: Slug,
        /// Why.
        error: NameError,
    },
}

impl Profiles {
    /// Checks a set of profiles.
    pub fn new(profiles: Vec<Profile>) -> Result<Self, ProfileError> {
        let mut by: BTreeMap<Selector, usize> = BTreeMap::new();
        for (n, profile) in profiles.iter().enumerate() {
            let earlier = profiles.iter().take(n);
            if earlier.clone().any(|other| other.name == profile.name) {
                return Err(ProfileError::Name(profile.name.clone()));
            }
            if !(1..=LABEL).contains(&profile.hostname_length) {
                return Err(ProfileError::Length {
                    profile: profile.name.clone(),
                    length: profile.hostname_length,
                });
            }
            for selector in selectors(profile) {
                let what = selector.to_string();
                // The same thing twice in one profile is no tie.
                let first = by.insert(selector, n).filter(|first| *first != n);
                if let Some(first) = first.and_then(|first| profiles.get(first)) {
                    return Err(ProfileError::Tie {
                        what,
                        first: first.name.clone(),
                        second: profile.name.clone(),
                    });
                }
            }
        }
        Ok(Self { profiles, by })
    }

    /// All profiles, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Profile> {
        self.profiles.iter()
    }

    /// The profile that takes a device, and why.
    pub fn which(&self, device: &Device) -> Option<(&Profile, String)> {
        candidates(device).into_iter().find_map(|selector| {
            let profile = self.profiles.get(*self.by.get(&selector)?)?;
            Some((profile, selector.to_string()))
        })
    }

    /// Every way in which a profile could take a device, the strongest first,
    /// and which one does: `tag `lab``, `standard`.
    pub fn explain(&self, device: &Device) -> Vec<(String, Option<&Slug>)> {
        let way = |selector: Selector| {
            let profile = self.by.get(&selector).and_then(|n| self.profiles.get(*n));
            (selector.to_string(), profile.map(|profile| &profile.name))
        };
        candidates(device).into_iter().map(way).collect()
    }

    /// Whether some profile takes this tag: an import warns where none does.
    pub fn takes_tag(&self, tag: &Tag) -> bool {
        self.by.contains_key(&tag_selector(tag))
    }

    /// What a device is to get. `published` says which version of a bundle is
    /// to be had: the newest, or the given one if it is there.
    pub fn plan(
        &self,
        device: &Device,
        site: &Slug,
        junk: &Junk,
        published: impl FnOnce(&Slug, Option<Version>) -> Option<Version>,
    ) -> Result<Plan, PlanError> {
        let (profile, because) = self.which(device).ok_or_else(|| {
            let tag = device.tag.as_ref().map(|tag| format!(" (tag `{tag}`)"));
            PlanError::NoProfile {
                device: device.id.clone(),
                tag: tag.unwrap_or_default(),
            }
        })?;
        let fixed = match profile.version {
            Wanted::Latest => None,
            Wanted::Exactly(version) => Some(version),
        };
        let version = published(&profile.bundle, fixed).ok_or_else(|| {
            let version = fixed.map(|version| format!(" {version}"));
            PlanError::NoBundle {
                profile: profile.name.clone(),
                bundle: format!("{}{}", profile.bundle, version.unwrap_or_default()),
            }
        })?;
        let hostname = hostname(profile, device, site, junk).map_err(|error| PlanError::Name {
            profile: profile.name.clone(),
            error,
        })?;
        Ok(Plan {
            profile: profile.name.clone(),
            because,
            bundle: BundleRef {
                name: profile.bundle.clone(),
                version,
            },
            hostname,
            variables: profile.variables.clone(),
        })
    }

    /// The name a device gets by its profile, where it has one.
    pub fn name_for(&self, device: &Device, site: &Slug, junk: &Junk) -> Option<String> {
        let (profile, _) = self.which(device)?;
        hostname(profile, device, site, junk).ok()
    }
}

fn candidates(device: &Device) -> Vec<Selector> {
    let identity = &device.identity;
    let maker = identity.manufacturer.as_deref().map(text_key);
    let model = identity.product.as_deref().map(text_key);
    let all = [
        Some(Selector::Device(device.id.clone())),
        device.tag.as_ref().map(tag_selector),
        maker.clone().zip(model).map(|(m, p)| Selector::Model(m, p)),
        maker.map(Selector::Maker),
        Some(Selector::Default),
    ];
    all.into_iter().flatten().collect()
}

fn tag_selector(tag: &Tag) -> Selector {
    Selector::Tag(tag.as_str().to_lowercase())
}

fn selectors(profile: &Profile) -> Vec<Selector> {
    let devices = profile.devices.iter().cloned().map(Selector::Device);
    let tags = profile.tags.iter().map(tag_selector);
    let models = profile.models.iter().map(|rule| {
        let maker = text_key(&rule.manufacturer);
        match &rule.model {
            Some(model) => Selector::Model(maker, text_key(model)),
            None => Selector::Maker(maker),
        }
    });
    let default = profile.default.then_some(Selector::Default);
    devices.chain(tags).chain(models).chain(default).collect()
}

fn hostname(
    profile: &Profile,
    device: &Device,
    site: &Slug,
    junk: &Junk,
) -> Result<String, NameError> {
    let identity = &device.identity;
    let serial = identity.serial.as_deref();
    let id = device.id.as_str();
    let naming = Naming {
        site: site.as_str(),
        id: id.rsplit_once('-').map_or(id, |(_, tail)| tail),
        serial: serial.filter(|_| junk.serial(identity).is_none()),
    };
    profile.hostname.name(naming, profile.hostname_length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Phase;
    use groundcrew_core::hardware::Identity;

    fn profiles(toml: &str) -> Result<Profiles, ProfileError> {
        #[derive(Deserialize)]
        struct File {
            profile: Vec<Profile>,
        }
        let file: File = toml::from_str(toml).unwrap();
        Profiles::new(file.profile)
    }

    fn device(tag: Option<&str>, model: &str) -> Device {
        Device {
            id: "hq-7k2m9qx4".parse().unwrap(),
            phase: Phase::Registered,
            registration: None,
            identity: Identity {
                serial: Some("SYNTH-0001".into()),
                manufacturer: Some("Example Corp".into()),
                product: Some(model.into()),
                ..Identity::default()
            },
            tag: tag.map(|tag| tag.parse().unwrap()),
            failures: None,
            admitted: None,
            pending: None,
            lobby: None,
            reprovision: None,
            last_request: None,
            slot: None,
        }
    }

    const FIVE: &str = r#"
        [[profile]]
        name = "one"
        bundle = "laptop"
        devices = ["hq-00000000"]
        version = "1.2"
        hostname = "One-%SERIAL%"
        hostname-length = 15
        variables = { greeting = "hi" }
        [[profile]]
        name = "lab"
        bundle = "lab"
        tags = ["lab"]
        [[profile]]
        name = "model"
        bundle = "laptop"
        models = [{ manufacturer = "example corp", model = "Model One" }]
        [[profile]]
        name = "maker"
        bundle = "laptop"
        models = [{ manufacturer = "Example Corp" }]
        [[profile]]
        name = "rest"
        bundle = "laptop"
        default = true
    "#;

    #[test]
    fn device_then_tag_then_model_then_default() {
        let profiles = profiles(FIVE).unwrap();
        let which = |device: &Device| profiles.which(device).unwrap().0.name.to_string();
        let mut all = device(Some("lab"), "Model One");
        all.id = "hq-00000000".parse().unwrap();
        assert_eq!(which(&all), "one");
        assert_eq!(which(&device(Some("lab"), "Model One")), "lab");
        assert_eq!(which(&device(Some("other"), "MODEL  ONE")), "model");
        assert_eq!(which(&device(None, "Model Two")), "maker");
        let mut bare = device(None, "");
        bare.identity = Identity::default();
        assert_eq!(which(&bare), "rest");
    }

    #[test]
    fn a_plan_has_what_a_grant_needs() {
        let profiles = profiles(FIVE).unwrap();
        let site = "hq".parse().unwrap();
        let mut one = device(None, "Model One");
        one.id = "hq-00000000".parse().unwrap();
        let plan = profiles.plan(&one, &site, Junk::built_in(), |bundle, version| {
            assert_eq!(bundle.as_str(), "laptop");
            version
        });
        let plan = plan.unwrap();
        assert_eq!(plan.bundle.to_string(), "laptop 1.2.0");
        assert_eq!(plan.hostname, "one-synth-0001");
        assert_eq!(plan.variables["greeting"], "hi");
        assert_eq!(plan.because, "device hq-00000000");
        let none = profiles.plan(&one, &site, Junk::built_in(), |_, _| None);
        assert!(none.unwrap_err().to_string().contains("`laptop 1.2.0`"));
    }

    #[test]
    fn ties_are_refused_and_both_named() {
        let tie = FIVE.replace("default = true", "tags = [\"x\", \"Lab\", \"LAB\"]");
        assert_eq!(
            profiles(&tie).unwrap_err().to_string(),
            "the profiles `lab` and `rest` both take tag `lab`: only one may"
        );
        let twice = FIVE.replace("\"maker\"", "\"lab\"");
        assert_eq!(
            profiles(&twice),
            Err(ProfileError::Name("lab".parse().unwrap()))
        );
        let long = FIVE.replace("hostname-length = 15", "hostname-length = 64");
        assert!(matches!(profiles(&long), Err(ProfileError::Length { .. })));
        let none = Profiles::new(Vec::new()).unwrap();
        let site = "hq".parse().unwrap();
        let plan = none.plan(&device(Some("x"), "m"), &site, Junk::built_in(), |_, v| v);
        assert!(matches!(plan, Err(PlanError::NoProfile { .. })));
    }
}
