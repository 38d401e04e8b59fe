//! A device on the site of this folder: the agent's own parts in the order in
//! which it runs them, with folders in the place of disks.

use groundcrew_agent::apply;
use groundcrew_agent::download::Blobs;
use groundcrew_agent::enroll::{self, Granted, Keys, Watcher};
use groundcrew_agent::failure::{Failure, Kind};
use groundcrew_agent::http::{Api, Public};
use groundcrew_agent::trust::Trust;
use groundcrew_core::DeviceId;
use groundcrew_core::bundle::{Bundle, Manifest, Variables};
use groundcrew_core::enroll::{Code, ReceiptResult};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::words::Trouble;

use super::Site;

pub struct Quiet;
impl Watcher for Quiet {
    fn enrolled(&self, _: &DeviceId) {}
    fn waiting(&self, _: Code, _: &str) {}
    fn trouble(&self, text: String) {
        panic!("{text}");
    }
    fn pause(&self, _: std::time::Duration) {}
}

/// A device that has just started: fresh keys, an empty disk.
pub struct Agent {
    pub trust: Trust,
    pub public: Public,
    pub keys: Keys,
    pub dir: tempfile::TempDir,
}

impl Agent {
    pub fn booted(site: &Site) -> Self {
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

    pub fn refresh(&mut self) -> Result<(), Failure> {
        self.trust.refresh(&self.public, &|_| {})
    }

    pub fn enroll(&mut self, site: &Site) -> Result<Granted, Failure> {
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

    /// Everything from the first question to the last step; what was applied.
    pub fn provision(&mut self, site: &Site) -> Result<apply::Outcome, Failure> {
        let granted = self.enroll(site)?;
        self.download(&granted)?;
        let manifest = self.manifest(&granted)?;
        let blobs = Blobs::at(&self.dir.path().join("staging")).unwrap();
        let config = std::fs::read(blobs.path(&manifest.config().digest)).unwrap();
        let bundle = Bundle::assemble(manifest, &config).unwrap();
        let root = self.dir.path().join("root");
        for (file, text) in [
            ("passwd", "root:x:0:0:root:/root:/bin/sh\n"),
            ("group", "root:x:0:\n"),
            ("shadow", "root:*:1:0:99999:7:::\n"),
        ] {
            std::fs::create_dir_all(root.join("etc")).unwrap();
            std::fs::write(root.join("etc").join(file), text).unwrap();
        }
        let root = apply::Root::open(&root).unwrap();
        let variables = Variables::of_grant(&granted.grant).unwrap();
        let folder = blobs.folder();
        let job = apply::Job {
            root: &root,
            bundle: &bundle,
            blobs: &folder,
            variables: &variables,
        };
        let mut runner = apply::ChrootRunner::new(root.mounted_at());
        let outcome = apply::run(&job, &mut runner, &mut |_| {});
        if outcome.result == ReceiptResult::Provisioned {
            self.trust.applied(&bundle.reference());
        }
        Ok(outcome)
    }

    /// The manifest that the grant names, as the agent's own run gets it.
    pub fn manifest(&mut self, granted: &Granted) -> Result<Manifest, Failure> {
        let (bundle, device) = (&granted.grant.bundle, &granted.grant.device);
        let path = bundle.target_path();
        let manifest = self.trust.target(&self.public, &path, &|_| {})?;
        self.trust.admits(&self.public, bundle, device, &|_| {})?;
        Ok(Manifest::parse(&manifest).unwrap())
    }

    pub fn download(&mut self, granted: &Granted) -> Result<(), Failure> {
        let manifest = self.manifest(granted)?;
        let blobs = Blobs::at(&self.dir.path().join("staging")).unwrap();
        for blob in manifest.blobs() {
            let fetched = blobs.fetch(&self.public, &blob.digest, blob.size, &|_| {}, &|_| {});
            fetched.inspect_err(|_| assert!(!blobs.path(&blob.digest).exists()))?;
        }
        Ok(())
    }
}

pub fn refused<T>(result: Result<T, Failure>) -> String {
    refusal(result).what
}

fn refusal<T>(result: Result<T, Failure>) -> Failure {
    let Err(failure) = result else {
        panic!("it was believed");
    };
    assert_eq!(failure.kind, Kind::Refused, "{failure}");
    failure
}

/// The same, and what the appliance is told it was about.
pub fn refused_about<T>(result: Result<T, Failure>, trouble: Trouble) -> String {
    let failure = refusal(result);
    assert_eq!(failure.trouble, trouble, "{failure}");
    failure.what
}

/// Puts other bytes under every served path that ends so.
pub fn replace(site: &Site, end: &str, with: impl Fn(&[u8]) -> Vec<u8>) {
    let mut files = site.files.lock().unwrap();
    let mut found = 0;
    for (path, bytes) in files.iter_mut().filter(|(path, _)| path.ends_with(end)) {
        *bytes = with(bytes);
        assert!(!path.is_empty());
        found += 1;
    }
    assert!(found > 0, "nothing is served as …{end}");
}

/// The path of the configuration's blob, the only one.
pub fn blob_of(site: &Site) -> String {
    let files = site.files.lock().unwrap();
    let mut paths = files.keys().filter(|path| path.starts_with("/blobs/"));
    paths.next().unwrap().clone()
}
