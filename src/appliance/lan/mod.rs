//! The DHCP service of the devices' network, shared by the task that has its
//! sockets and by the commands that look at it. Decisions are
//! [`groundcrew_netboot::dhcp`]'s; here is the one lock, the clock, and the way
//! to the disk.

mod view;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_netboot::dhcp::{
    BootClient, BootService, Counters, Handled, Identity, Lease, LeaseEvent, LeaseState, Loaders,
    Mode, Moment, Notice, Reply, Request, Server, Service, Subnet, SubnetConfig, Verdict, Via,
};
use std::net::SocketAddrV4;

pub use view::{CountersView, LeaseView, NetView, OtherView, SubnetView};

use crate::site::{Cidr, Settings};
use crate::store::{Busy, Change, Commit, Writer};

/// Who holds which address: hardware address, and the UUID where it was told.
pub type Machines = HashMap<Ipv4Addr, (MacAddr, Option<SmbiosUuid>)>;

/// The service and its way to the disk.
pub struct Desk {
    inner: Mutex<Inner>,
    writer: Writer,
    interface: String,
    began: Instant,
}

struct Inner {
    service: Service,
    /// What [`Desk::report`] has spoken about.
    reported: Counters,
}

/// A reply to send, once its rows are on disk.
pub struct Answer {
    /// Wait for it first.
    pub commit: Option<Commit>,
    /// Then send this.
    pub reply: Reply,
    /// What kind of client it is for.
    pub client: BootClient,
}

impl Desk {
    /// The service as `site.toml` wants it, with the leases of earlier runs.
    /// `mac`: the interface's.
    pub fn new(
        settings: &Settings,
        mac: MacAddr,
        leases: &[Lease],
        writer: Writer,
    ) -> anyhow::Result<Self> {
        let boot = BootService {
            http: SocketAddrV4::new(settings.address.address, settings.ports.http),
            loaders: Loaders::debian(),
        };
        let me = Identity {
            address: settings.address.address,
            mac,
            seed: u64::from_ne_bytes(crate::site::keys::random()?),
        };
        let began = Instant::now();
        let (own, relayed) = networks(settings).context("site.toml")?;
        let server = Server::with_relays(own, relayed, Some(boot.clone()), leases)?;
        let service = Service::new(settings.dhcp.mode, me, boot, server, moment(began));
        Ok(Self {
            inner: Mutex::new(Inner {
                service,
                reported: Counters::default(),
            }),
            writer,
            interface: settings.interface.clone(),
            began,
        })
    }

    /// The mode, as written.
    pub fn mode(&self) -> Mode {
        self.lock().service.watch().mode()
    }

    /// Decides on a packet, queues its rows and says what is worth saying.
    ///
    /// # Errors
    /// The disk does not keep up; then nothing happened.
    pub fn handle(&self, request: &Request, via: Via) -> Result<Option<Answer>, Busy> {
        // A place first: with a full queue nothing may have happened in memory.
        let place = self.writer.place()?;
        let (handled, commit) = {
            let mut inner = self.lock();
            let mut handled = inner.service.handle(request, via, moment(self.began));
            let rows: Vec<Change> = handled.outcome.events.drain(..).map(change).collect();
            // Queued under the lock: the disk follows in memory's order.
            let commit = (!rows.is_empty()).then(|| place.write(rows));
            (handled, commit)
        };
        let Handled { outcome, notice } = handled;
        self.say(notice);
        let client = outcome.client;
        Ok(said(outcome.verdict, request).map(|reply| Answer {
            commit,
            reply,
            client,
        }))
    }

    /// A packet on port 67 or 4011 that was no request of a client.
    pub fn malformed(&self) {
        self.lock().service.count_malformed();
    }

    /// A packet to the clients' port.
    pub fn overhear(&self, packet: &[u8]) {
        let notice = self.lock().service.overhear(packet, moment(self.began));
        self.say(notice);
    }

