//! The second half of a run: the bundle, verified, and applied to the
//! installed system.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use groundcrew_core::Digest;
use groundcrew_core::bundle::{Bundle, Descriptor, Manifest, Variables};
use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::{BundleRef, ReceiptResult, StepOutcome, StepReceipt};
use groundcrew_core::words::Trouble;

use super::{Admitted, Run};
use crate::apply::{self, ChrootRunner, Job, StepEvent};
use crate::console::Console;
use crate::download::Blobs;
use crate::enroll;
use crate::failure::Failure;
use crate::http::Public;
use crate::modules::Loader;
use crate::processes;
use crate::state::State;
use crate::system::mount::{Access, Mounted};
use crate::system::{self, Installed};
use crate::trust::Trust;

/// Trust that was refreshed this recently is fresh enough to fetch by.
const FRESH: Duration = Duration::from_secs(30);
/// Where a small bundle waits to be applied.
const MEMORY_STAGING: &str = "/run/groundcrew/staging";
/// How often the lines and the appliance hear of a download.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// How far the work came: what a receipt of a failure says.
#[derive(Default)]
pub(crate) struct Progress {
    /// The manifest, once it was verified.
    pub manifest: Option<Digest>,
    /// The steps, once there were any.
    pub steps: Vec<StepReceipt>,
    /// Whether the final receipt reached the appliance or was tried to.
    pub receipt_sent: bool,
}

