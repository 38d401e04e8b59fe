//! The DHCP sockets: packets in, decisions by [`groundcrew_netboot::dhcp`], rows
//! to disk, and only then the reply.

mod arp;
mod raw;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::dhcp::frame::Ends;
use groundcrew_netboot::dhcp::{self, Destination, Mode, Reply, Request, Via};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Shutdown;
use super::word::Words;
use crate::lan::{Answer, Desk};
use crate::site::Settings;

/// A hardware address for probes where the interface has none of its own.
const NO_MAC: MacAddr = MacAddr([0x02, 0x67, 0x63, 0x00, 0x00, 0x01]);

/// Between two reports of what happened too often.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The sockets of one interface, shared with the replies that wait for the disk.
pub struct Sockets {
    /// Port 67. Without it (mode `off`) nothing is done.
    server: Option<UdpSocket>,
    /// Port 4011, where ProxyDHCP may be played.
    pxe: Option<UdpSocket>,
    /// Broadcasts to port 68, to hear other servers.
    ear: Option<UdpSocket>,
    link: Option<raw::Link>,
    arp: Option<arp::Ear>,
    address: Ipv4Addr,
}

/// Binds the ports the mode needs, on the site's interface and no other.
pub fn bind(settings: &Settings) -> anyhow::Result<Sockets> {
    let mode = settings.dhcp.mode;
    let mut sockets = Sockets {
        server: None,
        pxe: None,
        ear: None,
        link: None,
        arp: None,
        address: settings.address.address,
    };
    if mode == Mode::Off {
        return Ok(sockets);
    }
    let any = Ipv4Addr::UNSPECIFIED;
    sockets.server = Some(udp(settings, any, dhcp::SERVER_PORT)?);
    if mode != Mode::Authoritative {
        sockets.pxe = Some(udp(settings, sockets.address, dhcp::PXE_PORT)?);
    }
    sockets.link = raw::Link::open(&settings.interface)
        .inspect_err(|error| {
            tracing::warn!("clients without an address are answered by broadcast: {error:#}");
        })
        .ok();
    if settings.dhcp.conflict_probe {
        sockets.arp = arp::Ear::open(&settings.interface)
            .inspect_err(|error| {
                tracing::warn!(
                    "addresses are offered without asking whether they are in use: {error:#}"
                );
            })
            .ok();
    }
    sockets.ear = listen(settings)
        .inspect_err(|error| {
            let so = match mode {
                Mode::Auto { .. } => "so nobody is answered until a client names one",
                _ => "so they are not reported",
            };
            tracing::warn!("other DHCP servers cannot be heard, {so}: {error:#}");
        })
        .ok();
    Ok(sockets)
}

impl Sockets {
    /// The interface's hardware address.
    pub fn mac(&self) -> MacAddr {
        self.link.as_ref().map_or(NO_MAC, raw::Link::mac)
    }
}

