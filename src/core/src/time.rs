//! The time rule: what time a machine without internet can honestly claim.
//!
//! floor = max(build time, time we persisted, signed issued-at values we
//! verified); now = max(floor, clock). A clock or an SNTP answer never raises
//! the floor, so a wrong one cannot lock a device out for good. "Unknown" is a
//! state, not the year 1970.

use std::fmt;
use std::str::FromStr;

/// Seconds since 1970-01-01T00:00:00Z, years 1970 to 9999. Text form is the
/// one of TUF 1.0: `2026-11-22T21:40:02Z`, always UTC, whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

/// 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

impl UnixTime {
    /// The time `seconds` after the epoch; later than the year 9999 is clamped.
    pub const fn new(seconds: u64) -> Self {
        Self(if seconds > LAST { LAST } else { seconds })
    }

    /// Seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// This time and `seconds` more.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self::new(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this time, 0 if it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Text that is not a time of the form `2026-11-22T21:40:02Z`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a time: write it in UTC as 2026-11-22T21:40:02Z")]
pub struct TimeError(String);

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / 86_400);
        let s = self.0 % 86_400;
        let (hour, minute, second) = (s / 3600, s / 60 % 60, s % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

crate::text_form::text_form!(UnixTime);

impl FromStr for UnixTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| TimeError(crate::ids::shown(text)))
    }
}

fn parse(text: &str) -> Option<UnixTime> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let part = text.get(from..to)?;
        part.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| part.parse().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1970 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    let time = UnixTime::new(days.checked_mul(86_400)? + hour * 3600 + minute * 60 + second);
    // Writing it again catches separators, 31 February and anything behind the Z.
    (time.to_string() == text).then_some(time)
}

/// Days since 1970-01-01 of a proleptic Gregorian date from 1970 on (Howard
/// Hinnant's `days_from_civil`). Out-of-range months and days give some day:
/// the caller writes it back and compares.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day.saturating_sub(1);
    (era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy).saturating_sub(719_468)
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month, doy - (153 * mp + 2) / 5 + 1)
}

/// When this release was made: the lowest floor of any program built from it.
/// A constant, moved at each release, so that the same source gives the same
/// bytes whenever it is built.
pub const RELEASED: UnixTime = UnixTime::new(1_795_305_600); // 2026-11-22T00:00:00Z

/// What is known to be in the past. It only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeFloor(UnixTime);

impl TimeFloor {
    /// Starts from the time this program was built.
    pub const fn built_at(build: UnixTime) -> Self {
        Self(build)
    }

    /// Raises the floor by a time we persisted ourselves or read in something
    /// whose signature was verified. Never call it with a clock's or a
    /// network's time.
    pub fn raise(&mut self, proven: UnixTime) {
        self.0 = self.0.max(proven);
    }

    /// The floor itself.
    pub const fn time(self) -> UnixTime {
        self.0
    }

    /// The time to judge expiry by. `clock` is what the machine's clock says.
    pub fn now(self, clock: UnixTime) -> Now {
        if clock >= self.0 {
            Now::Clock(clock)
        } else {
            Now::Floor(self.0)
        }
    }
}

/// What time it is, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// The machine's clock, which stands at or after the floor.
    Clock(UnixTime),
    /// The clock is behind what is proven past: the time is unknown, only not
    /// earlier than this. Nothing may be signed with it.
    Floor(UnixTime),
}

impl Now {
    /// The time that expiry is judged against.
    pub const fn time(self) -> UnixTime {
        match self {
            Self::Clock(time) | Self::Floor(time) => time,
        }
    }

    /// The time to sign with, if there is a credible one.
    pub const fn credible(self) -> Option<UnixTime> {
        match self {
            Self::Clock(time) => Some(time),
            Self::Floor(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn released_is_the_date_its_comment_says() {
        assert_eq!(RELEASED.to_string(), "2026-11-22T00:00:00Z");
    }

    #[test]
    fn reads_only_its_own_spelling() {
        let time: UnixTime = "2026-11-22T21:40:02Z".parse().unwrap();
        assert_eq!(time.seconds(), 1_795_383_602);
        assert_eq!(
            "2000-02-29T00:00:00Z"
                .parse::<UnixTime>()
                .unwrap()
                .seconds(),
            951_782_400
        );
        for bad in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-11-22 21:40:02Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T21:40:02+00:00",
            "2026-11-22T21:40:02Zx",
            "1969-12-31T23:59:59Z",
            "１２３４-11-22T21:40:02Z",
        ] {
            assert!(bad.parse::<UnixTime>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn writes_what_it_reads(seconds in 0..=LAST) {
            let time = UnixTime::new(seconds);
            prop_assert_eq!(time.to_string().parse::<UnixTime>().unwrap(), time);
        }

        #[test]
        fn never_panics_on_text(text in "\\PC{0,30}") {
            let _ = text.parse::<UnixTime>();
        }

        #[test]
        fn now_never_falls_below_what_was_proven(
            build in 0..LAST, proven in proptest::collection::vec(0..LAST, 0..8), clock in 0..LAST,
        ) {
            let mut floor = TimeFloor::built_at(UnixTime::new(build));
            for time in &proven {
                floor.raise(UnixTime::new(*time));
            }
            let now = floor.now(UnixTime::new(clock));
            prop_assert!(now.time() >= floor.time());
            prop_assert!(proven.iter().all(|time| now.time().seconds() >= *time));
            prop_assert_eq!(now.credible().is_some(), clock >= floor.time().seconds());
        }
    }
}
