//! The DHCP service of each network, shared by the task that has its sockets and
//! by the commands that look at it. Decisions are [`groundcrew_netboot::dhcp`]'s;
//! here is the one lock of each, the clock, and the way to the disk.

mod all;
mod view;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use groundcrew_core::UnixTime;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_netboot::dhcp::{
    BootClient, BootService, BootWord, Counters, Handled, Identity, Known, Lease, LeaseEvent,
    Loaders, Mode, Moment, Notice, Reply, Request, Server, Service, Verdict, Via,
};
use std::net::SocketAddrV4;

pub use all::{Lan, stored, stored_release};
pub use view::{InterfaceView, LeaseView, NetView, OtherView, SubnetView};

use crate::flight::Flight;
use crate::site::Network;
use crate::store::{Busy, Change, Commit, Writer};

/// Who holds which address: hardware address, and the UUID where it was told.
pub type Machines = HashMap<Ipv4Addr, (MacAddr, Option<SmbiosUuid>)>;

/// The service of one network, and its way to the disk.
pub struct Desk {
    inner: Mutex<Inner>,
    writer: Writer,
    network: Network,
    known: Box<Knows>,
    began: Instant,
    flight: Option<Arc<Flight>>,
}

/// What the site knows of a device that asks, by what its packet says.
pub type Knows = dyn Fn(&Request) -> Option<Known> + Send + Sync;

