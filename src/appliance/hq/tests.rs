//! Ceremonies, key changes and couriers, each from its start to its end.

use std::fs;
use std::path::{Path, PathBuf};

use groundcrew_core::ids::Slug;
use groundcrew_core::keys::SigningKey;

use super::ceremony::Ceremony;
use super::change::{Change, NewTerms, Progress};
use super::secret::{NewKey, Passphrase};
use super::{Hq, KeyRole, NewHq, courier, found};
use crate::site::create::{FirstMode, NewSite};
use crate::site::status::{self, Urgency};
use crate::site::{Site, SiteKeys, charter, courier as incoming, import, publish};

pub(super) struct World {
    folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new(keys: u32, threshold: u32) -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let new = NewHq {
            organisation: "Test",
            keys,
            threshold,
            passphrase: None,
        };
        Hq::init(&world.at("hq"), &new).unwrap();
        world
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn hq(&self) -> Hq {
        Hq::open(&self.at("hq")).unwrap()
    }

    pub(super) fn site(&self) -> Site {
        Site::at(self.at("berlin"))
    }

    /// Takes a private key away from HQ's folder, to its owner.
    pub(super) fn hand_out(&self, name: &str) -> SigningKey {
        let path = self.at("hq/keys").join(format!("{name}.pem"));
        let key = super::secret::read(&path, &Passphrase::default()).unwrap();
        fs::remove_file(path).unwrap();
        key
    }

    pub(super) fn add_site(&self, name: &str) -> Progress {
        let site: Slug = name.parse().unwrap();
        let new = NewSite {
            organisation: "Test",
            name: &site,
            address: "10.9.0.1/24".parse().unwrap(),
            interface: "eth9",
            mode: FirstMode::default(),
        };
        let terms = found::default_terms();
        found::add_site(
            &self.hq(),
            &self.at(name),
            &new,
            &terms,
            &Passphrase::default(),
        )
        .unwrap()
    }

    pub(super) fn done(&self, change: anyhow::Result<Change>) {
        let progress = self
            .hq()
            .carry_out(&change.unwrap(), &Passphrase::default());
        assert!(matches!(progress.unwrap(), Progress::Done(_)));
    }

    pub(super) fn carry_out(&self, change: &Change) -> Progress {
        let progress = self.hq().carry_out(change, &Passphrase::default());
        progress.unwrap()
    }

    pub(super) fn export(&self, name: &str) -> PathBuf {
        let file = self.at("courier");
        courier::export(&self.hq(), &name.parse().unwrap(), &[], &file).unwrap();
        file
    }

    pub(super) fn import(&self, file: &Path) -> Result<import::Imported, String> {
        incoming::import(&self.site(), file).map_err(|error| format!("{error:#}"))
    }
}

pub(super) fn waiting(progress: Progress) -> PathBuf {
    match progress {
        Progress::Waiting { file, .. } => file,
        Progress::Done(_) => panic!("it was signed by too few"),
    }
}

#[test]
fn two_of_three_sign_one_after_the_other_and_a_courier_brings_it() {
    let world = World::new(3, 2);
    let keys: Vec<SigningKey> = (1..=3)
        .map(|n| world.hand_out(&format!("root-{n}")))
        .collect();
    let file = waiting(world.add_site("berlin"));
    assert_eq!(
        status::of(&world.site()).unwrap().urgency(),
        Urgency::Broken
    );

    let mut ceremony = Ceremony::read(&file).unwrap();
    let error = format!("{:#}", ceremony.finish(&world.hq()).unwrap_err());
    assert!(
        error.contains("signatures are missing") && error.contains("2 more needed"),
        "{error}"
    );
    let stranger = SigningKey::from_seed([9; 32]).unwrap();
    assert_eq!(ceremony.sign(&[&stranger]).unwrap(), 0);
    assert_eq!(ceremony.sign(&[&keys[0]]).unwrap(), 1);
    assert_eq!(
        ceremony.sign(&[&keys[0]]).unwrap(),
        0,
        "one person counts once"
    );
    let told = ceremony.describe().unwrap();
    assert!(
        told.contains("signed by root-1") && told.contains("1 more needed"),
        "{told}"
    );
    ceremony.write(&file).unwrap();

    let mut ceremony = Ceremony::read(&file).unwrap();
    assert_eq!(ceremony.sign(&[&keys[2]]).unwrap(), 1);
    assert!(ceremony.is_complete().unwrap());
    ceremony.finish(&world.hq()).unwrap();

    let imported = world.import(&world.export("berlin")).unwrap();
    assert_eq!((imported.root, imported.targets), ((None, 1), (None, 1)));
    let told = status::render(&status::of(&world.site()).unwrap());
    assert!(told.contains("by 2 of HQ's 3 keys, 2 needed"), "{told}");
    assert!(told.contains("can go on without HQ until"), "{told}");
}

