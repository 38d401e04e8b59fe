//! The kernel's device events (`NETLINK_KOBJECT_UEVENT`): how the agent waits
//! for a disk or a network card without polling.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};

/// One event; fields that are not there are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, …
    pub action: String,
    /// `net`, `block`, `pci`, …
    pub subsystem: String,
    /// Path below `/sys`.
    pub devpath: String,
    /// What drivers match against.
    pub modalias: String,
}

impl Uevent {
    /// Reads a message of the kernel: `add@/devices/…`, then `KEY=value`,
    /// each ended by a zero byte. Anything else is `None`.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = message.split(|byte| *byte == 0);
        let head = std::str::from_utf8(parts.next()?).ok()?;
        head.split_once('@')?;
        let mut event = Self::default();
        for part in parts {
            let Some((key, value)) = std::str::from_utf8(part)
                .ok()
                .and_then(|t| t.split_once('='))
            else {
                continue;
            };
            let field = match key {
                "ACTION" => &mut event.action,
                "SUBSYSTEM" => &mut event.subsystem,
                "DEVPATH" => &mut event.devpath,
                "MODALIAS" => &mut event.modalias,
                _ => continue,
            };
            value.clone_into(field);
        }
        Some(event)
    }
}

/// A socket that hears the kernel's events from its opening on. Open it
/// before looking at what is already there, and nothing falls between.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Opens it with room for the storm of a cold start.
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::KOBJECT_UEVENT),
        )?;
        // More than the default limit needs a right that PID 1 has.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Self(socket))
    }

    /// The next event, or `None` at the deadline.
    pub fn next(&self, deadline: Instant) -> io::Result<Option<Uevent>> {
        let mut buffer = vec![0; 8192];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = left.max(Duration::from_millis(1));
            sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, Some(timeout))?;
            match rustix::net::recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    let event = buffer.get(..length).and_then(Uevent::parse);
                    if let Some(event) = event {
                        return Ok(Some(event));
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                // Events were lost: whoever waits looks for itself again.
                Err(rustix::io::Errno::NOBUFS) => return Ok(Some(Uevent::default())),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Waits until `look` finds something, looking again after every event (and
/// once a second, should an event be lost).
pub fn wait_for<T>(
    events: &Uevents,
    deadline: Instant,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let now = Instant::now();
        if now >= deadline {
            return None;
        }
        if events
            .next(deadline.min(now + Duration::from_secs(1)))
            .is_err()
        {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_kernel_s_form() {
        let message = b"add@/devices/pci0000:00/0000:00:02.0/virtio0\0ACTION=add\0\
            DEVPATH=/devices/pci0000:00/0000:00:02.0/virtio0\0SUBSYSTEM=virtio\0\
            MODALIAS=virtio:d00000001v00001AF4\0SEQNUM=1234\0";
        let event = Uevent::parse(message).unwrap();
        assert_eq!(event.action, "add");
        assert_eq!(event.subsystem, "virtio");
        assert_eq!(event.modalias, "virtio:d00000001v00001AF4");
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Uevent::parse(&bytes);
        }
    }
}
