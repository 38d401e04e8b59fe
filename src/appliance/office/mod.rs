//! The office: where registry, sessions, keys and store meet. Requests of
//! devices and commands of technicians both end here, and both follow one way:
//! keep a place in the store's queue, decide on the registry, record, queue the
//! entries, and answer after the commit.

mod able;
mod challenge;
mod command;
mod devices;
mod enroll;
mod grant;
mod import;
#[cfg(test)]
mod import_tests;
mod leases;
mod once;
mod pace;
pub mod published;
mod record;
#[cfg(test)]
mod rules_tests;
mod sessions;
mod snapshot;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod theft_tests;
mod view;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Context as _;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::time::{Now, TimeFloor};
use groundcrew_core::{DeviceId, SiteId, UnixTime};
use groundcrew_netboot::ipxe::IpxeQuery;
use groundcrew_registry::boot::BootState;
use groundcrew_registry::checkpoint;
use groundcrew_registry::profile::Profiles;
use groundcrew_registry::rules::Rules;
use groundcrew_registry::search::Search;
use groundcrew_registry::state::{ApproveError, Limits};
use groundcrew_registry::{Actor, Change, Entry, Registry};

pub use able::BY_DHCP;
pub use command::{
    Blob, Command, DevicePage, DeviceView, ExplainView, ExportPage, FindingView, FoundView,
    ImportRow, ImportView, Order, Outcome, ProfileView, RefusedRow, every_device,
};
pub use enroll::Refusal;
pub use import::{FileTerms, Import, PART, Part, Progress, Registering};
pub use once::Claim;
pub use pace::Pace;

use tokio::sync::watch;

use crate::flight::Flight;
use crate::lan::Lan;
use crate::page::Gate;
use crate::site::settings::Staleness;
use crate::site::{Settings, Site, SiteKeys, publish, time};
use crate::store::{self, Busy, Commit, Place, Store, Writer};
use crate::transfers::Board;
use challenge::Challenger;
use record::last_checkpoint;
use sessions::Sessions;

/// Everything that decides about devices.
pub struct Office {
    site: Site,
    name: SiteId,
    organisation: String,
    profiles: Profiles,
    rules: Rules,
    staleness: Staleness,
    keys: SiteKeys,
    challenger: Challenger,
    writer: Writer,
    registry_file: PathBuf,
    snapshot_file: PathBuf,
    /// The journal's line up to which the snapshot goes.
    frozen: AtomicU64,
    /// The status page's door, while the site is served.
    gate: OnceLock<Arc<Gate>>,
    /// Counts what happened, for whoever watches.
    changes: watch::Sender<u64>,
    /// The DHCP services, while the site is served.
    lan: OnceLock<Arc<Lan>>,
    transfers: Board,
    flight: Arc<Flight>,
    boot: crate::site::settings::Boot,
    orders: once::Orders,
    importing: tokio::sync::Mutex<import::Underway>,
    pace: Pace,
    /// Until when HQ vouched when it was last looked up, in seconds since 1970.
    vouched: AtomicU64,
    inner: Mutex<Inner>,
}

/// At a stop, a snapshot is worth its writing after so many lines.
const AT_STOP: u64 = 1000;

/// What changes, under one lock. Nothing is awaited while it is held.
struct Inner {
    registry: Registry,
    sessions: Sessions,
    /// Signed grants of devices that are at work.
    grants: HashMap<DeviceId, Envelope>,
    floor: TimeFloor,
    /// The journal line that was signed last, and when.
    signed: Option<(u64, UnixTime)>,
}

