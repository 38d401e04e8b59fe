//! The vault: the site's private keys, sealed under a PIN, so that a found
//! stick does not sign.
//!
//! Argon2id (RFC 9106) makes a key of the PIN, ChaCha20-Poly1305 (RFC 8439)
//! seals with it. What that is worth is said by arithmetic: whoever copies the
//! vault tries PINs on machines of their own, at one Argon2id each.

use argon2::{Algorithm, Argon2, Params, Version};
use groundcrew_core::SiteId;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::meanwhile::Meanwhile;

/// What a PIN costs whoever tries it: 64 MiB, three passes, one lane.
const COST: Cost = Cost {
    memory_kib: 64 * 1024,
    passes: 3,
};
/// More than this is no vault of ours, but a stick that wants to be slow.
const MAX_COST: Cost = Cost {
    memory_kib: 512 * 1024,
    passes: 16,
};
const MAX_SEALED: usize = 256 * 1024;
const MIN_PIN: usize = 6;
const MAX_PIN: usize = 128;
/// Every key seals one plaintext ever (see [`salt`]), so one nonce does.
const NONCE: [u8; 12] = *b"gc vault 1\0\0";

/// What a technician types. Shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(String);

/// A PIN that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Six figures fall in days, four in minutes.
    #[error("a PIN has at least {MIN_PIN} characters; eight figures or three words are better")]
    Short,
    /// Longer than anybody types.
    #[error("a PIN has at most {MAX_PIN} characters")]
    Long,
    /// No key of a US keyboard has it, and a stick reads every keyboard as one.
    #[error("a PIN has letters, figures, blanks and signs of a US keyboard (ASCII)")]
    Character,
}

impl std::str::FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        if !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(PinError::Character);
        }
        match text.len() {
            ..MIN_PIN => Err(PinError::Short),
            MIN_PIN..=MAX_PIN => Ok(Self(text.to_owned())),
            _ => Err(PinError::Long),
        }
    }
}

/// Letters whose keys say the same on QWERTY, QWERTZ and AZERTY keyboards.
const SAME_LETTERS: &str = "bcdefghijklnoprstuvx";

impl Pin {
    /// What a technician whose keyboard is no US one may not find: a stick reads
    /// every keyboard as a US one. Nothing where all characters have the same key
    /// everywhere; figures count as such, though an AZERTY keyboard prints them
    /// as shifted, because it has them on the same keys.
    pub fn warning(&self) -> Option<String> {
        let same = |c: &char| {
            c.is_ascii_digit() || *c == ' ' || SAME_LETTERS.contains(c.to_ascii_lowercase())
        };
        let elsewhere = self.0.chars().any(|c| !same(&c));
        elsewhere.then(|| {
            format!(
                "the PIN has characters that lie elsewhere on other keyboards, and a stick reads \
                 each as a US one (Y and Z, A and Q, signs): Tab shows there what is typed; \
                 figures, blanks and the letters {SAME_LETTERS} are the same on all"
            )
        })
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin(…)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
}

/// What lies on the stick: `vault.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// Form of this file, 1: Argon2id and ChaCha20-Poly1305.
    format: u32,
    site: SiteId,
    argon2id: Cost,
    #[serde(with = "base64")]
    salt: Vec<u8>,
    #[serde(with = "base64")]
    sealed: Vec<u8>,
}

/// Why a vault does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The PIN, or the vault was changed: the two cannot be told apart.
    #[error("this is not the PIN")]
    WrongPin,
    /// Not a vault that this version knows.
    #[error("the vault cannot be read: {0}; build the stick anew")]
    Shape(String),
    /// Too little memory for Argon2, say.
    #[error("the vault cannot be worked on: {0}")]
    Work(String),
}

/// A vault whose key is being made, by a thread of its own: what else a stick
/// needs is made meanwhile.
pub struct Sealing {
    blank: Vault,
    work: Meanwhile<Vault>,
}

