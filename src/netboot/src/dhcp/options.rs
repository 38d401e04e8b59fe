//! The options of one packet, put together the way RFC 3396 says.
//!
//! Built on dhcproto's borrowed iterator, which never stops at an option whose
//! *content* is broken (the owned decoder drops everything behind it).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::OptionCode;
use dhcproto::v4::borrowed::DhcpOptionIterator;

/// Option bytes by code. Parts of one option are joined in the order options
/// field, `file`, `sname` (RFC 3396 §5), adjacent or not.
pub(super) struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// `field` follows the magic cookie; `sname` and `file` hold options only
    /// where option 52 says so (RFC 2132 §9.3: 1 = file, 2 = sname, 3 = both).
    pub(super) fn read(field: &[u8], file: &[u8], sname: &[u8]) -> Self {
        let mut options = Self(BTreeMap::new());
        options.add(field);
        let overload = options.byte(OptionCode::OptionOverload).unwrap_or(0);
        if overload & 1 != 0 {
            options.add(file);
        }
        if overload & 2 != 0 {
            options.add(sname);
        }
        options
    }

    fn add(&mut self, field: &[u8]) {
        for option in DhcpOptionIterator::new(field) {
            let known = self.0.entry(u8::from(option.code())).or_default();
            known.extend_from_slice(option.data());
        }
    }

    /// The bytes of an option, if it is there.
    pub(super) fn bytes(&self, code: OptionCode) -> Option<&[u8]> {
        self.0.get(&u8::from(code)).map(Vec::as_slice)
    }

    /// An option of exactly one byte.
    pub(super) fn byte(&self, code: OptionCode) -> Option<u8> {
        match self.bytes(code)? {
            [byte] => Some(*byte),
            _ => None,
        }
    }

    /// An option of exactly two bytes.
    pub(super) fn u16(&self, code: OptionCode) -> Option<u16> {
        self.bytes(code)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// An address option that names one; 0.0.0.0 counts as absent.
    pub(super) fn address(&self, code: OptionCode) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.bytes(code)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets)).filter(|a| !a.is_unspecified())
    }
}
