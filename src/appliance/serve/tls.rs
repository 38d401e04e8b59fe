//! TLS 1.3 with the key that the charter names. The certificate around it is
//! only a wrapping: devices compare the key, never a name or a date.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// An acceptor that speaks with `key`.
pub fn acceptor(key: &rcgen::KeyPair, site: &str) -> anyhow::Result<TlsAcceptor> {
    let name = format!("{site}.groundcrew.internal");
    let certificate = rcgen::CertificateParams::new(vec![name])?
        .self_signed(key)
        .context("wrapping the TLS key in a certificate")?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    // Sessions are bound to keys, not connections; early data would be replayable.
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