#[test]
fn a_ceremony_that_lies_about_its_outcome_is_refused() {
    let world = World::new(2, 1);
    world.hand_out("root-1");
    world.hand_out("targets");
    let file = waiting(world.add_site("berlin"));
    let mut ceremony = Ceremony::read(&file).unwrap();
    // Somebody on the way gives the site a larger charter, or HQ another key.
    let site = ceremony.after.sites.values_mut().next().unwrap();
    site.charter.devices = 999_999;
    let targets = SigningKey::from_seed([5; 32]).unwrap();
    ceremony
        .after
        .targets
        .keys
        .insert("evil".parse().unwrap(), targets.public());
    let error = format!("{:#}", ceremony.finish(&world.hq()).unwrap_err());
    assert!(error.contains("signatures are missing"), "{error}");
    assert!(!world.at("hq/targets.json").exists());
}

#[test]
fn a_changed_state_under_good_signatures_is_refused() {
    let world = World::new(1, 1);
    let key = world.hand_out("targets");
    let file = waiting(world.add_site("berlin"));
    let good = {
        let mut ceremony = Ceremony::read(&file).unwrap();
        ceremony.sign(&[&key]).unwrap();
        ceremony
    };
    let mut richer = good.clone();
    richer
        .after
        .sites
        .values_mut()
        .next()
        .unwrap()
        .charter
        .devices = 999_999;
    let error = format!("{:#}", richer.finish(&world.hq()).unwrap_err());
    assert!(
        error.contains("not the one that HQ has decided on"),
        "{error}"
    );
    let mut thief = good.clone();
    let evil = SigningKey::from_seed([5; 32]).unwrap();
    thief
        .after
        .root
        .keys
        .insert("evil".parse().unwrap(), evil.public());
    let error = format!("{:#}", thief.finish(&world.hq()).unwrap_err());
    assert!(error.contains("says something else"), "{error}");
    good.finish(&world.hq()).unwrap();
}

#[test]
fn a_ceremony_overtaken_by_another_is_refused() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let key = world.hand_out("targets");
    let late = world.hq().renew().unwrap();
    let late = waiting(world.hq().carry_out(&late, &Passphrase::default()).unwrap());
    let mut late = Ceremony::read(&late).unwrap();
    late.sign(&[&key]).unwrap();
    late.clone().finish(&world.hq()).unwrap();
    // The same once more is no harm (a crash may have come between) ...
    late.finish(&world.hq()).unwrap();
    // ... but after another one it is refused.
    let pem = key.to_pem();
    let path = world.at("hq/keys/targets.pem");
    crate::durable::create(&path, pem.as_bytes(), crate::durable::Access::Secret).unwrap();
    world.done(world.hq().renew());
    let error = format!("{:#}", late.finish(&world.hq()).unwrap_err());
    assert!(error.contains("begin it again"), "{error}");
}

#[test]
fn a_stolen_root_key_is_replaced_and_means_nothing_afterwards() {
    let world = World::new(3, 2);
    world.add_site("berlin");
    let stolen = world.hand_out("root-1");
    let new = SigningKey::from_seed([42; 32]).unwrap();
    let [old, name]: [Slug; 2] = ["root-1", "root-4"].map(|name| name.parse().unwrap());
    world.done(
        world
            .hq()
            .rotate_key(KeyRole::Root, &old, &name, new.public()),
    );
    let imported = world.import(&world.export("berlin")).unwrap();
    assert_eq!(imported.root, (Some(1), 2));
    let repo = publish::load(&world.site()).unwrap();
    let ids = repo.root().roles.root.keyids.iter();
    let keys: Vec<_> = ids
        .filter_map(|id| repo.root().keys.get(id)?.ed25519())
        .collect();
    assert!(keys.contains(&new.public()) && !keys.contains(&stolen.public()));
}

