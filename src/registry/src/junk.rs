//! Values that name no machine: what vendors leave in the firmware. A list
//! (`config/junk.toml`, each with its source) and rules, because no list is
//! ever complete.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use groundcrew_core::Digest;
use groundcrew_core::hardware::identity::{serial_key, text_key};
use groundcrew_core::hardware::{Identity, MacAddr, SmbiosUuid};
use serde::{Deserialize, Serialize};

/// The shortest serial number that may decide, in characters.
const SHORTEST: usize = 4;

/// The list that is built in.
const BUILT_IN: &str = include_str!("../../../config/junk.toml");

/// What counts as junk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Junk {
    serials: BTreeMap<String, usize>,
    uuids: BTreeMap<[u8; 16], usize>,
    macs: BTreeMap<MacAddr, usize>,
    models: BTreeMap<String, usize>,
    sources: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    list: Vec<List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    source: String,
    #[serde(default)]
    serials: Vec<String>,
    #[serde(default)]
    uuids: Vec<SmbiosUuid>,
    #[serde(default)]
    macs: Vec<MacAddr>,
    #[serde(default)]
    models: Vec<String>,
}

/// Why a value is junk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JunkReason {
    /// Fewer than four characters.
    Short,
    /// One character, repeated.
    OneCharacter,
    /// Only zeros and ones.
    ZerosAndOnes,
    /// The model's name instead of a serial number.
    SameAsModel,
    /// The manufacturer's name instead of a serial number.
    SameAsManufacturer,
    /// The firmware vendor's template.
    Template,
    /// On a list; from where.
    Listed(String),
}

impl fmt::Display for JunkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "fewer than {SHORTEST} characters"),
            Self::OneCharacter => f.write_str("one character repeated"),
            Self::ZerosAndOnes => f.write_str("only zeros and ones"),
            Self::SameAsModel => f.write_str("the same as the model"),
            Self::SameAsManufacturer => f.write_str("the same as the manufacturer"),
            Self::Template => f.write_str("a firmware vendor's template"),
            Self::Listed(source) => write!(f, "a known placeholder ({source})"),
        }
    }
}

impl Junk {
    /// The list that is built in, `config/junk.toml`.
    pub fn built_in() -> &'static Self {
        #[allow(
            clippy::expect_used,
            reason = "a constant of this program; a test parses it"
        )]
        static LIST: LazyLock<Junk> =
            LazyLock::new(|| Junk::parse(BUILT_IN).expect("config/junk.toml is well-formed"));
        &LIST
    }

    /// Reads a list in the form of `config/junk.toml`.
    pub fn parse(toml: &str) -> Result<Self, toml::de::Error> {
        let file: File = toml::from_str(toml)?;
        let mut junk = Self::default();
        for (n, list) in file.list.into_iter().enumerate() {
            // The first list that names a value is its source.
            for serial in &list.serials {
                junk.serials.entry(serial_key(serial)).or_insert(n);
            }
            for uuid in &list.uuids {
                junk.uuids.entry(uuid.order_free()).or_insert(n);
            }
            for mac in &list.macs {
                junk.macs.entry(*mac).or_insert(n);
            }
            for model in &list.models {
                junk.models.entry(text_key(model)).or_insert(n);
            }
            junk.sources.push(list.source);
        }
        Ok(junk)
    }

    fn listed(&self, list: Option<&usize>) -> Option<JunkReason> {
        let source = self.sources.get(*list?)?;
        Some(JunkReason::Listed(source.clone()))
    }

    /// Why the identity's serial number is junk, if it is.
    pub fn serial(&self, identity: &Identity) -> Option<JunkReason> {
        let key = serial_key(identity.serial.as_deref()?);
        let mut chars = key.chars();
        let first = chars.next();
        let same = |text: &Option<String>| text.as_deref().is_some_and(|t| serial_key(t) == key);
        if key.chars().count() < SHORTEST {
            Some(JunkReason::Short)
        } else if chars.all(|c| Some(c) == first) {
            Some(JunkReason::OneCharacter)
        } else if key.chars().all(|c| c == '0' || c == '1') {
            Some(JunkReason::ZerosAndOnes)
        } else if same(&identity.product) {
            Some(JunkReason::SameAsModel)
        } else if same(&identity.manufacturer) {
            Some(JunkReason::SameAsManufacturer)
        } else {
            self.listed(self.serials.get(&key))
        }
    }

    /// Why a UUID is junk, if it is.
    pub fn uuid(&self, uuid: &SmbiosUuid) -> Option<JunkReason> {
        let [first, rest @ ..] = uuid.canonical();
        if rest.iter().all(|byte| byte == first) {
            Some(JunkReason::OneCharacter)
        } else if uuid.canonical().ends_with(&[7, 0, 8, 0, 9]) {
            // 03000200-0400-0500-0006-000700080009 and its relatives.
            Some(JunkReason::Template)
        } else {
            self.listed(self.uuids.get(&uuid.order_free()))
        }
    }

    /// Why a model's name is junk, if it is.
    pub fn model(&self, model: &str) -> Option<JunkReason> {
        self.listed(self.models.get(&text_key(model)))
    }

    /// Why a MAC address is junk, if it is.
    pub fn mac(&self, mac: MacAddr) -> Option<JunkReason> {
        self.listed(self.macs.get(&mac))
    }

    /// What is left of an identity, in the form that is compared.
    pub fn usable(&self, identity: &Identity) -> Usable {
        let text = |text: &Option<String>| {
            let text = text.as_deref().filter(|value| self.model(value).is_none());
            text.map(|value| text_key(value).into_boxed_str())
        };
        let serial = identity
            .serial
            .as_deref()
            .filter(|_| self.serial(identity).is_none());
        let macs = identity.macs.iter().copied();
        Usable {
            ek: identity.ek,
            uuid: identity.uuid.filter(|uuid| self.uuid(uuid).is_none()),
            serial: serial.map(|value| serial_key(value).into_boxed_str()),
            manufacturer: text(&identity.manufacturer),
            product: text(&identity.product),
            macs: macs.filter(|mac| self.mac(*mac).is_none()).collect(),
        }
    }
}

