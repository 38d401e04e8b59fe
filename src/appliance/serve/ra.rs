//! Router advertisements of lifetime 0: "no router here". Without one iPXE
//! waits 13 seconds for IPv6 before it goes on (seen in captures
//! `bios-ipxe-virtio` and `bios-ipxe-virtio-nora`). Silent as soon as a real
//! router is heard.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use anyhow::Context as _;
use groundcrew_netboot::ra::{ALL_NODES, ALL_ROUTERS, HOP_LIMIT, NeighborDiscovery, no_router};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::IoSliceMut;
use std::os::fd::AsRawFd as _;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Shutdown;

/// Between unasked advertisements. iPXE asks, so this is for others.
const EVERY: Duration = Duration::from_secs(30);

/// A raw ICMPv6 socket on one link.
pub struct Link {
    /// Raw, not UDP: tokio only waits for it to become readable.
    socket: UdpSocket,
    address: Ipv6Addr,
    scope: u32,
    interface: String,
}

/// Opens the link. Fails where IPv6 is off or raw sockets are not allowed; the
/// appliance then works, only slower.
pub fn bind(interface: &str) -> anyhow::Result<Link> {
    let address = link_local(interface).context("the interface has no IPv6 link-local address")?;
    let scope = nix::net::if_::if_nametoindex(interface)?;
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
        .context("raw sockets need CAP_NET_RAW")?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_multicast_hops_v6(u32::from(HOP_LIMIT))?;
    socket.set_unicast_hops_v6(u32::from(HOP_LIMIT))?;
    socket.set_multicast_loop_v6(false)?;
    // Solicitations come to the routers, other routers' advertisements to all.
    socket.join_multicast_v6(&ALL_ROUTERS, scope)?;
    socket.join_multicast_v6(&ALL_NODES, scope)?;
    socket.set_recv_hoplimit_v6(true)?;
    socket.bind(&SocketAddrV6::new(address, 0, 0, scope).into())?;
    Ok(Link {
        socket: UdpSocket::from_std(socket.into())?,
        address,
        scope,
        interface: interface.to_owned(),
    })
}

fn link_local(interface: &str) -> Option<Ipv6Addr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| {
            let ip = entry.address?.as_sockaddr_in6()?.ip();
            ip.is_unicast_link_local().then_some(ip)
        })
}

/// Advertises until a real router is heard or the order to stop comes.
pub async fn run(link: Link, mut stop: Shutdown) {
    let mut due = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.ordered() => return,
            _ = due.tick() => advertise(&link),
            heard = link.receive() => match heard {
                Ok(NeighborDiscovery::Solicitation) => advertise(&link),
                Ok(heard) if heard.is_router_other_than(link.address) => {
                    tracing::info!(interface = link.interface, "an IPv6 router is here, so ours is withdrawn: {heard:?}");
                    return;
                }
                Ok(_) => {}
                Err(error) => tracing::trace!("ICMPv6: {error}"),
            },
        }
    }
}

fn advertise(link: &Link) {
    let bytes = no_router(link.address, None);
    let target = SocketAddrV6::new(ALL_NODES, 0, 0, link.scope);
    if let Err(error) = link.socket.try_send_to(&bytes, target.into()) {
        tracing::debug!(
            interface = link.interface,
            "router advertisement not sent: {error}"
        );
    }
}

impl Link {
    async fn receive(&self) -> anyhow::Result<NeighborDiscovery> {
        let receive = || receive_now(&self.socket);
        let (length, source, hops, buffer) =
            self.socket.async_io(Interest::READABLE, receive).await?;
        let message = buffer.get(..length).unwrap_or_default();
        // The checksum covers the destination, which was one of these.
        let parse = |to| NeighborDiscovery::parse(source, to, hops, message);
        Ok(parse(ALL_ROUTERS)
            .or_else(|_| parse(ALL_NODES))
            .or_else(|_| parse(self.address))?)
    }
}

type Received = (usize, Ipv6Addr, u8, [u8; 1500]);

fn receive_now(socket: &UdpSocket) -> std::io::Result<Received> {
    let mut buffer = [0; 1500];
    let mut control = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<SockaddrIn6>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let hops = message.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::Ipv6HopLimit(hops) => u8::try_from(hops).ok(),
        _ => None,
    });
    let source = message.address.map_or(Ipv6Addr::UNSPECIFIED, |a| a.ip());
    let length = message.bytes;
    Ok((length, source, hops.unwrap_or(0), buffer))
}
