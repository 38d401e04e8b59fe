//! DHCP client: [`wire`] reads and writes, [`machine`] decides, and this file
//! owns the socket.

pub mod machine;
pub mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use machine::{Action, Client, Event, Lease};
use socket2::{Domain, Protocol, Socket, Type};

/// A UDP socket on port 68 of one interface.
pub struct Link {
    socket: UdpSocket,
    began: Instant,
}

impl Link {
    /// Binds it; `interface` is the kernel's name. An address need not be
    /// there yet: `SO_BINDTODEVICE` tells the kernel where to send.
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into())?;
        Ok(Self {
            socket: socket.into(),
            began: Instant::now(),
        })
    }

    /// Runs the client until something happens or the deadline passes.
    pub fn run(&self, client: &mut Client, deadline: Option<Instant>) -> io::Result<Option<Event>> {
        loop {
            let now = self.began.elapsed();
            if let Some(event) = client.expired(now) {
                return Ok(Some(event));
            }
            let until = match client.poll(now) {
                Action::Send(bytes, to) => {
                    self.send(&bytes, to);
                    continue;
                }
                Action::Wait(until) => self.began + until,
            };
            let until = deadline.map_or(until, |deadline| deadline.min(until));
            if let Some(event) = self.listen(client, until)? {
                return Ok(Some(event));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// A failed send (link down for a moment) is a lost datagram.
    fn send(&self, bytes: &[u8], to: Option<Ipv4Addr>) {
        let to = SocketAddrV4::new(to.unwrap_or(Ipv4Addr::BROADCAST), 67);
        let _ = self.socket.send_to(bytes, to);
    }

    fn listen(&self, client: &mut Client, until: Instant) -> io::Result<Option<Event>> {
        let left = until.saturating_duration_since(Instant::now());
        let wait = left.clamp(Duration::from_millis(1), Duration::from_secs(3600));
        self.socket.set_read_timeout(Some(wait))?;
        let mut buffer = [0; 1500];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                Ok(client.receive(self.began.elapsed(), bytes))
            }
            Err(error) if retry(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Asks for an address until one comes or the deadline passes.
pub fn acquire(link: &Link, client: &mut Client, deadline: Instant) -> io::Result<Option<Lease>> {
    loop {
        match link.run(client, Some(deadline))? {
            Some(Event::Bound(lease)) => return Ok(Some(lease)),
            Some(Event::Lost) => {}
            None => return Ok(None),
        }
    }
}

fn retry(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, NetworkDown, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        WouldBlock | TimedOut | Interrupted | NetworkDown
    )
}
