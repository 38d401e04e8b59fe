//! A whole office on a folder of its own: what the charter allows, and what
//! strangers try.

use groundcrew_core::dsse::Envelope;
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{Admission, Decision, Request, Start, commitment};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::keys::{SealKey, SigningKey};

use super::*;
use crate::hq::change::{NewTerms, Progress};
use crate::hq::secret::Passphrase;
use crate::hq::{Hq, found};
use crate::site::create::{FirstMode, NewSite};
use crate::site::import;

pub(super) struct World {
    folder: tempfile::TempDir,
    pub(super) office: Office,
}

impl World {
    /// A site with its sample bundle published, under these terms.
    pub(super) fn new(terms: &NewTerms) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = "lab".parse().unwrap();
        let new = NewSite {
            organisation: "Test",
            name: &name,
            address: "10.9.0.1/24".parse().unwrap(),
            interface: "eth9",
            mode: FirstMode::default(),
        };
        let site = found::create(folder.path(), &new).unwrap();
        let hq = Hq::open(&folder.path().join("hq")).unwrap();
        let bundle = folder.path().join("bundle");
        crate::bundle::build(&site.sources_dir().join("welcome"), &bundle, &mut |_, _| {}).unwrap();
        let (manifest, built) = crate::bundle::manifest_bytes(&bundle).unwrap();
        let file = (built.reference().target_path(), manifest);
        let listed = hq.list("welcome", std::slice::from_ref(&file));
        let hq = done(hq.carry_out(&listed, &Passphrase::default()));
        let charter = hq.charter_site(&name, terms).unwrap();
        let hq = done(hq.carry_out(&charter, &Passphrase::default()));
        let keys = SiteKeys::read(&site.keys_dir()).unwrap();
        import::take(&site, &hq.package(&name, vec![file]).unwrap(), &keys).unwrap();
        let settings = site.settings().unwrap();
        let store = Store::open(&site.registry_file()).unwrap();
        let office = Office::open(&site, &settings, store).unwrap();
        Self { folder, office }
    }

    pub(super) async fn import(&self, serials: &[&str]) {
        let mut csv = "Device Serial Number,Windows Product ID,Hardware Hash,Manufacturer name,Device model\n".to_owned();
        for serial in serials {
            csv.push_str(&format!("{serial},,,Example Corp,Model One\n"));
        }
        let rows = groundcrew_registry::import::Rows::new(csv.as_bytes(), "test").unwrap();
        let rows = rows.map(|row| {
            let row = row.unwrap();
            let registration = row.content.unwrap();
            ImportRow {
                line: row.line,
                registration,
            }
        });
        let command = Command::Import {
            rows: rows.collect(),
            terms: FileTerms::default(),
        };
        let outcome = self
            .office
            .execute(Order {
                by: "test".into(),
                command,
            })
            .await
            .unwrap();
        let Outcome::Imported(view) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(view.registered, serials.len(), "{:?}", view.refused);
    }

    async fn ask(&self, request: Request, key: &SigningKey) -> Result<Admission, Refusal> {
        self.office
            .request(&Envelope::sign(&request, key).unwrap(), None)
            .await
    }

    pub(super) async fn order(&self, command: Command) -> Outcome {
        let by = "test".to_owned();
        self.office.execute(Order { by, command }).await.unwrap()
    }

    /// The device with this serial number.
    pub(super) async fn device(&self, serial: &str) -> DeviceId {
        let page = view::page(&self.office.lock(), &Search::default(), None);
        let mut all = page.devices.into_iter();
        all.find(|device| device.serial.as_deref() == Some(serial))
            .unwrap()
            .id
    }

    /// As after the end of the process.
    pub(super) fn restart(self) -> (tempfile::TempDir, Office) {
        let Self { folder, office } = self;
        let site = office.site.clone();
        drop(office);
        let office = reopen(&site);
        (folder, office)
    }

    /// With a device's own key and another nonce.
    pub(super) async fn ask_anew(
        &self,
        serial: &str,
        seed: u8,
        nonce: u8,
    ) -> Result<Admission, Refusal> {
        let (mut request, key) = self.request(serial, seed);
        request.nonce = Bytes([nonce.wrapping_add(100); 32]);
        let start = Start {
            commitment: request.commitment(),
        };
        request.challenge = self.office.challenge(&start).challenge;
        self.ask(request, &key).await
    }

    pub(super) async fn decision(&self, serial: &str, seed: u8) -> Decision {
        let (request, key) = self.request(serial, seed);
        self.ask(request, &key).await.unwrap().decision
    }

    fn request(&self, serial: &str, seed: u8) -> (Request, SigningKey) {
        let key = SigningKey::from_seed([seed; 32]).unwrap();
        let (seal_key, nonce) = (SealKey(Bytes([seed; 32])), Bytes([seed; 32]));
        let start = Start {
            commitment: commitment(&key.public(), &seal_key, &nonce),
        };
        let mut report = HardwareReport::default();
        report.smbios.serial = Some(serial.to_owned());
        report.smbios.manufacturer = Some("Example Corp".into());
        report.smbios.product = Some("Model One".into());
        let request = Request {
            site: "lab".parse().unwrap(),
            sign_key: key.public(),
            seal_key,
            nonce,
            challenge: self.office.challenge(&start).challenge,
            report,
            agent: "test".into(),
        };
        (request, key)
    }
}

fn done(progress: anyhow::Result<Progress>) -> Hq {
    match progress.unwrap() {
        Progress::Done(hq) => hq,
        Progress::Waiting { standing, .. } => panic!("{standing}"),
    }
}