impl Office {
    /// Reads the last snapshot and what the journal says since, checks that line
    /// by line, and takes over the store.
    pub fn open(site: &Site, settings: &Settings, mut store: Store) -> anyhow::Result<Self> {
        let keys = SiteKeys::read(&site.keys_dir())?;
        let mut floor = TimeFloor::built_at(groundcrew_core::time::RELEASED);
        // Metadata that does not hold is told by whoever needs it.
        if let Some(issued) = publish::load(site).ok().and_then(|repo| repo.issued_at()) {
            floor.raise(issued);
        }
        let snapshot_file = site.snapshot_file();
        let key = keys.journal.public();
        let (mut registry, frozen) =
            match snapshot::load(&snapshot_file, &settings.site, &key, &store) {
                Some((registry, seal)) => {
                    floor.raise(seal.at);
                    (registry, seal.seq)
                }
                None => (Registry::new(settings.site.clone(), Limits::default()), 0),
            };
        let mut last = UnixTime::new(0);
        store.journal_after(frozen, |line| {
            let number = registry.chain().seq() + 1;
            let entry = Entry::read(line).with_context(|| format!("journal line {number}"))?;
            registry.apply(&entry)?;
            last = entry.at();
            floor.raise(last);
            Ok(())
        })?;
        let mut frozen = frozen;
        if registry.chain().seq() - frozen >= snapshot::EVERY {
            let now = registry.freeze();
            match snapshot::write(&snapshot_file, &now, last, &keys.journal) {
                Ok(()) => frozen = now.seq(),
                Err(error) => tracing::warn!("the next start will take as long: {error:#}"),
            }
        }
        for waiting in store.waiting()? {
            floor.raise(waiting.lobby.at);
            registry.wait(waiting)?;
        }
        import::resume(&mut store, &mut registry, &mut floor)?;
        let once = store.once()?;
        let grants = store.grants()?.into_iter().collect();
        let signed = last_checkpoint(&store, &keys)?;
        Ok(Self {
            site: site.clone(),
            name: settings.site.clone(),
            organisation: settings.organisation.clone(),
            profiles: settings.profiles.clone(),
            rules: settings.rules.clone(),
            staleness: settings.staleness,
            keys,
            challenger: Challenger::new(crate::site::keys::random()?),
            registry_file: site.registry_file(),
            writer: store.start()?,
            gate: OnceLock::new(),
            changes: watch::Sender::new(0),
            lan: OnceLock::new(),
            transfers: Board::default(),
            boot: settings.boot,
            orders: once::Orders::new(once),
            importing: tokio::sync::Mutex::default(),
            flight: Arc::new(Flight::open(&site.flight_file())),
            pace: Pace::default(),
            vouched: AtomicU64::new(0),
            snapshot_file,
            frozen: AtomicU64::new(frozen),
            inner: Mutex::new(Inner {
                registry,
                sessions: Sessions::default(),
                grants,
                floor,
                signed,
            }),
        })
    }

    /// The site's keys.
    pub fn keys(&self) -> &SiteKeys {
        &self.keys
    }

    /// Files on their way.
    pub fn transfers(&self) -> &Board {
        &self.transfers
    }

    /// What happens to devices that boot.
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// The way to the disk.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// How many entries the journal has, those that are being written included.
    pub fn journal_entries(&self) -> u64 {
        self.lock().registry.chain().seq()
    }

    /// How many devices were granted a bundle, of those that the charter admits.
    pub fn granted_devices(&self) -> usize {
        self.lock().registry.granted_devices()
    }

    /// Signs what the journal says, where there is something new, and returns
    /// when everything decided so far is on disk.
    pub async fn close(&self) {
        let rows = {
            let mut inner = self.lock();
            let behind = inner
                .signed
                .is_none_or(|(seq, _)| seq < inner.registry.chain().seq());
            let now = self.credible_now(&inner).ok();
            now.filter(|_| behind && inner.registry.chain().seq() > 0)
                .map(|now| self.checkpoint(&mut inner, now))
        };
        if let (Some(rows), Ok(place)) = (rows, self.writer.place()) {
            place.write(rows).done().await;
        }
        self.writer.flush().await;
        self.snapshot_if_grown(AT_STOP);
    }

    /// Writes a snapshot where the journal grew by `lines` since the last one.
    /// Takes as long as the registry is large: not for a task that others wait for.
    pub fn snapshot_if_grown(&self, lines: u64) {
        let (frozen, now) = {
            let inner = self.lock();
            let grown = inner.registry.chain().seq() - self.frozen.load(Ordering::Relaxed);
            let Ok(now) = self.credible_now(&inner) else {
                return;
            };
            if grown < lines.max(1) {
                return;
            }
            (inner.registry.freeze(), now)
        };
        match snapshot::write(&self.snapshot_file, &frozen, now, &self.keys.journal) {
            Ok(()) => self.frozen.store(frozen.seq(), Ordering::Relaxed),
            // The one before still holds, or the journal does.
            Err(error) => tracing::warn!("{error:#}"),
        }
    }

    /// Signs what the journal says, if a day went by since it grew.
    pub async fn checkpoint_if_due(&self) {
        let Ok(place) = self.writer.place() else {
            return;
        };
        let commit = {
            let mut inner = self.lock();
            let Ok(now) = self.credible_now(&inner) else {
                return;
            };
            let seq = inner.registry.chain().seq();
            if !checkpoint::due(seq, inner.signed, now) {
                return;
            }
            let rows = self.checkpoint(&mut inner, now);
            queue(place, rows)
        };
        if let Some(commit) = commit {
            commit.done().await;
        }
    }

    /// Hands over the status page's door. Once.
    pub fn attach_page(&self, gate: Arc<Gate>) {
        // A second one would be a second page on one site: the first stays.
        let _ = self.gate.set(gate);
    }

