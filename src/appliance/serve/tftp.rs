//! TFTP sockets: one well-known port, one socket per transfer; the
//! conversation itself is [`groundcrew_netboot::tftp`].

use std::collections::HashMap;
use std::fs::File;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use groundcrew_netboot::story::TftpStep;
use groundcrew_netboot::tftp::{
    self, Admission, Admit, Caps, End, ErrorCode, Limits, ReadRequest, Step, Transfer, Window,
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::Shutdown;
use super::files::Tree;
use super::texts::{Made, Texts};
use crate::flight::Flight;
use crate::transfers::{Board, Protocol, Ticket};

/// A transfer at rest holds no file bytes, so many may run. One address stands
/// for many machines where they share a router.
const CAPS: Caps = Caps {
    total: 4096,
    per_address: 256,
};

/// What is sent, and where it is seen.
#[derive(Clone)]
pub struct Shelf {
    /// Files.
    pub tree: Tree,
    /// Texts made for one device, where no file has that name.
    pub texts: Arc<Texts>,
    /// Who looks on.
    pub board: Board,
    /// Who remembers.
    pub flight: Arc<Flight>,
}

/// The well-known port, bound.
pub struct Listener {
    socket: UdpSocket,
    interface: Arc<str>,
    address: Ipv4Addr,
}

/// Binds the well-known port on the appliance's address on one interface.
pub fn bind(interface: &str, address: Ipv4Addr, port: u16) -> anyhow::Result<Listener> {
    Ok(Listener {
        socket: super::bind::udp("TFTP", interface, address, port)?,
        interface: interface.into(),
        address,
    })
}

/// The transfers under way, shared with them so that each can sign off.
#[derive(Clone)]
struct Desk(Arc<Mutex<DeskState>>);

struct DeskState {
    admission: Admission,
    calls: HashMap<SocketAddr, Arc<Calls>>,
}

impl Desk {
    /// The peer of a transfer answered.
    fn heard(&self, peer: SocketAddr) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.admission.heard(peer);
    }
}

/// What the well-known port says to a transfer.
#[derive(Default)]
struct Calls {
    /// Its peer repeated the request.
    repeat: Notify,
    /// It has to make room.
    end: Notify,
}

/// Answers until told to stop.
pub async fn run(listener: Listener, shelf: Shelf, mut stop: Shutdown) {
    let desk = Desk(Arc::new(Mutex::new(DeskState {
        admission: Admission::new(CAPS),
        calls: HashMap::new(),
    })));
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = tokio::select! {
            () = stop.ordered() => return,
            received = listener.socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    // Mostly a peer's "port unreachable", told to us here.
                    tracing::debug!("TFTP socket: {error}");
                    continue;
                }
            },
        };
        let packet = buffer.get(..length).unwrap_or_default();
        let us = SocketAddr::from((listener.address, tftp::PORT));
        shelf.flight.tftp_packet(peer, us, true, packet);
        match tftp::parse_request(packet) {
            Ok(request) => admit(&desk, &listener, &shelf, &stop, peer, request),
            Err(refusal) => {
                tracing::debug!(%peer, "TFTP request refused: {refusal}");
                if refusal.packet().is_some() {
                    shelf
                        .flight
                        .tftp(peer, "a file", TftpStep::refused(&refusal));
                }
                if let Some(packet) = refusal.packet() {
                    // A full send buffer only costs the peer the explanation.
                    let _ = listener.socket.try_send_to(&packet, peer);
                }
            }
        }
    }
}

fn admit(
    desk: &Desk,
    listener: &Listener,
    shelf: &Shelf,
    stop: &Shutdown,
    peer: SocketAddr,
    request: ReadRequest,
) {
    let mut state = desk.0.lock().unwrap_or_else(PoisonError::into_inner);
    match state.admission.admit(peer) {
        Admit::Repeat => {
            if let Some(calls) = state.calls.get(&peer) {
                calls.repeat.notify_one();
            }
        }
        Admit::AddressBusy => {
            drop(state);
            shelf
                .flight
                .tftp(peer, request.path.as_str(), TftpStep::Busy);
            tracing::debug!(%peer, "TFTP: too many transfers of one address");
        }
        Admit::Busy => {
            drop(state);
            shelf
                .flight
                .tftp(peer, request.path.as_str(), TftpStep::Busy);
            tracing::debug!(%peer, "TFTP: too many transfers");
        }
        Admit::Begin { ends } => {
            if let Some(calls) = ends.and_then(|peer| state.calls.remove(&peer)) {
                calls.end.notify_one();
            }
            let calls = Arc::new(Calls::default());
            state.calls.insert(peer, Arc::clone(&calls));
            let job = Job {
                peer,
                interface: Arc::clone(&listener.interface),
                address: listener.address,
                request,
                shelf: shelf.clone(),
                calls: Arc::clone(&calls),
                desk: desk.clone(),
            };
            let (desk, stop) = (desk.clone(), stop.clone());
            tokio::spawn(async move {
                // Signs off even if the transfer panics.
                let _off = SignOff { desk, peer, calls };
                job.run(stop).await;
            });
        }
    }
}

