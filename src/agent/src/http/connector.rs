//! `ureq` agents: one that speaks plain HTTP only, one that speaks TLS to one
//! key only. Neither follows a redirect, knows a proxy or keeps a cookie.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, TcpConnector, Transport,
    TransportAdapter,
};
use ureq::{Agent, Error};

fn config() -> Config {
    Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent(concat!("groundcrew-agent/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(16 * 1024)
        .input_buffer_size(128 * 1024)
        .timeout_connect(Some(Duration::from_secs(8)))
        .timeout_send_body(Some(Duration::from_secs(60)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_secs(45)))
        .build()
}

/// Plain HTTP.
pub fn plain() -> Agent {
    let connector = ().chain(TcpConnector::default()).chain(PlainOnly);
    Agent::with_parts(config(), connector, DefaultResolver::default())
}

/// TLS as `tls` says.
pub fn pinned(tls: Arc<ClientConfig>) -> Agent {
    let connector = ().chain(TcpConnector::default()).chain(Pinned(tls));
    Agent::with_parts(config(), connector, DefaultResolver::default())
}

/// Refuses `https`: without TLS below it the request would go out in clear.
#[derive(Debug)]
struct PlainOnly;

impl<In: Transport> Connector<In> for PlainOnly {
    type Out = In;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<In>, Error> {
        if details.needs_tls() {
            return Err(Error::Tls("this client speaks plain HTTP"));
        }
        Ok(chained)
    }
}

struct Pinned(Arc<ClientConfig>);

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}

impl<In: Transport> Connector<In> for Pinned {
    type Out = Tls;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Tls>, Error> {
        let Some(transport) = chained.filter(|_| details.needs_tls()) else {
            return Err(Error::Tls("this client speaks TLS only"));
        };
        // The name takes no part: the key is pinned and SNI is off.
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4])));
        let mut conn = ClientConnection::new(self.0.clone(), name).map_err(|e| other(&e))?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock).map_err(Error::Io)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        let stream = StreamOwned { conn, sock };
        Ok(Some(Tls { buffers, stream }))
    }
}

fn other(error: &rustls::Error) -> Error {
    Error::Io(std::io::Error::other(error.to_string()))
}

struct Tls {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Transport for Tls {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
