//! HTTP/1.1 connections: accepted, bounded, ended in order. The caller binds
//! the listener and brings the routes. TLS connections are hyper's, those of the
//! plain port [`super::plain`]'s.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Shutdown;
use crate::transfers::Board;

/// Open connections at once on one listener; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;

/// Of these, for one address: a firmware opens one or two, and one host must
/// not be able to hold them all.
const PER_ADDRESS: usize = 128;

/// A peer that has not sent its request line and headers by then is let go.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(15);

/// A peer that has not finished its TLS handshake by then is let go.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);

/// How long open answers may go on after the order to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// The peer of the connection a request came over.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// How a port speaks.
#[derive(Clone)]
pub enum Port {
    /// In the open; what is sent is seen on this board.
    Plain(Board),
    /// By TLS.
    Tls(TlsAcceptor),
}

/// Serves until told to stop, then lets open answers finish for a moment.
pub async fn run(listener: TcpListener, port: Port, routes: Router, mut stop: Shutdown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let seats = Seats::default();
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = stop.ordered() => break,
            place = places.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = stop.ordered() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // Out of descriptors, or a peer that left while in the queue.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(seat) = Seat::take(&seats, peer.ip()) else {
            tracing::debug!(%peer, "too many connections of one address");
            continue;
        };
        let (port, routes, stop) = (port.clone(), routes.clone(), stop.clone());
        connections.spawn(async move {
            serve_stream(stream, peer, port, routes, stop).await;
            drop((seat, place));
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::debug!("cutting connections that did not end by themselves");
    }
}

/// Open connections by address. Bounded by [`CONNECTIONS`].
type Seats = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection's place among those of its address.
struct Seat(Seats, IpAddr);

impl Seat {
    fn take(seats: &Seats, address: IpAddr) -> Option<Self> {
        let mut taken = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(seats), address))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

async fn serve_stream(
    stream: TcpStream,
    peer: SocketAddr,
    port: Port,
    routes: Router,
    mut stop: Shutdown,
) {
    // Small answers must not wait for the peer's acknowledgement.
    let _ = stream.set_nodelay(true);
    let tls = match port {
        Port::Tls(tls) => tls,
        Port::Plain(board) => {
            // Boxed, as below: thousands of idle connections shall not each hold
            // the room that the larger of both needs.
            let served = super::plain::serve(stream, peer, routes, &board, &mut stop);
            if let Err(error) = Box::pin(served).await {
                tracing::debug!(%peer, "connection ended: {error}");
            }
            return;
        }
    };
    Box::pin(serve_tls(stream, peer, tls, routes, stop)).await;
}

async fn serve_tls(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    routes: Router,
    stop: Shutdown,
) {
    match tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => Box::pin(serve_http(stream, peer, routes, stop)).await,
        Ok(Err(error)) => tracing::debug!(%peer, "TLS handshake failed: {error}"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

async fn serve_http<S>(stream: S, peer: SocketAddr, routes: Router, mut stop: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(routes.layer(Extension(Peer(peer))));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.ordered() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, "connection ended: {error}");
    }
}