struct SignOff {
    desk: Desk,
    peer: SocketAddr,
    calls: Arc<Calls>,
}

impl Drop for SignOff {
    fn drop(&mut self) {
        let mut state = self.desk.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that made room is off the books, and its peer may have begun anew.
        let own = |calls: &Arc<Calls>| Arc::ptr_eq(calls, &self.calls);
        if state.calls.get(&self.peer).is_some_and(own) {
            state.admission.finished(self.peer);
            state.calls.remove(&self.peer);
        }
    }
}

struct Job {
    peer: SocketAddr,
    interface: Arc<str>,
    address: Ipv4Addr,
    request: ReadRequest,
    shelf: Shelf,
    calls: Arc<Calls>,
    desk: Desk,
}

impl Job {
    async fn run(&self, stop: Shutdown) {
        let (peer, path) = (self.peer, &self.request.path);
        let started = Instant::now();
        match self.transfer(stop).await {
            Ok((End::Complete, bytes)) => {
                let millis = started.elapsed().as_millis();
                tracing::info!(%peer, file = %path, bytes, millis, "TFTP sent");
            }
            Ok((End::PeerError(code, text), done)) => {
                // OVMF and others ask for the size first and end that with an ERROR.
                tracing::debug!(%peer, file = %path, done, "TFTP ended by the peer: {code} {text}");
            }
            Ok((end, done)) => {
                tracing::warn!(%peer, file = %path, done, "TFTP transfer failed: {end:?}");
            }
            Err(error) => tracing::debug!(%peer, file = %path, "TFTP: {error}"),
        }
    }

    async fn transfer(&self, stop: Shutdown) -> std::io::Result<(End, u64)> {
        // A socket of its own, so that a transfer has its own port (RFC 1350 §4).
        let socket = super::bind::udp("TFTP", &self.interface, self.address, 0)
            .map_err(std::io::Error::other)?;
        socket.connect(self.peer).await?;
        let content = match self.open().await {
            Ok(content) => content,
            Err(error) => {
                let packet = self.cannot_open(&error);
                socket.send(&packet).await?;
                return Err(error);
            }
        };
        let size = content.size()?;
        let file = self.request.path.as_str();
        let ticket = self
            .shelf
            .board
            .begin(Protocol::Tftp, self.peer, file, size);
        let began = Instant::now();
        let (end, done) = self.converse(&socket, &content, size, &ticket, stop).await;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = TftpStep::ended(&end, done, size, ms);
        self.shelf.flight.tftp(self.peer, file, step);
        if let (Content::Text(made), End::Complete) = (&content, &end) {
            self.shelf.texts.taken(made).await;
        }
        match &end {
            End::Complete => ticket.done(),
            End::PeerError(..) if done == 0 => ticket.forget(),
            End::PeerError(code, text) => ticket.failed(format!("the peer: {code} {text}")),
            End::Silence => ticket.failed("no acknowledgement"),
            End::TooLong => ticket.failed("it took too long"),
            End::Aborted(why) => ticket.failed(format!("given up here: {why}")),
        }
        Ok((end, done))
    }

    async fn converse(
        &self,
        socket: &UdpSocket,
        content: &Content,
        size: u64,
        ticket: &Ticket,
        mut stop: Shutdown,
    ) -> (End, u64) {
        let epoch = Instant::now();
        let mut transfer = Transfer::new(&self.request, size, &Limits::default(), epoch.elapsed());
        let (flight, peer) = (&self.shelf.flight, self.peer);
        let us = socket.local_addr().unwrap_or(peer);
        flight.tftp(
            peer,
            self.request.path.as_str(),
            begun(&self.request, &transfer, size),
        );
        let mut heard = false;
        loop {
            match transfer.poll(epoch.elapsed()) {
                Step::Done(end) => {
                    let (done, _) = transfer.progress();
                    ticket.reached(done);
                    return (end, done);
                }
                Step::Send(packet) => {
                    flight.tftp_packet(peer, us, false, &packet);
                    send(socket, &packet).await;
                }
                Step::Window(window) => {
                    ticket.reached(transfer.progress().0);
                    ticket.repeated(transfer.repeats());
                    match content.read(&window).await {
                        Some(packets) => send_window(socket, &packets, window.segment()).await,
                        None => transfer.abort("the file cannot be read"),
                    }
                }
                Step::Wait(until) => {
                    let sleep = until
                        .saturating_sub(epoch.elapsed())
                        .max(Duration::from_millis(1));
                    tokio::select! {
                        // Not `recv`: thousands that wait would each hold its buffer.
                        _ = socket.readable() => {
                            let mut incoming = [0; 1024];
                            let received = socket.try_recv(&mut incoming);
                            let packet = incoming.get(..received.unwrap_or(0)).unwrap_or_default();
                            if !packet.is_empty() {
                                flight.tftp_packet(peer, us, true, packet);
                                transfer.received(packet, epoch.elapsed());
                            }
                            // A forged request is answered by nobody.
                            if !heard && transfer.is_answered() {
                                heard = true;
                                self.desk.heard(peer);
                                self.shelf.texts.seen(peer.ip());
                            }
                        }
                        () = self.calls.repeat.notified() => transfer.repeated(),
                        () = self.calls.end.notified() => transfer.abort("too many transfers, and nothing was heard of this one"),
                        () = stop.ordered() => transfer.abort("the appliance stops"),
                        () = tokio::time::sleep(sleep) => {}
                    }
                }
            }
        }
    }

