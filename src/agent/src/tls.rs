//! TLS 1.3 to exactly one key: the one that the charter names.
//!
//! No certificate authority, no name and no date takes part. The certificate
//! is only a wrapper around the key; its SubjectPublicKeyInfo is compared by
//! digest, and the handshake's signature proves that the peer holds the key.

use std::fmt;
use std::sync::Arc;

use groundcrew_core::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
};

/// The peer showed another key than the charter names.
#[derive(thiserror::Error)]
#[error("the server's key {found} is not the one the charter names ({expected})")]
pub struct OtherKey {
    expected: Digest,
    found: Digest,
}

/// rustls shows the error of a verifier by its Debug form only.
impl fmt::Debug for OtherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A client configuration that accepts `key` (SHA-256 of the SPKI's DER) and
/// nothing else.
pub fn pinned(key: Digest) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = PinnedKey {
        key,
        algorithms: provider.signature_verification_algorithms,
    };
    Ok(Arc::new(configuration(provider, verifier)?))
}

fn configuration(
    provider: Arc<CryptoProvider>,
    verifier: PinnedKey,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.enable_sni = false;
    Ok(config)
}

struct PinnedKey {
    key: Digest,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for PinnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedKey({})", self.key)
    }
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let spki = subject_public_key_info(end_entity)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let (expected, found) = (self.key, Digest::of(spki));
        if expected == found {
            return Ok(ServerCertVerified::assertion());
        }
        let other = OtherError(Arc::new(OtherKey { expected, found }));
        Err(Error::InvalidCertificate(CertificateError::Other(other)))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The SubjectPublicKeyInfo inside an X.509 certificate (RFC 5280 §4.1): the
/// seventh element of TBSCertificate, or the sixth where the version's
/// optional `[0]` is left out.
pub(crate) fn subject_public_key_info(certificate: &[u8]) -> Option<&[u8]> {
    let outer = element(certificate)?;
    let tbs = element(outer.content)?;
    let mut rest = tbs.content;
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.rest;
    }
    // serialNumber, signature, issuer, validity, subject
    for _ in 0..5 {
        rest = element(rest)?.rest;
    }
    (rest.first() == Some(&0x30))
        .then(|| element(rest))?
        .map(|e| e.whole)
}

/// An element of DER.
pub(crate) struct Element<'a> {
    /// With its header.
    pub whole: &'a [u8],
    /// Without.
    pub content: &'a [u8],
    /// What follows it.
    pub rest: &'a [u8],
}

/// One DER element with a low tag number and a length below 2^24.
pub(crate) fn element(der: &[u8]) -> Option<Element<'_>> {
    let first = usize::from(*der.get(1)?);
    let (header, length) = match first {
        0..=0x7f => (2, first),
        0x81..=0x83 => {
            let count = first - 0x80;
            let bytes = der.get(2..2 + count)?;
            let length = bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            (2 + count, length)
        }
        _ => return None,
    };
    Some(Element {
        whole: der.get(..header + length)?,
        content: der.get(header..header + length)?,
        rest: der.get(header + length..)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    /// A server with a fresh key that answers every request with `body`;
    /// returns its port and its key's digest.
    pub fn server(answer: &'static str, tls13: bool) -> (u16, Digest) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let digest = Digest::of(&rcgen::PublicKeyData::subject_public_key_info(
            &made.signing_key,
        ));
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        assert!(tls13, "only 1.3 is compiled in");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer_once(stream, config.clone(), answer);
            }
        });
        (port, digest)
    }

    fn answer_once(
        stream: TcpStream,
        config: Arc<rustls::ServerConfig>,
        answer: &str,
    ) -> std::io::Result<()> {
        let connection = rustls::ServerConnection::new(config).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let mut request: Vec<u8> = Vec::new();
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut buffer = [0; 1024];
            let count = tls.read(&mut buffer)?;
            request.extend(&buffer[..count]);
            if count == 0 {
                return Ok(());
            }
        }
        tls.write_all(answer.as_bytes())?;
        tls.conn.send_close_notify();
        tls.flush()
    }

    fn handshake(port: u16, key: Digest) -> std::io::Result<()> {
        let name = ServerName::try_from("192.0.2.1").unwrap();
        let connection = rustls::ClientConnection::new(pinned(key).unwrap(), name).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        tls.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        tls.read_exact(&mut [0; 4])
    }

    #[test]
    fn accepts_the_pinned_key_under_any_name_and_no_other() {
        let (port, key) = server("HTTP/1.1 200 OK\r\n\r\n", true);
        handshake(port, key).unwrap();
        let error = handshake(port, Digest::of(b"another"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is not the one the charter names"),
            "{error}"
        );
    }

    #[test]
    fn a_certificate_without_its_private_key_is_refused() {
        // The certificate of one key, the handshake signed with another.
        let (real, thief) = (
            rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap(),
            rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap(),
        );
        let digest = Digest::of(&rcgen::PublicKeyData::subject_public_key_info(
            &real.signing_key,
        ));
        let provider = rustls::crypto::ring::default_provider();
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(thief.signing_key.serialize_der());
        let signer = provider.key_provider.load_private_key(der.into()).unwrap();
        let stolen = rustls::sign::CertifiedKey::new(vec![real.cert.der().clone()], signer);
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let _ = answer_once(stream, Arc::new(config), "");
        });
        let error = handshake(port, digest).unwrap_err().to_string();
        assert!(error.contains("BadSignature"), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_certificates(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = subject_public_key_info(&bytes);
        }
    }
}
