//! HTTPS: the enrollment endpoint. Handlers read a message, ask the office,
//! and answer; `core::enroll` describes the exchange.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64;
use futures_util::StreamExt as _;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{
    Admission, Challenge, Decision, LONG_POLL_SECONDS, MAX_LOG, MAX_MESSAGE, Progress, Session,
    Start, path,
};
use groundcrew_netboot::story::AgentStep;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::Peer;
use crate::office::{Office, Refusal};

/// The routes of the HTTPS port.
pub fn routes(office: Arc<Office>) -> Router {
    Router::new()
        .route(path::START, post(start))
        .route(path::REQUEST, post(request))
        .route(path::DECISION, get(decision))
        .route(path::PROGRESS, post(progress))
        .route(path::RECEIPT, post(receipt))
        .route(path::LOG, post(log))
        .fallback(async || {
            Problem::new(
                StatusCode::NOT_FOUND,
                "no-such-path",
                "nothing answers on this path",
            )
        })
        .with_state(office)
}

type Answer<T> = Result<Json<T>, Problem>;

async fn start(
    State(office): State<Arc<Office>>,
    Asker(peer): Asker,
    Message(start): Message<Start>,
) -> Answer<Challenge> {
    office.flight().agent(peer, AgentStep::Started);
    Ok(Json(office.challenge(&start)))
}

async fn request(
    State(office): State<Arc<Office>>,
    Asker(peer): Asker,
    Message(envelope): Message<Envelope>,
) -> Answer<Admission> {
    let answer = office.request(&envelope, peer).await;
    told(&office, peer, answer)
}

async fn decision(
    State(office): State<Arc<Office>>,
    Asker(peer): Asker,
    Bearer(session): Bearer,
) -> Answer<Decision> {
    let patience = Duration::from_secs(LONG_POLL_SECONDS);
    let answer = office.decision(&session, patience).await;
    told(&office, peer, answer)
}

async fn progress(
    State(office): State<Arc<Office>>,
    Bearer(session): Bearer,
    Message(progress): Message<Progress>,
) -> Answer<Stored> {
    office.progress(&session, &progress)?;
    Ok(Json(Stored { stored: false }))
}

async fn receipt(
    State(office): State<Arc<Office>>,
    Asker(peer): Asker,
    Bearer(session): Bearer,
    Message(envelope): Message<Envelope>,
) -> Answer<Stored> {
    let answer = office.receipt(&session, &envelope).await;
    told(&office, peer, answer.map(|()| Stored { stored: true }))
}

async fn log(
    State(office): State<Arc<Office>>,
    Bearer(session): Bearer,
    Text(text): Text,
) -> Answer<Stored> {
    office.device_log(&session, text).await?;
    Ok(Json(Stored { stored: true }))
}

/// The answer; a refusal is part of the device's story.
fn told<T>(office: &Office, peer: Option<IpAddr>, answer: Result<T, Refusal>) -> Answer<T> {
    if let Err(refusal) = &answer {
        let (code, text) = (refusal.code().to_owned(), refusal.to_string());
        office
            .flight()
            .agent(peer, AgentStep::Refused { code, text });
    }
    Ok(Json(answer?))
}

/// Where a request came from, as far as that is known.
struct Asker(Option<IpAddr>);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Peer>().map(|peer| peer.0.ip())))
    }
}

/// Whether what was sent is on disk now.
#[derive(Serialize)]
struct Stored {
    stored: bool,
}

/// An error as it travels: `{"error": "words", "code": "slug"}`.
struct Problem {
    status: StatusCode,
    code: &'static str,
    error: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, error: impl Into<String>) -> Self {
        Self {
            status,
            code,
            error: error.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error, "code": self.code });
        (self.status, Json(body)).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::NoSession => StatusCode::UNAUTHORIZED,
            Refusal::WrongSite { .. } | Refusal::NotAllowed(_) => StatusCode::FORBIDDEN,
            Refusal::StaleChallenge => StatusCode::CONFLICT,
            Refusal::ClockUnknown
            | Refusal::ClockBeyond
            | Refusal::Busy(_)
            | Refusal::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        if status.is_server_error() {
            tracing::warn!("a device was turned away: {refusal}");
        } else {
            tracing::debug!("a device was turned away: {refusal}");
        }
        Self::new(status, refusal.code(), refusal.to_string())
    }
}

/// A peer that has not sent its whole message by then is let go.
const BODY_WITHIN: Duration = Duration::from_secs(30);

async fn in_time<T>(reading: impl Future<Output = T>) -> Result<T, Problem> {
    let late = |_| {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "too-slow",
            "the message took too long",
        )
    };
    tokio::time::timeout(BODY_WITHIN, reading)
        .await
        .map_err(late)
}

/// A body of `limit` bytes at most. One that is longer is read on for a while
/// and dropped: a peer that is cut off in mid-sentence never reads the refusal.
async fn whole(request: Request<Body>, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut pieces = request.into_body().into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0_usize);
    let reading = async {
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| {
                Problem::new(StatusCode::BAD_REQUEST, "body", error.to_string())
            })?;
            length += piece.len();
            if length <= limit {
                bytes.extend_from_slice(&piece);
            } else if length > limit * 8 {
                break;
            }
        }
        Ok::<(), Problem>(())
    };
    in_time(reading).await??;
    if length <= limit {
        return Ok(bytes);
    }
    let why = format!("a message here has {limit} bytes at most");
    Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body", why))
}

/// A text body, likewise.
struct Text(String);

impl<S: Send + Sync> axum::extract::FromRequest<S> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Problem> {
        let bytes = whole(request, MAX_LOG).await?;
        let bad = |_| Problem::new(StatusCode::BAD_REQUEST, "body", "the text is not UTF-8");
        String::from_utf8(bytes).map(Self).map_err(bad)
    }
}

/// A JSON body, read with its size bounded and its mistakes named.
struct Message<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> axum::extract::FromRequest<S> for Message<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Problem> {
        let bytes = whole(request, MAX_MESSAGE).await?;
        let message = serde_json::from_slice(&bytes).map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "malformed",
                format!("the message is malformed: {error}"),
            )
        })?;
        Ok(Self(message))
    }
}

/// The session from `Authorization: Bearer …`.
struct Bearer(Session);

impl<S: Send + Sync> FromRequestParts<S> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let token = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value: &HeaderValue| value.to_str().ok()?.strip_prefix("Bearer "))
            .and_then(|text| BASE64.decode(text.as_bytes()).ok())
            .and_then(|bytes| bytes.try_into().ok());
        match token {
            Some(bytes) => Ok(Self(Bytes(bytes))),
            None => Err(Refusal::NoSession.into()),
        }
    }
}
