//! HTTP/1.1 connections of the plain port: read a head, ask the routes, write
//! the answer. A file goes from the page cache to the socket inside the kernel
//! (`sendfile`), which no general HTTP server in Rust can be told to do; all
//! else about an answer is the routes' business. RFC 9112.
//!
//! Requests here are GET and HEAD; one that brings a body is refused and the
//! connection ends, so that nothing can be smuggled behind a misread length.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tower_service::Service as _;

use super::Shutdown;
use super::files::{FileBody, plain};
use super::http::{HEADERS_WITHIN, Peer};
use crate::transfers::{Board, Protocol};

/// The longest request head. A loader's is a few hundred bytes.
const MAX_HEAD: usize = 16 * 1024;
/// The most header fields.
const MAX_FIELDS: usize = 64;
/// The longest answer that is not a file.
const MAX_TEXT: usize = 1024 * 1024;
/// Bytes handed to the kernel at a time.
const CHUNK: u64 = 1024 * 1024;
/// A peer that takes nothing for so long is let go.
const STALLED: Duration = Duration::from_secs(60);
/// So is one that takes fewer bytes of a file in that time.
const LEAST: u64 = 64 * 1024;
/// A file smaller than this that arrived is not worth a line in `net show`.
const WORTH_A_LINE: u64 = 64 * 1024;

/// Serves one connection until either side ends it.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    board: &Board,
    stop: &mut Shutdown,
) -> std::io::Result<()> {
    let mut connection = Connection {
        stream: Arc::new(stream),
        peer,
        routes,
        input: Vec::new(),
    };
    loop {
        let head = tokio::select! {
            () = stop.ordered() => return Ok(()),
            head = tokio::time::timeout(HEADERS_WITHIN, connection.head()) => match head {
                Ok(head) => head?,
                Err(_) => return Ok(()),
            },
        };
        let more = match head {
            Head::End => return Ok(()),
            Head::Request(request, keep) => connection.answer(*request, keep, board).await?,
            Head::Refused(status, why) => {
                connection
                    .write(plain(status, why), &Method::GET, Keep::Close)
                    .await?;
                false
            }
        };
        if !more {
            return Ok(());
        }
    }
}

struct Connection {
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    routes: Router,
    /// What came behind the last head.
    input: Vec<u8>,
}

/// What came on a connection.
pub enum Head {
    /// The peer left.
    End,
    /// A request, and what becomes of the connection behind its answer.
    Request(Box<Request<Body>>, Keep),
    /// No request that is answered here: say so, and why, and end.
    Refused(StatusCode, &'static str),
}

/// What becomes of the connection behind an answer (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It ends.
    Close,
    /// HTTP/1.1: goes without saying.
    Open,
    /// HTTP/1.0: must be said.
    OpenSaid,
}

impl Connection {
    async fn head(&mut self) -> std::io::Result<Head> {
        loop {
            if let Some(head) = take_head(&mut self.input) {
                return Ok(head);
            }
            if self.input.len() >= MAX_HEAD {
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok(Head::Refused(status, "the request is too long\n"));
            }
            self.stream.readable().await?;
            let mut piece = [0; 2048];
            match self.stream.try_read(&mut piece) {
                Ok(0) => return Ok(Head::End),
                Ok(length) => self
                    .input
                    .extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the connection goes on.
    async fn answer(
        &mut self,
        mut request: Request<Body>,
        keep: Keep,
        board: &Board,
    ) -> std::io::Result<bool> {
        let method = request.method().clone();
        request.extensions_mut().insert(Peer(self.peer));
        let Ok(response) = self.routes.call(request).await;
        let file = self.write(response, &method, keep).await?;
        // Nothing of request and head is kept while a slow peer takes the file.
        if let Some(file) = file {
            self.send_watched(file, board).await?;
        }
        Ok(keep != Keep::Close)
    }

    /// Writes all but a file, which is left to send.
    async fn write(
        &self,
        response: Response,
        method: &Method,
        keep: Keep,
    ) -> std::io::Result<Option<FileBody>> {
        let (mut parts, body) = response.into_parts();
        let file = parts.extensions.remove::<FileBody>();
        let text = axum::body::to_bytes(body, MAX_TEXT)
            .await
            .map_err(Error::other)?;
        let fields = &mut parts.headers;
        if !fields.contains_key(header::CONTENT_LENGTH) && parts.status != StatusCode::NOT_MODIFIED
        {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        }
        let mut out = head_bytes(parts.status, fields, keep);
        let file = file.filter(|_| *method != Method::HEAD);
        if file.is_none() && *method != Method::HEAD {
            out.extend_from_slice(&text);
        }
        let more = if file.is_some() {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
        self.send(&out, more).await?;
        Ok(file)
    }

    /// Sends all of `bytes`; with [`SendFlags::MORE`] they wait for the file's first.
    async fn send(&self, bytes: &[u8], flags: SendFlags) -> std::io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = self
                .when_writable(|stream| {
                    Ok(rustix::net::send(
                        stream,
                        rest,
                        flags | SendFlags::NOSIGNAL,
                    )?)
                })
                .await?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    async fn send_watched(&self, body: FileBody, board: &Board) -> std::io::Result<()> {
        let length = body.end - body.start;
        let ticket = board.begin(Protocol::Http, self.peer, &body.name, length);
        let mut at = body.start;
        let mut pace = Pace::new(Instant::now());
        let file = body.file;
        while at < body.end {
            let sent = self.send_some(&file, at, CHUNK.min(body.end - at)).await;
            match sent.and_then(|sent| pace.keep(sent as u64, body.end - at, Instant::now())) {
                Ok(sent) => at += sent,
                Err(error) => {
                    if let Some(watch) = &body.watch {
                        watch.ended(&error);
                    }
                    ticket.failed(error.to_string());
                    return Err(error);
                }
            }
            ticket.reached(at - body.start);
            if let Some(watch) = &body.watch {
                watch.reached(at - body.start);
            }
        }
        if length < WORTH_A_LINE {
            ticket.forget();
        } else {
            ticket.done();
        }
        Ok(())
    }

    /// Sends what the socket takes at once.
    async fn send_some(
        &self,
        file: &Arc<std::fs::File>,
        at: u64,
        count: u64,
    ) -> std::io::Result<usize> {
        let count = usize::try_from(count).map_err(Error::other)?;
        super::cached::ready(file, at, count).await?;
        let send = |stream: &TcpStream| {
            let mut offset = at;
            Ok(rustix::fs::sendfile(
                stream,
                file,
                Some(&mut offset),
                count,
            )?)
        };
        match self.when_writable(send).await? {
            // The length is promised; only a closed connection tells the peer.
            0 => Err(Error::new(
                ErrorKind::UnexpectedEof,
                "the file became shorter",
            )),
            sent => Ok(sent),
        }
    }

    async fn when_writable(
        &self,
        work: impl Fn(&TcpStream) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        let stream = &self.stream;
        let io = stream.async_io(Interest::WRITABLE, || work(stream));
        tokio::time::timeout(STALLED, io)
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "the peer takes nothing"))?
    }
}

/// Whether a peer takes a file at a pace that is worth its place: one that takes
/// a byte a minute would keep it for ever.
struct Pace {
    since: Instant,
    taken: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            taken: 0,
        }
    }