#[test]
fn a_stolen_targets_key_is_replaced_with_everything_signed_anew() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let [old, name]: [Slug; 2] = ["targets", "targets-2"].map(|name| name.parse().unwrap());
    let new = super::secret::create(&world.at("hq/keys/targets-2.pem"), None).unwrap();
    world.done(
        world
            .hq()
            .rotate_key(KeyRole::Targets, &old, &name, new.public()),
    );
    let imported = world.import(&world.export("berlin")).unwrap();
    assert_eq!(
        (imported.root, imported.targets),
        ((Some(1), 2), (Some(1), 2))
    );
    assert_eq!(status::of(&world.site()).unwrap().urgency(), Urgency::Good);
}

#[test]
fn a_key_too_many_cannot_be_removed() {
    let world = World::new(2, 2);
    let name: Slug = "root-1".parse().unwrap();
    let hq = world.hq();
    let error = hq.remove_key(KeyRole::Root, &name, None).unwrap_err();
    assert!(error.to_string().contains("--threshold 1 to 1"), "{error}");
    assert!(hq.remove_key(KeyRole::Root, &name, Some(1)).is_ok());
    let unknown: Slug = "nobody".parse().unwrap();
    assert!(hq.remove_key(KeyRole::Root, &unknown, None).is_err());
}

#[test]
fn a_courier_of_yesterday_is_refused_as_a_rollback() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let old = fs::read(world.export("berlin")).unwrap();
    world.done(world.hq().renew());
    let new = world.export("berlin");
    world.import(&new).unwrap();
    assert_eq!(
        world.import(&new).unwrap().root,
        (Some(2), 2),
        "twice is no harm"
    );
    fs::write(&new, old).unwrap();
    let error = world.import(&new).unwrap_err();
    assert!(error.contains("rollback"), "{error}");
}

#[test]
fn a_courier_for_another_site_or_of_another_hq_is_refused() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    world.add_site("tokio");
    let error = world.import(&world.export("tokio")).unwrap_err();
    assert!(
        error.contains("for the site tokio, and this site is berlin"),
        "{error}"
    );
    let other = World::new(1, 1);
    other.add_site("berlin");
    let before = fs::read(world.site().trust_dir().join("metadata/timestamp.json")).unwrap();
    let error = world.import(&other.export("berlin")).unwrap_err();
    assert!(error.contains("another one than this site's"), "{error}");
    let after = fs::read(world.site().trust_dir().join("metadata/timestamp.json")).unwrap();
    assert_eq!(before, after);
}

#[test]
fn every_changed_byte_of_a_courier_is_refused_or_means_nothing() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    world.done(world.hq().renew());
    let file = world.export("berlin");
    let good = fs::read(&file).unwrap();
    let keys = SiteKeys::read(&world.site().keys_dir()).unwrap();
    let settings = world.site().settings().unwrap();
    for at in (0..good.len()).step_by(37) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        if world.import(&file).is_err() {
            continue;
        }
        // Padding of the tar, or white space: what arrived is what HQ signed.
        let repo = publish::load(&world.site()).unwrap();
        let charter = charter::of(&world.site(), &settings.site, &repo).unwrap();
        assert_eq!(charter.grant_key, keys.grant.public());
        assert_eq!(charter, world.hq().site(&settings.site).unwrap().charter);
    }
}

#[test]
fn bundles_travel_with_their_blobs_and_only_whole() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let bundle = world.at("bundle");
    crate::bundle::build(
        &world.site().sources_dir().join("welcome"),
        &bundle,
        &mut |_, _| {},
    )
    .unwrap();
    let (manifest, built) = crate::bundle::manifest_bytes(&bundle).unwrap();
    let path = built.reference().target_path();
    let (site, file): (Slug, _) = ("berlin".parse().unwrap(), world.at("courier"));
    let unsigned = courier::export(&world.hq(), &site, &[&bundle], &file).unwrap_err();
    assert!(unsigned.to_string().contains("hq publish"), "{unsigned}");

    world.done(Ok(world.hq().list("welcome", &[(path, manifest)])));
    courier::export(&world.hq(), &site, &[&bundle], &file).unwrap();
    let name: Slug = built.reference().name;
    let chosen = |world: &World| {
        let repo = publish::load(&world.site()).unwrap();
        crate::office::published::choose(&world.site(), &repo, &name, None)
    };
    assert_eq!(chosen(&world), None);
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    // Near the end lies the last blob, before the tar's two empty blocks.
    let last = bad.iter().rposition(|byte| *byte != 0).unwrap();
    bad[last] ^= 1;
    fs::write(&file, &bad).unwrap();
    let error = world.import(&file).unwrap_err();
    assert!(error.contains("was changed on the way"), "{error}");
    let blobs = world.site().blobs_dir().join("sha256");
    assert!(!blobs.exists(), "nothing was written");
    fs::write(&file, &good).unwrap();
    world.import(&file).unwrap();
    assert!(chosen(&world).is_some());
    assert_eq!(
        fs::read_dir(blobs).unwrap().count(),
        built.manifest().blobs().count()
    );
}

