//! The agent against a whole site: from the image's trust to a receipt, and
//! what it refuses on the way.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::path::Path;

use common::Site;
use groundcrew_agent::apply::{self, ChrootRunner, Job};
use groundcrew_agent::download::Blobs;
use groundcrew_agent::enroll::{self, Granted, Keys, Watcher};
use groundcrew_agent::failure::{Failure, Kind};
use groundcrew_agent::http::{Api, Public};
use groundcrew_agent::trust::Trust;
use groundcrew_core::bundle::{Bundle, Manifest, Variables};
use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::{Code, Receipt, ReceiptResult, path};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::{DeviceId, Digest};

const STEPS: &str = "[[step]]\nname = \"motd\"\nfile = { path = \"/etc/motd\", content = \"{{hostname}} of {{site}}\\n\", template = true }\n";

struct Quiet;
impl Watcher for Quiet {
    fn enrolled(&self, _: &DeviceId) {}
    fn waiting(&self, _: Code, _: &str) {}
    fn trouble(&self, text: String) {
        panic!("{text}");
    }
    fn pause(&self, _: std::time::Duration) {}
}

struct Agent {
    trust: Trust,
    public: Public,
    keys: Keys,
    dir: tempfile::TempDir,
}

impl Agent {
    fn booted(site: &Site) -> Result<Self, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trust.json");
        std::fs::write(&file, site.image.to_json().unwrap()).unwrap();
        Ok(Self {
            trust: Trust::of_image(&file)?,
            public: Public::new(site.address(), site.http),
            keys: Keys::generate()?,
            dir,
        })
    }

    fn enroll(&mut self, site: &Site) -> Result<(Api, Granted), Failure> {
        self.trust.refresh(&self.public, &|_| {})?;
        let charter = self.trust.charter();
        let api = Api::new(site.address(), site.https, charter.tls_key).unwrap();
        let report = HardwareReport::default();
        let granted = enroll::enroll(&api, charter, &self.keys, &report, &Quiet)?;
        Ok((api.with_session(granted.session), granted))
    }

    fn bundle(&mut self, granted: &Granted) -> Result<(Bundle, Blobs), Failure> {
        let path = granted.grant.bundle.target_path();
        let manifest = self.trust.target(&self.public, &path, &|_| {})?;
        let manifest = Manifest::parse(&manifest).unwrap();
        let blobs = Blobs::at(&self.dir.path().join("staging")).unwrap();
        for blob in manifest.blobs() {
            blobs.fetch(&self.public, &blob.digest, blob.size, &|_| {}, &|_| {})?;
        }
        let config = std::fs::read(blobs.path(&manifest.config().digest)).unwrap();
        Ok((Bundle::assemble(manifest, &config).unwrap(), blobs))
    }
}

fn root_with_accounts(dir: &Path) -> apply::Root {
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    std::fs::write(root.join("etc/shadow"), "root:*:1:0:99999:7:::\n").unwrap();
    apply::Root::open(&root).unwrap()
}

#[test]
fn from_the_image_to_the_receipt() {
    let site = Site::serving(STEPS);
    *site.waits.lock().unwrap() = 2;
    let mut agent = Agent::booted(&site).unwrap();
    let (api, granted) = agent.enroll(&site).unwrap();
    let (bundle, blobs) = agent.bundle(&granted).unwrap();
    let root = root_with_accounts(agent.dir.path());
    let variables = Variables::of_grant(&granted.grant).unwrap();
    let folder = blobs.folder();
    let job = Job {
        root: &root,
        bundle: &bundle,
        blobs: &folder,
        variables: &variables,
    };
    let mut runner = ChrootRunner::new(root.mounted_at());
    let outcome = apply::run(&job, &mut runner, &mut |_| {});
    assert_eq!(outcome.result, ReceiptResult::Provisioned);
    let motd = std::fs::read_to_string(root.mounted_at().join("etc/motd")).unwrap();
    assert_eq!(motd, "lab-1 of lab\n");
    let receipt = Receipt {
        site: granted.grant.site.clone(),
        device: granted.grant.device.clone(),
        sign_key: agent.keys.sign.public(),
        grant: granted.envelope.payload_digest(),
        bundle: granted.grant.bundle.clone(),
        manifest: Some(Digest::of(&bundle.manifest().to_bytes())),
        result: outcome.result,
        steps: outcome.steps,
        agent: "test".into(),
        millis: 1,
    };
    api.tell(
        path::RECEIPT,
        &Envelope::sign(&receipt, &agent.keys.sign).unwrap(),
    )
    .unwrap();
    assert_eq!(site.receipts(), [receipt]);
}

