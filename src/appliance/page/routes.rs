//! The page's paths, on the HTTPS port.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{
    DefaultBodyLimit, Extension, FromRequest, FromRequestParts, Path, Query, Request, State,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use data_encoding::BASE64;
use groundcrew_core::DeviceId;
use groundcrew_core::enroll::Code;
use groundcrew_registry::search::{Search, WAITING};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::gate::{Gate, News, Visitor};
use super::one::Known;
use super::render::{self, ROWS, View, Whose};
use crate::office::{Command, Office, Order, Outcome};
use crate::serve::{Peer, Shutdown};

/// `__Host-`: only by TLS, for this very address, and no other host's page can set it.
const COOKIE: &str = "__Host-groundcrew";

/// The longest form.
const FORM: usize = 4096;

/// Browsers that are told of changes at once; more of them load the page anew.
const WATCHERS: usize = 64;

/// The least time between two words of change: a storm of them is one.
const BETWEEN: Duration = Duration::from_millis(500);

/// A quiet line keeps the connection known to whatever lies between.
const ALIVE: Duration = Duration::from_secs(20);

/// Waiting devices shown above the list.
const LOBBY: usize = 12;

/// What the page is made of.
pub struct Site {
    office: Arc<Office>,
    gate: Arc<Gate>,
    whose: Whose,
    policy: HeaderValue,
    watchers: Arc<Semaphore>,
    stop: Shutdown,
}

impl Site {
    /// The page of a site, behind `gate`.
    pub fn new(
        office: Arc<Office>,
        gate: Arc<Gate>,
        names: (String, String),
        stop: Shutdown,
    ) -> anyhow::Result<Self> {
        let hash = |text: &str| BASE64.encode(&Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            hash(render::CSS),
            hash(render::JS)
        );
        Ok(Self {
            office,
            gate,
            whose: Whose {
                site: names.0,
                organisation: names.1,
            },
            policy: HeaderValue::from_str(&policy)?,
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            stop,
        })
    }

    fn html(&self, status: StatusCode, text: String) -> Response {
        let mut response = (status, text).into_response();
        let headers = response.headers_mut();
        let fixed = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "same-origin"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        response
    }

    fn problem(&self, status: StatusCode, title: &str, text: &str) -> Response {
        self.html(status, render::problem(&self.whose, title, text))
    }

    /// Whoever sends a form that is not this page's own.
    fn refused(&self) -> Response {
        self.problem(
            StatusCode::FORBIDDEN,
            "Not done",
            "This form is out of date, or another page sent it. Go back and try again.",
        )
    }

    async fn known(&self, id: DeviceId) -> Option<Known> {
        let ask = async |command| {
            let by = String::new();
            self.office.execute(Order { by, command }).await.ok()
        };
        let Outcome::Device(device) = ask(Command::ShowDevice(id.clone())).await? else {
            return None;
        };
        let explained = match ask(Command::ExplainDevice(id.clone())).await {
            Some(Outcome::Explained(views)) => views.into_iter().next(),
            _ => None,
        };
        let story = match ask(Command::ExplainBoot(id.to_string())).await {
            Some(Outcome::Boot(story)) => Some(*story),
            _ => None,
        };
        let log = match ask(Command::DeviceLog(id)).await {
            Some(Outcome::Log(log)) => log,
            _ => None,
        };
        Some(Known {
            device: *device,
            explained,
            story,
            log,
        })
    }

    fn log_in(&self, status: StatusCode, problem: Option<&str>, name: &str) -> Response {
        self.html(status, render::login(&self.whose, problem, name))
    }
}

/// The routes of the page.
pub fn routes(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .route("/device/{id}", get(device))
        .route("/device/{id}/{decision}", post(decide))
        .layer(DefaultBodyLimit::max(FORM))
        .with_state(site)
}

/// Somebody who is logged in; everybody else gets the log-in.
struct LoggedIn(Visitor);