#[test]
fn terms_change_by_a_newer_charter() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let terms = NewTerms {
        tags: Some(vec!["kiosk".parse().unwrap()]),
        devices: Some(3),
        lifetime: Some(30 * 86_400),
        minimum: Vec::new(),
    };
    let name: Slug = "berlin".parse().unwrap();
    world.done(world.hq().charter_site(&name, &terms));
    world.import(&world.export("berlin")).unwrap();
    let status = status::of(&world.site()).unwrap();
    assert_eq!(status.terms, Some((3, vec!["kiosk".to_owned()])));
    assert_eq!(
        status.urgency(),
        Urgency::Soon,
        "30 days are less than the loud 60"
    );
    let told = status::render(&status);
    assert!(told.contains("hq renew"), "{told}");
}

#[test]
fn less_than_a_day_is_not_over_yet() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let until = world.hq().state().sites[&"berlin".parse::<Slug>().unwrap()]
        .charter
        .expires
        .seconds();
    for (left, says) in [
        (3600, "can go on without HQ"),
        (0, "Devices refuse this site"),
    ] {
        let clock = groundcrew_core::UnixTime::new(until - left);
        let told = status::render(&status::of_at(&world.site(), clock).unwrap());
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn a_courier_s_names_are_never_read_without_a_limit() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let good = fs::read(world.export("berlin")).unwrap();
    for kind in [
        tar::EntryType::GNULongName,
        tar::EntryType::XHeader,
        tar::EntryType::XGlobalHeader,
    ] {
        // It promises more than there is: whoever reads it all notices the end.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let file = world.at("evil");
        fs::write(&file, [header.as_bytes(), good.as_slice()].concat()).unwrap();
        let error = world.import(&file).unwrap_err();
        assert!(error.contains("no plain file"), "{kind:?}: {error}");
    }
}

#[test]
fn the_longest_name_of_a_bundle_travels() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let file = world.export("berlin");
    let path = format!(
        "bundles/{}/{}.json",
        "a".repeat(40),
        ["4294967295"; 4].join(".")
    );
    let package = import::Package {
        files: vec![(path.clone(), b"a manifest".to_vec())],
        ..world
            .hq()
            .package(&"berlin".parse().unwrap(), Vec::new())
            .unwrap()
    };
    courier::write(&file, &package, &[]).unwrap();
    let read = incoming::read(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(read.files, [(path, b"a manifest".to_vec())]);
}

#[test]
fn a_mistyped_old_name_leaves_no_key_behind() {
    let world = World::new(1, 1);
    let hq = world.hq();
    let [old, wrong, new]: [Slug; 3] =
        ["targets", "target", "targets-2"].map(|n| n.parse().unwrap());
    let file = hq.key_file("targets-2");
    let made = || NewKey::at(file.clone()).unwrap();
    let rotate = |hq: &Hq, old: &Slug| {
        let made = made().protected_by(Some("correct horse".to_owned()));
        let change = hq.rotate_key(KeyRole::Targets, old, &new, made.key().public())?;
        hq.carry_out_with(&change, Some(&made), &Passphrase::default())
    };
    rotate(&hq, &wrong).unwrap_err();
    // Right, but there is no site yet whose root could say it.
    rotate(&hq, &old).unwrap_err();
    assert!(!file.exists());
    world.add_site("berlin");
    rotate(&world.hq(), &old).unwrap();
    assert!(super::secret::has_passphrase(&file).unwrap());
    assert!(world.hq().uses_passphrases().unwrap());
    NewKey::at(file.clone()).unwrap_err();
}
