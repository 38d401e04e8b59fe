//! The publisher, the image and the device together: what HQ and the site
//! sign, a device believes; what anybody else changes, it refuses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::{at, day, key};
use groundcrew_core::Digest;
use groundcrew_core::enroll::BundleRef;
use groundcrew_core::time::Now;
use groundcrew_core::trust::tuf::repo::{
    OnlineExpiry, RoleSpec, RootSpec, TargetChange, add_signatures, draft_root, sign_root,
    target_file,
};
use groundcrew_core::trust::tuf::{
    Client, NotFound, Poll, Repo, RepoError, RepoFile, TargetFile, TufError,
};
use groundcrew_core::trust::{Charter, CharterError, ImageTrust, TrustError};

const CHARTER: &str = "sites/berlin.json";

/// A site as `init` makes it: keys 1 root, 2 targets, 3 snapshot and
/// timestamp; every file as it was written.
struct Site {
    repo: Repo,
    metadata: BTreeMap<String, Vec<u8>>,
    targets: BTreeMap<String, Vec<u8>>,
}

fn spec(site_key: u8, days: u64) -> RootSpec {
    RootSpec {
        expires: day(days),
        root: RoleSpec::one(key(1).public()),
        targets: RoleSpec::one(key(2).public()),
        snapshot: RoleSpec::one(key(site_key).public()),
        timestamp: RoleSpec::one(key(site_key).public()),
    }
}

fn charter(version: u64) -> Charter {
    Charter {
        site: "berlin".parse().unwrap(),
        version,
        tls_key: Digest::of(b"spki"),
        grant_key: key(5).public(),
        journal_key: key(6).public(),
        tags: vec!["office".parse().unwrap()],
        expires: day(100),
        devices: 25,
        minimum: BTreeMap::from([("base".parse().unwrap(), "1.2".parse().unwrap())]),
    }
}

impl Site {
    fn new() -> Self {
        let root = sign_root(&spec(3, 700), None, at(0), &[&key(1)]).unwrap();
        let mut site = Self {
            repo: Repo::new(&root.bytes).unwrap(),
            metadata: BTreeMap::new(),
            targets: BTreeMap::new(),
        };
        site.write([root]);
        site.publish(CHARTER, charter(1).to_json().unwrap(), 0);
        site
    }

    fn write(&mut self, files: impl IntoIterator<Item = RepoFile>) {
        for file in files {
            self.metadata.insert(file.path, file.bytes);
        }
    }

    /// HQ lists a target, the site makes it current.
    fn publish(&mut self, path: &str, bytes: Vec<u8>, today: u64) {
        let change = TargetChange::Put(path.into(), TargetFile::of(&bytes));
        let file = target_file(path, bytes).unwrap();
        self.targets.insert(file.path, file.bytes);
        let expires = day(today + 365);
        let targets = self
            .repo
            .sign_targets(&[change], expires, at(today), &[&key(2)]);
        self.write([targets.unwrap()]);
        self.refresh(today);
    }

    fn refresh(&mut self, today: u64) -> Vec<String> {
        let expires = OnlineExpiry {
            snapshot: day(today + 30),
            timestamp: day(today + 7),
        };
        let files = self
            .repo
            .sign_snapshot_and_timestamp(expires, at(today), &[&key(3)]);
        let files = files.unwrap();
        let names = files.iter().map(|file| file.path.clone()).collect();
        self.write(files);
        names
    }

    fn image(&self) -> ImageTrust {
        let charter = self
            .targets
            .iter()
            .rfind(|(path, _)| path.contains("berlin"));
        ImageTrust {
            built_at: day(0),
            site: "berlin".parse().unwrap(),
            root: self.repo.root_bytes().to_vec(),
            targets: self.repo.targets_bytes().unwrap().to_vec(),
            charter: charter.unwrap().1.clone(),
            minimum: Default::default(),
        }
    }

    fn serve(&self, client: &mut Client) -> Result<(), TufError> {
        while let Poll::Fetch(fetch) = client.poll() {
            let file = self.metadata.get(&fetch.path).map(Vec::as_slice);
            client.feed(file.ok_or(NotFound))?;
        }
        Ok(())
    }
}