    /// What time asks for: a DISCOVER to broadcast, and how long to wait.
    pub fn tick(&self) -> (Option<Vec<u8>>, Duration) {
        let now = moment(self.began);
        let (tick, probe) = {
            let mut inner = self.lock();
            let tick = inner.service.tick(now);
            (tick, tick.probe.then(|| inner.service.probe()))
        };
        self.say(tick.notice);
        (probe, tick.next.saturating_sub(now.steady))
    }

    /// The DISCOVER went out, and answers to it can be heard.
    pub fn probe_sent(&self) {
        self.lock().service.probe_sent();
    }

    /// Speaks once about what happened often since the last time.
    pub fn report(&self) {
        let mut inner = self.lock();
        let (now, before) = (*inner.service.counters(), inner.reported);
        let server = inner.service.server();
        let (size, offers) = (server.pool_size(), server.offers());
        inner.reported = now;
        drop(inner);
        let exhausted = now.exhausted - before.exhausted;
        if exhausted > 0 {
            tracing::warn!(
                "DHCP: the pool is EXHAUSTED: {exhausted} clients got no address ({size} addresses, {offers} of them only promised). Widen the pool, shorten the lease, or look for somebody who takes all addresses"
            );
        } else if offers * 2 > size && offers > 8 {
            tracing::warn!(
                "DHCP: {offers} of {size} addresses are promised to clients that do not take them; somebody may be starving the pool"
            );
        }
        let (client, total) = (
            now.limited_client - before.limited_client,
            now.limited_total - before.limited_total,
        );
        if client + total > 0 {
            tracing::warn!(
                "DHCP: {client} packets of clients that ask too often and {total} of a flood were dropped"
            );
        }
    }

    /// Another machine uses an address that was about to be offered: put aside.
    pub fn conflict(&self, ip: Ipv4Addr, user: MacAddr) {
        tracing::warn!(%ip, %user, "DHCP: {ip} is used by {user}, which did not get it here; it is put aside for an hour");
        let Ok(place) = self.writer.place() else {
            return;
        };
        let mut inner = self.lock();
        let events = inner.service.conflict(ip, user, moment(self.began));
        // Nobody is answered, so nobody waits: a crash forgets it, and asks again.
        let _ = (!events.is_empty()).then(|| place.write(events.into_iter().map(change).collect()));
    }

    /// Every lease, by address.
    pub fn leases(&self) -> Vec<LeaseView> {
        let now = crate::clock::read();
        view::leases(self.lock().service.server().leases(), now)
    }

    /// Takes a lease away, durably.
    pub async fn release(&self, ip: Ipv4Addr) -> anyhow::Result<String> {
        let place = self.writer.place()?;
        let commit = {
            // Queued under the same lock: a request in between must not overtake.
            let mut inner = self.lock();
            let events = inner.service.release(ip, moment(self.began));
            anyhow::ensure!(!events.is_empty(), "{}", no_lease(ip));
            place.write(events.into_iter().map(change).collect())
        };
        commit.done().await;
        Ok(released(ip))
    }

    /// The machine that holds `ip` at this moment.
    pub fn machine(&self, ip: Ipv4Addr) -> Option<(MacAddr, Option<SmbiosUuid>)> {
        let now = crate::clock::read();
        let inner = self.lock();
        let lease = inner.service.server().leases().find(|row| row.ip == ip);
        lease
            .filter(|row| row.holds(now))
            .map(|row| (row.mac, row.uuid))
    }

    /// The machines that hold addresses at this moment.
    pub fn machines(&self) -> Machines {
        let now = crate::clock::read();
        let inner = self.lock();
        let held = inner.service.server().leases().filter(|row| row.holds(now));
        held.map(|row| (row.ip, (row.mac, row.uuid))).collect()
    }

    /// The network as this appliance sees it.
    pub fn net(&self) -> NetView {
        let now = moment(self.began);
        view::net(&self.lock().service, &self.interface, now)
    }

