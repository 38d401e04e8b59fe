//! What iPXE says of the machine it runs on.

use std::net::Ipv4Addr;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::{Firmware, decode_hex};
use crate::path::percent_decode;

/// The longest query read, in bytes.
pub const MAX_QUERY: usize = 2048;
/// The longest text kept of one SMBIOS string, in characters.
pub const MAX_TEXT: usize = 128;

/// The checked query of the script URL. Everything is a claim of whoever asks;
/// what it does not know, or says wrongly, is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpxeQuery {
    /// MAC of the interface it booted from.
    pub mac: Option<MacAddr>,
    /// Its address.
    pub ip: Option<Ipv4Addr>,
    /// SMBIOS system UUID, in the order iPXE prints, which is the canonical one.
    pub uuid: Option<SmbiosUuid>,
    /// SMBIOS system serial number, trimmed, no control characters.
    pub serial: Option<String>,
    /// SMBIOS manufacturer, likewise.
    pub maker: Option<String>,
    /// SMBIOS product name, likewise.
    pub model: Option<String>,
    /// What iPXE was built for.
    pub firmware: Option<Firmware>,
    /// For which processor.
    pub arch: Option<BuildArch>,
}

/// iPXE's `${buildarch}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildArch {
    /// 32-bit x86; BIOS builds say this on 64-bit machines too.
    I386,
    /// 64-bit x86.
    X86_64,
    /// 32-bit ARM.
    Arm32,
    /// 64-bit ARM.
    Arm64,
}

/// Why a query is refused as a whole.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum QueryError {
    /// Longer than [`MAX_QUERY`].
    #[error("the query has {0} bytes; at most {MAX_QUERY} are read")]
    TooLong(usize),
    /// Nothing in it names a machine.
    #[error("the query names no machine: it needs mac, uuid or serialx")]
    NoMachine,
}

impl IpxeQuery {
    /// Reads the part of the request target behind `?`. The first of a repeated
    /// key counts; unknown keys are left for later versions.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        if query.len() > MAX_QUERY {
            return Err(QueryError::TooLong(query.len()));
        }
        let mut read = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if let Ok(value) = percent_decode(value) {
                read.take(key, &String::from_utf8_lossy(&value));
            }
        }
        if (read.firmware, read.arch) == (Some(Firmware::Efi), Some(BuildArch::Arm64)) {
            read.firmware = Some(Firmware::EfiArm64);
        }
        if read.mac.is_none() && read.uuid.is_none() && read.serial.is_none() {
            return Err(QueryError::NoMachine);
        }
        Ok(read)
    }

    fn take(&mut self, key: &str, value: &str) {
        match key {
            "mac" => first(&mut self.mac, || value.parse().ok()),
            "ip" => first(&mut self.ip, || value.parse().ok()),
            "uuid" => first(&mut self.uuid, || value.parse().ok()),
            "serial" => first(&mut self.serial, || clean(value)),
            "serialx" => first(&mut self.serial, || clean_hex(value)),
            "makerx" => first(&mut self.maker, || clean_hex(value)),
            "modelx" => first(&mut self.model, || clean_hex(value)),
            "platform" => first(&mut self.firmware, || Firmware::from_ipxe(value)),
            "arch" => first(&mut self.arch, || BuildArch::from_ipxe(value)),
            _ => (),
        }
    }
}

impl BuildArch {
    fn from_ipxe(word: &str) -> Option<Self> {
        match word {
            "i386" => Some(Self::I386),
            "x86_64" => Some(Self::X86_64),
            "arm32" => Some(Self::Arm32),
            "arm64" => Some(Self::Arm64),
            _ => None,
        }
    }
}

fn first<T>(slot: &mut Option<T>, value: impl FnOnce() -> Option<T>) {
    if slot.is_none() {
        *slot = value();
    }
}

fn clean_hex(value: &str) -> Option<String> {
    clean(&String::from_utf8_lossy(&decode_hex(value)?))
}

/// SMBIOS strings carry padding and now and then rubbish.
fn clean(text: &str) -> Option<String> {
    let kept: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT)
        .collect();
    Some(kept.trim().to_owned()).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_2019_build_sends_is_understood() {
        // Colons arrive escaped: that build escapes `#:@?` in a query.
        let query = IpxeQuery::parse(
            "mac=52%3A54%3A00%3A77%3A00%3A01&ip=10.77.0.130&uuid=a1b2c3d4-e5f6-4789-8abc-000000000001\
             &serialx=41263d2325&makerx=51454d55&modelx=&platform=pcbios&arch=i386",
        )
        .unwrap();
        assert_eq!(query.mac.unwrap().to_string(), "52:54:00:77:00:01");
        assert_eq!(query.ip, Some(Ipv4Addr::new(10, 77, 0, 130)));
        assert_eq!(
            query.uuid.unwrap().to_string(),
            "a1b2c3d4-e5f6-4789-8abc-000000000001"
        );
        assert_eq!(query.serial.as_deref(), Some("A&=#%"));
        assert_eq!((query.maker.as_deref(), query.model), (Some("QEMU"), None));
        assert_eq!(
            (query.firmware, query.arch),
            (Some(Firmware::Bios), Some(BuildArch::I386))
        );
    }

    #[test]
    fn an_arm_machine_is_known_by_both_words() {
        let firmware = |query: &str| IpxeQuery::parse(query).unwrap().firmware;
        let arm = "serialx=41&arch=arm64&platform=efi";
        assert_eq!(firmware(arm), Some(Firmware::EfiArm64));
        assert_eq!(firmware("serialx=41&platform=efi"), Some(Firmware::Efi));
        assert_eq!(firmware("serialx=41&arch=arm64"), None);
    }

    #[test]
    fn wrong_values_are_absent_and_nothing_is_an_error() {
        assert_eq!(IpxeQuery::parse(""), Err(QueryError::NoMachine));
        assert_eq!(
            IpxeQuery::parse("mac=zz&uuid=1&serialx=4"),
            Err(QueryError::NoMachine)
        );
        assert_eq!(
            IpxeQuery::parse(&"x".repeat(2049)),
            Err(QueryError::TooLong(2049))
        );
        let query = IpxeQuery::parse("serial=%20a%0d%0ab%20&serial=second&ip=%zz").unwrap();
        assert_eq!(query.serial.as_deref(), Some("ab"));
        assert_eq!(query.ip, None);
    }

    proptest! {
        #[test]
        fn hostile_queries_never_panic(query in "\\PC{0,200}|([a-z]{2,7}x?=[%0-9a-fA-F&]{0,12}&?){0,9}") {
            if let Ok(read) = IpxeQuery::parse(&query) {
                for text in [&read.serial, &read.maker, &read.model].into_iter().flatten() {
                    prop_assert!(!text.chars().any(char::is_control));
                    prop_assert!((1..=MAX_TEXT).contains(&text.chars().count()));
                }
            }
        }
    }
}