    /// The file of that name, else the text of that name.
    async fn open(&self) -> std::io::Result<Content> {
        let (tree, path) = (self.shelf.tree.clone(), self.request.path.to_string());
        let opened = tokio::task::spawn_blocking(move || tree.open(&path)).await;
        let error = match opened.map_err(std::io::Error::other)? {
            Ok(file) => return Ok(Content::File(Arc::new(file))),
            Err(error) => error,
        };
        let text = self.shelf.texts.of(&self.request.path, self.peer.ip());
        text.map(Content::Text).ok_or(error)
    }

    /// The packet that says so.
    fn cannot_open(&self, error: &std::io::Error) -> Vec<u8> {
        let (name, flight) = (self.request.path.as_str(), &self.shelf.flight);
        if super::files::is_missing(error) {
            flight.tftp(self.peer, name, TftpStep::Missing);
            return tftp::error_packet(ErrorCode::FileNotFound, "no such file");
        }
        tracing::error!(file = name, "a boot file cannot be opened: {error}");
        let why = format!("the appliance cannot open it: {error}");
        flight.tftp(self.peer, name, TftpStep::Refused { why });
        tftp::error_packet(ErrorCode::NotDefined, "the appliance cannot read the file")
    }
}

fn begun(request: &ReadRequest, transfer: &Transfer, size: u64) -> TftpStep {
    let (block, window) = transfer.negotiated();
    let asked = request.block_size.or(request.window).is_some();
    TftpStep::Begun {
        size,
        block,
        window,
        options: asked || request.transfer_size || request.timeout.is_some(),
    }
}

/// What a transfer reads from.
enum Content {
    File(Arc<File>),
    Text(Made),
}

impl Content {
    fn size(&self) -> std::io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Text(made) => Ok(made.text.len() as u64),
        }
    }

    /// One window of packets; nothing if the file is not what it was.
    async fn read(&self, window: &Window) -> Option<Vec<u8>> {
        match self {
            Self::File(file) => {
                let mut data = vec![0; window.length];
                if !super::cached::read_now(file, &mut data, window.offset) {
                    let ready = super::cached::ready(file, window.offset, window.length);
                    ready.await.ok()?;
                    file.read_exact_at(&mut data, window.offset).ok()?;
                }
                packets(&data, window)
            }
            Self::Text(made) => {
                let (text, start) = (made.text.as_bytes(), usize::try_from(window.offset).ok()?);
                packets(text.get(start..start.checked_add(window.length)?)?, window)
            }
        }
    }
}

fn packets(data: &[u8], window: &Window) -> Option<Vec<u8>> {
    let mut packets = Vec::with_capacity(window.length + 4 * usize::from(window.blocks));
    window.write(data, &mut packets).then_some(packets)
}

/// The most bytes one UDP send may carry, segmented or not.
const MAX_SEND: usize = 65_507;

/// Sends a window's packets, as many as one call takes: the kernel cuts them
/// apart (UDP segmentation offload, Linux 4.18), which costs a fraction of a
/// call for each.
async fn send_window(socket: &UdpSocket, packets: &[u8], segment: usize) {
    let burst = (MAX_SEND / segment).clamp(1, 64) * segment;
    for part in packets.chunks(burst) {
        let segmented = part.len() > segment && send_segmented(socket, part, segment).await.is_ok();
        if !segmented {
            for packet in part.chunks(segment) {
                send(socket, packet).await;
            }
        }
    }
}

async fn send_segmented(socket: &UdpSocket, part: &[u8], segment: usize) -> std::io::Result<()> {
    let size = u16::try_from(segment).map_err(std::io::Error::other)?;
    let control = [ControlMessage::UdpGsoSegments(&size)];
    let parts = [IoSlice::new(part)];
    let send = || {
        Ok(sendmsg::<()>(
            socket.as_raw_fd(),
            &parts,
            &control,
            MsgFlags::MSG_DONTWAIT,
            None,
        )?)
    };
    socket.async_io(Interest::WRITABLE, send).await.map(drop)
}

async fn send(socket: &UdpSocket, packet: &[u8]) {
    // What is not sent is as good as lost on the wire; the timer sees to it.
    if let Err(error) = socket.send(packet).await {
        tracing::trace!("TFTP: {error}");
    }
}
