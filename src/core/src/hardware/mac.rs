//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address. Displays as `52:54:00:77:00:01`; reads colons,
/// hyphens, Cisco's dots and bare hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// Text that is not a MAC address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a MAC address: it looks like 52:54:00:77:00:01")]
pub struct MacError(String);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

crate::text_form::text_form!(MacAddr);

impl FromStr for MacAddr {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MacError(crate::ids::shown(text));
        let hex: String = text
            .chars()
            .filter(|c| !matches!(c, ':' | '-' | '.'))
            .collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .map_err(|_| wrong())?;
        Ok(Self(bytes.try_into().map_err(|_| wrong())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_spellings() {
        let mac = MacAddr([0x52, 0x54, 0, 0x77, 0, 1]);
        for text in [
            "52:54:00:77:00:01",
            "52-54-00-77-00-01",
            "5254.0077.0001",
            "525400770001",
        ] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        assert!("52:54:00:77:00".parse::<MacAddr>().is_err());
        assert!("zz:54:00:77:00:01".parse::<MacAddr>().is_err());
    }
}
