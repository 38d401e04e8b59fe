//! What TFTP and HTTP tell the recorder.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use groundcrew_netboot::story::{HttpFile, Packet, TftpFile, TftpStep, What, Who};

use super::{Flight, ipv4, now};

/// Files smaller than this arrive before anybody wonders where they are.
const TAKES_TIME: u64 = 64 * 1024;

/// A file on its way by HTTP; what became of it is noted when the last one lets go.
#[derive(Clone)]
pub struct Watch(Arc<Watched>);

struct Watched {
    flight: Arc<Flight>,
    peer: IpAddr,
    path: String,
    status: u16,
    size: u64,
    sent: AtomicU64,
    began: Instant,
    /// Why it was ended here.
    why: OnceLock<String>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.path)
    }
}

impl Watch {
    /// So many bytes were handed to the network.
    pub fn reached(&self, bytes: u64) {
        self.0.sent.store(bytes, Ordering::Relaxed);
    }

    /// It ended before its time; where that was not the peer's doing, for this reason.
    pub fn ended(&self, error: &std::io::Error) {
        use std::io::ErrorKind;
        let by_peer = [
            ErrorKind::ConnectionReset,
            ErrorKind::ConnectionAborted,
            ErrorKind::BrokenPipe,
            ErrorKind::TimedOut,
        ];
        if !by_peer.contains(&error.kind()) {
            // The first reason counts.
            let _ = self.0.why.set(super::plain(&error.to_string(), 200));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let sent = self.sent.load(Ordering::Relaxed);
        // Bundles are many files; the agent itself says how it goes on.
        if self.path.starts_with("blobs/") && sent >= self.size {
            return;
        }
        let file = HttpFile {
            path: std::mem::take(&mut self.path),
            status: self.status,
            sent,
            size: self.size,
            ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            open: false,
            why: self.why.take(),
        };
        self.flight.by_address(self.peer, What::Http(file));
    }
}

impl Flight {
    /// `size` bytes of a file are about to be sent by HTTP.
    pub fn http(self: &Arc<Self>, peer: IpAddr, path: &str, status: u16, size: u64) -> Watch {
        // A kernel may take minutes; what the agent loads, it tells of itself.
        if path.starts_with("boot/") && size >= TAKES_TIME {
            let begun = HttpFile {
                path: path.to_owned(),
                status,
                sent: 0,
                size,
                ms: 0,
                open: true,
                why: None,
            };
            self.by_address(peer, What::Http(begun));
        }
        Watch(Arc::new(Watched {
            flight: Arc::clone(self),
            peer,
            path: path.to_owned(),
            status,
            size,
            sent: AtomicU64::new(0),
            began: Instant::now(),
            why: OnceLock::new(),
        }))
    }

    /// A file was asked for by HTTP that is not to be had.
    pub fn http_refused(&self, peer: IpAddr, path: &str, status: u16) {
        let file = HttpFile {
            path: super::plain(path, 200),
            status,
            sent: 0,
            size: 0,
            ms: 0,
            open: false,
            why: None,
        };
        self.by_address(peer, What::Http(file));
    }

    /// A TFTP transfer began, ended, or was not to be.
    pub fn tftp(&self, peer: SocketAddr, file: &str, step: TftpStep) {
        let file = super::plain(file, 200);
        self.by_address(peer.ip(), What::Tftp(TftpFile { file, step }));
    }

    /// A TFTP packet that is no data and no acknowledgement, from or to `peer`;
    /// `us`: this side's address and port.
    pub fn tftp_packet(&self, peer: SocketAddr, us: SocketAddr, by_device: bool, payload: &[u8]) {
        // 1 RRQ, 5 ERROR, 6 OACK: these tell the story.
        let tells = matches!(payload, [0, 1 | 5 | 6, ..]);
        let (SocketAddr::V4(peer), SocketAddr::V4(us)) = (peer, us) else {
            return;
        };
        if !tells {
            return;
        }
        let who = Who {
            ip: Some(*peer.ip()),
            ..Who::default()
        };
        let mut recorder = self.lock();
        let Some(id) = recorder.find(&who) else {
            return;
        };
        let mac = recorder
            .story(id)
            .and_then(|story| story.names.macs.first().copied());
        let (from, to): (SocketAddrV4, SocketAddrV4) =
            if by_device { (peer, us) } else { (us, peer) };
        let seen = Packet {
            at: now(),
            from,
            to,
            mac,
            by_device,
            payload: payload.to_vec(),
        };
        recorder.keep(id, [seen]);
    }

    fn by_address(&self, peer: IpAddr, what: What) {
        let who = Who {
            ip: ipv4(Some(peer)),
            ..Who::default()
        };
        if who.ip.is_some() {
            self.note(&who, what);
        }
    }
}