#[test]
fn init_image_refresh_and_publish() {
    let mut site = Site::new();
    let names: Vec<&String> = site.metadata.keys().collect();
    assert_eq!(
        names,
        [
            "1.root.json",
            "1.snapshot.json",
            "1.targets.json",
            "timestamp.json"
        ]
    );
    let image = ImageTrust::from_json(&site.image().to_json().unwrap()).unwrap();
    assert_eq!(*image.verify(at(0)).unwrap(), charter(1));

    // On the way: a bundle, and a newer charter.
    site.publish("bundles/base/1.2.0.json", b"manifest".to_vec(), 1);
    site.publish(CHARTER, charter(2).to_json().unwrap(), 2);
    let mut client = image.client(at(3), None).unwrap();
    site.serve(&mut client).unwrap();
    assert_eq!(client.issued_at(), Some(day(2)));
    let mut floor = image.floor();
    floor.raise(client.issued_at().unwrap());
    assert_eq!(floor.now(day(1)), Now::Floor(day(2)));

    let path = client.consistent_target_path(CHARTER).unwrap();
    let newer = image
        .charter_from(&client, &site.targets[&path], at(3))
        .unwrap();
    assert_eq!(newer.version, 2);
    let bundle = BundleRef {
        name: "base".parse().unwrap(),
        version: "1.2.0".parse().unwrap(),
    };
    assert_eq!(newer.admits(&bundle), Ok(()));
    let path = client
        .consistent_target_path(&bundle.target_path())
        .unwrap();
    let manifest = client
        .target(&bundle.target_path())
        .unwrap()
        .verify(&site.targets[&path]);
    assert_eq!(**manifest.unwrap(), b"manifest");

    // The next start takes up what the disk holds.
    let stored = client.trusted();
    let mut client = image.client(at(3), Some(stored.clone())).unwrap();
    site.serve(&mut client).unwrap();
    assert_eq!(client.trusted(), stored);
}

#[test]
fn the_image_holds_until_something_in_it_expires() {
    let image = Site::new().image();
    assert!(image.verify(at(99)).is_ok());
    let said = image.verify(at(100)).unwrap_err().to_string();
    assert!(
        said.starts_with("the charter of `berlin` expired at"),
        "{said}"
    );
    assert!(
        image
            .verify(at(400))
            .unwrap_err()
            .to_string()
            .starts_with("targets.json version 1 expired")
    );
    assert!(
        image
            .verify(at(701))
            .unwrap_err()
            .to_string()
            .starts_with("root.json version 1 expired")
    );
    // A clock behind the time of building is no excuse.
    let late = ImageTrust {
        built_at: day(100),
        ..image
    };
    let clock = Now::Clock(day(0));
    assert!(matches!(
        late.verify(clock),
        Err(TrustError::Charter(CharterError::Expired { .. }))
    ));
}

#[test]
fn every_changed_byte_of_the_image_s_parts_is_refused_or_means_the_same() {
    let image = Site::new().image();
    let sound = image.verify(at(0)).unwrap();
    for part in 0..3 {
        let length = [&image.root, &image.targets, &image.charter][part].len();
        for place in 0..length {
            let mut changed = image.clone();
            let bytes = [
                &mut changed.root,
                &mut changed.targets,
                &mut changed.charter,
            ];
            bytes[part][place] ^= [0x01, 0x20, 0x80][place % 3];
            if let Ok(charter) = changed.verify(at(0)) {
                assert!(part != 2 && charter == sound, "part {part} byte {place}");
            }
        }
    }
}

#[test]
fn an_image_of_another_site_or_hq_is_refused() {
    let image = Site::new().image();
    let elsewhere = ImageTrust {
        site: "paris".parse().unwrap(),
        ..image.clone()
    };
    let said = elsewhere.verify(at(0)).unwrap_err().to_string();
    assert_eq!(
        said,
        "no charter for the site `paris` is signed: the targets do not list `sites/paris.json`"
    );
    let root = sign_root(
        &RootSpec {
            targets: RoleSpec::one(key(9).public()),
            ..spec(3, 9)
        },
        None,
        at(0),
        &[&key(1)],
    );
    let foreign = ImageTrust {
        root: root.unwrap().bytes,
        ..image
    };
    let said = foreign.verify(at(0)).unwrap_err().to_string();
    assert!(
        said.starts_with("targets.json version 1 is not signed as the image's root version 1"),
        "{said}"
    );
}