impl FromRequestParts<Arc<Site>> for LoggedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Response> {
        let visitor = cookie(&parts.headers).and_then(|c| site.gate.visitor(c, Instant::now()));
        // Not 401: browsers would ask for a password of their own.
        visitor
            .map(Self)
            .ok_or_else(|| site.log_in(StatusCode::OK, None, ""))
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let pairs = all
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().split_once('='));
    named.find_map(|(name, value)| (name == COOKIE).then_some(value))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    q: String,
    phase: String,
    page: String,
}

async fn page(
    State(site): State<Arc<Site>>,
    LoggedIn(visitor): LoggedIn,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(asked) = asked.unwrap_or_default();
    let pages = asked.page.parse().unwrap_or(0).min(usize::MAX / ROWS / 2);
    let mut search = Search::first(ROWS).after(pages * ROWS).text(&asked.q);
    let mut view = View {
        text: asked.q.chars().take(100).collect(),
        phase: String::new(),
        page: pages,
    };
    if let Ok(narrower) = search.clone().phase(&asked.phase) {
        (search, view.phase) = (narrower, asked.phase);
    }
    let found = site.office.find(&search);
    let lobby = Search::first(LOBBY).phase(WAITING);
    let waiting = match view.phase == WAITING {
        true => found.clone(),
        false => lobby.map_or_else(|_| found.clone(), |lobby| site.office.find(&lobby)),
    };
    let news = site.gate.news(&visitor);
    let html = render::devices(
        &site.whose,
        &visitor,
        &view,
        &waiting,
        &found,
        news.as_ref(),
    );
    site.html(StatusCode::OK, html)
}

/// One device. A stranger does not learn whether there is one.
async fn device(
    State(site): State<Arc<Site>>,
    LoggedIn(visitor): LoggedIn,
    id: Result<Path<DeviceId>, axum::extract::rejection::PathRejection>,
) -> Response {
    let found = match id {
        Ok(Path(id)) => site.known(id).await,
        Err(_) => None,
    };
    match found {
        Some(known) => {
            let news = site.gate.news(&visitor);
            let html = super::one::device(&site.whose, &visitor, &known, news.as_ref());
            site.html(StatusCode::OK, html)
        }
        None => site.problem(
            StatusCode::NOT_FOUND,
            "No such device",
            "This site knows no device of that name. It may have been forgotten.",
        ),
    }
}

/// A form that came in time: anybody may begin to send one.
struct Sent<T>(T);

/// Whoever has not sent a whole form by then is let go.
const FORM_WITHIN: Duration = Duration::from_secs(30);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let reading = Form::<T>::from_request(request, state);
        match tokio::time::timeout(FORM_WITHIN, reading).await {
            Ok(Ok(Form(form))) => Ok(Self(form)),
            Ok(Err(refused)) => Err(refused.into_response()),
            Err(_) => Err(StatusCode::REQUEST_TIMEOUT.into_response()),
        }
    }
}

/// The log-in's form.
#[derive(Deserialize)]
struct LogIn {
    name: String,
    code: String,
}

async fn log_in(
    State(site): State<Arc<Site>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Sent(form): Sent<LogIn>,
) -> Response {
    if foreign(&headers) {
        return site.refused();
    }
    let Some(Extension(Peer(peer))) = peer else {
        return StatusCode::FORBIDDEN.into_response();
    };
    match site
        .gate
        .enter(peer.ip(), &form.name, &form.code, Instant::now())
    {
        Ok(token) => {
            let name = groundcrew_core::ids::shown(&form.name);
            tracing::info!(peer = %peer.ip(), "{name:?} logged in to the status page");
            let cookie = format!(
                "{COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=43200"
            );
            let mut response = back();
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(denied) => {
            tracing::warn!(peer = %peer.ip(), "log-in to the status page refused: {denied}");
            let status = match denied {
                super::gate::Denied::TooMany => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::FORBIDDEN,
            };
            site.log_in(status, Some(&denied.to_string()), &form.name)
        }
    }
}

/// What every other form carries.
#[derive(Deserialize)]
struct Signed {
    form: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    reason: String,
}

async fn log_out(
    State(site): State<Arc<Site>>,
    LoggedIn(visitor): LoggedIn,
    headers: HeaderMap,
    Sent(form): Sent<Signed>,
) -> Response {
    if foreign(&headers) || form.form != visitor.form {
        return site.refused();
    }
    site.gate.leave(&visitor);
    back()
}

/// What somebody decides about a device that waits.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Approve,
    Reject,
}

