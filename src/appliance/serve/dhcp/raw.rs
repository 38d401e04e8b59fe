//! Frames out of one interface (AF_PACKET): the way to a client that does not
//! answer ARP yet. Send only: with protocol 0 the kernel hands nothing in.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use groundcrew_core::hardware::MacAddr;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};

/// An interface, open for frames.
pub struct Link {
    socket: OwnedFd,
    mac: MacAddr,
}

impl Link {
    /// Opens `interface`. Needs `CAP_NET_RAW`.
    pub fn open(interface: &str) -> anyhow::Result<Self> {
        let address = link_address(interface)
            .with_context(|| format!("{interface} has no Ethernet address"))?;
        let mac = MacAddr(address.addr().context("no hardware address")?);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)
            .context("raw sockets need CAP_NET_RAW")?;
        // The kernel lists interfaces with protocol 0, so this socket stays deaf.
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { socket, mac })
    }

    /// The interface's hardware address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Sends a whole frame, now or not at all.
    pub fn send(&self, frame: &[u8]) -> nix::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT).map(drop)
    }
}

/// The interface as the kernel names it to AF_PACKET.
pub fn link_address(interface: &str) -> Option<LinkAddr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .filter(|address| address.halen() == 6)
}
