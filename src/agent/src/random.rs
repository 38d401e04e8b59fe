//! Randomness from the kernel. `getrandom(2)` blocks until its pool is ready,
//! which the first milliseconds of a boot may need.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// `N` random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let mut filled = 0;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Every kernel we run on has it; going on with zeros would make a
            // guessable key.
            #[allow(clippy::panic, reason = "no key is better than a known one")]
            Err(errno) => panic!("getrandom: {errno}"),
        }
    }
    out
}

/// A random number.
pub fn u32() -> u32 {
    u32::from_ne_bytes(bytes())
}
