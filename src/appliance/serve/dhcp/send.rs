//! Replies on their way out: at once, or when their rows are on disk.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::dhcp::frame::Ends;
use groundcrew_netboot::dhcp::{self, Destination, Reply};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::Sockets;
use crate::store::Commit;

/// Replies that wait for the disk. Rows are committed in the order in which they
/// were queued, so one task waits for the first, and a commit of a hundred wakes
/// it once.
pub struct Outbox {
    waiting: mpsc::Sender<(Commit, Reply)>,
}

/// Replies that may wait: as many as the disk's queue has places. More are there
/// only where the network takes nothing.
const WAITING: usize = 16 * 1024;

impl Outbox {
    /// Begins to send what is put in.
    pub fn open(sockets: Arc<Sockets>) -> Self {
        let (waiting, mut queue) = mpsc::channel::<(Commit, Reply)>(WAITING);
        tokio::spawn(async move {
            while let Some((commit, waited)) = queue.recv().await {
                commit.done().await;
                reply(&sockets, &waited).await;
            }
        });
        Self { waiting }
    }

    /// Sends `reply` once `commit` is done.
    pub fn put(&self, commit: Commit, reply: Reply) {
        if self.waiting.try_send((commit, reply)).is_err() {
            tracing::warn!("DHCP reply dropped: the network takes none; the client asks again");
        }
    }
}

/// Sends it now; a client that misses it asks again.
pub async fn reply(sockets: &Sockets, reply: &Reply) {
    if let Err(error) = send(sockets, reply).await {
        tracing::warn!(to = %reply.destination, "DHCP reply not sent: {error}");
    }
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