#[test]
fn a_changed_byte_in_any_file_is_refused() {
    let reference = Site::serving(STEPS);
    let paths: Vec<String> = reference.files.lock().unwrap().keys().cloned().collect();
    assert!(paths.len() >= 6, "{paths:?}");
    for index in 0..paths.len() {
        // A site of its own: its digests, and so its names, differ.
        let site = Site::serving(STEPS);
        let path = site
            .files
            .lock()
            .unwrap()
            .keys()
            .nth(index)
            .unwrap()
            .clone();
        if path.ends_with("/1.root.json") || path.ends_with("/1.targets.json") {
            continue; // The device has them from the image and fetches neither.
        }
        let middle = site.files.lock().unwrap()[&path].len() / 2;
        site.files.lock().unwrap().get_mut(&path).unwrap()[middle] ^= 1;
        let mut agent = Agent::booted(&site).unwrap();
        let refused = agent
            .enroll(&site)
            .and_then(|(_, granted)| agent.bundle(&granted).map(drop));
        let failure = refused.expect_err(&path);
        assert_eq!(failure.kind, Kind::Refused, "{path}: {failure}");
    }
}

#[test]
fn another_machine_with_the_appliance_s_address_is_refused() {
    let (site, impostor) = (Site::serving(STEPS), Site::serving(STEPS));
    let mut agent = Agent::booted(&site).unwrap();
    agent.trust.refresh(&agent.public, &|_| {}).unwrap();
    let charter = agent.trust.charter();
    let api = Api::new(site.address(), impostor.https, charter.tls_key).unwrap();
    let report = HardwareReport::default();
    let refused = enroll::enroll(&api, charter, &agent.keys, &report, &Quiet).unwrap_err();
    assert!(
        refused.what.contains("not the appliance of this site"),
        "{refused}"
    );
    assert!(
        impostor.heard.lock().unwrap().is_empty() && impostor.request.lock().unwrap().is_none()
    );
}

#[test]
fn what_the_image_s_root_does_not_lead_to_is_refused() {
    let (site, other) = (Site::serving(STEPS), Site::serving(STEPS));
    let file = |image: &groundcrew_core::trust::ImageTrust| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trust.json");
        std::fs::write(&file, image.to_json().unwrap()).unwrap();
        Trust::of_image(&file).map(drop)
    };
    let elsewhere = groundcrew_core::trust::ImageTrust {
        site: "elsewhere".parse().unwrap(),
        ..site.image.clone()
    };
    assert!(file(&elsewhere).is_err(), "the charter is of `lab`");
    let mixed = groundcrew_core::trust::ImageTrust {
        charter: other.image.charter.clone(),
        ..site.image.clone()
    };
    assert!(file(&mixed).is_err(), "the targets list another charter");
    assert!(file(&site.image).is_ok());
}

#[test]
fn what_the_disk_remembers_is_taken_up() {
    let site = Site::serving(STEPS);
    let mut agent = Agent::booted(&site).unwrap();
    agent.trust.refresh(&agent.public, &|_| {}).unwrap();
    let text = serde_json::to_string(&agent.trust.memory()).unwrap();
    let mut again = Agent::booted(&site).unwrap();
    again.trust.remember(serde_json::from_str(&text).unwrap());
    again.trust.refresh(&again.public, &|_| {}).unwrap();
    assert_eq!(serde_json::to_string(&again.trust.memory()).unwrap(), text);
    // A clock that was proven to be past the charter's end: nothing holds.
    let mut late: serde_json::Value = serde_json::from_str(&text).unwrap();
    late["floor"] = serde_json::json!("2090-01-01T00:00:00Z");
    let mut late_agent = Agent::booted(&site).unwrap();
    late_agent
        .trust
        .remember(serde_json::from_value(late).unwrap());
    let refused = late_agent
        .trust
        .refresh(&late_agent.public, &|_| {})
        .unwrap_err();
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.what.contains("expire"), "{refused}");
}
