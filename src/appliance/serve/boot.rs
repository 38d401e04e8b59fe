//! Plain HTTP: boot files, the text made for each device, TUF metadata and
//! blobs. Nothing here is secret, and whatever matters is verified by whoever
//! fetches it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{Redirect, Response};
use axum::routing::get;
use groundcrew_core::words::{self, LastWords};
use groundcrew_netboot::ipxe::{self, IpxeQuery, ScriptSettings};
use groundcrew_netboot::path::BootPath;
use groundcrew_netboot::story::Order;

use super::files::{FileBody, Tree, plain};
use super::http::Peer;
use super::order;
use super::texts::{self, describe, told};
use crate::flight::Flight;
use crate::office::Office;
use crate::site::Site;

struct Boot {
    office: Arc<Office>,
    scripts: ScriptSettings,
    page: String,
    /// Seconds that the site's menu waits, where it wants one.
    menu: Option<u16>,
    boot: Tree,
    trust: Tree,
    blobs: Tree,
}

/// The routes of the plain HTTP port of one network; `scripts`: what is so there.
pub fn routes(
    site: &Site,
    scripts: ScriptSettings,
    menu: Option<u16>,
    boot: Tree,
    office: Arc<Office>,
) -> Router {
    let page = crate::page::url(*scripts.http.ip(), scripts.https_port);
    let state = Arc::new(Boot {
        page,
        office,
        scripts,
        menu,
        boot,
        trust: Tree::new(site.trust_dir()),
        blobs: Tree::new(site.blobs_dir()),
    });
    Router::new()
        .route(ipxe::SCRIPT_PATH, get(script))
        .route("/", get(to_page))
        .route(ipxe::FIRST_SCRIPT_PATH, get(first_script))
        .route(words::PATH, get(last_words))
        // Everything else is a file; the fallback sees paths that no router
        // normalised, doubled slashes and all.
        .fallback(file)
        .with_state(state)
}

async fn script(State(boot): State<Arc<Boot>>, request: Request) -> Response {
    let query = match IpxeQuery::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) => query,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    if let Some(peer) = peer {
        boot.office.seen(peer);
    }
    let (decision, once) = order::decision(&boot.office, &query, peer, boot.menu).await;
    let device = query
        .serial
        .clone()
        .or(query.mac.map(|mac| mac.to_string()))
        .unwrap_or_default();
    tracing::info!(
        mac = query.mac.map(tracing::field::display),
        serial = query.serial,
        uuid = query.uuid.map(tracing::field::display),
        "boot text: {}",
        describe(&decision)
    );
    let flight = boot.office.flight();
    let (told, why) = if once {
        (Order::Once, describe(&decision))
    } else {
        (told(&decision), texts::why(&decision))
    };
    flight.text(&query, peer, told, &why);
    text(&decision.script(&boot.scripts, &device, query.firmware))
}

async fn first_script(State(boot): State<Arc<Boot>>) -> Response {
    text(&ipxe::first_script(&boot.scripts))
}

/// The status page is served by HTTPS only.
async fn to_page(State(boot): State<Arc<Boot>>) -> Redirect {
    Redirect::temporary(&boot.page)
}

/// A device says why it gives up. Nobody vouches for it, so it changes nothing.
async fn last_words(State(boot): State<Arc<Boot>>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    match LastWords::read(request.uri().query().unwrap_or_default()) {
        Some(words) if boot.office.flight().words(peer, &words) => plain(StatusCode::OK, "heard\n"),
        Some(_) => plain(StatusCode::TOO_MANY_REQUESTS, "heard often enough\n"),
        None => plain(StatusCode::BAD_REQUEST, "these words cannot be read\n"),
    }
}

fn text(script: &str) -> Response {
    let mut response = plain(StatusCode::OK, script);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `/boot/…`, `/tuf/…` and `/blobs/…`.
async fn file(State(boot): State<Arc<Boot>>, request: Request) -> Response {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "files are only for GET and HEAD\n",
        );
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let path = match BootPath::from_http(request.uri().path()) {
        Ok(path) => path.to_string(),
        Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let trees = [
        ("boot/", &boot.boot),
        ("tuf/", &boot.trust),
        ("blobs/", &boot.blobs),
    ];
    let Some((rest, tree)) = trees
        .into_iter()
        .find_map(|(prefix, tree)| Some((path.strip_prefix(prefix)?, tree)))
    else {
        return plain(
            StatusCode::NOT_FOUND,
            "nothing lies here; boot files are under /boot/\n",
        );
    };
    let mut response = tree.answer(method, request.headers(), rest).await;
    let status = response.status().as_u16();
    if let Some(peer) = peer {
        record(
            boot.office.flight(),
            peer.ip(),
            method,
            &path,
            &mut response,
        );
    }
    tracing::debug!(
        peer = peer.map(tracing::field::display),
        "HTTP {method} /{path} -> {status}"
    );
    response
}

/// What is not there at once, what is sent when it was sent. A HEAD is only a
/// question for the size; of the trust metadata one file stands for all.
fn record(
    flight: &Arc<Flight>,
    peer: std::net::IpAddr,
    method: &Method,
    path: &str,
    response: &mut Response,
) {
    let status = response.status();
    let of_agent = path.starts_with("tuf/") || path.starts_with("blobs/");
    if of_agent && !path.starts_with("blobs/") && path != "tuf/metadata/timestamp.json" {
        return;
    }
    if status.is_client_error() || status.is_server_error() {
        return flight.http_refused(peer, path, status.as_u16());
    }
    if method == Method::GET
        && let Some(body) = response.extensions_mut().get_mut::<FileBody>()
    {
        let size = body.end - body.start;
        body.watch = Some(flight.http(peer, path, status.as_u16(), size));
    }
}
