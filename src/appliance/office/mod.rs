//! The office: where registry, sessions, keys and store meet. Requests of
//! devices and commands of technicians both end here, and both follow one way:
//! keep a place in the store's queue, decide on the registry, record, queue the
//! entries, and answer after the commit.

mod challenge;
mod command;
mod enroll;
mod grant;
mod import;
pub mod published;
mod sessions;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::time::{Now, TimeFloor};
use groundcrew_core::{DeviceId, SiteId, UnixTime};
use groundcrew_netboot::ipxe::IpxeQuery;
use groundcrew_registry::boot::BootState;
use groundcrew_registry::profile::Profiles;
use groundcrew_registry::state::Limits;
use groundcrew_registry::{Change, Entry, Registry, journal};

pub use command::{Command, DeviceView, ImportView, Order, Outcome, RefusedRow};
pub use enroll::Refusal;

use crate::site::{Settings, Site, SiteKeys};
use crate::store::{self, Busy, Commit, Place, Store, Writer};
use challenge::Challenger;
use sessions::Sessions;

/// Everything that decides about devices.
pub struct Office {
    site: Site,
    name: SiteId,
    organisation: String,
    profiles: Profiles,
    keys: SiteKeys,
    challenger: Challenger,
    writer: Writer,
    registry_file: PathBuf,
    inner: Mutex<Inner>,
}

/// What changes, under one lock. Nothing is awaited while it is held.
struct Inner {
    registry: Registry,
    sessions: Sessions,
    /// Signed grants of devices that are at work.
    grants: HashMap<DeviceId, Envelope>,
    floor: TimeFloor,
}

impl Office {
    /// Reads the journal, checks it line by line, and takes over the store.
    pub fn open(site: &Site, settings: &Settings, store: Store) -> anyhow::Result<Self> {
        let keys = SiteKeys::read(&site.keys_dir())?;
        let mut registry = Registry::new(settings.site.clone(), Limits::default());
        let mut floor = TimeFloor::built_at(groundcrew_core::time::RELEASED);
        for (number, line) in (1u64..).zip(store.journal()?) {
            let entry = Entry::read(&line).with_context(|| format!("journal line {number}"))?;
            registry.apply(&entry)?;
            floor.raise(entry.at());
        }
        let grants = store.grants()?.into_iter().collect();
        Ok(Self {
            site: site.clone(),
            name: settings.site.clone(),
            organisation: settings.organisation.clone(),
            profiles: settings.profiles.clone(),
            keys,
            challenger: Challenger::new(crate::site::keys::random()?),
            registry_file: site.registry_file(),
            writer: store.start()?,
            inner: Mutex::new(Inner {
                registry,
                sessions: Sessions::default(),
                grants,
                floor,
            }),
        })
    }

    /// The site's keys.
    pub fn keys(&self) -> &SiteKeys {
        &self.keys
    }

    /// The way to the disk.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Returns when everything decided so far is on disk.
    pub async fn flush(&self) {
        self.writer.flush().await;
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
            Command::ListDevices => Ok(Outcome::Devices(view::all(&self.lock()))),
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
            Command::Import { csv, tag, dry_run } => self.import(&csv, tag, dry_run, &by).await,
            Command::Approve { device, code } => self.approve(&device, code, &by).await,
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
            Command::Journal => Ok(Outcome::Journal(store::journal_lines(&self.registry_file)?)),
        }
    }

    async fn approve(
        &self,
        device: &DeviceId,
        code: groundcrew_core::enroll::Code,
        by: &str,
    ) -> anyhow::Result<Outcome> {
        let place = self.writer.place()?;
        let (commit, ungranted) = {
            let mut inner = self.lock();
            let now = self.credible_now(&inner)?;
            let change = inner.registry.approve(device, code, by)?;
            let mut rows = self.record(&mut inner, now, vec![change]);
            // Granted in the same batch, so that no crash comes between.
            let granted = self.grant(&mut inner, now, device);
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

    /// The time to record and sign with.
    fn credible_now(&self, inner: &Inner) -> Result<UnixTime, Refusal> {
        match inner.floor.now(crate::clock::read()) {
            Now::Clock(now) => Ok(now),
            Now::Floor(_) => Err(Refusal::ClockUnknown),
        }
    }

    /// Folds changes into memory and returns the rows that must be committed
    /// before anybody is answered.
    fn record(&self, inner: &mut Inner, now: UnixTime, changes: Vec<Change>) -> Vec<store::Change> {
        match inner.registry.record(now, changes) {
            Ok(entries) => {
                inner.floor.raise(now);
                entries
                    .into_iter()
                    .map(|entry| {
                        tracing::info!(device = %entry.device(), by = %entry.actor(), "{}", entry.event().name());
                        store::Change::Journal { seq: entry.seq(), line: entry.line().to_owned() }
                    })
                    .collect()
            }
            Err(error) => {
                // Memory went further than the journal can follow.
                tracing::error!(
                    "the registry contradicts itself, so nothing more is answered: {error}"
                );
                std::process::exit(1);
            }
        }
    }
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

/// A journal line in words.
pub fn describe_entry(line: &str) -> anyhow::Result<String> {
    let entry = Entry::read(line)?;
    let about = view::event_in_words(entry.event());
    Ok(format!(
        "{:>6}  {}  {}  {} by {}{about}",
        entry.seq(),
        entry.at(),
        entry.device(),
        entry.event().name(),
        entry.actor()
    ))
}

/// Checks the chain of a site's journal; the hash of its last line.
pub fn verify_journal(site: &SiteId, lines: &[String]) -> anyhow::Result<groundcrew_core::Digest> {
    Ok(journal::verify(site, lines.iter().map(String::as_str))?.head())
}
