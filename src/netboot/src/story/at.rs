//! When something happened.

use std::fmt;

use groundcrew_core::UnixTime;
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, by the appliance's clock. A clock that somebody
/// sets makes gaps in a story, not another order: events stand as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct At(pub u64);

impl At {
    /// Milliseconds since `earlier`, 0 where it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds.
    pub const fn time(self) -> UnixTime {
        UnixTime::new(self.0 / 1000)
    }

    /// The day: `2026-11-23`.
    pub fn day(self) -> String {
        let text = self.time().to_string();
        text.get(..10).unwrap_or_default().to_owned()
    }

    /// The time of day, as a story's lines begin: `21:40:02.123`.
    pub fn clock(self) -> String {
        let text = self.time().to_string();
        let day = text.get(11..19).unwrap_or_default();
        format!("{day}.{:03}", self.0 % 1000)
    }
}

impl fmt::Display for At {
    /// To the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.time().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_people() {
        let at = At(1_792_705_202_007);
        assert_eq!(at.clock().len(), 12);
        assert!(at.clock().ends_with(".007"));
        assert_eq!(at.day(), "2026-10-22");
        assert_eq!(At(5).since(At(9)), 0);
    }
}
