//! The DHCP socket: packets in, decisions by [`groundcrew_netboot::dhcp`], rows
//! to disk, and only then the reply.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use anyhow::Context as _;
use groundcrew_netboot::dhcp::{
    self, Destination, Ignored, LeaseEvent, Outcome, Reply, Request, Server, Verdict,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Shutdown;
use crate::site::Settings;
use crate::store::{Change, Writer};

/// Binds port 67 on the site's interface and no other.
pub fn bind(settings: &Settings) -> anyhow::Result<UdpSocket> {
    let interface = &settings.interface;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    socket
        .bind_device(Some(interface.as_bytes()))
        .with_context(|| {
            format!("cannot use the interface {interface}: `groundcrew check` says what is missing")
        })?;
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dhcp::SERVER_PORT);
    socket
        .bind(&address.into())
        .with_context(|| super::run::cannot_bind("DHCP", "67/udp"))?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// Answers until told to stop.
pub async fn run(socket: UdpSocket, mut server: Server, writer: Writer, mut stop: Shutdown) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 1536];
    loop {
        let (length, source) = tokio::select! {
            () = stop.ordered() => return,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!("DHCP socket: {error}");
                    continue;
                }
            },
        };
        let packet = buffer.get(..length).unwrap_or_default();
        match Request::parse(packet) {
            Ok(request) => answer(&socket, &mut server, &writer, &request),
            Err(error) => tracing::debug!(%source, "DHCP packet dropped: {error}"),
        }
    }
}

fn answer(socket: &Arc<UdpSocket>, server: &mut Server, writer: &Writer, request: &Request) {
    // A place first: with a full queue nothing may have happened in memory.
    let Ok(place) = writer.place() else {
        tracing::warn!(mac = %request.mac, "DHCP: the disk does not keep up, packet dropped");
        return;
    };
    let Outcome {
        verdict,
        events,
        client,
    } = server.handle(request, crate::clock::read());
    let changes: Vec<Change> = events.into_iter().map(change).collect();
    let commit = (!changes.is_empty()).then(|| place.write(changes));
    let Some(reply) = reply_of(verdict, request) else {
        return;
    };
    tracing::info!(
        mac = %request.mac, xid = format_args!("{:08x}", request.xid), ip = %reply.yiaddr,
        "DHCP {} -> {} to {client}", request.kind, reply.kind
    );
    let socket = Arc::clone(socket);
    tokio::spawn(async move {
        if let Some(commit) = commit {
            commit.done().await;
        }
        let target = target(reply.destination);
        if let Err(error) = socket.send_to(&reply.bytes, target).await {
            tracing::warn!(%target, "DHCP reply not sent: {error}");
        }
    });
}

/// The reply to send, if there is one; what is not answered is logged with its reason.
fn reply_of(verdict: Verdict, request: &Request) -> Option<Reply> {
    let (mac, kind) = (request.mac, request.kind);
    match verdict {
        Verdict::Reply(reply) => return Some(reply),
        Verdict::Noted(noted) => tracing::info!(%mac, "DHCP {kind}: {noted}"),
        Verdict::Ignored(reason @ Ignored::PoolExhausted { .. }) => {
            tracing::warn!(%mac, "DHCP {kind} not answered: {reason}");
        }
        Verdict::Ignored(reason) => tracing::debug!(%mac, "DHCP {kind} not answered: {reason}"),
    }
    None
}

fn change(event: LeaseEvent) -> Change {
    match event {
        LeaseEvent::Put(lease) => Change::PutLease(lease),
        LeaseEvent::Delete(ip) => Change::DropLease(ip),
    }
}

/// A client without an address is answered by broadcast: every client takes
/// that, and it needs no raw socket.
fn target(destination: Destination) -> SocketAddr {
    let (ip, port) = match destination {
        Destination::Relay(ip) => (ip, dhcp::SERVER_PORT),
        Destination::Unicast(ip) => (ip, dhcp::CLIENT_PORT),
        Destination::Broadcast | Destination::L2 { .. } => (Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT),
    };
    SocketAddr::V4(SocketAddrV4::new(ip, port))
}
