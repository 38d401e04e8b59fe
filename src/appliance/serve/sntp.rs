//! SNTP on the devices' network. The time is told while it is credible; else
//! clients are told that it is not known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use groundcrew_netboot::sntp::{Request, SinceEpoch};
use tokio::net::UdpSocket;

use super::Shutdown;
use crate::office::Office;
use crate::site::Network;

/// More than any request with extensions.
const MOST: usize = 1024;

/// Takes the port, on the network's interface and address only.
pub fn bind(network: &Network, port: u16) -> anyhow::Result<UdpSocket> {
    let address = network.address.address;
    super::bind::udp("SNTP", &network.interface, address, port)
}

/// Answers until told to stop.
pub async fn run(socket: UdpSocket, office: Arc<Office>, mut stop: Shutdown) {
    let mut buffer = [0; MOST];
    let mut credible = Credible::new(&office);
    loop {
        tokio::select! {
            () = stop.ordered() => return,
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, client)) = received else { continue };
                let packet = buffer.get(..length).unwrap_or_default();
                answer(&socket, &mut credible, packet, client);
            }
        }
    }
}

/// Whether the clock is believed, asked once a second at most: a flood of packets
/// must not keep the office busy.
struct Credible<'a> {
    office: &'a Office,
    asked: Instant,
    known: bool,
}

impl<'a> Credible<'a> {
    fn new(office: &'a Office) -> Self {
        Self {
            office,
            asked: Instant::now(),
            known: office.knows_the_time(),
        }
    }

    fn known(&mut self) -> bool {
        if self.asked.elapsed() >= Duration::from_secs(1) {
            *self = Self::new(self.office);
        }
        self.known
    }
}

fn answer(socket: &UdpSocket, credible: &mut Credible<'_>, packet: &[u8], client: SocketAddr) {
    let received = since_epoch();
    let request = match Request::parse(packet) {
        Ok(request) => request,
        Err(error) => return tracing::debug!(%client, "SNTP packet dropped: {error}"),
    };
    let known = credible.known();
    let answer = request.answer(known.then(|| (received, since_epoch())));
    // A full socket buffer loses it, as the network might; the client asks again.
    match socket.try_send_to(&answer, client) {
        Ok(_) => tracing::debug!(%client, known, "SNTP answered"),
        Err(error) => tracing::debug!(%client, "SNTP answer lost: {error}"),
    }
}

fn since_epoch() -> SinceEpoch {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO)
}
