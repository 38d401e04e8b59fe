//! Last words: what a device that gives up tells the appliance on the way.
//!
//! Sent over plain HTTP, because what failed may be TLS, trust or the session;
//! so nobody vouches for them. They are shown as what "the device says" and
//! change no state.

use serde::{Deserialize, Serialize};

use crate::hardware::{MacAddr, SmbiosUuid};

/// GET this on the plain HTTP port, with [`LastWords::query`] behind a `?`: that
/// port takes no content.
pub const PATH: &str = "/v1/words";

/// The most characters the query may have.
pub const MAX_QUERY: usize = 8192;

/// The most characters of one text.
pub const MAX_TEXT: usize = 600;

/// What went wrong, as far as programs need to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// No network card, link or address.
    Network,
    /// The boot image's own trust root is missing or broken.
    Image,
    /// Plain HTTP of the appliance does not answer.
    HttpUnreachable,
    /// HTTPS of the appliance does not answer.
    HttpsUnreachable,
    /// HTTPS is answered by somebody else than the charter names.
    WrongServer,
    /// The time cannot be told, here or at the appliance.
    Clock,
    /// The site's charter has expired.
    CharterExpired,
    /// Other signed metadata has expired.
    TrustExpired,
    /// The signed metadata does not follow from the root in the boot image.
    TrustMismatch,
    /// The appliance does not know (any more) what was agreed.
    Session,
    /// The appliance does not answer this device as it wished.
    Turned,
    /// A technician said no.
    Rejected,
    /// No disk.
    NoDisk,
    /// Disks, and no system on them.
    NoSystem,
    /// More than one system.
    SeveralSystems,
    /// A system that is not provisioned by this version.
    ForeignSystem,
    /// No room on the disk.
    DiskFull,
    /// The disk cannot be read or written.
    Disk,
    /// The granted bundle is not signed or not there.
    BundleMissing,
    /// A part of the bundle is not what was signed.
    BundleChanged,
    /// The bundle is signed, and makes no sense to this agent.
    BundleInvalid,
    /// A step of the bundle failed.
    Step,
    /// Anything else; the text says what.
    #[default]
    #[serde(other)]
    Other,
}

/// The message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastWords {
    /// The card it was booted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// SMBIOS UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<SmbiosUuid>,
    /// SMBIOS serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What it was about.
    pub trouble: Trouble,
    /// What it was doing.
    pub phase: String,
    /// What the screen says.
    pub text: String,
}

impl LastWords {
    /// As they travel: JSON in base64url.
    pub fn query(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        data_encoding::BASE64URL_NOPAD.encode(&json)
    }

    /// Reads [`LastWords::query`]; `None` for anything else.
    pub fn read(query: &str) -> Option<Self> {
        if query.len() > MAX_QUERY {
            return None;
        }
        let json = data_encoding::BASE64URL_NOPAD
            .decode(query.as_bytes())
            .ok()?;
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_agent_s_trouble_is_read_as_other() {
        let words: LastWords =
            serde_json::from_str(r#"{"trouble":"volcano","text":"lava","later":1}"#).unwrap();
        assert_eq!(
            (words.trouble, words.text.as_str()),
            (Trouble::Other, "lava")
        );
        let again = LastWords::read(&words.query());
        assert_eq!((again, LastWords::read("%")), (Some(words), None));
        let text = serde_json::to_string(&Trouble::SeveralSystems).unwrap();
        assert_eq!(text, "\"several-systems\"");
    }
}