async fn decide(
    State(site): State<Arc<Site>>,
    LoggedIn(visitor): LoggedIn,
    headers: HeaderMap,
    Path((device, decision)): Path<(DeviceId, Decision)>,
    Sent(form): Sent<Signed>,
) -> Response {
    if foreign(&headers) || form.form != visitor.form {
        return site.refused();
    }
    let command = match (decision, form.code.parse::<Code>()) {
        (Decision::Approve, Ok(code)) => Command::Approve { device, code },
        (Decision::Approve, Err(error)) => {
            let text = format!("{error}.");
            return site.problem(StatusCode::BAD_REQUEST, "Not approved", &text);
        }
        (Decision::Reject, _) => {
            let reason = match form.reason.trim() {
                "" => "refused by a technician".to_owned(),
                reason => reason.to_owned(),
            };
            Command::Reject { device, reason }
        }
    };
    let by = format!("{} (status page)", visitor.name);
    let news = match site.office.execute(Order { by, command }).await {
        Ok(Outcome::Done(text)) => News { good: true, text },
        Ok(_) => News {
            good: true,
            text: "Done.".to_owned(),
        },
        Err(error) => News {
            good: false,
            text: format!("{error:#}"),
        },
    };
    site.gate.tell(&visitor, news);
    back()
}

/// Whether another page sent this form. Every browser of today says so; the
/// cookie's `SameSite` and the form's token stand for the others.
fn foreign(headers: &HeaderMap) -> bool {
    let from = headers.get("sec-fetch-site");
    from.is_some_and(|from| from != "same-origin")
}

/// To the page; a reload sends no form again.
fn back() -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response()
}

/// What a watcher's stream goes by.
struct Watcher {
    site: Arc<Site>,
    cookie: String,
    changes: watch::Receiver<u64>,
    stop: Shutdown,
    _place: OwnedSemaphorePermit,
}

/// Server-sent events (HTML Living Standard, 9.2): `change` where something
/// happened; the page says what.
async fn events(
    State(site): State<Arc<Site>>,
    LoggedIn(_): LoggedIn,
    headers: HeaderMap,
) -> Response {
    let Ok(place) = Arc::clone(&site.watchers).try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let mut changes = site.office.watch();
    changes.mark_changed();
    let watcher = Watcher {
        cookie: cookie(&headers).unwrap_or_default().to_owned(),
        changes,
        stop: site.stop.clone(),
        site,
        _place: place,
    };
    let stream = futures_util::stream::unfold(watcher, |mut watcher| async move {
        let word = watcher.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from_static(word)), watcher))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

impl Watcher {
    /// The next word; none when the appliance stops or the visitor left.
    async fn next(&mut self) -> Option<&'static [u8]> {
        let word: &[u8] = tokio::select! {
            () = self.stop.ordered() => return None,
            changed = self.changes.changed() => {
                changed.ok()?;
                tokio::select! {
                    () = self.stop.ordered() => return None,
                    () = tokio::time::sleep(BETWEEN) => {}
                }
                self.changes.mark_unchanged();
                b"event: change\ndata:\n\n"
            }
            () = tokio::time::sleep(ALIVE) => b":\n\n",
        };
        self.site.gate.visitor(&self.cookie, Instant::now())?;
        Some(word)
    }
}