impl Sealing {
    /// Begins to seal `secrets` for a site. The same secrets and PIN give the
    /// same bytes, see [`salt`].
    pub fn begin(secrets: Vec<u8>, pin: Pin, site: &SiteId) -> Self {
        let blank = blank(COST, &secrets, &pin, site);
        let mut vault = blank.clone();
        let work = Meanwhile::begin(move || {
            vault.seal(&secrets, &pin)?;
            Ok(vault)
        });
        Self { blank, work }
    }

    /// The vault with zeros for what will be sealed. It is as long as the vault
    /// will be, and another one for every other vault: their salts differ.
    pub const fn blank(&self) -> &Vault {
        &self.blank
    }

    /// The vault. Waits for it.
    pub fn finish(mut self) -> anyhow::Result<Vault> {
        self.work.get().cloned()
    }
}

/// A vault with all but its content.
fn blank(cost: Cost, secrets: &[u8], pin: &Pin, site: &SiteId) -> Vault {
    Vault {
        format: 1,
        site: site.clone(),
        argon2id: cost,
        salt: salt(secrets, pin, site),
        sealed: vec![0; secrets.len() + CHACHA20_POLY1305.tag_len()],
    }
}

/// Made of secrets and PIN by a keyed hash, whose key is secret as they are. So
/// two vaults with one salt are one vault.
fn salt(secrets: &[u8], pin: &Pin, site: &SiteId) -> Vec<u8> {
    let salting = hmac::Key::new(hmac::HMAC_SHA256, secrets);
    let mut context = hmac::Context::with_key(&salting);
    for part in ["groundcrew stick salt", site.as_str(), pin.0.as_str()] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let tag = context.sign();
    tag.as_ref().get(..16).unwrap_or_default().to_vec()
}

impl Vault {
    /// Fills a blank one, once.
    fn seal(&mut self, secrets: &[u8], pin: &Pin) -> Result<(), VaultError> {
        let key = key_of(pin, &self.salt, self.argon2id)?;
        let nonce = Nonce::assume_unique_for_key(NONCE);
        self.sealed = secrets.to_vec();
        key.seal_in_place_append_tag(nonce, about(&self.site), &mut self.sealed)
            .map_err(|_| VaultError::Work("sealing failed".to_owned()))
    }

    /// Reads `vault.json`.
    pub fn read(json: &[u8]) -> Result<Self, VaultError> {
        let vault: Self =
            serde_json::from_slice(json).map_err(|e| VaultError::Shape(e.to_string()))?;
        let shape = |why: &str| Err(VaultError::Shape(why.to_owned()));
        if vault.format != 1 {
            return shape("it is of a newer form");
        }
        let Cost { memory_kib, passes } = vault.argon2id;
        if memory_kib > MAX_COST.memory_kib || passes > MAX_COST.passes {
            return shape("it asks for more work than any vault");
        }
        if vault.salt.len() != 16 || vault.sealed.len() > MAX_SEALED {
            return shape("its lengths are wrong");
        }
        Ok(vault)
    }

    /// The file.
    pub fn to_json(&self) -> Result<Vec<u8>, VaultError> {
        let mut json =
            serde_json::to_vec_pretty(self).map_err(|e| VaultError::Shape(e.to_string()))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Whose keys are in it.
    pub const fn site(&self) -> &SiteId {
        &self.site
    }

    /// The secrets, given the PIN. Takes about a third of a second.
    pub fn open(&self, pin: &Pin) -> Result<Vec<u8>, VaultError> {
        let key = key_of(pin, &self.salt, self.argon2id)?;
        let mut bytes = self.sealed.clone();
        let nonce = Nonce::assume_unique_for_key(NONCE);
        let plain = key.open_in_place(nonce, about(&self.site), &mut bytes);
        plain
            .map(|plain| plain.to_vec())
            .map_err(|_| VaultError::WrongPin)
    }
}

/// A vault put in another site's place does not open.
fn about(site: &SiteId) -> Aad<String> {
    Aad::from(format!("groundcrew stick vault 1 {site}"))
}

fn key_of(pin: &Pin, salt: &[u8], cost: Cost) -> Result<LessSafeKey, VaultError> {
    let work = |error: argon2::Error| VaultError::Work(error.to_string());
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(32)).map_err(work)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut key = [0; 32];
    argon2
        .hash_password_into(pin.0.as_bytes(), salt, &mut key)
        .map_err(work)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &key);
    key.map(LessSafeKey::new)
        .map_err(|_| VaultError::Work("its key has a wrong length".to_owned()))
}

