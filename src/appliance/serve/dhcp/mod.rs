//! The DHCP sockets: packets in, decisions by [`groundcrew_netboot::dhcp`], rows
//! to disk, and only then the reply.

mod arp;
mod raw;
mod send;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::dhcp::{self, Mode, Reply, ReplyKind, Request, Via};
use tokio::net::UdpSocket;

use super::Shutdown;
use super::word::Words;
use crate::lan::{Answer, Desk, Wire};
use crate::site::Network;

use send::Outbox;

/// A hardware address for probes where the interface has none of its own.
const NO_MAC: MacAddr = MacAddr([0x02, 0x67, 0x63, 0x00, 0x00, 0x01]);

/// Packets taken from a socket in one go.
const BURST: usize = 32;

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

/// Binds the ports the mode needs, on the network's interface and no other.
pub fn bind(network: &Network) -> anyhow::Result<Sockets> {
    let mode = network.mode;
    let mut sockets = Sockets {
        server: None,
        pxe: None,
        ear: None,
        link: None,
        arp: None,
        address: network.address.address,
    };
    if mode == Mode::Off {
        return Ok(sockets);
    }
    let any = Ipv4Addr::UNSPECIFIED;
    sockets.server = Some(udp(network, any, dhcp::SERVER_PORT)?);
    if mode != Mode::Authoritative {
        sockets.pxe = Some(udp(network, sockets.address, dhcp::PXE_PORT)?);
    }
    sockets.link = raw::Link::open(&network.interface)
        .inspect_err(|error| {
            tracing::warn!("clients without an address are answered by broadcast: {error:#}");
        })
        .ok();
    if network.conflict_probe {
        sockets.arp = arp::Ear::open(&network.interface)
            .inspect_err(|error| {
                tracing::warn!(
                    "addresses are offered without asking whether they are in use: {error:#}"
                );
            })
            .ok();
    }
    sockets.ear = listen(network)
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
    /// What they can do.
    pub fn wire(&self) -> Wire {
        Wire {
            mac: self.link.as_ref().map_or(NO_MAC, raw::Link::mac),
            asks_arp: self.link.is_some() && self.arp.is_some(),
        }
    }
}

fn udp(network: &Network, address: Ipv4Addr, port: u16) -> anyhow::Result<UdpSocket> {
    let socket = super::bind::udp("DHCP", &network.interface, address, port)?;
    socket.set_broadcast(true)?;
    Ok(socket)
}

/// Bound to the broadcast address: it hears what is said to all, and takes no
/// packet from a DHCP client that keeps this machine's own address alive.
fn listen(network: &Network) -> anyhow::Result<UdpSocket> {
    let socket = super::bind::datagrams(&network.interface)?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT).into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// Answers until told to stop.
pub async fn run(sockets: Sockets, desk: Arc<Desk>, words: Words, mut stop: Shutdown) {
    if sockets.server.is_none() {
        tracing::warn!(
            interface = desk.interface(),
            "DHCP is off (`mode = \"off\"`): another server has to send devices here"
        );
        return stop.ordered().await;
    }
    tracing::info!(interface = desk.interface(), "DHCP mode {}", desk.mode());
    let counter = Counter::open(Arc::new(sockets), desk, words);
    tokio::select! {
        () = stop.ordered() => {}
        () = counter.serve() => {}
    }
}

/// Where packets are taken in and replies go out.
struct Counter {
    sockets: Arc<Sockets>,
    desk: Arc<Desk>,
    words: Words,
    outbox: Outbox,
}

impl Counter {
    fn open(sockets: Arc<Sockets>, desk: Arc<Desk>, words: Words) -> Self {
        let outbox = Outbox::open(Arc::clone(&sockets));
        Self {
            sockets,
            desk,
            words,
            outbox,
        }
    }

