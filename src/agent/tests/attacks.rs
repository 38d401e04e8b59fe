//! Rogue servers against the real agent: what each attack gets is the reason
//! that the device shows. The whole table is in `src/core/src/trust/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;

use common::{DAY, Site, key, now};
use groundcrew_agent::download::Blobs;
use groundcrew_agent::enroll::{self, Granted, Keys, Watcher};
use groundcrew_agent::failure::{Failure, Kind};
use groundcrew_agent::http::{Api, Public};
use groundcrew_agent::trust::{Memory, Trust};
use groundcrew_core::bundle::Manifest;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::{Code, Grant};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::words::Trouble;
use groundcrew_core::{DeviceId, SiteId};

const STEPS: &str =
    "[[step]]\nname = \"motd\"\nfile = { path = \"/etc/motd\", content = \"hello\\n\" }\n";

struct Quiet;
impl Watcher for Quiet {
    fn enrolled(&self, _: &DeviceId) {}
    fn waiting(&self, _: Code, _: &str) {}
    fn trouble(&self, text: String) {
        panic!("{text}");
    }
    fn pause(&self, _: std::time::Duration) {}
}

/// A device that has just started: fresh keys, an empty disk.
struct Agent {
    trust: Trust,
    public: Public,
    keys: Keys,
    dir: tempfile::TempDir,
}

impl Agent {
    fn booted(site: &Site) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trust.json");
        std::fs::write(&file, site.image.to_json().unwrap()).unwrap();
        Self {
            trust: Trust::of_image(&file).unwrap(),
            public: Public::new(site.address(), site.http),
            keys: Keys::generate().unwrap(),
            dir,
        }
    }

    fn refresh(&mut self) -> Result<(), Failure> {
        self.trust.refresh(&self.public, &|_| {})
    }

    fn enroll(&mut self, site: &Site) -> Result<Granted, Failure> {
        self.refresh()?;
        let charter = self.trust.charter();
        let api = Api::new(site.address(), site.https, charter.tls_key).unwrap();
        enroll::enroll(
            &api,
            charter,
            &self.keys,
            &HardwareReport::default(),
            &Quiet,
        )
    }

    fn download(&mut self, granted: &Granted) -> Result<(), Failure> {
        let path = granted.grant.bundle.target_path();
        let manifest = self.trust.target(&self.public, &path, &|_| {})?;
        let manifest = Manifest::parse(&manifest).unwrap();
        let blobs = Blobs::at(&self.dir.path().join("staging")).unwrap();
        for blob in manifest.blobs() {
            let fetched = blobs.fetch(&self.public, &blob.digest, blob.size, &|_| {}, &|_| {});
            fetched.inspect_err(|_| assert!(!blobs.path(&blob.digest).exists()))?;
        }
        Ok(())
    }
}

fn refused<T>(result: Result<T, Failure>) -> String {
    refusal(result).what
}

fn refusal<T>(result: Result<T, Failure>) -> Failure {
    let Err(failure) = result else {
        panic!("it was believed");
    };
    assert_eq!(failure.kind, Kind::Refused, "{failure}");
    failure
}

/// What the appliance is told it was about.
fn refused_about<T>(result: Result<T, Failure>, trouble: Trouble) -> String {
    let failure = refusal(result);
    assert_eq!(failure.trouble, trouble, "{failure}");
    failure.what
}

/// Puts other bytes under every served path that ends so.
fn replace(site: &Site, end: &str, with: impl Fn(&[u8]) -> Vec<u8>) {
    let mut files = site.files.lock().unwrap();
    let mut found = 0;
    for (path, bytes) in files.iter_mut().filter(|(path, _)| path.ends_with(end)) {
        *bytes = with(bytes);
        assert!(!path.is_empty());
        found += 1;
    }
    assert!(found > 0, "nothing is served as …{end}");
}

#[test]
fn a_grant_is_worth_nothing_to_another_device_nor_at_another_start() {
    let site = Site::serving(STEPS);
    let mut first = Agent::booted(&site);
    let stolen = first.enroll(&site).unwrap().envelope;
    *site.forced.lock().unwrap() = Some(stolen);
    // Another device has other keys.
    let why = refused(Agent::booted(&site).enroll(&site));
    assert!(why.contains("the grant names another signing key"), "{why}");
    // The same one, started again with its keys, has another nonce: a stale grant.
    let why = refused(first.enroll(&site));
    assert!(
        why.contains("another nonce: it is for another start"),
        "{why}"
    );
}

