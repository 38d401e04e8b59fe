//! Asking the wire whether anybody uses an address. Every ARP frame is heard;
//! only what claims an address that is being asked for is remembered.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::dhcp::conflict::{ARP_PATIENCE, claim, probe};
use nix::sys::socket::{MsgFlags, bind, recv};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{Sockets, raw};

/// ETH_P_ARP as the kernel wants it: in network order.
const ARP: i32 = 0x0806u16.to_be() as i32;

/// The most questions at once; past it, addresses are offered unasked.
const MOST: usize = 1024;

/// What is heard, and what is asked at this moment: who claimed it, once heard.
pub struct Ear {
    /// AF_PACKET, not UDP: tokio only waits for it to become readable.
    socket: UdpSocket,
    asked: Mutex<HashMap<Ipv4Addr, Asked>>,
}

/// An address that is asked about.
#[derive(Default)]
struct Asked {
    /// How many ask at this moment.
    askers: usize,
    /// Who claimed it.
    user: Option<MacAddr>,
}

impl Ear {
    /// Opens `interface` for ARP. Needs `CAP_NET_RAW`.
    pub fn open(interface: &str) -> anyhow::Result<Self> {
        let address = raw::link_address(interface).context("no Ethernet address")?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ARP)))?;
        socket.set_nonblocking(true)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            asked: Mutex::new(HashMap::new()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who claimed it by now; the last one who asks forgets it.
    fn answered(&self, ip: Ipv4Addr) -> Option<MacAddr> {
        let mut all = self.lock();
        let asked = all.get_mut(&ip)?;
        asked.askers -= 1;
        let (user, last) = (asked.user, asked.askers == 0);
        if last {
            all.remove(&ip);
        }
        user
    }
}

/// Hears one frame; never returns where there is no ear.
pub async fn listen(ear: Option<&Ear>) {
    let Some(ear) = ear else {
        return std::future::pending().await;
    };
    let mut buffer = [0; 64];
    let receive = || {
        let flags = MsgFlags::MSG_DONTWAIT;
        Ok(recv(ear.socket.as_raw_fd(), &mut buffer, flags)?)
    };
    match ear.socket.async_io(Interest::READABLE, receive).await {
        Ok(length) => {
            let claimed = claim(buffer.get(..length).unwrap_or_default());
            if let Some((ip, mac)) = claimed
                && let Some(asked) = ear.lock().get_mut(&ip)
            {
                asked.user = Some(mac);
            }
        }
        Err(error) => {
            tracing::debug!("ARP socket: {error}");
            // An interface that went down says so again and again.
            tokio::time::sleep(ARP_PATIENCE).await;
        }
    }
}

/// What came of a question.
pub enum Heard {
    /// Another machine uses the address.
    User(MacAddr),
    /// Nobody said so.
    Nothing,
    /// It could not be asked.
    NotAsked,
}

/// Who uses `ip`, other than the client that is to get it.
pub async fn user(sockets: &Sockets, ip: Ipv4Addr, client: MacAddr) -> Heard {
    let (Some(ear), Some(link)) = (sockets.arp.as_ref(), sockets.link.as_ref()) else {
        return Heard::NotAsked;
    };
    {
        let mut asked = ear.lock();
        if asked.len() >= MOST {
            return Heard::NotAsked;
        }
        asked.entry(ip).or_default().askers += 1;
    }
    let sent = link.send(&probe(link.mac(), ip));
    if sent.is_ok() {
        tokio::time::sleep(ARP_PATIENCE).await;
    }
    let user = ear.answered(ip);
    match user.filter(|user| *user != client) {
        Some(user) => Heard::User(user),
        None if sent.is_ok() => Heard::Nothing,
        None => Heard::NotAsked,
    }
}