#[test]
fn another_site_s_charter_under_this_site_s_name() {
    let mut site = Site::new();
    let mut other = charter(2);
    other.site = "paris".parse().unwrap();
    site.publish(CHARTER, other.to_json().unwrap(), 1);
    let image = ImageTrust {
        charter: other.to_json().unwrap(),
        ..site.image()
    };
    let said = image.verify(at(1)).unwrap_err().to_string();
    assert_eq!(
        said,
        "the charter is about the site `paris`, expected `berlin`"
    );
}

#[test]
fn metadata_older_than_the_image_is_refused_with_an_empty_disk() {
    let mut site = Site::new();
    let old = site.metadata.clone();
    site.publish("bundles/base/1.3.0.json", b"newer".to_vec(), 1);
    let image = site.image();
    site.metadata = old;
    let mut client = image.client(at(1), None).unwrap();
    let said = site.serve(&mut client).unwrap_err().to_string();
    assert_eq!(
        said,
        "targets.json has version 1, older than version 2 known from the image: refused as a rollback"
    );
}

#[test]
fn a_charter_older_than_the_image_s_is_refused() {
    let mut site = Site::new();
    site.publish(CHARTER, charter(5).to_json().unwrap(), 1);
    let image = ImageTrust {
        charter: charter(5).to_json().unwrap(),
        ..site.image()
    };
    site.publish(CHARTER, charter(4).to_json().unwrap(), 2);
    let mut client = image.client(at(2), None).unwrap();
    site.serve(&mut client).unwrap();
    let refused = image.charter_from(&client, &charter(4).to_json().unwrap(), at(2));
    let rollback = CharterError::Rollback { found: 4, known: 5 };
    assert_eq!(refused.unwrap_err(), TrustError::Charter(rollback));
    let unlisted = image.charter_from(&client, &charter(5).to_json().unwrap(), at(2));
    assert!(matches!(
        unlisted,
        Err(TrustError::Charter(CharterError::Target(_)))
    ));
}

#[test]
fn a_bundle_below_the_charter_s_minimum_is_not_admitted() {
    let bundle = |text: &str| BundleRef {
        name: "base".parse().unwrap(),
        version: text.parse().unwrap(),
    };
    assert_eq!(charter(1).admits(&bundle("1.2")), Ok(()));
    let said = charter(1).admits(&bundle("1.1.9")).unwrap_err().to_string();
    assert_eq!(
        said,
        "the bundle base 1.1.9 is older than 1.2.0, the least version that the charter admits"
    );
}

#[test]
fn the_site_stays_fresh_alone_and_signs_no_snapshot_without_need() {
    let mut site = Site::new();
    assert_eq!(site.refresh(1), ["timestamp.json"]);
    assert_eq!(site.refresh(22), ["timestamp.json"]);
    // Here the snapshot of day 0 would not outlive the timestamp.
    assert_eq!(site.refresh(24), ["2.snapshot.json", "timestamp.json"]);
    let mut client = site.image().client(at(30), None).unwrap();
    site.serve(&mut client).unwrap();
}

#[test]
fn site_keys_rotate_by_a_new_root() {
    let mut site = Site::new();
    let image = site.image();
    let mut client = image.client(at(0), None).unwrap();
    site.serve(&mut client).unwrap();
    let stored = client.trusted();

    let old_root = site.repo.root_bytes().to_vec();
    let root = sign_root(&spec(33, 700), Some(&old_root), at(1), &[&key(1)]).unwrap();
    assert_eq!(root.path, "2.root.json");
    let file = site.repo.import_root(&root.bytes).unwrap();
    site.write([file]);
    let expires = OnlineExpiry {
        snapshot: day(30),
        timestamp: day(8),
    };
    let stolen = site
        .repo
        .clone()
        .sign_snapshot_and_timestamp(expires, at(1), &[&key(3)]);
    assert!(matches!(
        stolen,
        Err(RepoError::Keys {
            role: "snapshot",
            ..
        })
    ));
    let files = site
        .repo
        .sign_snapshot_and_timestamp(expires, at(1), &[&key(33)])
        .unwrap();
    site.write(files);

    let mut client = image.client(at(1), Some(stored)).unwrap();
    site.serve(&mut client).unwrap();
    assert_eq!(client.root().version.get(), 2);
    // The appliance takes the repository up from its files.
    let repo = Repo::load(|path| site.metadata.get(path).cloned()).unwrap();
    assert_eq!(repo.root().version.get(), 2);
    assert_eq!(repo.targets(), site.repo.targets());
    assert_eq!(repo.timestamp(), site.repo.timestamp());
    // A newer image starts at root 2 and takes what the old one stored.
    let newer = site.image();
    let mut client = newer.client(at(1), Some(client.trusted())).unwrap();
    site.serve(&mut client).unwrap();
    assert_eq!(client.trusted().newer_roots.len(), 0);
}