#[test]
fn a_grant_of_another_site_is_refused_under_either_key() {
    let site = Site::serving(STEPS);
    let mut agent = Agent::booted(&site);
    let grant = agent.enroll(&site).unwrap().grant;
    let elsewhere: SiteId = "elsewhere".parse().unwrap();
    let foreign = Grant {
        site: elsewhere,
        ..grant.into_inner()
    };
    // The other site's own key is not the one in this site's charter ...
    *site.forced.lock().unwrap() = Some(Envelope::sign(&foreign, &key(99)).unwrap());
    let why = refused(agent.enroll(&site));
    assert!(
        why.contains("no signature on the envelope matches"),
        "{why}"
    );
    // ... and even with a stolen key it names another site.
    *site.forced.lock().unwrap() = Some(Envelope::sign(&foreign, &key(5)).unwrap());
    let why = refused(agent.enroll(&site));
    assert!(why.contains("the grant names another site"), "{why}");
}

#[test]
fn endless_metadata_is_cut_off() {
    let site = Site::serving(STEPS);
    replace(&site, "/timestamp.json", |bytes| {
        [bytes, &vec![b' '; 40 << 20]].concat()
    });
    let why = refused(Agent::booted(&site).refresh());
    assert!(why.contains("longer than 16384 bytes"), "{why}");
}

#[test]
fn an_endless_blob_is_cut_off_and_thrown_away() {
    let site = Site::serving(STEPS);
    let mut agent = Agent::booted(&site);
    let granted = agent.enroll(&site).unwrap();
    let blob = blob_of(&site);
    replace(&site, &blob, |bytes| [bytes, &vec![0; 40 << 20]].concat());
    let why = refused(agent.download(&granted));
    assert!(why.contains("more than"), "{why}");
}

#[test]
fn a_swapped_blob_is_refused() {
    let (site, other) = (
        Site::serving(STEPS),
        Site::serving(&STEPS.replace("hello", "hallo")),
    );
    let mut agent = Agent::booted(&site);
    let granted = agent.enroll(&site).unwrap();
    // A good blob of another bundle, of the same length, under this one's name.
    let foreign_path = blob_of(&other);
    let foreign = other.files.lock().unwrap()[&foreign_path].clone();
    replace(&site, &blob_of(&site), |_| foreign.clone());
    let why = refused_about(agent.download(&granted), Trouble::BundleChanged);
    assert!(why.contains("was changed"), "{why}");
}

#[test]
fn truncated_metadata_is_refused() {
    let site = Site::serving(STEPS);
    replace(&site, ".snapshot.json", |bytes| {
        bytes[..bytes.len() / 2].to_vec()
    });
    let why = refused(Agent::booted(&site).refresh());
    assert!(why.contains("its length or hash differs"), "{why}");
}

#[test]
fn yesterday_s_metadata_is_refused_by_who_saw_today_s() {
    let site = Site::serving(STEPS);
    let yesterday = site.files.lock().unwrap().clone();
    site.sign_again();
    let mut agent = Agent::booted(&site);
    agent.refresh().unwrap();
    let memory: Memory = agent.trust.memory();
    *site.files.lock().unwrap() = yesterday;
    let mut again = Agent::booted(&site);
    again.trust.remember(memory);
    let why = refused_about(again.refresh(), Trouble::TrustMismatch);
    assert!(why.contains("refused as a rollback"), "{why}");
    // One with an empty disk cannot know; its image's versions are its floor.
    Agent::booted(&site).refresh().unwrap();
}

#[test]
fn a_frozen_site_is_refused_once_its_signature_expires() {
    let site = Site::serving(STEPS);
    let mut agent = Agent::booted(&site);
    // Proven past: the site's own signature was good for 7 days.
    agent.trust.proven(now().plus(8 * DAY));
    let why = refused_about(agent.refresh(), Trouble::TrustExpired);
    assert!(why.contains("timestamp.json version 1 expired"), "{why}");
}

#[test]
fn an_expired_charter_is_refused() {
    let site = Site::serving(STEPS);
    let mut agent = Agent::booted(&site);
    site.sign_again_until(now().plus(400 * DAY));
    agent.trust.proven(now().plus(200 * DAY));
    let why = refused_about(agent.refresh(), Trouble::CharterExpired);
    assert!(why.contains("the charter of `lab` expired"), "{why}");
}

/// The path of the configuration's blob, the only one.
fn blob_of(site: &Site) -> String {
    let files = site.files.lock().unwrap();
    let mut paths = files.keys().filter(|path| path.starts_with("/blobs/"));
    paths.next().unwrap().clone()
}