    fn page_code(&self, renew: bool) -> anyhow::Result<Outcome> {
        let gate = self.gate.get().context(
            "nobody serves this site at the moment: `groundcrew serve` makes a code when it starts",
        )?;
        Ok(Outcome::Page(match renew {
            true => gate.renew()?,
            false => gate.code(),
        }))
    }

    /// Some of the devices.
    pub fn find(&self, search: &Search) -> FoundView {
        view::found(&self.lock(), search)
    }

    /// Moves whenever something happened that a list of devices shows.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What a machine is to boot, by what its loader tells of it.
    pub fn boot_state(&self, query: &IpxeQuery) -> BootState {
        self.lock()
            .registry
            .lookup_boot(query.serial.as_deref(), query.uuid, query.mac)
    }

    /// Carries out a technician's order.
    pub async fn execute(&self, order: Order) -> anyhow::Result<Outcome> {
        let by = order.by;
        match order.command {
            Command::ListDevices { text, phase, after } => {
                let search = search(0, &text, phase.as_deref())?;
                let page = view::page(&self.lock(), &search, after.as_ref());
                Ok(Outcome::Devices(page))
            }
            Command::FindDevices {
                text,
                phase,
                skip,
                limit,
            } => {
                let search = search(limit, &text, phase.as_deref())?;
                Ok(Outcome::Found(self.find(&search.after(skip))))
            }
            Command::PageCode { renew } => self.page_code(renew),
            Command::ShowDevice(id) => {
                let inner = self.lock();
                let device = inner.registry.device(&id).with_context(|| {
                    format!("there is no device {id}; `groundcrew device list` shows them")
                })?;
                Ok(Outcome::Device(Box::new(view::one(&inner, device))))
            }
            Command::DeviceLog(id) => {
                Ok(Outcome::Log(store::device_log(&self.registry_file, &id)?))
            }
            Command::KeepHashes(hashes) => self.keep_hashes(&hashes).await,
            Command::Import { rows, terms } => self.import(rows, terms, by).await,
            Command::Approve { device, code } => {
                self.approve(&device, |registry| registry.approve(&device, code, &by))
                    .await
            }
            Command::Accept(device) => {
                self.approve(&device, |registry| registry.accept(&device, &by))
                    .await
            }
            Command::Tag { device, tag } => {
                let line = match &tag {
                    Some(tag) if self.profiles.takes_tag(tag) => {
                        format!("{device} has the tag {tag}")
                    }
                    Some(tag) => {
                        format!("{device} has the tag {tag}; no profile in site.toml takes it yet")
                    }
                    None => format!("{device} has no tag"),
                };
                self.change(&device, line, |registry| {
                    Ok(registry.tag(&device, tag, &by)?)
                })
                .await
            }
            Command::Retire { device, reason } => self.retire(&device, &reason, &by).await,
            Command::Transfer { device, to } => self.transfer(&device, &to, &by).await,
            Command::Forget(device) => {
                let line = format!("{device} is forgotten; the journal keeps its story");
                self.change(&device, line, |registry| Ok(registry.forget(&device, &by)?))
                    .await
            }
            Command::ExplainDevice(device) => self.explain_device(&device),
            Command::ExplainIdentities(identities) => Ok(self.explain_identities(&identities)),
            Command::WhichProfile(device) => self.which_profile(&device),
            Command::Export { after } => self.export(after.as_ref()),
            Command::Reject { device, reason } => {
                let line = format!("{device} is refused; it starts its own disk");
                self.change(&device, line, |registry| {
                    Ok(registry.reject(&device, &reason, &by)?)
                })
                .await
            }
            Command::Reprovision(device) => {
                let line =
                    format!("{device} will be provisioned anew at its next start from the network");
                self.change(&device, line, |registry| {
                    Ok(registry.reprovision(&device, &by)?)
                })
                .await
            }
            Command::Hold { device, reason } => {
                let by = Actor::Technician(by);
                self.hold(&device, &reason, by).await
            }
            Command::Release(device) => {
                let line = format!("{device} may go on; start it from the network");
                self.change(&device, line, |registry| {
                    Ok(registry.release_held(&device, &by)?)
                })
                .await
            }
            Command::ListLeases => self.leases(),
            Command::ReleaseLease(ip) => self.release_lease(ip).await,
            Command::ShowNet => self.net(),
            Command::ListBoots { all } => Ok(Outcome::Boots(self.flight.list(all))),
            Command::ExplainBoot(name) => {
                let story = self.flight.explain(&self.seen_as(&name))?;
                Ok(Outcome::Boot(Box::new(story)))
            }
            Command::BootOnce { device, once } => self.boot_once(&device, once).await,
            Command::ReleaseBoot(name) => {
                let released = match name {
                    Some(name) => self.flight.release(&self.seen_as(&name))?,
                    None => self.flight.release_all(),
                };
                Ok(Outcome::BootsReleased(released))
            }
        }
    }

