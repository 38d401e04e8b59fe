//! A reader that gives up on a sender that drips: timeouts between two reads
//! do not, and a byte every half minute would hold a device for years.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// How much must come in this time, at least. A thousand devices that share
/// 100 Mbit/s still get forty times as much each.
const LEAST: u64 = 16 * 1024;
const WINDOW: Duration = Duration::from_secs(60);

/// Reads from `R` while enough comes.
pub struct Steady<R, C = fn() -> Instant> {
    inner: R,
    clock: C,
    since: Instant,
    came: u64,
}

impl<R> Steady<R> {
    /// Watches `inner` from now on.
    pub fn new(inner: R) -> Self {
        Self::with_clock(inner, Instant::now)
    }
}

impl<R, C: Fn() -> Instant> Steady<R, C> {
    fn with_clock(inner: R, clock: C) -> Self {
        let since = clock();
        Self {
            inner,
            clock,
            since,
            came: 0,
        }
    }
}

impl<R: Read, C: Fn() -> Instant> Read for Steady<R, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.came += count as u64;
        let now = (self.clock)();
        if count > 0 && now.duration_since(self.since) >= WINDOW {
            if self.came < LEAST {
                let text = format!("only {} bytes came in a minute", self.came);
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            (self.since, self.came) = (now, 0);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// `size` bytes for every read, and each takes `seconds`.
    fn read_all(size: usize, seconds: u64, reads: usize) -> io::Result<u64> {
        let (start, passed) = (Instant::now(), Cell::new(0));
        let content = vec![7; size * reads];
        let clock = || {
            passed.set(passed.get() + seconds);
            start + Duration::from_secs(passed.get())
        };
        let mut steady = Steady::with_clock(content.as_slice(), clock);
        let mut buffer = vec![0; size];
        let mut total = 0;
        loop {
            match steady.read(&mut buffer)? {
                0 => return Ok(total),
                count => total += count as u64,
            }
        }
    }

    #[test]
    fn a_drip_ends_within_the_minute_and_a_slow_line_does_not() {
        let error = read_all(1, 30, 1000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("2 bytes"), "{error}");
        assert_eq!(read_all(1024, 1, 500).unwrap(), 512_000);
        assert_eq!(
            read_all(10, 20, 1).unwrap(),
            10,
            "a short answer may be late"
        );
    }
}