impl Run<'_> {
    pub(super) fn work(
        &mut self,
        loader: &Arc<Loader>,
        installed: &Installed,
        trust: &mut Trust,
        public: &Public,
        admitted: &Admitted,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        self.phase("download");
        // A second look at the disks, beside the download: a slow one may
        // have appeared since, and nothing was written yet.
        let finder = loader.clone();
        let second_look = std::thread::spawn(move || system::find(&finder));
        let manifest = self.manifest(trust, public, admitted)?;
        progress.manifest = Some(Digest::of(&manifest.to_bytes()));
        let seen = second_look
            .join()
            .map_err(|_| Failure::failed("looking at the disks broke off", ""))?;
        still_the_same(installed, seen)?;
        let mounted = mounted(installed)?;
        let state =
            State::open(mounted.root()).map_err(|error| disk("opening our folder", &error))?;
        // Before the long part: a start after a power cut goes on with these keys.
        let saved = state.save_keys(&admitted.keys).and_then(|()| {
            let granted = &admitted.granted;
            state.save_grant(&granted.envelope, &granted.grant)?;
            state.save_memory(&trust.memory())
        });
        saved.map_err(|error| disk("keeping the keys", &error))?;
        let blobs = staging(&manifest, &state)?;
        let bundle = self.fetch(&manifest, &blobs, public, admitted)?;
        let reference = bundle.reference();
        self.say(&format!("bundle {reference} verified"));
        admitted
            .reporter
            .tell("verify", 1, 1, format!("{reference} verified"));
        self.phase("apply");
        let furniture = mounted
            .furnish()
            .map_err(|error| disk("preparing the system for commands", &error))?;
        let outcome = self.apply(&mounted, &bundle, &blobs, admitted)?;
        progress.steps.clone_from(&outcome.steps);
        if let ReceiptResult::Failed { reason } = outcome.result {
            let advice = "The system on the disk still starts. Correct the bundle, publish a new version, then start this device again.";
            return Err(Failure::failed(reason, advice).about(Trouble::Step));
        }
        trust.applied(&reference);
        let kept = state.save_memory(&trust.memory());
        kept.map_err(|error| disk("keeping what this device has", &error))?;
        let envelope = self.keep_receipt(&state, admitted, progress, &blobs)?;
        processes::end_other_processes();
        // Its open folder would keep the file system busy.
        drop(state);
        drop(furniture);
        drop(mounted);
        rustix::fs::sync();
        progress.receipt_sent = true;
        self.console
            .show(|screen| "sending the receipt".clone_into(&mut screen.phase));
        self.send_receipt(admitted, &envelope)
    }

    /// The manifest that the grant names, verified by the site's metadata.
    fn manifest(
        &self,
        trust: &mut Trust,
        public: &Public,
        admitted: &Admitted,
    ) -> Result<Manifest, Failure> {
        let say = |text: String| self.say(&text);
        let wanted = &admitted.granted.grant.bundle;
        admitted
            .reporter
            .tell("refresh-trust", 0, 1, "checking what the site has signed");
        if trust.age() > FRESH {
            trust.refresh(public, &say)?;
        }
        let bytes = trust.target(public, &wanted.target_path(), &say)?;
        // The charter may be a newer one than when the grant came: it must
        // still vouch for the key that signed, and for what is granted.
        let grant = enroll::still_granted(&admitted.granted.envelope, trust.charter());
        grant.map_err(|error| {
            Failure::refused(
                error,
                "Start this device again; if that does not help, ask the site's administrator.",
            )
            .about(Trouble::TrustMismatch)
        })?;
        let device = &admitted.granted.grant.device;
        trust.admits(public, wanted, device, &say)?;
        checked_manifest(&bytes, wanted)
    }

    /// Brings every blob here and puts the bundle together.
    fn fetch(
        &self,
        manifest: &Manifest,
        blobs: &Blobs,
        public: &Public,
        admitted: &Admitted,
    ) -> Result<Bundle, Failure> {
        let meter = Meter::new(self.console, admitted, manifest.total_size());
        let say = |text: String| self.say(&text);
        let get = |blob: &Descriptor| -> Result<(), Failure> {
            let before = meter.done.get();
            let progress = |done| meter.at(before + done);
            blobs.fetch(public, &blob.digest, blob.size, &say, &progress)?;
            meter.at(before + blob.size);
            Ok(())
        };
        // The configuration first: it may be refused before the large blobs.
        get(manifest.config())?;
        let config = std::fs::read(blobs.path(&manifest.config().digest))
            .map_err(|error| disk("reading the configuration", &error))?;
        let bundle = Bundle::assemble(manifest.clone(), &config).map_err(|error| {
            Failure::refused(
                format!("the bundle: {error}"),
                "Build and publish the bundle again.",
            )
            .about(Trouble::BundleInvalid)
        })?;
        manifest.blobs().skip(1).try_for_each(get)?;
        meter.end();
        Ok(bundle)
    }

    fn apply(
        &self,
        mounted: &Mounted,
        bundle: &Bundle,
        blobs: &Blobs,
        admitted: &Admitted,
    ) -> Result<apply::Outcome, Failure> {
        let variables = Variables::of_grant(&admitted.granted.grant).map_err(|error| {
            Failure::refused(error, "Correct the variable at the site.")
                .about(Trouble::BundleInvalid)
        })?;
        let folder = blobs.folder();
        let job = Job {
            root: mounted.root(),
            bundle,
            blobs: &folder,
            variables: &variables,
        };
        let mut runner = ChrootRunner::new(mounted.path());
        let mut teller = StepTeller::new(self.console, admitted);
        let outcome = apply::run(&job, &mut runner, &mut |event| teller.hear(event));
        let changed = outcome
            .steps
            .iter()
            .filter(|s| s.outcome == StepOutcome::Changed)
            .count();
        let held = outcome.steps.iter().filter(|s| holds(&s.outcome)).count();
        self.say(&format!("applied {held} steps ({changed} changed)"));
        Ok(outcome)
    }

    /// Everything is applied: receipt and log to the disk.
    fn keep_receipt(
        &mut self,
        state: &State<'_>,
        admitted: &Admitted,
        progress: &mut Progress,
        blobs: &Blobs,
    ) -> Result<Envelope, Failure> {
        self.phase("receipt");
        let steps = std::mem::take(&mut progress.steps);
        let envelope = self.receipt(
            admitted,
            progress.manifest,
            ReceiptResult::Provisioned,
            steps,
        )?;
        blobs.remove();
        let saved = state
            .save_receipt(&envelope)
            .and_then(|()| state.save_log(&super::full_log(self.console)));
        saved.map_err(|error| disk("keeping the receipt", &error))?;
        Ok(envelope)
    }
}

fn holds(outcome: &StepOutcome) -> bool {
    matches!(outcome, StepOutcome::Changed | StepOutcome::Unchanged)
}

/// The manifest in verified bytes must be the one that was asked for: a name
/// inside a signed target is not trusted to equal the target's path.
fn checked_manifest(bytes: &[u8], wanted: &BundleRef) -> Result<Manifest, Failure> {
    let advice = "Build and publish the bundle again.";
    let manifest = Manifest::parse(bytes).map_err(|error| {
        Failure::refused(format!("the bundle's manifest {error}"), advice)
            .about(Trouble::BundleInvalid)
    })?;
    if manifest.name() != &wanted.name || manifest.version() != wanted.version {
        let found = format!("{} {}", manifest.name(), manifest.version());
        return Err(Failure::refused(
            format!("the manifest published as {wanted} is of {found}"),
            advice,
        )
        .about(Trouble::BundleInvalid));
    }
    Ok(manifest)
}

fn still_the_same(
    installed: &Installed,
    seen: Result<Installed, system::SystemError>,
) -> Result<(), Failure> {
    let seen = seen?;
    if seen == *installed {
        return Ok(());
    }
    Err(Failure::refused(
        format!(
            "the installed system moved from {} to {}",
            installed.device.display(),
            seen.device.display()
        ),
        "Do not change disks while the device is provisioned; start it again.",
    ))
}