/// The writer's thread lets go of the site's lock a moment after the office is gone.
fn reopen(site: &Site) -> Office {
    loop {
        if let Ok(store) = Store::open(&site.registry_file()) {
            return Office::open(site, &site.settings().unwrap(), store).unwrap();
        }
        std::thread::yield_now();
    }
}

pub(super) fn terms(devices: u32, tags: &[&str]) -> NewTerms {
    NewTerms {
        tags: Some(tags.iter().map(|tag| tag.parse().unwrap()).collect()),
        devices: Some(devices),
        lifetime: Some(100 * 86_400),
        minimum: Vec::new(),
    }
}

pub(super) fn waits(decision: &Decision) -> &str {
    match decision {
        Decision::Waiting { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_start_believes_a_snapshot_only_where_the_journal_agrees() {
    let world = World::new(&terms(10, &[]));
    world.import(&["SYNTH-1", "SYNTH-2"]).await;
    world.decision("SYNTH-9", 9).await;
    world.office.snapshot_if_grown(0);
    world.import(&["SYNTH-3"]).await;
    world.office.writer.flush().await;
    let listed = |office: &Office| {
        let views = view::page(&office.lock(), &Search::default(), None);
        serde_json::to_string(&views).unwrap()
    };
    let before = listed(&world.office);
    let World { folder, office } = world;
    let (site, file) = (office.site.clone(), office.snapshot_file.clone());
    drop(office);
    let reopen = || reopen(&site);
    let office = reopen();
    assert_eq!(
        (listed(&office), office.frozen.load(Ordering::Relaxed)),
        (before.clone(), 2)
    );
    drop(office);
    let text = std::fs::read_to_string(&file).unwrap();
    for damaged in [
        text.replacen("SYNTH-1", "SYNTH-7", 1),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ] {
        std::fs::write(&file, damaged).unwrap();
        let office = reopen();
        assert_eq!(
            (listed(&office), office.frozen.load(Ordering::Relaxed)),
            (before.clone(), 0)
        );
    }
    drop(folder);
}

#[tokio::test]
async fn no_more_devices_are_let_in_than_the_charter_admits() {
    let world = World::new(&terms(2, &[]));
    world.import(&["SN-AAAA-1", "SN-AAAA-2", "SN-AAAA-3"]).await;
    assert!(matches!(
        world.decision("SN-AAAA-1", 1).await,
        Decision::Granted { .. }
    ));
    assert!(matches!(
        world.decision("SN-AAAA-2", 2).await,
        Decision::Granted { .. }
    ));
    let third = world.decision("SN-AAAA-3", 3).await;
    assert!(waits(&third).contains("admits 2 devices"), "{third:?}");
    // Those that are in stay in.
    assert!(matches!(
        world.decision("SN-AAAA-2", 2).await,
        Decision::Granted { .. }
    ));
}

#[tokio::test]
async fn a_profile_outside_the_charter_s_tags_is_not_granted() {
    let world = World::new(&terms(9, &["kiosk"]));
    world.import(&["SN-AAAA-1"]).await;
    let decision = world.decision("SN-AAAA-1", 1).await;
    assert!(
        waits(&decision).contains("does not admit `standard`"),
        "{decision:?}"
    );
    let world = World::new(&terms(9, &["kiosk", "standard"]));
    world.import(&["SN-AAAA-1"]).await;
    assert!(matches!(
        world.decision("SN-AAAA-1", 1).await,
        Decision::Granted { .. }
    ));
}

#[tokio::test]
async fn without_its_charter_a_site_grants_nothing() {
    let world = World::new(&terms(9, &[]));
    world.import(&["SN-AAAA-1"]).await;
    std::fs::remove_dir_all(world.folder.path().join("site/trust/targets/sites")).unwrap();
    let decision = world.decision("SN-AAAA-1", 1).await;
    assert!(waits(&decision).contains("trust export"), "{decision:?}");
}

#[tokio::test]
async fn of_two_devices_that_race_for_one_registration_one_gets_it() {
    let world = World::new(&terms(9, &[]));
    world.import(&["SN-AAAA-1"]).await;
    let (one, two) = tokio::join!(
        world.decision("SN-AAAA-1", 1),
        world.decision("SN-AAAA-1", 2)
    );
    let granted = [&one, &two].map(|d| matches!(d, Decision::Granted { .. }));
    assert_eq!(
        granted.iter().filter(|granted| **granted).count(),
        1,
        "{one:?} {two:?}"
    );
    let loser = if granted[0] { &two } else { &one };
    assert!(!waits(loser).is_empty());
}

#[tokio::test]
async fn a_code_cannot_be_ground_and_a_request_cannot_be_borrowed() {
    let world = World::new(&terms(9, &[]));
    // Another nonce under the same challenge: what grinding would need.
    let (mut request, key) = world.request("SN-AAAA-1", 1);
    request.nonce = Bytes([77; 32]);
    let refused = world.ask(request, &key).await.unwrap_err();
    assert_eq!(refused.code(), "stale-challenge");
    // Somebody else's request under one's own signature.
    let (request, _) = world.request("SN-AAAA-1", 1);
    let thief = SigningKey::from_seed([9; 32]).unwrap();
    assert_eq!(
        world.ask(request, &thief).await.unwrap_err().code(),
        "malformed"
    );
    // A request that is meant for another site.
    let (mut request, key) = world.request("SN-AAAA-1", 1);
    request.site = "elsewhere".parse().unwrap();
    assert_eq!(
        world.ask(request, &key).await.unwrap_err().code(),
        "wrong-site"
    );
}
