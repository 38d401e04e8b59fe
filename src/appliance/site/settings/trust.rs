//! `[time]` and `[trust]`: what devices are told of the time, and how long the
//! site may be without HQ.

use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use super::{SettingsError, at, from_text_spanned};

const DAY: u64 = 86_400;

/// How long a site may be without HQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Nobody is let in when nothing new came from HQ for so many seconds.
    pub after: Option<u64>,
    /// How many seconds before that, and before anything expires, it is loud.
    pub warn: u64,
}

impl Default for Staleness {
    fn default() -> Self {
        Self {
            after: None,
            warn: 60 * DAY,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTime {
    pub(super) sntp: bool,
}

impl Default for RawTime {
    fn default() -> Self {
        Self { sntp: true }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTrust {
    #[serde(deserialize_with = "from_text_spanned")]
    stale_after: Option<Spanned<Days>>,
    #[serde(deserialize_with = "from_text_spanned")]
    warn_before: Option<Spanned<Days>>,
}

impl RawTrust {
    pub(super) fn checked(self, file: &str, text: &str) -> Result<Staleness, SettingsError> {
        let seconds = |days: &Spanned<Days>| days.get_ref().0 * DAY;
        let after = self.stale_after.as_ref().map(seconds);
        let warn = self.warn_before.as_ref().map(seconds);
        let warn = match (warn, after) {
            (Some(warn), _) => warn,
            // A short budget is not loud from its first day on.
            (None, Some(after)) => Staleness::default().warn.min(after / 2),
            (None, None) => Staleness::default().warn,
        };
        if let (Some(days), Some(after)) = (&self.warn_before, after)
            && warn >= after
        {
            let message = "it would be loud from the first day on; write less than `stale_after`";
            return Err(at(file, text, days.span(), message));
        }
        Ok(Staleness { after, warn })
    }
}

/// A number of days, `365d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days(u64);

impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
        match days {
            Some(days @ 1..=3650) => Ok(Self(days)),
            Some(days) => Err(format!("{days} days are out of bounds: use 1d to 3650d")),
            None => Err(format!(
                "`{}` is no number of days: write it as 365d",
                groundcrew_core::ids::shown(text)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn staleness(lines: &str) -> Result<Staleness, String> {
        let sample = include_str!("../../../../config/site.toml");
        let text = sample.replacen("warn_before = \"60d\"", lines, 1);
        let settings = parse("site.toml", &text).map_err(|error| error.to_string())?;
        Ok(settings.staleness)
    }

    #[test]
    fn a_budget_is_read_and_a_senseless_one_pointed_at() {
        assert_eq!(staleness("").unwrap(), Staleness::default());
        let both = staleness("stale_after = \"300d\"\nwarn_before = \"30d\"").unwrap();
        assert_eq!((both.after, both.warn), (Some(300 * DAY), 30 * DAY));
        let short = staleness("stale_after = \"10d\"").unwrap();
        assert_eq!(short.warn, 5 * DAY);
        let senseless = staleness("stale_after = \"10d\"\nwarn_before = \"10d\"");
        assert!(senseless.unwrap_err().contains("less than `stale_after`"));
        assert!(
            staleness("stale_after = \"1y\"")
                .unwrap_err()
                .contains("365d")
        );
        assert!(
            staleness("stale_after = \"0d\"")
                .unwrap_err()
                .contains("out of bounds")
        );
    }
}
