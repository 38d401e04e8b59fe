//! The life of the process: read, bind everything, ready, serve, stop in order.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::files::Tree;
use super::{Shutdown, api, boot, control, dhcp, http, ra, sntp, texts, tftp, tls, upkeep};
use crate::lan::Desk;
use crate::office::Office;
use crate::site::{Settings, Site};
use crate::store::Store;
use texts::Texts;

/// Serves `site` until SIGTERM or SIGINT.
pub fn run(site: &Site) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let ordered = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve(site, &site.settings()?, ordered, |_| {}).await
    })
}

/// Serves `site` as `settings` say, which need not be the file's, until `stop`
/// comes. `ready` gets the office once every socket is bound: what a stick
/// does, which shows the devices itself.
pub fn run_as(
    site: &Site,
    settings: &Settings,
    stop: tokio::sync::oneshot::Receiver<()>,
    ready: impl FnOnce(Arc<Office>),
) -> anyhow::Result<()> {
    // A sender that was dropped is an order, too.
    let ordered = async move { drop(stop.await) };
    runtime()?.block_on(serve(site, settings, ordered, ready))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

/// The sockets of an appliance, all bound before any is used.
struct Sockets {
    dhcp: dhcp::Sockets,
    tftp: tftp::Listener,
    http: TcpListener,
    https: TcpListener,
    control: tokio::net::UnixListener,
    sntp: Option<tokio::net::UdpSocket>,
    link: Option<ra::Link>,
}

/// As many descriptors as this user may have: a connection or a transfer costs
/// one or two, and the usual soft limit of 1024 is for programs that use select.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(
            "the limit of open files stays at {:?}: {error}",
            limit.current
        );
    }
}

async fn serve(
    site: &Site,
    settings: &Settings,
    ordered: impl Future<Output = ()>,
    ready: impl FnOnce(Arc<Office>),
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let store = Store::open(&site.registry_file())?;
    store.make_room();
    let leases = store.leases()?;
    let sockets = bind(site, settings).await?;
    let office = Arc::new(Office::open(site, settings, store)?);
    let (stopper, shutdown) = Shutdown::new();
    let mut tasks = start(site, settings, &office, &leases, sockets, &shutdown)?;
    tracing::info!(interface = settings.interface, address = %settings.address, "ready: site {} is served", settings.site);
    // Not under systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    ready(Arc::clone(&office));
    let ended_early = tokio::select! {
        () = ordered => None,
        ended = tasks.join_next() => ended,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    stopper.stop();
    while tasks.join_next().await.is_some() {}
    office.close().await;
    // Gone with the process that answers on it; a stale one does no harm.
    let _ = std::fs::remove_file(site.control_socket());
    match ended_early {
        Some(result) => {
            result.context("a service ended by a fault; this is a bug")?;
            anyhow::bail!("a service ended by itself; this is a bug")
        }
        None => {
            tracing::info!("stopped");
            Ok(())
        }
    }
}

async fn bind(site: &Site, settings: &Settings) -> anyhow::Result<Sockets> {
    let address = settings.address.address;
    let ports = settings.ports;
    let link = match ra::bind(&settings.interface) {
        _ if address.is_loopback() => None,
        Ok(link) => Some(link),
        Err(error) => {
            tracing::warn!("no IPv6 router advertisements, so iPXE waits 13 s longer: {error:#}");
            None
        }
    };
    let sntp = settings.sntp.then(|| sntp::bind(settings)).transpose();
    let sntp = sntp.unwrap_or_else(|error| {
        tracing::warn!("devices get no time from here, which another program may tell: {error:#}");
        None
    });
    Ok(Sockets {
        dhcp: dhcp::bind(settings)?,
        tftp: tftp::bind(address, ports.tftp).await?,
        http: tcp("HTTP", address, ports.http).await?,
        https: tcp("HTTPS", address, ports.https).await?,
        control: control::bind(&site.control_socket())?,
        sntp,
        link,
    })
}

async fn tcp(service: &str, address: Ipv4Addr, port: u16) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(SocketAddrV4::new(address, port)).await;
    listener.with_context(|| cannot_bind(service, &format!("{address}:{port}/tcp")))
}

/// The one line for a socket that cannot be had.
pub fn cannot_bind(service: &str, port: &str) -> String {
    format!("cannot bind {port} for {service} (`groundcrew check` says what to do)")
}

fn start(
    site: &Site,
    settings: &Settings,
    office: &Arc<Office>,
    leases: &[groundcrew_netboot::dhcp::Lease],
    sockets: Sockets,
    shutdown: &Shutdown,
) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let mac = sockets.dhcp.mac();
    let desk = Arc::new(Desk::new(settings, mac, leases, office.writer().clone())?);
    office.attach(Arc::clone(&desk));
    let boot_tree = Tree::new(site.boot_dir());
    let tls = tls::acceptor(&office.keys().tls, settings.site.as_str())?;
    tasks.spawn(dhcp::run(sockets.dhcp, desk, shutdown.clone()));
    let board = office.transfers().clone();
    let shelf = tftp::Shelf {
        tree: boot_tree.clone(),
        texts: Arc::new(Texts::new(Arc::clone(office), texts::settings(settings))),
        board: board.clone(),
    };
    tasks.spawn(tftp::run(sockets.tftp, shelf, shutdown.clone()));
    let boot_routes = boot::routes(site, settings, boot_tree, Arc::clone(office));
    tasks.spawn(http::run(
        sockets.http,
        http::Port::Plain(board),
        boot_routes,
        shutdown.clone(),
    ));
    let api_routes = api::routes(Arc::clone(office));
    tasks.spawn(http::run(
        sockets.https,
        http::Port::Tls(tls),
        api_routes,
        shutdown.clone(),
    ));
    tasks.spawn(control::run(
        sockets.control,
        Arc::clone(office),
        shutdown.clone(),
    ));
    tasks.spawn(upkeep::run(
        site.clone(),
        Arc::clone(office),
        shutdown.clone(),
    ));
    if let Some(socket) = sockets.sntp {
        tasks.spawn(sntp::run(socket, Arc::clone(office), shutdown.clone()));
    }
    if let Some(link) = sockets.link {
        // It ends by itself where a real router is heard; then nothing is left to do.
        let mut stop = shutdown.clone();
        let link_stop = shutdown.clone();
        tasks.spawn(async move {
            ra::run(link, link_stop).await;
            stop.ordered().await;
        });
    }
    Ok(tasks)
}