/// An identity without its junk, in the form that is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// Endorsement key's digest.
    pub ek: Option<Digest>,
    /// UUID.
    pub uuid: Option<SmbiosUuid>,
    /// Serial number, as `serial_key`.
    pub serial: Option<Box<str>>,
    /// Manufacturer, as `text_key`.
    pub manufacturer: Option<Box<str>>,
    /// Model, as `text_key`.
    pub product: Option<Box<str>>,
    /// MAC addresses.
    pub macs: Box<[MacAddr]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(serial: &str) -> Identity {
        Identity {
            serial: Some(serial.into()),
            manufacturer: Some("Example Corp".into()),
            product: Some("Model One".into()),
            ..Identity::default()
        }
    }

    #[test]
    fn the_built_in_list_parses_and_each_value_is_junk() {
        let junk = Junk::built_in();
        assert!(junk.sources.len() > 3 && junk.sources.iter().all(|s| s.len() > 10));
        for serial in junk.serials.keys() {
            assert!(junk.serial(&of(serial)).is_some(), "{serial}");
        }
        for uuid in junk.uuids.keys() {
            assert!(junk.uuid(&SmbiosUuid::from_canonical(*uuid)).is_some());
        }
        assert!(Junk::parse("[[list]]\nsource = \"x\"\nserial = []").is_err());
    }

    #[test]
    fn rules_catch_what_no_list_has() {
        let why = |serial| Junk::built_in().serial(&of(serial));
        assert_eq!(why("AB1"), Some(JunkReason::Short));
        assert_eq!(why("XXXXXXXX"), Some(JunkReason::OneCharacter));
        assert_eq!(why("0010110"), Some(JunkReason::ZerosAndOnes));
        assert_eq!(why("model one"), Some(JunkReason::SameAsModel));
        assert_eq!(why("EXAMPLE CORP."), Some(JunkReason::SameAsManufacturer));
        assert!(matches!(
            why("To be filled by O.E.M"),
            Some(JunkReason::Listed(_))
        ));
        assert_eq!(why("PF2ABC7"), None);
        let uuid = |text: &str| Junk::built_in().uuid(&text.parse().unwrap());
        assert_eq!(
            uuid("22222222-2222-2222-2222-222222222222"),
            Some(JunkReason::OneCharacter)
        );
        assert_eq!(
            uuid("99990200-0400-0500-0006-000700080009"),
            Some(JunkReason::Template)
        );
        assert!(
            uuid("03020100-0504-0706-0809-0a0b0c0d0e0f").is_some(),
            "swapped"
        );
        assert_eq!(uuid("5f0c7a52-4d1e-4a8b-9c3f-0123456789ab"), None);
    }
}
