//! The whole run, from drivers to receipt, as phases. Each either yields what
//! the next one needs or a [`Failure`]; whatever comes, the installed system
//! is unmounted and bootable at the end.

mod work;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::{
    self as enroll_protocol, Assurance, Code, Receipt, ReceiptResult, StepReceipt, path,
};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::{DeviceId, Digest};

use crate::cmdline::BootArgs;
use crate::console::{Console, Ending};
use crate::enroll::{self, Granted, Keys, VERSION, Watcher};
use crate::failure::Failure;
use crate::hardware;
use crate::http::{Api, HttpError, Public, retried};
use crate::modules::Loader;
use crate::net::{self, Network};
use crate::reporter::Reporter;
use crate::state::{self, State};
use crate::system::mount::{Access, Mounted};
use crate::system::{self, Installed};
use crate::trust::{self, IMAGE_FILE, Trust};
use crate::words::Voice;

/// How long the appliance may take to store a receipt or a log.
const RECEIPT_PATIENCE: Duration = Duration::from_secs(15 * 60);
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// What a run knows so far.
pub(crate) struct Run<'a> {
    console: &'a Console,
    phase: (&'static str, Instant),
    times: Vec<(&'static str, Duration)>,
    /// Once there is a network.
    voice: Option<Voice>,
}

/// Everything known before the device asks to be let in.
struct Beginning {
    /// What is to be provisioned. A machine without it is let in all the same:
    /// then the appliance hears what is wrong, and not only who stands here.
    installed: Result<Installed, Failure>,
    trust: Trust,
    public: Public,
    api: Api,
    report: HardwareReport,
    /// The keys of an earlier start that was granted and did not end.
    keys: Option<Keys>,
}

/// The device is let in: from here on there is somebody to tell.
pub(crate) struct Admitted {
    api: Api,
    keys: Keys,
    granted: Granted,
    report: HardwareReport,
    reporter: Reporter,
}

impl Admitted {
    /// Tells the appliance something; where it has forgotten this enrollment,
    /// asks for a session anew and tells it again.
    fn tell(&self, tell: &dyn Fn(&Api) -> Result<(), HttpError>) -> Result<(), HttpError> {
        match tell(&self.api) {
            Err(error) if enroll::begins_again(&error) => {
                let grant = &self.granted.grant;
                let session = enroll::resume(&self.api, &self.keys, grant, &self.report)?;
                tell(&self.api.with_session(session))
            }
            result => result,
        }
    }
}

/// Provisions this machine. `true`: provisioned, and the receipt is stored.
pub fn run(console: &Console, loader: &Arc<Loader>) -> bool {
    let mut run = Run {
        console,
        phase: ("drivers", Instant::now()),
        times: Vec::new(),
        voice: None,
    };
    let outcome = run.all(loader);
    run.phase("end");
    let times = run
        .times
        .iter()
        .map(|(name, time)| format!("{name}={:.3}", time.as_secs_f64()));
    console.line(&format!("times {}", times.collect::<Vec<_>>().join(" ")));
    match outcome {
        Ok(()) => {
            let what = "This device is provisioned and starts its own system now.";
            ending(console, true, what, "");
            true
        }
        Err(failure) => {
            // The line was written where it happened, so that it is in the
            // log that went to disk and appliance.
            ending(console, false, &failure.to_string(), &failure.advice);
            false
        }
    }
}

fn ending(console: &Console, good: bool, what: &str, advice: &str) {
    console.show(|screen| {
        screen.ending = Some(Ending {
            good,
            what: what.to_owned(),
            advice: advice.to_owned(),
        });
    });
}

impl Run<'_> {
    /// Ends one phase and begins another.
    fn phase(&mut self, name: &'static str) {
        let (last, began) = std::mem::replace(&mut self.phase, (name, Instant::now()));
        self.times.push((last, began.elapsed()));
        self.console.show(|screen| {
            name.clone_into(&mut screen.phase);
            screen.progress = None;
        });
    }

    fn say(&self, text: &str) {
        self.console.line(text);
    }

    fn all(&mut self, loader: &Arc<Loader>) -> Result<(), Failure> {
        let beginning = self.beginning(loader);
        let mut begun = match beginning {
            Ok(begun) => begun,
            Err(failure) => return Err(self.told(failure)),
        };
        let keys = begun.keys.take();
        let admitted = match self.enroll(&mut begun.trust, &begun.api, &begun.report, keys) {
            Ok(admitted) => admitted,
            Err(failure) => return Err(self.told(failure)),
        };
        let mut progress = work::Progress::default();
        let (installed, result) = match begun.installed {
            Ok(installed) => {
                let (trust, public) = (&mut begun.trust, &begun.public);
                let result = self.work(loader, &installed, trust, public, &admitted, &mut progress);
                (Some(installed), result)
            }
            Err(failure) => (None, Err(failure)),
        };
        result.map_err(|failure| {
            let installed = installed.as_ref();
            self.deliver_failure(installed, &begun.trust, &admitted, failure, progress)
        })
    }

    /// Says it on every console, once.
    fn told(&self, failure: Failure) -> Failure {
        self.say(&failure.to_string());
        if let Some(voice) = &self.voice {
            voice.say(failure.trouble, self.phase.0, &failure.to_string());
        }
        if !failure.advice.is_empty() {
            self.say(&format!("advice: {}", failure.advice));
        }
        failure
    }

    /// Everything up to a connection to an appliance that we may believe.
    fn beginning(&mut self, loader: &Arc<Loader>) -> Result<Beginning, Failure> {
        self.phase("network and disk");
        // The firmware's words first: they tell which machine the rest is about.
        self.show_hardware(&hardware::gather());
        let mut trust = Trust::of_image(Path::new(IMAGE_FILE))?;
        let text = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let args = BootArgs::parse(&text)
            .map_err(|error| Failure::failed(error, "Check the boot configuration."))?;
        let finder = loader.clone();
        let finding = std::thread::spawn(move || system::find(&finder));
        let network = net::bring_up(&args, &|text| self.say(&text));
        let found = finding
            .join()
            .map_err(|_| Failure::failed("looking at the disks broke off", ""))?;
        let network = self.show_network(network)?;
        let public = Public::new(network.server, args.http);
        self.voice = Some(Voice::new(public.clone(), network.mac, &hardware::gather()));
        let installed = self.show_system(found);
        let mut keys = None;
        if let Ok(installed) = &installed
            && let Ok(mounted) = Mounted::system(installed, Access::Untouched)
        {
            trust.remember(state::recall(mounted.root()));
            keys = state::recall_keys(mounted.root());
        }
        self.phase("trust");
        trust.refresh(&public, &|text| self.say(&text))?;
        if trust::set_clock(trust.now()) {
            self.say(&format!(
                "clock was behind what is proven; set to {}",
                trust.now().time()
            ));
        }
        let charter = trust.charter();
        self.say(&format!(
            "trust verified site={} charter={}",
            charter.site, charter.version
        ));
        self.console
            .show(|screen| screen.site = charter.site.to_string());
        let api = Api::new(network.server, args.https, charter.tls_key)
            .map_err(|error| Failure::failed(error, ""))?;
        // Now that disks and interfaces are there.
        let report = hardware::gather();
        Ok(Beginning {
            installed,
            trust,
            public,
            api,
            report,
            keys,
        })
    }

    fn show_hardware(&self, report: &HardwareReport) {
        let summary = hardware::summary(report);
        self.say(&format!("hardware {summary}"));
        self.console.show(|screen| screen.machine = summary);
    }

    fn show_network(&self, network: Result<Network, net::NetError>) -> Result<Network, Failure> {
        let network = network.map_err(|error| {
            Failure::failed(
                error,
                "This device starts its own system; nothing was changed.",
            )
        })?;
        let Network {
            interface,
            mac,
            address,
            server,
        } = &network;
        self.say(&format!(
            "network {interface} mac={mac} ip={address} server={server}"
        ));
        self.console.show(|screen| {
            screen.network = format!("{interface} {mac}, address {address}, appliance {server}");
        });
        Ok(network)
    }

    fn show_system(
        &self,
        found: Result<Installed, system::SystemError>,
    ) -> Result<Installed, Failure> {
        let installed = found?;
        let text = format!("{} on {}", installed.name, installed.device.display());
        self.say(&format!("system {text}"));
        self.console.show(|screen| screen.system = text);
        Ok(installed)
    }

    fn enroll(
        &mut self,
        trust: &mut Trust,
        api: &Api,
        report: &HardwareReport,
        keys: Option<Keys>,
    ) -> Result<Admitted, Failure> {
        self.phase("enrollment");
        let keys = match keys {
            Some(keys) => keys,
            None => Keys::generate()?,
        };
        let watcher = ConsoleWatcher(self.console, self.voice.as_ref());
        let granted = enroll::enroll(api, trust.charter(), &keys, report, &watcher)?;
        let grant = &granted.grant;
        trust.proven(grant.issued_at);
        trust::set_clock(trust.now());
        let assurance = match grant.assurance {
            Assurance::Claimed => "claimed",
            Assurance::Approved => "approved",
            Assurance::Proven => "proven",
        };
        self.say(&format!(
            "granted profile={} bundle={} assurance={assurance}",
            grant.profile, grant.bundle
        ));
        self.console.show(|screen| {
            screen.code = None;
            screen.site = format!(
                "{}, device {}, profile {}, bundle {}",
                grant.site, grant.device, grant.profile, grant.bundle
            );
        });
        let api = api.with_session(granted.session);
        let reporter = Reporter::start(api.clone());
        Ok(Admitted {
            api,
            keys,
            granted,
            report: report.clone(),
            reporter,
        })
    }

    /// The receipt to the appliance; it is the site's proof, so it is worth
    /// waiting for.
    fn send_receipt(&self, admitted: &Admitted, envelope: &Envelope) -> Result<(), Failure> {
        let send = || admitted.tell(&|api| api.tell(path::RECEIPT, envelope));
        let say = |text: String| self.say(&text);
        match retried(RECEIPT_PATIENCE, "receipt", &say, send) {
            Ok(()) => {
                self.say("receipt stored");
                Ok(())
            }
            Err(error) => Err(Failure::failed(
                format!("the work is done, but the receipt was not stored: {error}"),
                "Check the appliance; then start this device again, it will find nothing left to do.",
            )),
        }
    }

    /// After a grant, a failure is told to everybody: the disk, the appliance
    /// (log and failed receipt) and the screen.
    fn deliver_failure(
        &mut self,
        installed: Option<&Installed>,
        trust: &Trust,
        admitted: &Admitted,
        failure: Failure,
        progress: work::Progress,
    ) -> Failure {
        let failure = self.told(failure);
        self.phase("reporting the failure");
        if !progress.receipt_sent {
            self.send_failed_receipt(admitted, &failure, progress);
        }
        if let Some(installed) = installed
            && let Err(error) = self.save_log(installed, trust)
        {
            self.say(&format!(
                "note: the log could not be kept on the disk: {error}"
            ));
        }
        admitted.reporter.tell("failed", 0, 0, failure.to_string());
        admitted.reporter.flush(Duration::from_secs(2));
        let log = full_log(self.console);
        let log = ending_of(&log, enroll_protocol::MAX_LOG);
        let say = |text: String| self.say(&text);
        let told = retried(LOG_PATIENCE, "log", &say, || {
            admitted.tell(&|api| api.tell_text(path::LOG, log.as_bytes()))
        });
        if let Err(error) = told {
            self.say(&format!(
                "note: the appliance did not take the log: {error}"
            ));
        }
        failure
    }

    /// The log on the disk, for who looks at the machine later. The disk may
    /// still be mounted by nobody: failures before the work mount it here.
    fn save_log(&self, installed: &Installed, trust: &Trust) -> std::io::Result<()> {
        let mounted = Mounted::system(installed, Access::Writable)?;
        let state = State::open(mounted.root())?;
        state.save_memory(&trust.memory())?;
        state.save_log(&full_log(self.console))
    }

    /// A receipt of how it went.
    fn receipt(
        &self,
        admitted: &Admitted,
        manifest: Option<Digest>,
        result: ReceiptResult,
        steps: Vec<StepReceipt>,
    ) -> Result<Envelope, Failure> {
        let grant = &admitted.granted.grant;
        let receipt = Receipt {
            site: grant.site.clone(),
            device: grant.device.clone(),
            sign_key: admitted.keys.sign.public(),
            grant: admitted.granted.envelope.payload_digest(),
            bundle: grant.bundle.clone(),
            manifest,
            result,
            steps,
            agent: VERSION.to_owned(),
            millis: u64::try_from(self.console.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Envelope::sign(&receipt, &admitted.keys.sign)
            .map_err(|error| Failure::failed(format!("writing the receipt: {error}"), ""))
    }

    /// A receipt that says why it did not work, sent with little patience:
    /// the failure itself is more important than its report.
    fn send_failed_receipt(
        &self,
        admitted: &Admitted,
        failure: &Failure,
        progress: work::Progress,
    ) {
        let result = ReceiptResult::Failed {
            reason: failure.what.clone(),
        };
        let Ok(envelope) = self.receipt(admitted, progress.manifest, result, progress.steps) else {
            return;
        };
        let say = |text: String| self.say(&text);
        let send = || admitted.tell(&|api| api.tell(path::RECEIPT, &envelope));
        match retried(LOG_PATIENCE, "receipt", &say, send) {
            Ok(()) => self.say("failed receipt stored"),
            Err(error) => self.say(&format!("note: the failed receipt was not stored: {error}")),
        }
    }
}

/// The last `most` bytes of a text, or a little less: whole characters.
fn ending_of(text: &str, most: usize) -> &str {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or(text)
}

/// The agent's lines and what the kernel said.
fn full_log(console: &Console) -> String {
    format!("{}\n--- kernel ---\n{}", console.log(), kernel_log())
}

/// The kernel's log from `/dev/kmsg`, at most 64 KiB of its end.
fn kernel_log() -> String {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let Ok(mut file) = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open("/dev/kmsg")
    else {
        return String::new();
    };
    let mut lines = std::collections::VecDeque::new();
    let (mut total, mut buffer) = (0, vec![0; 8192]);
    // One record per read; EPIPE tells that older ones were overwritten.
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {
                continue;
            }
            Err(_) => break,
        };
        let record = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
        let (head, text) = record.split_once(';').unwrap_or(("", &record));
        let micros: f64 = head
            .split(',')
            .nth(2)
            .and_then(|t| t.parse().ok())
            .unwrap_or(0.0);
        let line = format!(
            "[{:12.6}] {}\n",
            micros / 1e6,
            text.lines().next().unwrap_or("")
        );
        total += line.len();
        lines.push_back(line);
        while total > 64 * 1024 {
            total -= lines.pop_front().map_or(total, |line| line.len());
        }
    }
    lines.into_iter().collect()
}

/// Tells the person in front of the device.
struct ConsoleWatcher<'a>(&'a Console, Option<&'a Voice>);

impl Watcher for ConsoleWatcher<'_> {
    fn enrolled(&self, device: &DeviceId) {
        self.0.line(&format!("enrolled id={device}"));
    }

    fn waiting(&self, code: Code, reason: &str) {
        self.0.show(|screen| screen.code = Some(code.to_string()));
        self.0
            .line(&format!("code {code} waiting for approval ({reason})"));
    }

    fn trouble(&self, text: String) {
        self.0.line(&text);
    }

    fn stuck(&self, error: &HttpError) {
        if let Some(voice) = self.1 {
            voice.stuck("enrollment", error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ending_of;

    #[test]
    fn a_long_log_loses_its_beginning() {
        assert_eq!(ending_of("abc", 5), "abc");
        assert_eq!(ending_of("abcdef", 2), "ef");
        assert_eq!(ending_of("a\u{e4}b", 2), "b", "no half character");
    }
}
