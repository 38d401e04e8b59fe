//! HTTP to the appliance: plain for what is public and verified by digest or
//! signature, TLS to the charter's key for everything else. Every answer has
//! a limit, every wait an end.

mod connector;

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use groundcrew_core::Digest;
use groundcrew_core::enroll::{self, Session};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::random;
use crate::steady::Steady;
use crate::tls;

/// An error body is read up to here.
const MAX_ERROR: u64 = 8 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The appliance answered with an error.
    #[error("the appliance says: {text} ({status} {code})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Which error, as a name for programs (`stale-challenge`); may be empty.
        code: String,
        /// In words.
        text: String,
    },
    /// The server is not the appliance of this site.
    #[error("{0}: this is not the appliance of this site, or its charter changed")]
    WrongServer(String),
    /// No connection, or it broke.
    #[error("no answer from the appliance: {0}")]
    Transport(String),
    /// It answered, and the connection ended before the last byte.
    #[error("the connection ended early")]
    CutShort,
    /// More bytes than there may be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    /// Not what was asked for.
    #[error("the answer makes no sense: {0}")]
    Malformed(String),
}

impl HttpError {
    /// Whether trying again may help.
    pub const fn transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(*status, 408 | 425 | 429 | 500..),
            Self::Transport(_) | Self::CutShort => true,
            Self::WrongServer(_) | Self::TooLong(_) | Self::Malformed(_) => false,
        }
    }

    /// The error's name for programs, if the appliance gave one.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }
}

/// The body of every error of the appliance's API.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
    #[serde(default)]
    code: String,
}

/// Public files: boot files, trust metadata, blobs.
#[derive(Clone)]
pub struct Public {
    agent: Agent,
    base: String,
}

impl Public {
    /// The plain HTTP side of an appliance.
    pub fn new(server: Ipv4Addr, port: u16) -> Self {
        Self {
            agent: connector::plain(),
            base: format!("http://{server}:{port}"),
        }
    }

    /// A whole small file; `None` if there is none (404).
    pub fn file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, HttpError> {
        let answer = self.agent.get(format!("{}{path}", self.base)).call();
        let answer = answer.map_err(|error| transport(&error))?;
        if answer.status().as_u16() == 404 {
            return Ok(None);
        }
        bounded(good(answer)?, limit).map(Some)
    }

    /// A file's bytes from `offset` on, as a stream: where it really begins
    /// (a server may ignore the range), and a reader.
    pub fn stream(&self, path: &str, offset: u64) -> Result<(u64, impl Read + use<>), HttpError> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if offset > 0 {
            request = request.header("Range", format!("bytes={offset}-"));
        }
        let answer = good(request.call().map_err(|error| transport(&error))?)?;
        let begins = match answer.status().as_u16() {
            206 => range_start(&answer)
                .filter(|start| *start == offset)
                .ok_or_else(|| {
                    HttpError::Malformed(format!("asked for bytes from {offset}, got others"))
                })?,
            _ => 0,
        };
        Ok((begins, Steady::new(answer.into_body().into_reader())))
    }
}

/// `Content-Range: bytes 100-199/200`.
fn range_start(answer: &Response<Body>) -> Option<u64> {
    let text = answer.headers().get("content-range")?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The enrollment endpoint.
#[derive(Clone)]
pub struct Api {
    agent: Agent,
    base: String,
    session: Option<Session>,
}

impl Api {
    /// The HTTPS side of an appliance that holds `key`.
    pub fn new(server: Ipv4Addr, port: u16, key: Digest) -> Result<Self, HttpError> {
        let config = tls::pinned(key).map_err(|error| HttpError::Malformed(error.to_string()))?;
        Ok(Self {
            agent: connector::pinned(config),
            base: format!("https://{server}:{port}"),
            session: None,
        })
    }

    /// The same, speaking for an enrollment.
    #[must_use]
    pub fn with_session(&self, session: Session) -> Self {
        Self {
            session: Some(session),
            ..self.clone()
        }
    }

    /// POSTs JSON and reads JSON.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, HttpError> {
        json(&self.send(path, "application/json", &to_json(body)?)?)
    }

    /// POSTs JSON and takes any success for an answer.
    pub fn tell(&self, path: &str, body: &impl serde::Serialize) -> Result<(), HttpError> {
        self.send(path, "application/json", &to_json(body)?)
            .map(drop)
    }

    /// POSTs text.
    pub fn tell_text(&self, path: &str, text: &[u8]) -> Result<(), HttpError> {
        self.send(path, "text/plain; charset=utf-8", text).map(drop)
    }

    fn send(&self, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>, HttpError> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        request = request.header("Content-Type", kind);
        if let Some(bearer) = self.bearer() {
            request = request.header("Authorization", bearer);
        }
        let answer = request.send(body).map_err(|error| transport(&error))?;
        bounded(good(answer)?, enroll::MAX_MESSAGE as u64)
    }

    /// GETs JSON; the appliance may hold the answer back for as long as
    /// [`enroll::LONG_POLL_SECONDS`].
    pub fn poll<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let patience = Duration::from_secs(enroll::LONG_POLL_SECONDS + 15);
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(bearer) = self.bearer() {
            request = request.header("Authorization", bearer);
        }
        let request = request
            .config()
            .timeout_recv_response(Some(patience))
            .build();
        let answer = request.call().map_err(|error| transport(&error))?;
        json(&bounded(good(answer)?, enroll::MAX_MESSAGE as u64)?)
    }

    fn bearer(&self) -> Option<String> {
        let session = self.session.as_ref()?;
        Some(format!(
            "Bearer {}",
            data_encoding::BASE64.encode(&session.0)
        ))
    }
}

