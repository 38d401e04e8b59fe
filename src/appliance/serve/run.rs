//! The life of the process: read, bind everything, ready, serve, stop in order.

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::files::Tree;
use super::word::Words;
use super::{Shutdown, api, bind, boot, control, dhcp, http, ra, sntp, texts, tftp, tls, upkeep};
use crate::flight;
use crate::lan::{Desk, Lan};
use crate::office::Office;
use crate::page::{Gate, PageAddress, PageSite};
use crate::site::{Network, Settings, Site};
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
    control: tokio::net::UnixListener,
    doors: Vec<Door>,
}

/// The sockets of one network.
struct Door {
    network: Network,
    dhcp: dhcp::Sockets,
    tftp: tftp::Listener,
    http: TcpListener,
    https: TcpListener,
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
    let sockets = bind(site, settings)?;
    let office = Arc::new(Office::open(site, settings, store)?);
    let (stopper, shutdown) = Shutdown::new();
    let mut tasks = start(site, settings, &office, &leases, sockets, &shutdown)?;
    for Network {
        interface, address, ..
    } in &settings.networks
    {
        tracing::info!(interface, %address, "ready: site {} is served", settings.site);
    }
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

/// The status page; says where it is, and on a console how to open it.
fn page(
    settings: &Settings,
    office: &Arc<Office>,
    shutdown: &Shutdown,
) -> anyhow::Result<axum::Router> {
    let mut at = settings.networks.iter().map(|network| PageAddress {
        interface: network.interface.to_string(),
        url: crate::page::url(network.address.address, settings.ports.https),
    });
    let first = at.next().context("the site has no network")?;
    let gate = Gate::new(first.url, &office.keys().tls_key_digest())?;
    let gate = Arc::new(gate.also_at(at.collect()));
    office.attach_page(Arc::clone(&gate));
    let code = gate.code();
    tracing::info!(
        "status page: {} (`groundcrew page code` shows how to open it)",
        code.url
    );
    // A log is read by more people than a console.
    if std::io::stdout().is_terminal() {
        print!("\n{}\n", crate::page::invitation(&code));
    }
    let names = (settings.site.to_string(), settings.organisation.clone());
    let site = PageSite::new(Arc::clone(office), gate, names, shutdown.clone())?;
    Ok(crate::page::routes(Arc::new(site)))
}

fn bind(site: &Site, settings: &Settings) -> anyhow::Result<Sockets> {
    let mut doors = Vec::new();
    for network in &settings.networks {
        doors.push(open(network, settings)?);
    }
    Ok(Sockets {
        control: control::bind(&site.control_socket())?,
        doors,
    })
}

fn open(network: &Network, settings: &Settings) -> anyhow::Result<Door> {
    let interface = &network.interface;
    let (address, ports) = (network.address.address, settings.ports);
    // A machine that serves itself boots nobody else.
    let link = (!address.is_loopback()).then(|| ra::bind(interface));
    let link = link.transpose().unwrap_or_else(|error| {
        tracing::warn!(
            interface,
            "no IPv6 router advertisements, so iPXE waits 13 s longer: {error:#}"
        );
        None
    });
    let sntp = settings.sntp.then(|| sntp::bind(network, ports.sntp));
    let sntp = sntp.transpose().unwrap_or_else(|error| {
        tracing::warn!(
            interface,
            "devices get no time from here, which another program may tell: {error:#}"
        );
        None
    });
    Ok(Door {
        dhcp: dhcp::bind(network)?,
        tftp: tftp::bind(interface, address, ports.tftp)?,
        http: bind::tcp("HTTP", interface, address, ports.http)?,
        https: bind::tcp("HTTPS", interface, address, ports.https)?,
        sntp,
        link,
        network: network.clone(),
    })
}

fn desk(
    site: &Site,
    settings: &Settings,
    office: &Arc<Office>,
    leases: &[groundcrew_netboot::dhcp::Lease],
    door: &Door,
) -> anyhow::Result<Arc<Desk>> {
    // The office has the desks; a strong one here would keep both for ever.
    let knows = Arc::downgrade(office);
    let desk = Desk::new(
        &door.network,
        settings.ports.http,
        settings.boot.loaders(site.has_arm64()),
        door.dhcp.wire(),
        leases,
        office.writer().clone(),
        Box::new(move |request| knows.upgrade()?.known(request)),
    )?;
    Ok(Arc::new(desk.recorded(Arc::clone(office.flight()))))
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
    for file in site.missing_boot_files(settings) {
        tracing::warn!(
            "{} is missing, and devices may be sent to it: `groundcrew check` says what brings it",
            site.boot_dir().join(file).display()
        );
    }
    let boot_tree = Tree::new(site.boot_dir());
    let tls = tls::acceptor(&office.keys().tls, settings.site.as_str())?;
    let page = page(settings, office, shutdown)?;
    let mut desks = Vec::new();
    for door in sockets.doors {
        let desk = desk(site, settings, office, leases, &door)?;
        desks.push(Arc::clone(&desk));
        let words = Words::new(site, settings, office);
        tasks.spawn(dhcp::run(door.dhcp, desk, words, shutdown.clone()));
        let board = office.transfers().clone();
        let scripts = texts::settings(settings, &door.network);
        let shelf = tftp::Shelf {
            tree: boot_tree.clone(),
            texts: Arc::new(Texts::new(Arc::clone(office), scripts.clone())),
            board: board.clone(),
            flight: Arc::clone(office.flight()),
        };
        tasks.spawn(tftp::run(door.tftp, shelf, shutdown.clone()));
        let boot_routes = boot::routes(
            site,
            scripts,
            settings.boot.menu,
            boot_tree.clone(),
            Arc::clone(office),
        );
        tasks.spawn(http::run(
            door.http,
            http::Port::Plain(board),
            boot_routes,
            shutdown.clone(),
        ));
        tasks.spawn(http::run(
            door.https,
            http::Port::Tls(tls.clone()),
            api::routes(Arc::clone(office)).merge(page.clone()),
            shutdown.clone(),
        ));
        if let Some(socket) = door.sntp {
            tasks.spawn(sntp::run(socket, Arc::clone(office), shutdown.clone()));
        }
        if let Some(link) = door.link {
            // It ends by itself where a real router is heard; then nothing is left to do.
            let mut stop = shutdown.clone();
            let link_stop = shutdown.clone();
            tasks.spawn(async move {
                ra::run(link, link_stop).await;
                stop.ordered().await;
            });
        }
    }
    office.attach(Arc::new(Lan::new(desks)));
    tasks.spawn(control::run(
        sockets.control,
        Arc::clone(office),
        shutdown.clone(),
    ));
    tasks.spawn(flight::keep(Arc::clone(office.flight()), shutdown.clone()));
    tasks.spawn(upkeep::run(
        site.clone(),
        Arc::clone(office),
        shutdown.clone(),
    ));
    Ok(tasks)
}
