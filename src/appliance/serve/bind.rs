//! Sockets, each kept to one interface. An address alone does not: Linux answers
//! for it on every interface it has.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// A TCP port, listened on. `service`: whose, for the one line that says why not.
pub(super) fn tcp(
    service: &str,
    interface: &str,
    address: Ipv4Addr,
    port: u16,
) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    keep_to(&socket, interface)?;
    socket
        .bind(&SocketAddrV4::new(address, port).into())
        .and_then(|()| socket.listen(1024))
        .with_context(|| cannot(service, &format!("{address}:{port}/tcp")))?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// A UDP port, or any where `port` is 0.
pub(super) fn udp(
    service: &str,
    interface: &str,
    address: Ipv4Addr,
    port: u16,
) -> anyhow::Result<UdpSocket> {
    let socket = datagrams(interface)?;
    socket
        .bind(&SocketAddrV4::new(address, port).into())
        .with_context(|| cannot(service, &format!("{address}:{port}/udp")))?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// UDP, not bound yet.
pub(super) fn datagrams(interface: &str) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    keep_to(&socket, interface)?;
    Ok(socket)
}

fn keep_to(socket: &Socket, interface: &str) -> anyhow::Result<()> {
    let kept = socket.bind_device(Some(interface.as_bytes()));
    kept.with_context(|| {
        format!("cannot use the interface {interface}: `groundcrew check` says what is missing")
    })
}

fn cannot(service: &str, port: &str) -> String {
    format!("cannot bind {port} for {service} (`groundcrew check` says what to do)")
}
