//! Names that people type and files carry, each checked once where it enters.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};

/// A name that is safe in a path, a URL and a file name: 1 to 40 of `a-z`,
/// `0-9` and inner `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug(String);

/// A site's name, the prefix of its devices' ids.
pub type SiteId = Slug;

impl Slug {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is not a [`Slug`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a valid name: use 1 to 40 lower-case letters, digits and inner hyphens")]
pub struct SlugError(String);

impl FromStr for Slug {
    type Err = SlugError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=40).contains(&text.len())
            && text.chars().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(SlugError(shown(text)))
        }
    }
}

/// A device's name at its site: `SITE-xxxxxxxx`, eight characters drawn at
/// random. It says nothing of the hardware, so a new board keeps the name and
/// a label on the lid stays true.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(String);

impl DeviceId {
    /// Makes an id of 40 random bits under the site's prefix.
    pub fn new(site: &SiteId, entropy: [u8; 5]) -> Self {
        Self(format!(
            "{site}-{}",
            crockford().encode(&entropy).to_lowercase()
        ))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is not a [`DeviceId`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a device id: it looks like SITE-7k2m9qx4")]
pub struct DeviceIdError(String);

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || DeviceIdError(shown(text));
        let (site, tail) = text.rsplit_once('-').ok_or_else(wrong)?;
        site.parse::<SiteId>().map_err(|_| wrong())?;
        let upper = tail.to_uppercase();
        if tail.len() == 8
            && tail.to_lowercase() == tail
            && crockford().decode(upper.as_bytes()).is_ok()
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong())
        }
    }
}

/// A bundle's or profile's version: one to four dotted numbers, compared
/// number by number; a missing one counts as 0 (`1.2` equals `1.2.0`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u32; 4]);

/// Text that is not a [`Version`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a version: use one to four dotted numbers, such as 1.4.2")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || VersionError(shown(text));
        let mut numbers = [0; 4];
        let mut places = numbers.iter_mut();
        for part in text.split('.') {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let place = places.next().filter(|_| digits).ok_or_else(wrong)?;
            *place = part.parse().map_err(|_| wrong())?;
        }
        Ok(Self(numbers))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}")?;
        if build > 0 {
            write!(f, ".{build}")
        } else {
            Ok(())
        }
    }
}

/// Crockford's base32: no I, L, O or U to misread; reads lower case too, and
/// O as 0, I and L as 1.
pub fn crockford() -> Encoding {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    spec.translate.from.push_str("OoIiLlabcdefghjkmnpqrstvwxyz");
    spec.translate.to.push_str("001111ABCDEFGHJKMNPQRSTVWXYZ");
    #[allow(
        clippy::expect_used,
        reason = "a constant specification; a test builds it"
    )]
    spec.encoding()
        .expect("Crockford's alphabet is a valid specification")
}

/// What an error may repeat of foreign text: printable, at most 60 characters.
pub fn shown(text: &str) -> String {
    text.chars()
        .take(60)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

macro_rules! shows_field {
    ($($name:ident: $field:tt),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.$field) }
        }
    )*};
}
shows_field!(Slug: 0, DeviceId: 0);

crate::text_form::text_form!(Slug, DeviceId, Version);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_stay_inside_a_path() {
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a/b",
            "..",
            "a.b",
            "ä",
            &"x".repeat(41),
        ] {
            assert!(bad.parse::<Slug>().is_err(), "{bad:?}");
        }
        assert_eq!("berlin-2".parse::<Slug>().unwrap().as_str(), "berlin-2");
    }

    #[test]
    fn device_ids_carry_the_site() {
        let site = "berlin-2".parse().unwrap();
        let id = DeviceId::new(&site, [0xff; 5]);
        assert_eq!(id.as_str(), "berlin-2-zzzzzzzz");
        assert_eq!(id.as_str().parse::<DeviceId>().unwrap(), id);
        for bad in [
            "berlin",
            "berlin-zzzzzzz",
            "berlin-ZZZZZZZZ",
            "berlin-uuuuuuuu",
            "-zzzzzzzz",
        ] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        let v = |text: &str| text.parse::<Version>().unwrap();
        assert!(v("1.10") > v("1.9.9"));
        assert_eq!(v("2"), v("2.0.0"));
        assert_eq!(v("2.0.0.7").to_string(), "2.0.0.7");
        for bad in ["", "1.", "v1", "1.2.3.4.5", "99999999999", "+1", "1..2"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