fn mounted(installed: &Installed) -> Result<Mounted, Failure> {
    Mounted::system(installed, Access::Writable).map_err(|error| {
        Failure::failed(
            format!("mounting {}: {error}", installed.device.display()),
            "The file system may be damaged: start the system by itself, or check it with fsck.",
        )
        .about(Trouble::Disk)
    })
}

fn disk(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(
        format!("{what}: {error}"),
        "Check that this machine's disk has room and works.",
    )
    .about(Trouble::Disk)
}

/// In memory where the bundle is small against it (nothing to clean up, no
/// wear), else on the disk, where a download is resumed after a power cut.
fn staging(manifest: &Manifest, state: &State<'_>) -> Result<Blobs, Failure> {
    let info = rustix::system::sysinfo();
    let free = (info.freeram as u64).saturating_mul(u64::from(info.mem_unit));
    let dir = if manifest.total_size().saturating_mul(4) <= free {
        PathBuf::from(MEMORY_STAGING)
    } else {
        state
            .staging()
            .map_err(|error| disk("making room for the download", &error))?
    };
    Blobs::at(&dir).map_err(|error: io::Error| disk("making room for the download", &error))
}

/// Tells how a download goes, now and then.
struct Meter<'a> {
    console: &'a Console,
    admitted: &'a Admitted,
    total: u64,
    done: Cell<u64>,
    told: Cell<Option<Instant>>,
}

impl<'a> Meter<'a> {
    fn new(console: &'a Console, admitted: &'a Admitted, total: u64) -> Self {
        let (done, told) = (Cell::new(0), Cell::new(None));
        let meter = Self {
            console,
            admitted,
            total,
            done,
            told,
        };
        meter.at(0);
        meter
    }

    fn at(&self, done: u64) {
        self.done.set(done);
        let due = self
            .told
            .get()
            .is_none_or(|last| last.elapsed() >= TELL_EVERY);
        if due {
            self.tell();
        }
    }

    fn tell(&self) {
        self.told.set(Some(Instant::now()));
        let (done, total) = (self.done.get(), self.total);
        self.console
            .line(&format!("downloading {done} of {total} bytes"));
        self.console
            .show(|screen| screen.progress = Some((done, total)));
        self.admitted
            .reporter
            .tell("download", done, total, "downloading the bundle");
    }

    fn end(&self) {
        self.tell();
    }
}

/// Tells each step as it begins and ends, and what its program says.
struct StepTeller<'a> {
    console: &'a Console,
    admitted: &'a Admitted,
    output: Vec<u8>,
}

impl<'a> StepTeller<'a> {
    const fn new(console: &'a Console, admitted: &'a Admitted) -> Self {
        let output = Vec::new();
        Self {
            console,
            admitted,
            output,
        }
    }

    fn hear(&mut self, event: StepEvent<'_>) {
        match event {
            StepEvent::Verifying { done, total } => {
                self.console
                    .show(|screen| screen.progress = Some((done, total)));
            }
            StepEvent::Started { index, total, name } => {
                let (index, total) = (index as u64, total as u64);
                self.console.show(|screen| {
                    screen.phase = format!("step {} of {total}: {name}", index + 1);
                    screen.progress = Some((index, total));
                });
                self.admitted.reporter.tell("apply", index + 1, total, name);
            }
            StepEvent::Output { bytes, .. } => self.say(bytes),
            StepEvent::Finished {
                index,
                total,
                receipt,
            } => {
                self.rest();
                // No program of ours runs between two steps.
                processes::reap_orphans();
                self.finished(index + 1, total, receipt);
            }
        }
    }

    fn finished(&self, number: usize, total: usize, receipt: &StepReceipt) {
        let name = &receipt.name;
        let how = match &receipt.outcome {
            StepOutcome::Unchanged => "unchanged".to_owned(),
            StepOutcome::Changed => "changed".to_owned(),
            StepOutcome::Failed { reason } => format!("failed: {reason}"),
            StepOutcome::Skipped => return,
        };
        self.console
            .line(&format!("step {number}/{total} {name} {how}"));
        let message = format!("{name} {how}");
        self.admitted
            .reporter
            .tell("apply", number as u64, total as u64, message);
    }

    /// A program's output, line by line.
    fn say(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        while let Some(end) = self.output.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.output.drain(..=end).collect();
            self.line(&line);
        }
        if self.output.len() > 4096 {
            self.rest();
        }
    }

    fn rest(&mut self) {
        let line = std::mem::take(&mut self.output);
        self.line(&line);
    }

    fn line(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if !text.trim().is_empty() {
            self.console.line(&format!("  | {}", text.trim_end()));
        }
    }
}
