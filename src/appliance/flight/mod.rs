//! The flight recorder of a running appliance: whatever serves a device tells
//! it what happened, in one line, and never waits for it. Stories are
//! [`groundcrew_netboot::story`]'s; here are the lock, the clock and the file.
//!
//! What was recorded in the last seconds may be lost with the machine's power:
//! it is written in batches, and nothing is answered later because of it.

mod dhcp;
mod file;
mod hold;
mod transfer;
mod view;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use groundcrew_core::DeviceId;
use groundcrew_core::enroll::{Decision, ReceiptResult};
use groundcrew_core::hardware::identity::clean;
use groundcrew_core::hardware::{HardwareReport, Identity, MacAddr, SmbiosUuid};
use groundcrew_core::words::{self, LastWords};
use groundcrew_netboot::ipxe::IpxeQuery;
use groundcrew_netboot::story::{
    AgentStep, At, BootText, Limits, Order, Recorder, Story, StoryId, What, Who,
};
use groundcrew_registry::junk::Junk;

pub use transfer::Watch;
pub use view::{Fixture, StoryLine, StoryView};

use file::StoryFile;

/// Between two writes of what changed.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// Stories copied under one hold of the lock.
const BATCH: usize = 64;
/// Batches of one write while serving: a storm changes stories faster than any
/// disk takes them, and what it needs the disk for is leases.
const BATCHES: usize = 4;
/// Last words of one device within a minute; more are dropped.
const WORDS_A_MINUTE: u32 = 6;

/// All stories, and where they are kept.
pub struct Flight {
    recorder: Mutex<Recorder>,
    file: Mutex<StoryFile>,
}

