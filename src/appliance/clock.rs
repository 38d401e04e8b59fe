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

/// The same, in milliseconds.
pub fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Sets it, which only root may.
pub fn set(time: UnixTime) -> std::io::Result<()> {
    let time = rustix::time::Timespec {
        tv_sec: i64::try_from(time.seconds()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)?;
    Ok(())
}