#[test]
fn two_of_three_sign_a_root_one_after_the_other() {
    let role = RoleSpec {
        keys: vec![key(1).public(), key(7).public(), key(8).public()],
        threshold: 2,
    };
    let spec = RootSpec {
        root: role,
        ..spec(3, 700)
    };
    let alone = sign_root(&spec, None, at(0), &[&key(7)])
        .unwrap_err()
        .to_string();
    assert_eq!(
        alone,
        "the keys at hand cannot sign root: 1 of its signatures are good, 2 by different keys are needed"
    );
    let draft = draft_root(&spec, None).unwrap();
    let first = add_signatures(&draft.bytes, &[&key(7)]).unwrap();
    assert!(Repo::new(&first).is_err());
    let again = add_signatures(&first, &[&key(7)]).unwrap();
    assert!(Repo::new(&again).is_err());
    let second = add_signatures(&first, &[&key(8)]).unwrap();
    assert!(Repo::new(&second).is_ok());
}

#[test]
fn what_the_publisher_refuses() {
    let mut site = Site::new();
    let put = |path: &str| [TargetChange::Put(path.into(), TargetFile::of(b""))];
    for bad in [
        "",
        "/etc/passwd",
        "a//b",
        "a/../b",
        "..",
        "a b",
        "a\\b",
        "ä",
        "a/",
        "a%2f",
    ] {
        let refused = site.repo.sign_targets(&put(bad), day(9), at(0), &[&key(2)]);
        assert!(matches!(refused, Err(RepoError::Path(_))), "{bad}");
        assert!(target_file(bad, Vec::new()).is_err());
    }
    let unknown = site
        .repo
        .sign_targets(&put("a"), day(9), Now::Floor(day(3)), &[&key(2)]);
    assert_eq!(unknown.unwrap_err(), RepoError::TimeUnknown(day(3)));
    let late = site.repo.sign_targets(&put("a"), day(9), at(9), &[&key(2)]);
    assert!(matches!(late, Err(RepoError::AlreadyExpired { .. })));
    let foreign = site.repo.sign_targets(&put("a"), day(9), at(0), &[&key(3)]);
    assert!(matches!(
        foreign,
        Err(RepoError::Keys {
            role: "targets",
            ..
        })
    ));
    let gone = site.repo.sign_targets(
        &[TargetChange::Remove("a".into())],
        day(9),
        at(0),
        &[&key(2)],
    );
    assert_eq!(gone.unwrap_err(), RepoError::NoTarget("a".into()));
    for threshold in [0, 2] {
        let root = RoleSpec {
            keys: vec![key(1).public(); 2],
            threshold,
        };
        let refused = sign_root(&RootSpec { root, ..spec(3, 9) }, None, at(0), &[&key(1)]);
        assert!(matches!(refused, Err(RepoError::Threshold { keys: 1, .. })));
    }
    let old = site.metadata["1.targets.json"].clone();
    site.publish("a", Vec::new(), 1);
    let back = site.repo.import_targets(&old).unwrap_err().to_string();
    assert!(back.ends_with("refused as a rollback"), "{back}");
    let expires = OnlineExpiry {
        snapshot: day(9),
        timestamp: day(9),
    };
    let root = sign_root(&spec(3, 9), None, at(0), &[&key(1)]).unwrap();
    let empty =
        Repo::new(&root.bytes)
            .unwrap()
            .sign_snapshot_and_timestamp(expires, at(0), &[&key(3)]);
    assert_eq!(empty.unwrap_err(), RepoError::NoTargets);
}
