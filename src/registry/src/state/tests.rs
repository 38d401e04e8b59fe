//! Whole lives of devices, with requests really signed and a clock of our own.

use super::*;
use crate::boot::BootState;
use crate::device::{Registration, Tag};
use crate::event::{Actor, Cause};
use crate::journal::{self, Entry};
use crate::snapshot::{Loader, SnapshotError};
use groundcrew_core::Digest;
use groundcrew_core::dsse::{Envelope, Verified};
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{Assurance, BundleRef, Receipt, ReceiptResult, Request};
use groundcrew_core::hardware::report::{HardwareReport, Nic};
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_core::keys::{SealKey, SigningKey};

/// The same knowledge, wherever it lies in the index.
impl PartialEq for Registry {
    fn eq(&self, other: &Self) -> bool {
        let devices = |registry: &Self| -> Vec<Device> {
            let unplaced = |device: &Device| Device {
                slot: None,
                ..device.clone()
            };
            registry.devices().map(unplaced).collect()
        };
        devices(self) == devices(other)
            && self.chain == other.chain
            && self.lobby == other.lobby
            && self.by_rule == other.by_rule
            && self.index.content() == other.index.content()
    }
}

/// A site with its journal, as the appliance's writer would keep it.
struct Site {
    registry: Registry,
    lines: Vec<String>,
    waiting: BTreeMap<DeviceId, Waiting>,
    clock: u64,
    entropy: u64,
}

fn grant_key() -> SigningKey {
    SigningKey::from_seed([99; 32]).unwrap()
}

fn report(machine: u8) -> HardwareReport {
    let mut report = HardwareReport::default();
    let mut uuid = [machine; 16];
    uuid[15] = 0xab;
    report.smbios.uuid = Some(SmbiosUuid::from_canonical(uuid));
    report.smbios.serial = Some(format!("SYNTH-{machine:04}"));
    report.smbios.manufacturer = Some("Example Corp".into());
    report.smbios.product = Some("Model One".into());
    report.nics.push(Nic {
        name: "eth0".into(),
        mac: MacAddr([2, 0, 0, 0, 0, machine]),
        driver: None,
        bus: Some("pci".into()),
    });
    report
}

fn request(report: HardwareReport, key: u8) -> (Verified<Request>, Digest) {
    let signer = SigningKey::from_seed([key; 32]).unwrap();
    let request = Request {
        site: "hq".parse().unwrap(),
        sign_key: signer.public(),
        seal_key: SealKey(Bytes([key; 32])),
        nonce: Bytes([key; 32]),
        challenge: Bytes([7; 32]),
        report,
        agent: "0.1.0".into(),
    };
    let envelope = Envelope::sign(&request, &signer).unwrap();
    let verified = envelope.verify_self_signed(|r: &Request| r.sign_key);
    (verified.unwrap(), envelope.payload_digest())
}

fn bundle() -> BundleRef {
    BundleRef {
        name: "laptop".parse().unwrap(),
        version: "1.0".parse().unwrap(),
    }
}