    /// At `now`, `sent` more of the `left` bytes were taken; that many again.
    fn keep(&mut self, sent: u64, left: u64, now: Instant) -> std::io::Result<u64> {
        self.taken += sent;
        if now.duration_since(self.since) < STALLED {
            return Ok(sent);
        }
        if self.taken < LEAST && sent < left {
            return Err(Error::new(ErrorKind::TimedOut, "the peer is too slow"));
        }
        *self = Self::new(now);
        Ok(sent)
    }
}

/// Takes a complete head off the input; nothing while it is not complete.
pub fn take_head(input: &mut Vec<u8>) -> Option<Head> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let (length, head) = match parsed.parse(input) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(length)) => (length, request(&parsed)),
        Err(httparse::Error::TooManyHeaders) => {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            (
                0,
                Head::Refused(status, "the request has too many fields\n"),
            )
        }
        Err(_) => {
            let why = "this is not a request of HTTP/1.1\n";
            (0, Head::Refused(StatusCode::BAD_REQUEST, why))
        }
    };
    input.drain(..length);
    // A long head leaves no room behind.
    input.shrink_to(2048);
    Some(head)
}

fn request(parsed: &httparse::Request<'_, '_>) -> Head {
    let bad = |why| Head::Refused(StatusCode::BAD_REQUEST, why);
    let mut fields = HeaderMap::new();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return bad("a header field cannot be read\n");
        };
        fields.append(name, value);
    }
    let length = fields.get_all(header::CONTENT_LENGTH);
    if fields.contains_key(header::TRANSFER_ENCODING) || length.iter().any(|value| value != "0") {
        return Head::Refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "requests bring no content here\n",
        );
    }
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes());
    let target = axum::http::Uri::try_from(parsed.path.unwrap_or_default());
    let (Ok(method), Ok(target)) = (method, target) else {
        return bad("the request line cannot be read\n");
    };
    let keep = keep(&fields, parsed.version == Some(1));
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = fields;
    Head::Request(Box::new(request), keep)
}

fn keep(fields: &HeaderMap, version_1_1: bool) -> Keep {
    let says = |word: &str| {
        let values = fields.get_all(header::CONNECTION).iter();
        let mut words = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        words.any(|said| said.trim().eq_ignore_ascii_case(word))
    };
    match version_1_1 {
        _ if says("close") => Keep::Close,
        true => Keep::Open,
        false if says("keep-alive") => Keep::OpenSaid,
        false => Keep::Close,
    }
}

fn head_bytes(status: StatusCode, fields: &HeaderMap, keep: Keep) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let reason = status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(now());
    out.extend_from_slice(format!("date: {date}\r\n").as_bytes());
    match keep {
        Keep::Close => out.extend_from_slice(b"connection: close\r\n"),
        Keep::OpenSaid => out.extend_from_slice(b"connection: keep-alive\r\n"),
        Keep::Open => {}
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(crate::clock::read().seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_keeps_its_place_by_its_pace() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut pace = Pace::new(began);
        // Slow for a while is no reason; slow for a whole minute is.
        for second in 1..60 {
            assert_eq!(pace.keep(100, 1 << 20, after(second)).ok(), Some(100));
        }
        let slow = pace.keep(100, 1 << 20, after(60)).unwrap_err();
        assert_eq!(slow.kind(), ErrorKind::TimedOut);
        // Who takes its last bytes late has all of them.
        let mut pace = Pace::new(began);
        assert!(pace.keep(100, 100, after(60)).is_ok());
        // Each minute counts for itself.
        let mut pace = Pace::new(began);
        assert!(pace.keep(LEAST, 1 << 30, after(60)).is_ok());
        assert!(pace.keep(LEAST - 1, 1 << 30, after(120)).is_err());
    }
}
