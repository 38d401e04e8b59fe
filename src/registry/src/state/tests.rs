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

const ADMIT: Answer = Answer::Admit {
    assurance: Assurance::Claimed,
};

fn waits(answer: &Answer, cause: &Cause) -> bool {
    matches!(answer, Answer::Wait { reason, .. } if *reason == cause.to_string())
}

mod claims;
mod forged;
mod hardware;
mod held;
mod lives;
mod random;
mod rules;
mod strangers;