impl Site {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self {
            registry: Registry::new("hq".parse().unwrap(), limits),
            lines: Vec::new(),
            waiting: BTreeMap::new(),
            clock: 1_800_000_000,
            entropy: 0,
        }
    }

    fn record(&mut self, changes: Vec<Change>) {
        self.clock += 1;
        let records = self.registry.record(UnixTime::new(self.clock), changes);
        for record in records.unwrap() {
            match record {
                Record::Entry(entry) => self.lines.push(entry.line().to_owned()),
                Record::Waits(waiting) => {
                    self.waiting.insert(waiting.device.clone(), waiting);
                }
                Record::WaitsNoMore(device) => {
                    assert!(self.waiting.remove(&device).is_some(), "{device}");
                }
            }
        }
    }

    fn ask(&mut self, report: HardwareReport, key: u8) -> (Option<DeviceId>, Answer) {
        self.entropy += 1;
        let [.., a, b, c, d, e] = self.entropy.to_be_bytes();
        let (request, statement) = request(report, key);
        let code = request.code(&grant_key().public());
        let entropy = [[a, b, c, d, e]; 4];
        let decided = self
            .registry
            .decide_enrollment(&request, statement, code, entropy);
        self.record(decided.changes);
        (decided.device, decided.answer)
    }

    fn register(&mut self, machine: u8) -> DeviceId {
        let device = DeviceId::new(self.registry.site(), [9, 9, 9, 9, machine]);
        let registration = Box::new(Registration {
            identity: Identity::from(&report(machine)),
            tag: Some(Tag::try_from("lab".to_owned()).unwrap()),
            user: None,
            product_id: None,
            hash: None,
            source: "test".into(),
        });
        let change = Change::by_site(&device, Event::Registered { registration });
        self.record(vec![change]);
        device
    }

    fn grant(&mut self, device: &DeviceId) -> Digest {
        let grant = Digest::of(format!("{device} {}", self.clock).as_bytes());
        let profile = "default".parse().unwrap();
        let change = self.registry.granted(device, grant, profile, bundle());
        self.record(vec![change]);
        grant
    }

    fn receipt(
        &mut self,
        device: &DeviceId,
        key: u8,
        grant: Digest,
        result: ReceiptResult,
    ) -> Result<bool, ReceiptError> {
        let signer = SigningKey::from_seed([key; 32]).unwrap();
        let receipt = Receipt {
            site: "hq".parse().unwrap(),
            device: device.clone(),
            sign_key: signer.public(),
            grant,
            bundle: bundle(),
            manifest: None,
            result,
            steps: Vec::new(),
            agent: "0.1.0".into(),
            millis: 1,
        };
        let envelope = Envelope::sign(&receipt, &signer).unwrap();
        let verified: Verified<Receipt> = envelope.verify(&signer.public()).unwrap();
        let statement = envelope.payload_digest();
        let changes = self.registry.receipt(&verified, statement)?;
        let stored = !changes.is_empty();
        self.record(changes);
        Ok(stored)
    }

    fn phase(&self, device: &DeviceId) -> &'static str {
        self.registry
            .device(device)
            .map_or("none", |d| d.phase.name())
    }

    fn boot(&self, machine: u8) -> BootState {
        let s = report(machine).smbios;
        let uuid = s
            .uuid
            .map(|u| SmbiosUuid::from_canonical(u.little_endian()));
        self.registry.lookup_boot(s.serial.as_deref(), uuid, None)
    }

    /// The registry that a restart would make of the journal.
    fn restarted(&self) -> Registry {
        let mut registry = Registry::new("hq".parse().unwrap(), self.registry.limits);
        for line in &self.lines {
            registry.apply(&Entry::read(line).unwrap()).unwrap();
        }
        for waiting in self.waiting.values() {
            registry.wait(waiting.clone()).unwrap();
        }
        registry
    }
}

impl Site {
    /// The registry that a restart would make of a snapshot of `at` that goes
    /// up to line `after`, and what came since.
    fn thawed(&self, at: &Registry, after: usize) -> Registry {
        let frozen = at.freeze();
        let mut loader = Loader::new(at.site().clone(), at.limits);
        let (mut all, mut count) = (String::new(), 0);
        for line in frozen.lines() {
            let line = line.unwrap();
            loader.device(&line).unwrap();
            (all, count) = (format!("{all}{line}\n"), count + 1);
        }
        let content = Digest::of(all.as_bytes());
        let (key, now) = (grant_key(), UnixTime::new(self.clock));
        let seal = frozen.seal(count, content, now, &key).unwrap();
        assert!(Loader::is_seal(&seal));
        let (mut registry, seal) = loader.finish(&seal, content, &key.public()).unwrap();
        assert_eq!(seal.seq, after as u64);
        for line in &self.lines[after..] {
            registry.apply(&Entry::read(line).unwrap()).unwrap();
        }
        for waiting in self.waiting.values() {
            registry.wait(waiting.clone()).unwrap();
        }
        registry
    }
}

#[test]
fn a_snapshot_that_was_touched_is_not_believed() {
    let mut site = Site::new();
    site.register(1);
    site.register(2);
    let frozen = site.registry.freeze();
    let lines: Vec<String> = frozen.lines().map(Result::unwrap).collect();
    let content = Digest::of(lines.join("\n").as_bytes());
    let seal = frozen.seal(2, content, UnixTime::new(1), &grant_key());
    let seal = seal.unwrap();
    let load = |lines: &[String], content, key: &SigningKey, name: &str| {
        let mut loader = Loader::new(name.parse().unwrap(), Limits::default());
        for line in lines {
            loader.device(line)?;
        }
        loader.finish(&seal, content, &key.public())
    };
    assert!(load(&lines, content, &grant_key(), "hq").is_ok());
    let foreign = SigningKey::from_seed([1; 32]).unwrap();
    let refused = [
        load(&lines[..1], content, &grant_key(), "hq"),
        load(&lines, Digest::of(b""), &grant_key(), "hq"),
        load(&lines, content, &grant_key(), "lab"),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(SnapshotError::Content)));
    }
    let refused = load(&lines, content, &foreign, "hq");
    assert!(matches!(refused, Err(SnapshotError::Signature(_))));
}

