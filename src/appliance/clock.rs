//! The machine's clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

use groundcrew_core::UnixTime;

/// What the clock says. Before 1970 counts as 1970.
pub fn read() -> UnixTime {
    UnixTime::new(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    )
}
