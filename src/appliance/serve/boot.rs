//! Plain HTTP: boot files, the text made for each device, TUF metadata and
//! blobs. Nothing here is secret, and whatever matters is verified by whoever
//! fetches it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use groundcrew_netboot::ipxe::{self, IpxeQuery, ScriptSettings};
use groundcrew_netboot::path::BootPath;

use super::files::{Tree, plain};
use super::http::Peer;
use super::texts::{self, decide, describe};
use crate::office::Office;
use crate::site::{Settings, Site};

struct Boot {
    office: Arc<Office>,
    scripts: ScriptSettings,
    boot: Tree,
    trust: Tree,
    blobs: Tree,
}

/// The routes of the plain HTTP port.
pub fn routes(site: &Site, settings: &Settings, boot: Tree, office: Arc<Office>) -> Router {
    let scripts = texts::settings(settings);
    let state = Arc::new(Boot {
        office,
        scripts,
        boot,
        trust: Tree::new(site.trust_dir()),
        blobs: Tree::new(site.blobs_dir()),
    });
    Router::new()
        .route(ipxe::SCRIPT_PATH, get(script))
        .route(ipxe::FIRST_SCRIPT_PATH, get(first_script))
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
    let state = boot.office.boot_state(&query);
    let decision = decide(&state);
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
    text(&decision.script(&boot.scripts, &device, query.firmware))
}

async fn first_script(State(boot): State<Arc<Boot>>) -> Response {
    text(&ipxe::first_script(&boot.scripts))
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
    let response = tree.answer(method, request.headers(), rest).await;
    let status = response.status().as_u16();
    tracing::debug!(
        peer = peer.map(tracing::field::display),
        "HTTP {method} /{path} -> {status}"
    );
    response
}