#[test]
fn strangers_write_no_journal_until_somebody_decides() {
    let mut site = Site::new();
    let (device, _) = site.ask(report(1), 11);
    let device = device.unwrap();
    for key in 12..60 {
        site.ask(report(1), key);
        site.ask(report(key), key);
    }
    assert_eq!(site.lines.len(), 0);
    assert_eq!(site.registry.lobby().count(), site.waiting.len());
    assert_eq!(site.restarted(), site.registry);
    let code = site.registry.device(&device).unwrap();
    let code = code.pending.as_ref().unwrap().code;
    let change = site.registry.approve(&device, code, "tech").unwrap();
    site.record(vec![change]);
    let names: Vec<String> = site
        .lines
        .iter()
        .map(|line| Entry::read(line).unwrap().event().name().to_owned())
        .collect();
    assert_eq!(names, ["requested", "approved"]);
    assert_eq!(site.restarted(), site.registry);
}

const ADMIT: Answer = Answer::Admit {
    assurance: Assurance::Claimed,
};

fn waits(answer: &Answer, cause: &Cause) -> bool {
    matches!(answer, Answer::Wait { reason, .. } if *reason == cause.to_string())
}

#[test]
fn a_registered_device_is_let_in_provisioned_and_left_alone() {
    let mut site = Site::new();
    let device = site.register(1);
    assert_eq!(
        site.boot(1),
        BootState::Provision {
            device: device.clone()
        }
    );
    assert_eq!(site.ask(report(1), 11), (Some(device.clone()), ADMIT));
    assert_eq!(site.registry.ungranted().count(), 1);
    let grant = site.grant(&device);
    assert_eq!(site.registry.ungranted().count(), 0);
    // It did not hear the answer.
    let lines = site.lines.len();
    let again = site.ask(report(1), 11);
    assert_eq!(again, (Some(device.clone()), Answer::Granted { grant }));
    let done = ReceiptResult::Provisioned;
    assert_eq!(
        site.receipt(&device, 12, grant, done.clone()),
        Err(ReceiptError::Key(device.clone()))
    );
    assert_eq!(
        site.receipt(&device, 11, Digest::of(b"?"), done.clone()),
        Err(ReceiptError::Grant(device.clone()))
    );
    assert_eq!(site.receipt(&device, 11, grant, done.clone()), Ok(true));
    assert_eq!(site.receipt(&device, 11, grant, done), Ok(false));
    assert_eq!(site.lines.len(), lines + 1);
    let BootState::OwnDisk { bundle: told, .. } = site.boot(1) else {
        panic!("{:?}", site.boot(1));
    };
    assert_eq!(told, bundle());
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn an_unknown_device_waits_for_its_code() {
    let mut site = Site::new();
    let (device, answer) = site.ask(report(1), 11);
    let device = device.unwrap();
    let Answer::Wait { code, .. } = answer else {
        panic!("{answer:?}");
    };
    assert!(waits(&answer, &Cause::Unknown));
    // A restart brings a new key and a new code, and keeps the name.
    let (same, newer) = site.ask(report(1), 12);
    assert_eq!(same.as_ref(), Some(&device));
    let Answer::Wait { code: new, .. } = newer else {
        panic!("{newer:?}");
    };
    assert_ne!(new, code);
    assert!(matches!(
        site.registry.approve(&device, code, "tech"),
        Err(ApproveError::WrongCode { .. })
    ));
    let change = site.registry.approve(&device, new, "tech").unwrap();
    assert_eq!(change.actor, Actor::Technician("tech".into()));
    site.record(vec![change]);
    let (first, second) = (request(report(1), 11).0, request(report(1), 12).0);
    let answer = |r: &Request| site.registry.answer(&device, &r.sign_key, &r.nonce);
    assert!(matches!(answer(&first), Answer::Reject { .. }));
    let assurance = Assurance::Approved;
    assert_eq!(answer(&second), Answer::Admit { assurance });
    assert!(matches!(
        site.registry.approve(&device, new, "tech"),
        Err(ApproveError::NothingWaiting {
            phase: "approved",
            ..
        })
    ));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_second_key_is_held_and_disturbs_nobody() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    let grant = site.grant(&device);
    let (held, answer) = site.ask(report(1), 12);
    assert_eq!(held.as_ref(), Some(&device));
    assert!(waits(&answer, &Cause::SecondKey));
    assert_eq!(site.phase(&device), "provisioning");
    let done = ReceiptResult::Provisioned;
    assert_eq!(site.receipt(&device, 11, grant, done), Ok(true));
    assert!(matches!(site.boot(1), BootState::OwnDisk { .. }));
    // Refusing the claim leaves the device as it is.
    let change = site.registry.reject(&device, "not mine", "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.phase(&device), "provisioned");
    // The very device, which nobody asked for again.
    let (_, answer) = site.ask(report(1), 11);
    assert!(waits(&answer, &Cause::AlreadyProvisioned));
    // Asked for, the next key is let in, and only that one.
    let change = site.registry.reprovision(&device, "tech").unwrap();
    site.record(vec![change]);
    assert!(matches!(site.boot(1), BootState::Provision { .. }));
    assert_eq!(site.ask(report(1), 13).1, ADMIT);
    assert!(waits(&site.ask(report(1), 14).1, &Cause::SecondKey));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_failed_device_waits_for_a_technician() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    let grant = site.grant(&device);
    let reason = "the bundle's signature does not match".to_owned();
    let failed = ReceiptResult::Failed {
        reason: reason.clone(),
    };
    assert_eq!(site.receipt(&device, 11, grant, failed), Ok(true));
    let BootState::Failed { reason: told, .. } = site.boot(1) else {
        panic!("{:?}", site.boot(1));
    };
    assert_eq!(told, reason);
    let change = site.registry.reprovision(&device, "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.ask(report(1), 12).1, ADMIT);
}

#[test]
fn a_rejected_device_stays_rejected_until_somebody_says_otherwise() {
    let mut site = Site::new();
    let (device, _) = site.ask(report(1), 11);
    let device = device.unwrap();
    let change = site.registry.reject(&device, "not ours", "tech").unwrap();
    site.record(vec![change]);
    let (again, answer) = site.ask(report(1), 12);
    assert_eq!(again.as_ref(), Some(&device));
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("not ours")));
    assert!(matches!(site.boot(1), BootState::Rejected { .. }));
    let change = site.registry.reprovision(&device, "tech").unwrap();
    site.record(vec![change]);
    let (again, answer) = site.ask(report(1), 13);
    assert_eq!(again.as_ref(), Some(&device));
    assert!(waits(&answer, &Cause::Unknown));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_new_board_waits_and_keeps_the_name() {
    let mut site = Site::new();
    let device = site.register(1);
    let mut board = report(1);
    board.smbios.uuid = report(7).smbios.uuid;
    let (asked, answer) = site.ask(board.clone(), 11);
    assert_eq!(asked.as_ref(), Some(&device));
    let Answer::Wait { code, ref reason } = answer else {
        panic!("{answer:?}");
    };
    assert!(reason.contains("changed"), "{reason}");
    let change = site.registry.approve(&device, code, "tech").unwrap();
    site.record(vec![change]);
    let identity = &site.registry.device(&device).unwrap().identity;
    assert_eq!(identity.uuid, board.smbios.uuid);
    assert_eq!(site.boot(1), BootState::Unknown, "the old board is gone");
}

#[test]
fn the_boot_goes_by_what_is_known_and_not_by_junk() {
    let mut site = Site::new();
    let device = site.register(1);
    let s = report(1).smbios;
    let look = |serial: Option<&str>, uuid, mac| site.registry.lookup_boot(serial, uuid, mac);
    let known = BootState::Provision { device };
    let serial = s.serial.as_deref();
    assert_eq!(look(serial, s.uuid, None), known);
    assert_eq!(look(serial, None, Some(MacAddr([2, 9, 9, 9, 9, 9]))), known);
    assert_eq!(look(Some("None"), s.uuid, None), known);
    assert_eq!(look(None, None, Some(MacAddr([2, 0, 0, 0, 0, 1]))), known);
    assert_eq!(
        look(serial, report(2).smbios.uuid, None),
        BootState::Unknown
    );
    assert_eq!(look(Some("OTHER-1"), s.uuid, None), BootState::Unknown);
    assert_eq!(look(Some("None"), None, None), BootState::Unknown);
    // A stranger with the same serial number changes nothing.
    let mut copy = report(1);
    copy.smbios.uuid = None;
    copy.smbios.manufacturer = Some("Other".into());
    copy.nics.clear();
    site.ask(copy, 50);
    assert_eq!(site.registry.lookup_boot(serial, s.uuid, None), known);
}

#[test]
fn strangers_are_counted_and_the_oldest_makes_room() {
    let mut site = Site::with(Limits { waiting: 3 });
    let first = site.ask(report(1), 1).0.unwrap();
    let second = site.ask(report(2), 2).0.unwrap();
    site.ask(report(3), 3);
    site.ask(report(1), 11); // asks again: no longer the oldest
    site.ask(report(4), 4);
    assert_eq!(site.phase(&second), "none");
    assert_eq!(site.phase(&first), "waiting");
    assert_eq!(site.registry.lobby().count(), 3);
    let old = request(report(2), 2).0;
    let answer = site.registry.answer(&second, &old.sign_key, &old.nonce);
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("withdrawn")));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_waiting_stranger_is_let_in_by_an_import() {
    let mut site = Site::new();
    let device = site.ask(report(1), 11).0.unwrap();
    let csv =
        b"Device Serial Number,Manufacturer name,Device model\nSYNTH-0001,Example Corp,Model One\n";
    let mut entropy = || [1; 5];
    let plan = crate::import::plan(
        &site.registry,
        csv.as_slice(),
        "late.csv",
        &mut entropy,
        &mut |_| {},
    );
    let plan = plan.unwrap();
    let let_in = crate::import::Outcome::LetIn {
        device: device.clone(),
    };
    assert_eq!(plan.verdicts[0].outcome, let_in);
    site.record(plan.changes);
    assert_eq!(site.phase(&device), "approved");
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_retired_machine_is_a_stranger() {
    let mut site = Site::new();
    let device = site.register(1);
    let change = site.registry.retire(&device, "sold", "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.boot(1), BootState::Unknown);
    let (other, answer) = site.ask(report(1), 11);
    assert_ne!(other, Some(device.clone()));
    assert!(waits(&answer, &Cause::Unknown));
    assert!(site.registry.reprovision(&device, "tech").is_err());
}

#[test]
fn what_is_not_for_this_site_is_refused_unread() {
    let mut site = Site::new();
    let mut huge = report(1);
    huge.nics = vec![huge.nics[0].clone(); 100];
    let (device, answer) = site.ask(huge, 1);
    assert_eq!(device, None);
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("NICs")));
    assert!(site.lines.is_empty());
    site.registry.site = "lab".parse().unwrap();
    let (_, answer) = site.ask(report(1), 1);
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("lab")));
}