    fn say(&self, notice: Option<Notice>) {
        let interface = &self.interface;
        match notice {
            Some(notice) if notice.is_warning() => tracing::warn!(interface, "DHCP: {notice}"),
            Some(notice) => tracing::info!(interface, "DHCP: {notice}"),
            None => (),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock leaves the service half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leases of a site that nobody serves.
pub fn stored(leases: &[Lease]) -> Vec<LeaseView> {
    view::leases(leases.iter(), crate::clock::read())
}

/// The row that takes a lease away from a site that nobody serves.
pub fn stored_release(leases: Vec<Lease>, ip: Ipv4Addr) -> anyhow::Result<(Change, String)> {
    let lease = leases.into_iter().find(|lease| lease.ip == ip);
    let lease = lease.with_context(|| no_lease(ip))?;
    let row = Lease {
        state: LeaseState::Released,
        expires_at: crate::clock::read(),
        ..lease
    };
    Ok((Change::PutLease(row), released(ip)))
}

fn no_lease(ip: Ipv4Addr) -> String {
    format!("{ip} is leased to nobody; `groundcrew lease list` shows the leases")
}

fn released(ip: Ipv4Addr) -> String {
    format!("{ip} is free; the device that had it moves when it next asks")
}

/// The reply to send, if there is one; what is not answered is logged with its reason.
fn said(verdict: Verdict, request: &Request) -> Option<Reply> {
    let (mac, kind) = (request.mac, request.kind);
    match verdict {
        Verdict::Reply(reply) => return Some(reply),
        Verdict::Noted(noted) => tracing::info!(%mac, "DHCP {kind}: {noted}"),
        Verdict::Ignored(reason) => tracing::debug!(%mac, "DHCP {kind} not answered: {reason}"),
    }
    None
}

fn change(event: LeaseEvent) -> Change {
    match event {
        LeaseEvent::Put(lease) => Change::PutLease(lease),
        LeaseEvent::Delete(ip) => Change::DropLease(ip),
    }
}

fn moment(began: Instant) -> Moment {
    Moment {
        wall: crate::clock::read(),
        steady: began.elapsed(),
    }
}

/// The networks of a site, checked together: its own, then those behind relays.
///
/// # Errors
/// What does not fit, in words for who wrote `site.toml`.
pub fn networks(settings: &Settings) -> anyhow::Result<(Subnet, Vec<Subnet>)> {
    let dhcp = &settings.dhcp;
    let server = settings.address.address;
    let reserved = |network: Cidr| {
        let mut inside = dhcp.reservations.clone();
        inside.retain(|reservation| network.holds_host(reservation.ip));
        inside
    };
    let own = Subnet::new(SubnetConfig {
        server,
        behind_relay: None,
        prefix: settings.address.prefix,
        pool_first: dhcp.pool.first,
        pool_last: dhcp.pool.last,
        router: dhcp.router,
        dns: dhcp.dns.clone(),
        ntp: dhcp.ntp.clone(),
        search: dhcp.search.clone(),
        domain: dhcp.domain.clone(),
        lease_seconds: dhcp.lease_seconds,
        reservations: reserved(settings.address),
    })?;
    let relayed = dhcp.subnets.iter().map(|subnet| {
        Subnet::new(SubnetConfig {
            server,
            behind_relay: Some(subnet.relay.address),
            prefix: subnet.relay.prefix,
            pool_first: subnet.pool.first,
            pool_last: subnet.pool.last,
            router: Some(subnet.router),
            dns: subnet.dns.clone(),
            ntp: dhcp.ntp.clone(),
            search: dhcp.search.clone(),
            domain: subnet.domain.clone(),
            lease_seconds: subnet.lease_seconds,
            reservations: reserved(subnet.relay),
        })
    });
    let relayed = relayed.collect::<Result<Vec<_>, _>>()?;
    Server::with_relays(own.clone(), relayed.clone(), None, &[])?;
    Ok((own, relayed))
}