/// Bytes as base64 in JSON.
mod base64 {
    use data_encoding::BASE64;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cheap enough for hundreds of tries in a test.
    const CHEAP: Cost = Cost {
        memory_kib: 64,
        passes: 1,
    };

    fn pin(text: &str) -> Pin {
        text.parse().unwrap()
    }

    fn site() -> SiteId {
        "van-1".parse().unwrap()
    }

    fn cheap(pin_text: &str, secrets: &[u8]) -> Vault {
        let pin = pin(pin_text);
        let mut vault = blank(CHEAP, secrets, &pin, &site());
        vault.seal(secrets, &pin).unwrap();
        vault
    }

    #[test]
    fn the_pin_opens_it_and_nothing_else_does() {
        let secrets = b"keys of the site".to_vec();
        let sealing = Sealing::begin(secrets, pin("correct horse"), &site());
        let blank = sealing.blank().to_json().unwrap();
        let vault = sealing.finish().unwrap();
        assert_eq!(vault.to_json().unwrap().len(), blank.len());
        let vault = Vault::read(&vault.to_json().unwrap()).unwrap();
        assert_eq!(
            vault.open(&pin("correct horse")).unwrap(),
            b"keys of the site"
        );
        assert_eq!(vault.open(&pin("correct horsf")), Err(VaultError::WrongPin));
        assert_eq!(vault.argon2id, COST);
    }

    #[test]
    fn same_input_same_bytes_and_another_pin_another_salt() {
        assert_eq!(cheap("123456", b"a"), cheap("123456", b"a"));
        assert_ne!(cheap("123456", b"a").salt, cheap("123457", b"a").salt);
        assert_ne!(cheap("123456", b"a").salt, cheap("123456", b"b").salt);
    }

    #[test]
    fn any_changed_part_is_refused() {
        let vault = cheap("123456", b"secret");
        for at in 0..vault.sealed.len() {
            let mut other = vault.clone();
            other.sealed[at] ^= 1;
            assert_eq!(other.open(&pin("123456")), Err(VaultError::WrongPin));
        }
        let mut other = vault.clone();
        other.site = "van-2".parse().unwrap();
        assert_eq!(other.open(&pin("123456")), Err(VaultError::WrongPin));
        let mut other = vault.clone();
        other.argon2id.passes = 2;
        assert_eq!(other.open(&pin("123456")), Err(VaultError::WrongPin));
        other.argon2id.memory_kib = u32::MAX;
        assert!(matches!(
            Vault::read(&other.to_json().unwrap()),
            Err(VaultError::Shape(_))
        ));
    }

    #[test]
    fn pins() {
        assert_eq!("12345".parse::<Pin>(), Err(PinError::Short));
        assert_eq!("geheim-ü".parse::<Pin>(), Err(PinError::Character));
        assert_eq!("x".repeat(129).parse::<Pin>(), Err(PinError::Long));
        assert_eq!(format!("{:?}", pin("123456")), "Pin(…)");
    }

    #[test]
    fn a_pin_that_other_keyboards_type_differently_is_told() {
        for same in ["12345678", "blue birds 77", "NordLicht", "sixteen doors"] {
            assert_eq!(pin(same).warning(), None, "{same}");
        }
        for other in [
            "crazy 77",
            "Quiche",
            "lab-stick",
            "blue_bird",
            "AAAAAA",
            "mmmmmm",
        ] {
            let warning = pin(other).warning().unwrap();
            assert!(!warning.contains(other), "the PIN itself is never shown");
        }
    }
}