    async fn serve(&self) {
        let (mut on_67, mut on_4011, mut on_68) = ([0; 1536], [0; 1536], [0; 1536]);
        let Self { sockets, desk, .. } = self;
        let mut reports = tokio::time::interval(REPORT_EVERY);
        let mut due = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            tokio::select! {
                received = receive(sockets.server.as_ref(), &mut on_67) => {
                    if let Some((packet, _)) = packet(received, &on_67) {
                        self.answer(packet, Via::Dhcp).await;
                    }
                    self.answer_more(&mut on_67).await;
                }
                received = receive(sockets.pxe.as_ref(), &mut on_4011) => {
                    if let Some((packet, SocketAddr::V4(from))) = packet(received, &on_4011) {
                        self.answer(packet, Via::Pxe(from)).await;
                    }
                }
                received = receive(sockets.ear.as_ref(), &mut on_68) => {
                    if let Some((packet, _)) = packet(received, &on_68) {
                        desk.overhear(packet);
                    }
                }
                () = arp::listen(sockets.arp.as_ref()) => {}
                () = &mut due => {
                    let wait = probe(sockets, desk).await;
                    due.as_mut().reset(tokio::time::Instant::now() + wait);
                }
                _ = reports.tick() => desk.report(),
            }
        }
    }

    /// What else has come to port 67, up to a bound: the other sockets have their turn.
    async fn answer_more(&self, buffer: &mut [u8]) {
        let Some(server) = &self.sockets.server else {
            return;
        };
        for _ in 0..BURST {
            let Ok((length, _)) = server.try_recv_from(buffer) else {
                return;
            };
            self.answer(buffer.get(..length).unwrap_or_default(), Via::Dhcp)
                .await;
        }
    }

    async fn answer(&self, packet: &[u8], via: Via) {
        let desk = &self.desk;
        let request = match Request::parse(packet) {
            Ok(request) => request,
            Err(error) => {
                desk.malformed();
                return tracing::debug!("DHCP packet dropped: {error}");
            }
        };
        let (mac, xid, kind) = (request.mac, request.xid, request.kind);
        let mut order = None;
        let word = |request: &Request| {
            let (word, once) = self.words.of(request);
            order = once;
            word
        };
        let answer = match desk.handle(packet, request, via, word) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(busy) => return tracing::warn!(%mac, "DHCP packet dropped: {busy}"),
        };
        let Answer {
            commit,
            reply,
            client,
        } = answer;
        tracing::info!(
            interface = desk.interface(), %mac, xid = format_args!("{xid:08x}"), ip = %reply.yiaddr,
            "DHCP {kind} -> {}{} to {client}", if reply.proxied { "proxy " } else { "" }, reply.kind
        );
        if let (ReplyKind::Ack, Some(order)) = (reply.kind, order) {
            self.words.told(order);
        }
        match commit {
            Some(commit) => self.outbox.put(commit, reply),
            None if reply.fresh => {
                let (sockets, desk) = (Arc::clone(&self.sockets), Arc::clone(desk));
                tokio::spawn(offer_if_free(sockets, desk, reply, mac));
            }
            None => send::reply(&self.sockets, &reply).await,
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

/// Sends an offer once the wire was asked about its address; the client of one
/// that is in use asks again, and is offered another.
async fn offer_if_free(sockets: Arc<Sockets>, desk: Arc<Desk>, offer: Reply, client: MacAddr) {
    match may_offer(&sockets, &offer, client).await {
        // Its client was heard while the wire was asked.
        Ok(()) if offer.held && !desk.nobody_at(offer.yiaddr) => (),
        Ok(()) => send::reply(&sockets, &offer).await,
        Err(Some(user)) => desk.conflict(offer.yiaddr, user),
        Err(None) => (),
    }
}

/// Asks the wire about an address that is offered for the first time; who uses it.
/// One that a silent client holds is not offered unless somebody could be asked.
async fn may_offer(
    sockets: &Sockets,
    reply: &Reply,
    client: MacAddr,
) -> Result<(), Option<MacAddr>> {
    // One machine in a thousand misses one question (RFC 5227 asks three times).
    for _ in 0..if reply.held { 3 } else { 1 } {
        match arp::user(sockets, reply.yiaddr, client).await {
            arp::Heard::User(user) => return Err(Some(user)),
            arp::Heard::Nothing => (),
            arp::Heard::NotAsked if reply.held => return Err(None),
            arp::Heard::NotAsked => return Ok(()),
        }
    }
    Ok(())
}