fn udp(settings: &Settings, address: Ipv4Addr, port: u16) -> anyhow::Result<UdpSocket> {
    let socket = on_interface(settings)?;
    socket
        .bind(&SocketAddrV4::new(address, port).into())
        .with_context(|| super::run::cannot_bind("DHCP", &format!("{port}/udp")))?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// Bound to the broadcast address: it hears what is said to all, and takes no
/// packet from a DHCP client that keeps this machine's own address alive.
fn listen(settings: &Settings) -> anyhow::Result<UdpSocket> {
    let socket = on_interface(settings)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT).into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

fn on_interface(settings: &Settings) -> anyhow::Result<Socket> {
    let interface = &settings.interface;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    socket
        .bind_device(Some(interface.as_bytes()))
        .with_context(|| {
            format!("cannot use the interface {interface}: `groundcrew check` says what is missing")
        })?;
    Ok(socket)
}

/// Answers until told to stop.
pub async fn run(sockets: Sockets, desk: Arc<Desk>, words: Words, mut stop: Shutdown) {
    let sockets = Arc::new(sockets);
    let Some(server) = &sockets.server else {
        tracing::warn!("DHCP is off (`mode = \"off\"`): another server has to send devices here");
        return stop.ordered().await;
    };
    tracing::info!("DHCP mode {}", desk.mode());
    let (mut on_67, mut on_4011, mut on_68) = ([0; 1536], [0; 1536], [0; 1536]);
    let mut reports = tokio::time::interval(REPORT_EVERY);
    let mut due = Box::pin(tokio::time::sleep(Duration::ZERO));
    loop {
        tokio::select! {
            () = stop.ordered() => return,
            received = server.recv_from(&mut on_67) => {
                if let Some((packet, _)) = packet(received, &on_67) {
                    answer(&sockets, &desk, &words, packet, Via::Dhcp);
                }
            }
            received = receive(sockets.pxe.as_ref(), &mut on_4011) => {
                if let Some((packet, SocketAddr::V4(from))) = packet(received, &on_4011) {
                    answer(&sockets, &desk, &words, packet, Via::Pxe(from));
                }
            }
            received = receive(sockets.ear.as_ref(), &mut on_68) => {
                if let Some((packet, _)) = packet(received, &on_68) {
                    desk.overhear(packet);
                }
            }
            () = arp::listen(sockets.arp.as_ref()) => {}
            () = &mut due => {
                let wait = probe(&sockets, &desk).await;
                due.as_mut().reset(tokio::time::Instant::now() + wait);
            }
            _ = reports.tick() => desk.report(),
        }
    }
}

type Received = std::io::Result<(usize, SocketAddr)>;

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Received {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

fn packet(received: Received, buffer: &[u8]) -> Option<(&[u8], SocketAddr)> {
    match received {
        Ok((length, source)) => Some((buffer.get(..length)?, source)),
        Err(error) => {
            // Mostly a peer's "port unreachable", told to us here.
            tracing::debug!("DHCP socket: {error}");
            None
        }
    }
}

/// Asks for other servers if it is time; how long to wait for the next time.
async fn probe(sockets: &Sockets, desk: &Desk) -> Duration {
    let (probe, wait) = desk.tick();
    if let (Some(probe), Some(ear)) = (probe, &sockets.ear) {
        let all = SocketAddrV4::new(Ipv4Addr::BROADCAST, dhcp::SERVER_PORT);
        match ear.send_to(&probe, all).await {
            Ok(_) => desk.probe_sent(),
            Err(error) => tracing::debug!("DHCP probe not sent: {error}"),
        }
    }
    wait.max(Duration::from_millis(100))
}

fn answer(sockets: &Arc<Sockets>, desk: &Arc<Desk>, words: &Words, packet: &[u8], via: Via) {
    let mut request = match Request::parse(packet) {
        Ok(request) => request,
        Err(error) => {
            desk.malformed();
            return tracing::debug!("DHCP packet dropped: {error}");
        }
    };
    request.word = words.of(&request);
    let answer = match desk.handle(&request, via) {
        Ok(Some(answer)) => answer,
        Ok(None) => return,
        Err(busy) => return tracing::warn!(mac = %request.mac, "DHCP packet dropped: {busy}"),
    };
    let Answer {
        commit,
        reply,
        client,
    } = answer;
    tracing::info!(
        mac = %request.mac, xid = format_args!("{:08x}", request.xid), ip = %reply.yiaddr,
        "DHCP {} -> {}{} to {client}", request.kind, if reply.proxied { "proxy " } else { "" }, reply.kind
    );
    let (sockets, desk, client_mac) = (Arc::clone(sockets), Arc::clone(desk), request.mac);
    tokio::spawn(async move {
        if reply.fresh
            && let Some(user) = arp::user(&sockets, reply.yiaddr, client_mac).await
        {
            // The client asks again and is offered another one.
            return desk.conflict(reply.yiaddr, user);
        }
        if let Some(commit) = commit {
            commit.done().await;
        }
        if let Err(error) = send(&sockets, &reply).await {
            tracing::warn!(to = %reply.destination, "DHCP reply not sent: {error}");
        }
    });
}

async fn send(sockets: &Sockets, reply: &Reply) -> std::io::Result<()> {
    let (ip, port) = match reply.destination {
        Destination::Relay(ip) => (ip, dhcp::SERVER_PORT),
        Destination::Unicast(ip) => (ip, dhcp::CLIENT_PORT),
        Destination::Broadcast => (Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT),
        Destination::Back(from) => return send_by(sockets.pxe.as_ref(), &reply.bytes, from).await,
        Destination::L2 { mac, ip } => {
            if sent_to_mac(sockets, mac, ip, &reply.bytes) {
                return Ok(());
            }
            // Every client takes a broadcast; it only wakes the others.
            (Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT)
        }
    };
    send_by(
        sockets.server.as_ref(),
        &reply.bytes,
        SocketAddrV4::new(ip, port),
    )
    .await
}

async fn send_by(
    socket: Option<&UdpSocket>,
    bytes: &[u8],
    to: SocketAddrV4,
) -> std::io::Result<()> {
    match socket {
        Some(socket) => socket.send_to(bytes, to).await.map(drop),
        None => Ok(()),
    }
}

fn sent_to_mac(sockets: &Sockets, to_mac: MacAddr, to: Ipv4Addr, payload: &[u8]) -> bool {
    let Some(link) = &sockets.link else {
        return false;
    };
    let ends = Ends {
        from_mac: link.mac(),
        from: sockets.address,
        to_mac,
        to,
    };
    let Some(frame) = dhcp::frame::reply(&ends, payload) else {
        return false;
    };
    link.send(&frame)
        .inspect_err(|error| tracing::debug!("frame to {to_mac} not sent: {error}"))
        .is_ok()
}
