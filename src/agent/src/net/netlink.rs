//! As much of rtnetlink(7) as bringing up one interface takes: list links,
//! set one up, add an address and a route, hear when the carrier comes.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use groundcrew_core::hardware::MacAddr;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::cmdline::Address;

/// `RTMGRP_LINK`: link changes.
const LINK_GROUP: u32 = 1;
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const NEWROUTE: u16 = 24;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE_REPLACE: u16 = 0x500;
/// `IFF_UP` and `IFF_LOWER_UP` of `netdevice(7)`.
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// A network interface with an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Kernel's index.
    pub index: u32,
    /// Kernel's name.
    pub name: String,
    /// Current address.
    pub mac: MacAddr,
    /// The address burned in, where the driver tells it (Linux 5.6 on).
    pub permanent: Option<MacAddr>,
    /// Whether there is a carrier.
    pub carrier: bool,
}

/// An rtnetlink socket.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket for requests.
    pub fn open() -> io::Result<Self> {
        Self::bound(0)
    }

    /// A socket that hears link changes from now on.
    pub fn listen() -> io::Result<Self> {
        Self::bound(LINK_GROUP)
    }

    fn bound(groups: u32) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is 0
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        let sequence = 0;
        Ok(Self { socket, sequence })
    }

    /// Every Ethernet interface.
    pub fn links(&mut self) -> io::Result<Vec<LinkInfo>> {
        self.send(GETLINK, DUMP, &link_header(0, 0, 0))?;
        let mut found = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let Some(buffer) = self.receive(deadline)? else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            for (kind, body) in messages(&buffer) {
                match kind {
                    NEWLINK => found.extend(parse_link(body)),
                    DONE => return Ok(found),
                    ERROR => error_of(body)?,
                    _ => {}
                }
            }
        }
    }

    /// Sets an interface up.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.change(NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP))
    }

    /// Gives an interface an address.
    pub fn add_address(&mut self, index: u32, address: Address) -> io::Result<()> {
        let ip = address.ip.octets();
        let mut body = vec![2, address.prefix, 0, 0]; // AF_INET, flags, scope
        body.extend(index.to_ne_bytes());
        attribute(&mut body, 2, &ip); // IFA_LOCAL
        attribute(&mut body, 1, &ip); // IFA_ADDRESS
        if address.prefix < 31 {
            let host = u32::MAX.checked_shr(u32::from(address.prefix)).unwrap_or(0);
            let broadcast = Ipv4Addr::from(u32::from(address.ip) | host);
            attribute(&mut body, 4, &broadcast.octets()); // IFA_BROADCAST
        }
        self.change(NEWADDR, CREATE_REPLACE, &body)
    }

    /// Takes an address away.
    pub fn remove_address(&mut self, index: u32, address: Address) -> io::Result<()> {
        let mut body = vec![2, address.prefix, 0, 0]; // AF_INET, flags, scope
        body.extend(index.to_ne_bytes());
        attribute(&mut body, 2, &address.ip.octets()); // IFA_LOCAL
        self.change(DELADDR, 0, &body)
    }

    /// The default route.
    pub fn add_default_route(&mut self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        // AF_INET, dst_len, src_len, tos, table main, proto boot, scope universe, unicast
        let mut body = vec![2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        attribute(&mut body, 5, &gateway.octets()); // RTA_GATEWAY
        attribute(&mut body, 4, &index.to_ne_bytes()); // RTA_OIF
        self.change(NEWROUTE, CREATE_REPLACE, &body)
    }

    /// Waits for a link change; `false` at the deadline.
    pub fn changed(&self, deadline: Instant) -> io::Result<bool> {
        Ok(self.receive(deadline)?.is_some())
    }

    fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, ACK | flags, body)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Some(buffer) = self.receive(deadline)? {
            if let Some((_, body)) = messages(&buffer).find(|(kind, _)| *kind == ERROR) {
                return error_of(body);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let message = message(kind, REQUEST | flags, self.sequence, body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Some(left.max(Duration::from_millis(1)));
            sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, timeout)?;
            match rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Changes were lost; somebody who waits for one looks again.
                Err(Errno::NOBUFS) => return Ok(Some(Vec::new())),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(16 + body.len());
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(index.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(change.to_ne_bytes());
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, data: &[u8]) {
    let length = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The messages in a datagram: type and body.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let kind = u16_at(rest, 4)?;
        let body = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes behind a header: type and data.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)?;
        let data = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

fn parse_link(body: &[u8]) -> Option<LinkInfo> {
    if u16_at(body, 2)? != ETHERNET {
        return None;
    }
    let flags = u32_at(body, 8)?;
    let (mut name, mut mac, mut permanent) = (None, None, None);
    for (kind, data) in attributes(body.get(16..)?) {
        let address = || Some(MacAddr(data.try_into().ok()?));
        match kind {
            3 => {
                name = std::str::from_utf8(data)
                    .ok()
                    .map(|n| n.trim_end_matches('\0'));
            }
            1 => mac = address(),
            54 => permanent = address(),
            _ => {}
        }
    }
    Some(LinkInfo {
        index: u32_at(body, 4)?,
        name: name?.to_owned(),
        mac: mac?,
        permanent: permanent.filter(|mac| mac.0 != [0; 6]),
        carrier: flags & IFF_LOWER_UP != 0,
    })
}

fn error_of(body: &[u8]) -> io::Result<()> {
    let code = u32_at(body, 0).unwrap_or_default().cast_signed();
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_link() {
        let mut body = link_header(2, IFF_UP | IFF_LOWER_UP, 0);
        body[2..4].copy_from_slice(&ETHERNET.to_ne_bytes());
        attribute(&mut body, 3, b"eth0\0");
        attribute(&mut body, 1, &[2, 0, 0, 0, 0, 1]);
        attribute(&mut body, 54, &[0x52, 0x54, 0, 0, 0, 1]);
        let datagram = [message(NEWLINK, 0, 1, &body), message(DONE, 0, 1, &[0; 4])].concat();
        let all: Vec<_> = messages(&datagram).collect();
        assert_eq!(all.len(), 2);
        let link = parse_link(all[0].1).unwrap();
        assert_eq!(
            (link.index, link.name.as_str(), link.carrier),
            (2, "eth0", true)
        );
        assert_eq!(link.permanent, Some(MacAddr([0x52, 0x54, 0, 0, 0, 1])));
    }

    #[test]
    fn lists_this_machine_s_links() {
        // Only reads; a machine without Ethernet gives an empty list.
        assert!(Netlink::open().unwrap().links().is_ok());
    }

    #[test]
    fn errors_are_errno() {
        assert!(error_of(&[0; 4]).is_ok());
        let refused = error_of(&(-1i32).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, body) in messages(&bytes) {
                let _ = parse_link(body);
                let _ = attributes(body).count();
            }
        }
    }
}