#[test]
fn a_forged_approval_in_the_journal_is_refused() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    site.grant(&device);
    site.ask(report(1), 12);
    let sign_key = request(report(1), 12).0.sign_key;
    let assurance = Assurance::Claimed;
    let forged = Event::Approved {
        sign_key,
        assurance,
        rule: None,
    };
    let before = site.registry.clone();
    let refused = site
        .registry
        .record(UnixTime::new(1), vec![Change::by_site(&device, forged)]);
    assert!(matches!(
        refused,
        Err(RecordError::Impossible {
            why: Impossible::Consumed,
            ..
        })
    ));
    assert_eq!(site.registry, before);
}

mod claims;
mod held;
mod random;
mod rules;

#[test]
fn changed_hardware_is_accepted_with_one_command_and_nothing_else_is() {
    let mut site = Site::new();
    let device = site.register(1);
    assert!(matches!(
        site.registry.accept(&device, "tech"),
        Err(ApproveError::NothingWaiting { .. })
    ));
    let mut board = report(1);
    board.smbios.uuid = report(7).smbios.uuid;
    site.ask(board.clone(), 11);
    let explained = site.registry.explain_device(&device).unwrap();
    assert!(
        explained.verdict.to_string().contains("changed hardware"),
        "{}",
        explained.verdict
    );
    let change = site.registry.accept(&device, "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.phase(&device), "approved");
    assert_eq!(
        site.registry
            .device(&device)
            .unwrap()
            .admitted
            .as_ref()
            .unwrap()
            .assurance,
        Assurance::Claimed
    );
    // A second key is never accepted without its code.
    let (_, answer) = site.ask(board, 12);
    assert!(waits(&answer, &Cause::SecondKey));
    assert!(matches!(
        site.registry.accept(&device, "tech"),
        Err(ApproveError::NotChanged { .. })
    ));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_device_in_service_is_retired_before_it_is_forgotten() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    let error = site.registry.forget(&device, "tech").unwrap_err();
    assert!(error.to_string().contains("retire it first"), "{error}");
    let change = site.registry.retire(&device, "sold", "tech").unwrap();
    site.record(vec![change]);
    let lines = site.lines.len();
    let change = site.registry.forget(&device, "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.registry.device(&device), None);
    assert_eq!(site.lines.len(), lines + 1, "the journal only grows");
    assert_eq!(site.restarted(), site.registry);
    assert_eq!(site.boot(1), BootState::Unknown);
}
