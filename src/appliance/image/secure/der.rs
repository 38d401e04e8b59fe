//! As much of DER (X.690) as signatures need: writing values, and reading the
//! few fields of a certificate that a signature names.

/// Tags.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// The tag of a context-specific, constructed value.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The same for a primitive one.
pub(super) const fn context_primitive(number: u8) -> u8 {
    0x80 | number
}

/// Object identifiers, as their content octets.
pub(super) mod oid {
    /// 2.16.840.1.101.3.4.2.1
    pub const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
    /// 1.2.840.113549.1.1.1
    pub const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    /// 1.2.840.113549.1.7.1
    pub const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    /// 1.2.840.113549.1.7.2
    pub const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
    /// 1.2.840.113549.1.9.3
    pub const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
    /// 1.2.840.113549.1.9.4
    pub const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
    /// 1.3.6.1.4.1.311.2.1.4
    pub const SPC_INDIRECT_DATA: &[u8] =
        &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
    /// 1.3.6.1.4.1.311.2.1.15
    pub const SPC_PE_IMAGE_DATA: &[u8] =
        &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];
}

/// One value: tag, length, content.
pub(super) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if let (true, Ok(short)) = (length < 0x80, u8::try_from(length)) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let skipped = bytes.iter().take_while(|b| **b == 0).count();
        let bytes = bytes.get(skipped..).unwrap_or_default();
        // A length has at most eight bytes.
        out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
        out.extend(bytes);
    }
    out.extend(content);
    out
}

/// A value of other values.
pub(super) fn list(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    value(tag, &parts.concat())
}

/// `AlgorithmIdentifier` with NULL parameters.
pub(super) fn algorithm(oid: &[u8]) -> Vec<u8> {
    list(SEQUENCE, &[&value(OID, oid), &value(NULL, &[])])
}

/// The first value of `bytes`: its tag, its content, the whole of it, and what
/// follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    pub whole: &'a [u8],
    pub rest: &'a [u8],
}

/// Reads one value with a definite length; `None` where there is none.
pub(super) fn read(bytes: &[u8]) -> Option<Item<'_>> {
    let (&tag, after) = bytes.split_first()?;
    let (&first, after) = after.split_first()?;
    let (length, body) = if first < 0x80 {
        (usize::from(first), after)
    } else {
        let count = usize::from(first & 0x7f);
        // Four bytes are 4 GiB; certificates have thousands.
        if !(1..=4).contains(&count) {
            return None;
        }
        let digits = after.get(..count)?;
        let length = digits
            .iter()
            .fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
        (length, after.get(count..)?)
    };
    let content = body.get(..length)?;
    let rest = body.get(length..)?;
    Some(Item {
        tag,
        content,
        whole: bytes.get(..bytes.len() - rest.len())?,
        rest,
    })
}

/// Reads one value that must have this tag.
pub(super) fn expect(bytes: &[u8], tag: u8) -> Option<Item<'_>> {
    read(bytes).filter(|item| item.tag == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_take_the_least_bytes() {
        assert_eq!(value(OCTET_STRING, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(value(OCTET_STRING, &[0; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(value(OCTET_STRING, &[0; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(
            value(OCTET_STRING, &[0; 0x1234])[..4],
            [4, 0x82, 0x12, 0x34]
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(content in proptest::collection::vec(any::<u8>(), 0..400), more in any::<[u8; 3]>()) {
            let mut bytes = value(SEQUENCE, &content);
            let length = bytes.len();
            bytes.extend(more);
            let item = expect(&bytes, SEQUENCE).unwrap();
            prop_assert_eq!((item.content, item.rest, item.whole.len()), (&content[..], &more[..], length));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(item) = read(&bytes) {
                prop_assert_eq!(item.whole.len() + item.rest.len(), bytes.len());
            }
        }
    }
}