/// What the sockets of a network can do.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// The interface's hardware address.
    pub mac: MacAddr,
    /// Addresses are asked for by ARP before they are offered.
    pub asks_arp: bool,
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
    /// `http`: the port that boot files come from; `loaders`: which they are.
    pub fn new(
        network: &Network,
        http: u16,
        loaders: Loaders,
        wire: Wire,
        leases: &[Lease],
        writer: Writer,
        known: Box<Knows>,
    ) -> anyhow::Result<Self> {
        let boot = BootService {
            http: SocketAddrV4::new(network.address.address, http),
            loaders,
        };
        let me = Identity {
            address: network.address.address,
            mac: wire.mac,
            seed: u64::from_ne_bytes(crate::site::keys::random()?),
        };
        let began = Instant::now();
        let (own, relayed) = network.served().context("site.toml")?;
        let mut server = Server::with_relays(own, relayed, Some(boot.clone()), leases)?;
        if wire.asks_arp {
            server = server.probed();
        }
        let service = Service::new(network.mode, me, boot, server, moment(began));
        Ok(Self {
            inner: Mutex::new(Inner {
                service,
                reported: Counters::default(),
            }),
            writer,
            network: network.clone(),
            known,
            began,
            flight: None,
        })
    }

    /// The same, and what happens is told to `flight`.
    #[must_use]
    pub fn recorded(self, flight: Arc<Flight>) -> Self {
        Self {
            flight: Some(flight),
            ..self
        }
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.network.interface
    }

    /// The mode, as written.
    pub fn mode(&self) -> Mode {
        self.lock().service.watch().mode()
    }

    /// Decides on a packet as it came, queues its rows and says what is worth saying.
    /// `word`: what DHCP itself must tell the machine, asked where that is needed.
    ///
    /// # Errors
    /// The disk does not keep up; then nothing happened.
    pub fn handle(
        &self,
        packet: &[u8],
        mut request: Request,
        via: Via,
        word: impl FnOnce(&Request) -> BootWord,
    ) -> Result<Option<Answer>, Busy> {
        let turned_away = self
            .lock()
            .service
            .turned_away(&request, moment(self.began));
        let (handled, commit) = match turned_away {
            Some(handled) => (handled, None),
            None => {
                // Asked before the lock: the office has one of its own.
                request.word = word(&request);
                self.decide(&request, via)?
            }
        };
        let Handled { outcome, notice } = handled;
        let request = &request;
        if let Some(flight) = &self.flight {
            flight.dhcp(packet, request, via, self.network.address.address, &outcome);
        }
        self.say(notice);
        let client = outcome.client;
        Ok(said(outcome.verdict, request).map(|reply| Answer {
            commit,
            reply,
            client,
        }))
    }

    fn decide(&self, request: &Request, via: Via) -> Result<(Handled, Option<Commit>), Busy> {
        // A place first: with a full queue nothing may have happened in memory.
        let place = self.writer.place()?;
        let known = (self.known)(request);
        let mut inner = self.lock();
        let now = moment(self.began);
        let mut handled = inner
            .service
            .handle_admitted(request, known.as_ref(), via, now);
        let rows: Vec<Change> = handled.outcome.events.drain(..).map(change).collect();
        // Queued under the lock: the disk follows in memory's order.
        let commit = (!rows.is_empty()).then(|| place.write(rows));
        Ok((handled, commit))
    }

    /// A packet on port 67 or 4011 that was no request of a client.
    pub fn malformed(&self) {
        self.lock().service.count_malformed();
    }

    /// A packet to the clients' port.
    pub fn overhear(&self, packet: &[u8]) {
        if let Some(flight) = &self.flight {
            flight.overheard(packet, self.network.address.address);
        }
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
        let strangers = server.strangers();
        inner.reported = now;
        drop(inner);
        let interface = self.interface();
        let exhausted = now.exhausted - before.exhausted;
        if exhausted > 0 {
            tracing::warn!(
                interface,
                "DHCP: the pool is EXHAUSTED: {exhausted} questions for an address had no answer ({size} addresses, {offers} of them only promised, {strangers} held by clients that did nothing since). {}",
                cure(strangers + offers, size)
            );
        } else if (offers + strangers) * 2 > size && offers + strangers > 8 {
            tracing::warn!(
                interface,
                "DHCP: {offers} of {size} addresses are promised to clients that do not take them, and {strangers} are held by clients that did nothing since. {STARVED}"
            );
        }
        let (client, total) = (
            now.limited_client - before.limited_client,
            now.limited_total - before.limited_total,
        );
        if client + total > 0 {
            tracing::warn!(
                interface,
                "DHCP: {client} packets of clients that ask too often and {total} of a flood were dropped"
            );
        }
    }

    /// Another machine uses an address that was about to be offered: put aside.
    pub fn conflict(&self, ip: Ipv4Addr, user: MacAddr) {
        if let Some(flight) = &self.flight {
            flight.conflict(ip, user);
        }
        tracing::warn!(%ip, %user, "DHCP: {ip} is used by {user}, which did not get it here; it is put aside for an hour");
        let Ok(place) = self.writer.place() else {
            return;
        };
        let mut inner = self.lock();
        let events = inner.service.conflict(ip, user, moment(self.began));
        // Nobody is answered, so nobody waits: a crash forgets it, and asks again.
        let _ = (!events.is_empty()).then(|| place.write(events.into_iter().map(change).collect()));
    }

    /// Nobody answered at the address of a held offer; whether it may be sent.
    pub fn nobody_at(&self, ip: Ipv4Addr) -> bool {
        self.lock().service.nobody_at(ip)
    }

    /// Who has this address asked for something to boot.
    pub fn seen(&self, ip: Ipv4Addr) {
        self.lock().service.seen(ip);
    }

    /// Takes a lease away; `None` where this network has none for the address.
    fn release(&self, ip: Ipv4Addr) -> Result<Option<Commit>, Busy> {
        let place = self.writer.place()?;
        // Queued under the same lock: a request in between must not overtake.
        let mut inner = self.lock();
        let events = inner.service.release(ip, moment(self.began));
        let rows: Vec<Change> = events.into_iter().map(change).collect();
        Ok((!rows.is_empty()).then(|| place.write(rows)))
    }

    fn leases(&self, now: UnixTime) -> Vec<LeaseView> {
        let inner = self.lock();
        let rows = inner.service.server().leases();
        rows.map(|row| view::lease(row, Some(self.interface()), now))
            .collect()
    }

    fn machine(&self, ip: Ipv4Addr, now: UnixTime) -> Option<(MacAddr, Option<SmbiosUuid>)> {
        let inner = self.lock();
        let lease = inner.service.server().lease(ip);
        lease
            .filter(|row| row.holds(now))
            .map(|row| (row.mac, row.uuid))
    }

    fn machines(&self, now: UnixTime) -> Machines {
        let inner = self.lock();
        let held = inner.service.server().leases().filter(|row| row.holds(now));
        held.map(|row| (row.ip, (row.mac, row.uuid))).collect()
    }

    fn view(&self) -> InterfaceView {
        let now = moment(self.began);
        view::interface(&self.lock().service, &self.network, now)
    }

    fn say(&self, notice: Option<Notice>) {
        let interface = self.interface();
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

/// What to do about somebody who takes all addresses.
const STARVED: &str = "Somebody may be starving the pool: look for the port it comes from and limit the hardware addresses there (port security, DHCP snooping)";

fn cure(idle: usize, size: usize) -> &'static str {
    if idle * 2 > size {
        STARVED
    } else {
        "Widen the pool or shorten the lease"
    }
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