fn to_json(body: &impl serde::Serialize) -> Result<Vec<u8>, HttpError> {
    serde_json::to_vec(body).map_err(|error| HttpError::Malformed(error.to_string()))
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(bytes).map_err(|error| HttpError::Malformed(error.to_string()))
}

fn good(answer: Response<Body>) -> Result<Response<Body>, HttpError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let bytes = bounded(answer, MAX_ERROR).unwrap_or_default();
    let fallback = || ErrorBody {
        error: status.canonical_reason().unwrap_or("error").to_owned(),
        code: String::new(),
    };
    let body: ErrorBody = serde_json::from_slice(&bytes).unwrap_or_else(|_| fallback());
    let shown: String = body
        .error
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect();
    Err(HttpError::Refused {
        status: status.as_u16(),
        code: groundcrew_core::ids::shown(&body.code),
        text: shown,
    })
}

fn bounded(answer: Response<Body>, limit: u64) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    let mut reader = Steady::new(answer.into_body().into_reader()).take(limit + 1);
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| HttpError::Transport(error.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(HttpError::TooLong(limit));
    }
    Ok(bytes)
}

fn transport(error: &ureq::Error) -> HttpError {
    let text = error.to_string();
    if text.contains("certificate") || text.contains("BadSignature") {
        // What rustls and ureq put around our verifier's words.
        let words = text.split_once("OtherError(");
        let words = words.and_then(|(_, words)| words.strip_suffix("))"));
        return HttpError::WrongServer(words.unwrap_or(&text).to_owned());
    }
    HttpError::Transport(text)
}

/// Waits between attempts: doubling, with jitter, so that a room full of
/// devices does not knock in step.
pub struct Backoff {
    attempt: u32,
    until: Instant,
}

impl Backoff {
    /// Attempts are worth making for `patience` from now.
    pub fn new(patience: Duration) -> Self {
        Self {
            attempt: 0,
            until: Instant::now() + patience,
        }
    }

    /// How long to wait before the next attempt, or `None` to give up.
    /// `random` decides about the second half of the wait.
    pub fn next(&mut self, now: Instant, random: u32) -> Option<Duration> {
        if now >= self.until {
            return None;
        }
        let full = Duration::from_millis(500 << self.attempt.min(5));
        self.attempt += 1;
        let wait = full / 2 + full.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0);
        Some(wait.min(self.until - now))
    }
}

/// Tries `work` until it succeeds, fails for good, or `patience` ends. Each
/// failed attempt is told through `say`.
pub fn retried<T>(
    patience: Duration,
    what: &str,
    say: &dyn Fn(String),
    mut work: impl FnMut() -> Result<T, HttpError>,
) -> Result<T, HttpError> {
    let mut backoff = Backoff::new(patience);
    loop {
        let error = match work() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let wait = backoff.next(Instant::now(), random::u32());
        let Some(wait) = wait.filter(|_| error.transient()) else {
            return Err(error);
        };
        say(format!(
            "{what}: {error}; again in {:.1} s",
            wait.as_secs_f32()
        ));
        std::thread::sleep(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::server;

    fn api(port: u16, key: Digest) -> Api {
        Api::new(Ipv4Addr::LOCALHOST, port, key).unwrap()
    }

    #[test]
    fn speaks_json_over_the_pinned_key_only() {
        let (port, key) = server(
            "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}",
            true,
        );
        let answer: serde_json::Value = api(port, key).post("/x", &1).unwrap();
        assert_eq!(answer["a"], 1);
        let error = api(port, Digest::of(b"x"))
            .post::<u8>("/x", &1)
            .unwrap_err();
        assert!(matches!(error, HttpError::WrongServer(_)), "{error:?}");
        assert!(!error.transient());
        let text = error.to_string();
        assert!(text.starts_with("the server's key sha256:"), "{text}");
        assert!(text.contains("): this is not the appliance"), "{text}");
    }

    #[test]
    fn errors_carry_their_code() {
        let (port, key) = server(
            "HTTP/1.1 409 Conflict\r\nContent-Length: 43\r\n\r\n{\"error\":\"begin\",\"code\":\"stale-challenge\"}  ",
            true,
        );
        let error = api(port, key).tell("/x", &1).unwrap_err();
        assert_eq!(error.code(), "stale-challenge");
        assert!(!error.transient());
    }

    #[test]
    fn a_long_answer_is_cut_off() {
        let (port, key) = server("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", true);
        let error = api(port, key).post::<u8>("/x", &1).unwrap_err();
        assert!(matches!(error, HttpError::Transport(_)), "{error:?}");
    }

    #[test]
    fn waits_grow_and_end() {
        let mut backoff = Backoff::new(Duration::from_secs(60));
        let start = backoff.until - Duration::from_secs(60);
        let waits: Vec<_> = (0..8)
            .map(|_| backoff.next(start, u32::MAX).unwrap())
            .collect();
        assert_eq!(waits[0], Duration::from_millis(500));
        assert_eq!(waits[7], Duration::from_secs(16));
        assert!(backoff.next(start, 0).unwrap() >= Duration::from_secs(8));
        assert_eq!(backoff.next(start + Duration::from_secs(60), 0), None);
    }
}