    async fn approve(
        &self,
        device: &DeviceId,
        decide: impl FnOnce(&Registry) -> Result<Change, ApproveError>,
    ) -> anyhow::Result<Outcome> {
        let place = self.writer.place()?;
        let (commit, ungranted) = {
            let mut inner = self.lock();
            let now = self.credible_now(&inner)?;
            let change = decide(&inner.registry)?;
            let mut rows = self.record(&mut inner, now, vec![change]);
            // Granted in the same batch, so that no crash comes between.
            let listed = self.listed();
            let granted = listed.and_then(|listed| self.grant(&mut inner, now, device, &listed));
            let ungranted = granted.map(|more| rows.extend(more)).err();
            inner.sessions.wake(device);
            (place.write(rows), ungranted)
        };
        commit.done().await;
        Ok(Outcome::Done(match ungranted {
            None => format!("{device} is let in"),
            Some(reason) => format!("{device} is approved, but waits: {reason}"),
        }))
    }

    /// Keeps a device from going on until a technician releases it: what
    /// technicians do, and the site's own services with [`Actor::Site`].
    pub async fn hold(
        &self,
        device: &DeviceId,
        reason: &str,
        by: Actor,
    ) -> anyhow::Result<Outcome> {
        let line = format!("{device} is held; `groundcrew device release {device}` ends that");
        self.change(device, line, |registry| {
            Ok(registry.hold(device, reason, by)?)
        })
        .await
    }

    async fn change(
        &self,
        device: &DeviceId,
        line: String,
        decide: impl FnOnce(&Registry) -> anyhow::Result<Change>,
    ) -> anyhow::Result<Outcome> {
        let place = self.writer.place()?;
        let commit = {
            let mut inner = self.lock();
            let now = self.credible_now(&inner)?;
            let change = decide(&inner.registry)?;
            let rows = self.record(&mut inner, now, vec![change]);
            inner.sessions.wake(device);
            place.write(rows)
        };
        commit.done().await;
        Ok(Outcome::Done(line))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves memory and journal in doubt; but every
        // change is made by `record`, which ends the process if it fails half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The site has signed that it is so late.
    pub fn proven(&self, time: UnixTime) {
        self.lock().floor.raise(time);
    }

    /// Whether the clock is believed.
    pub fn knows_the_time(&self) -> bool {
        self.credible_now(&self.lock()).is_ok()
    }

    /// The time to record and sign with.
    fn credible_now(&self, inner: &Inner) -> Result<UnixTime, Refusal> {
        let mut floor = inner.floor;
        // Read anew: a technician may have set the clock, or taken that back.
        if let Some(decided) = time::decided(&self.site).unwrap_or_default() {
            floor.raise(decided);
        }
        match floor.now(crate::clock::read()) {
            Now::Clock(now) if now < self.vouched_until(now) => Ok(now),
            Now::Clock(_) => Err(Refusal::ClockBeyond),
            Now::Floor(_) => Err(Refusal::ClockUnknown),
        }
    }

    /// [`publish::vouched_until`], read anew only where it would say no.
    fn vouched_until(&self, now: UnixTime) -> UnixTime {
        let known = UnixTime::new(self.vouched.load(Ordering::Relaxed));
        if now < known {
            return known;
        }
        // Without readable metadata nothing can be granted; that says so itself.
        let Ok(repo) = publish::load(&self.site) else {
            return UnixTime::new(u64::MAX);
        };
        let until = publish::vouched_until(&repo);
        self.vouched.store(until.seconds(), Ordering::Relaxed);
        until
    }
}

fn search(limit: usize, text: &str, phase: Option<&str>) -> anyhow::Result<Search> {
    let search = Search::first(limit).text(text);
    Ok(match phase {
        Some(phase) => search.phase(phase)?,
        None => search,
    })
}

/// Queues rows that nobody waits for.
fn queue(place: Place, rows: Vec<store::Change>) -> Option<Commit> {
    (!rows.is_empty()).then(|| place.write(rows))
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy.to_string())
    }
}

/// A journal entry in words.
pub fn describe_entry(entry: &Entry) -> String {
    let about = view::event_in_words(entry.event());
    format!(
        "{:>6}  {}  {}  {} by {}{about}",
        entry.seq(),
        entry.at(),
        entry.device(),
        entry.event().name(),
        entry.actor()
    )
}