impl Flight {
    /// With what earlier runs kept in `path`. A file that cannot be used is put
    /// aside: the recorder never stands in the way of serving.
    pub fn open(path: &Path) -> Self {
        let (file, stories) = StoryFile::open(path);
        Self {
            recorder: Mutex::new(Recorder::new(Limits::default(), stories)),
            file: Mutex::new(file),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recorder> {
        // A story that was left half told is still a story.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, who: &Who, what: What) -> StoryId {
        self.lock().note(now(), who, what)
    }

    /// A boot text was served: to whom, and what it says.
    pub fn text(&self, query: &IpxeQuery, peer: Option<IpAddr>, order: Order, why: &str) {
        self.note(&asker(query, peer), text(order, why));
    }

    /// The agent behind an address did something.
    pub fn agent(&self, peer: Option<IpAddr>, step: AgentStep) {
        let who = Who {
            ip: ipv4(peer),
            ..Who::default()
        };
        if who.ip.is_some() {
            self.note(&who, What::Agent(step));
        }
    }

    /// A device asked to be let in, and this was decided.
    pub fn asked(
        &self,
        peer: Option<IpAddr>,
        report: &HardwareReport,
        device: &DeviceId,
        decision: &Decision,
    ) {
        let identity = Identity::from(report);
        let who = Who {
            ip: ipv4(peer),
            device: Some(device.clone()),
            ..machine(identity.uuid, identity.serial.as_deref())
        };
        self.note(&who, What::Agent(step_of(decision, device)));
    }

    /// The same, for a device that asks again.
    pub fn decided(&self, device: &DeviceId, decision: &Decision) {
        self.of_device(device, step_of(decision, device));
    }

    /// A device at work entered another phase.
    pub fn phase(&self, device: &DeviceId, phase: &str) {
        let phase = phase.to_owned();
        self.of_device(device, AgentStep::Phase { phase });
    }

    /// A device's receipt came.
    pub fn receipt(&self, device: &DeviceId, result: &ReceiptResult) {
        let step = match result {
            ReceiptResult::Provisioned => AgentStep::Finished,
            ReceiptResult::Failed { reason } => AgentStep::Failed {
                reason: plain(reason, words::MAX_TEXT),
            },
        };
        self.of_device(device, step);
    }

    fn of_device(&self, device: &DeviceId, step: AgentStep) {
        let who = Who {
            device: Some(device.clone()),
            ..Who::default()
        };
        self.note(&who, What::Agent(step));
    }

    /// A device says why it gave up. `false`: it says so too often.
    pub fn words(&self, peer: Option<IpAddr>, words: &LastWords) -> bool {
        let by_address = Who {
            ip: ipv4(peer),
            ..Who::default()
        };
        let named = Who {
            mac: words.mac,
            ..machine(words.uuid, words.serial.as_deref())
        };
        let mut recorder = self.lock();
        // Whoever has an address of ours speaks for itself, whatever it claims.
        let who = match recorder.find(&by_address) {
            Some(_) => by_address,
            None => Who {
                ip: by_address.ip,
                ..named
            },
        };
        let at = now();
        let spoken = recorder.find(&who).and_then(|id| recorder.story(id));
        let lately = spoken.map_or(0, |story| {
            let events = story.events.iter();
            let says = events.filter(|event| {
                matches!(event.what, What::Says { .. }) && at.since(event.last()) < 60_000
            });
            says.map(|event| event.times).sum()
        });
        if lately >= WORDS_A_MINUTE {
            return false;
        }
        let what = What::Says {
            trouble: words.trouble,
            phase: plain(&words.phase, 40),
            text: plain(&words.text, words::MAX_TEXT),
        };
        recorder.note(at, &who, what);
        true
    }

    /// The MAC address, or what else a device is called by, for orders that wait for it.
    pub fn card(&self, name: &str) -> anyhow::Result<MacAddr> {
        if let Ok(mac) = name.parse() {
            return Ok(mac);
        }
        let recorder = self.lock();
        let story = recorder.story(one(&recorder, name)?);
        let mac = story.and_then(|story| story.names.macs.first().copied());
        mac.ok_or_else(|| anyhow::anyhow!("no card of {name} was seen yet: name it by its MAC"))
    }

    /// The cards of the machine that asks what to boot, the asking one first.
    pub fn cards(&self, query: &IpxeQuery, peer: Option<IpAddr>) -> Vec<MacAddr> {
        let recorder = self.lock();
        let found = recorder.find(&asker(query, peer));
        let story = found.and_then(|id| recorder.story(id));
        let known = story.map(|story| story.names.macs.clone());
        query
            .mac
            .into_iter()
            .chain(known.unwrap_or_default())
            .collect()
    }

    /// Writes what changed since the last time, in so many batches at most.
    fn write(&self, batches: usize) {
        for _ in 0..batches {
            let (changed, gone) = self.lock().take_changes(BATCH);
            if changed.is_empty() && gone.is_empty() {
                return;
            }
            let kept = self.keep(&changed, &gone);
            self.lock().written(&gone, kept);
            if !kept {
                return;
            }
        }
    }

    /// Whether they are in the file now.
    fn keep(&self, changed: &[(StoryId, Story)], gone: &[StoryId]) -> bool {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = file.write(changed, gone);
        if let Err(error) = &kept {
            tracing::warn!("stories of devices cannot be kept: {error}");
        }
        kept.is_ok()
    }

    /// Whether any device that was seen is called so.
    pub fn knows(&self, name: &str) -> bool {
        one(&self.lock(), name).is_ok()
    }

    fn with_story<T>(&self, name: &str, f: impl FnOnce(&Story) -> T) -> anyhow::Result<T> {
        let recorder = self.lock();
        let id = one(&recorder, name)?;
        let empty = Story::default();
        Ok(f(recorder.story(id).unwrap_or(&empty)))
    }
}

/// Writes stories now and then until told to stop, and once more then.
pub async fn keep(flight: Arc<Flight>, mut stop: crate::serve::Shutdown) {
    let mut due = tokio::time::interval(WRITE_EVERY);
    loop {
        let ends = tokio::select! {
            () = stop.ordered() => true,
            _ = due.tick() => false,
        };
        let batches = if ends { usize::MAX } else { BATCHES };
        let flight = Arc::clone(&flight);
        // A join error is a panic, which the runtime has told already.
        let _ = tokio::task::spawn_blocking(move || flight.write(batches)).await;
        if ends {
            return;
        }
    }
}

fn one(recorder: &Recorder, name: &str) -> anyhow::Result<StoryId> {
    let found = recorder.named(name);
    found.first().copied().ok_or_else(|| {
        anyhow::anyhow!(
            "no device called {name} was seen on the network; `groundcrew boot list --all` shows who was"
        )
    })
}

/// The clock, to the millisecond.
fn now() -> At {
    At(crate::clock::millis())
}

fn text(told: Order, why: &str) -> What {
    let why = plain(why, 200);
    What::Text(BootText { told, why })
}

fn step_of(decision: &Decision, device: &DeviceId) -> AgentStep {
    match decision {
        Decision::Waiting { reason } => AgentStep::Waiting {
            reason: reason.clone(),
        },
        Decision::Granted { .. } => AgentStep::Granted {
            device: device.clone(),
        },
        Decision::Rejected { reason } => AgentStep::Rejected {
            reason: reason.clone(),
        },
    }
}

fn asker(query: &IpxeQuery, peer: Option<IpAddr>) -> Who {
    Who {
        mac: query.mac,
        ip: query.ip.or(ipv4(peer)),
        maker: query.maker.clone(),
        model: query.model.clone(),
        ..machine(query.uuid, query.serial.as_deref())
    }
}

/// Who a machine is by what its firmware says, without makers' placeholders.
fn machine(uuid: Option<SmbiosUuid>, serial: Option<&str>) -> Who {
    let junk = Junk::built_in();
    let identity = Identity {
        serial: serial.and_then(clean),
        ..Identity::default()
    };
    Who {
        uuid: uuid.filter(|uuid| junk.uuid(uuid).is_none()),
        serial: identity
            .serial
            .clone()
            .filter(|_| junk.serial(&identity).is_none()),
        ..Who::default()
    }
}

fn ipv4(peer: Option<IpAddr>) -> Option<Ipv4Addr> {
    match peer? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped(),
    }
}

/// Foreign text as it may stand in lists: printable, not endless.
fn plain(text: &str, most: usize) -> String {
    let mark = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(most).map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_loses_no_story_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flight.db");
        let flight = Flight::open(&path);
        flight.file.lock().unwrap().refuse(true);
        flight.agent(Some("10.77.0.9".parse().unwrap()), AgentStep::Started);
        flight.write(usize::MAX);
        flight.file.lock().unwrap().refuse(false);
        flight.write(usize::MAX);
        drop(flight);
        assert!(Flight::open(&path).explain("10.77.0.9").is_ok());
    }
}
