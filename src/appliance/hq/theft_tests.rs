//! What a thief can do with each key, and how it is mended: the rows of the
//! table in `src/core/src/trust/README.md`, played from theft to recovery.

use std::fs;

use groundcrew_core::dsse::Envelope;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::SigningKey;
use groundcrew_core::time::Now;
use groundcrew_core::trust::ImageTrust;
use groundcrew_core::trust::tuf::repo::{
    OnlineExpiry, RoleSpec, RootSpec, TargetChange, add_signatures, claimed_targets, draft_root,
    draft_targets,
};
use groundcrew_core::trust::tuf::{Repo, TargetFile};
use groundcrew_registry::checkpoint::{Checkpoint, Verifier};
use groundcrew_registry::journal::Walk;

use super::KeyRole;
use super::ceremony::Ceremony;
use super::region_tests::{asks, image};
use super::tests::{World, waiting};
use crate::site::status::{self, Urgency};
use crate::site::{Site, SiteKeys, publish, rekey};
use crate::store::{Change, Store};

fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32]).unwrap()
}

const DAY: u64 = 86_400;
const EVIL: &str = "bundles/welcome/66.0.json";

/// The root that a thief would like: every role is the thief's.
fn coup(held: &[u8], stolen: &[&SigningKey]) -> Vec<u8> {
    let own = RoleSpec::one(key(66).public());
    let spec = RootSpec {
        expires: crate::clock::read().plus(900 * DAY),
        root: own.clone(),
        targets: own.clone(),
        snapshot: own.clone(),
        timestamp: own,
    };
    let draft = draft_root(&spec, Some(held)).unwrap();
    let thief_s = key(66);
    let keys: Vec<_> = stolen.iter().copied().chain([&thief_s]).collect();
    add_signatures(&draft.bytes, &keys).unwrap()
}

/// The thief's own appliance: the site's files, and what the thief signed.
struct Rogue {
    _folder: tempfile::TempDir,
    site: Site,
}

impl Rogue {
    fn copy(site: &Site) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("site");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([site.dir(), &to])
            .status()
            .unwrap();
        assert!(copied.success());
        Self {
            _folder: folder,
            site: Site::at(to),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.site.trust_dir().join("metadata").join(name), bytes).unwrap();
    }

    /// Signs targets that list an evil bundle, and that all is current.
    fn lists_evil(&self, targets: &SigningKey, online: &[&SigningKey]) {
        let mut repo = publish::load(&self.site).unwrap();
        let now = Now::Clock(crate::clock::read());
        let until = now.time().plus(30 * DAY);
        let evil = TargetChange::Put(EVIL.to_owned(), TargetFile::of(b"evil"));
        let file = repo.sign_targets(&[evil], until, now, &[targets]).unwrap();
        self.put(&file.path, &file.bytes);
        self.signs_online(&mut repo, online);
    }

    fn signs_online(&self, repo: &mut Repo, online: &[&SigningKey]) {
        let now = Now::Clock(crate::clock::read());
        let until = now.time().plus(30 * DAY);
        let expiry = OnlineExpiry {
            snapshot: until,
            timestamp: until,
        };
        for file in repo
            .sign_snapshot_and_timestamp(expiry, now, online)
            .unwrap()
        {
            self.put(&file.path, &file.bytes);
        }
    }
}

fn believes(image: &ImageTrust, site: &Site) -> bool {
    asks(image, site, EVIL).unwrap().is_some()
}

#[test]
fn one_hq_key_of_a_threshold_of_two_does_nothing_alone_and_is_replaced() {
    let world = World::new(3, 2);
    world.add_site("berlin");
    let image = image(&world.site());
    let stolen = world.hand_out("root-1");
    // Attack: a root by one key where two are needed.
    let rogue = Rogue::copy(&world.site());
    let held = publish::load(&world.site()).unwrap().root_bytes().to_vec();
    rogue.put("2.root.json", &coup(&held, &[&stolen]));
    let refused = asks(&image, &rogue.site, EVIL).unwrap_err();
    assert!(
        refused.contains("2 are needed") || refused.contains("2 by different keys"),
        "{refused}"
    );
    // Recovery: the other two take the key out. They sign one after the other.
    let (second, third) = (world.hand_out("root-2"), world.hand_out("root-3"));
    let change = world.hq().remove_key(KeyRole::Root, &slug("root-1"), None);
    let file = waiting(world.carry_out(&change.unwrap()));
    let mut ceremony = Ceremony::read(&file).unwrap();
    assert_eq!(
        ceremony.sign(&[&stolen]).unwrap(),
        1,
        "the old root still counts it"
    );
    assert!(!ceremony.is_complete().unwrap(), "but the new one does not");
    ceremony.sign(&[&second, &third]).unwrap();
    ceremony.finish(&world.hq()).unwrap();
    world.import(&world.export("berlin")).unwrap();
    assert_eq!(asks(&image, &world.site(), EVIL).unwrap(), None);
    // Now it is worth nothing even beside another one.
    let held = publish::load(&world.site()).unwrap().root_bytes().to_vec();
    let rogue = Rogue::copy(&world.site());
    rogue.put("3.root.json", &coup(&held, &[&stolen, &second]));
    assert!(asks(&image, &rogue.site, EVIL).is_err());
}

#[test]
fn hq_keys_at_their_threshold_are_the_end_of_that_hq_and_new_images_begin_another() {
    let world = World::new(3, 2);
    world.add_site("berlin");
    let old_image = image(&world.site());
    // Attack: with two of three the thief is HQ, for all who have the old image.
    let (one, two) = (world.hand_out("root-1"), world.hand_out("root-2"));
    let rogue = Rogue::copy(&world.site());
    let held = publish::load(&world.site()).unwrap().root_bytes().to_vec();
    rogue.put("2.root.json", &coup(&held, &[&one, &two]));
    rogue.lists_evil(&key(66), &[&key(66)]);
    assert!(
        believes(&old_image, &rogue.site),
        "nothing in the old image can tell"
    );
    // Recovery: another HQ, the site founded anew, images built anew.
    let fresh = World::new(3, 2);
    fresh.add_site("berlin");
    let new_image = image(&fresh.site());
    assert!(asks(&new_image, &rogue.site, EVIL).is_err());
    assert_eq!(asks(&new_image, &fresh.site(), EVIL).unwrap(), None);
}

#[test]
fn a_stolen_targets_key_needs_a_site_s_key_beside_it_and_is_replaced() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let image = image(&world.site());
    let stolen = world.hand_out("targets");
    // Attack: alone it lists what it likes, and no snapshot says so.
    let rogue = Rogue::copy(&world.site());
    let mut repo = publish::load(&rogue.site).unwrap();
    let now = Now::Clock(crate::clock::read());
    let evil = TargetChange::Put(EVIL.to_owned(), TargetFile::of(b"evil"));
    let file = repo
        .sign_targets(&[evil], now.time().plus(DAY), now, &[&stolen])
        .unwrap();
    rogue.put("1.targets.json", &file.bytes);
    rogue.put(&file.path, &file.bytes);
    assert!(asks(&image, &rogue.site, EVIL).map_or(true, |found| found.is_none()));
    // With a site's keys, too, devices of that site believe it.
    let keys = SiteKeys::read(&world.site().keys_dir()).unwrap();
    let rogue = Rogue::copy(&world.site());
    rogue.lists_evil(&stolen, &[&keys.snapshot, &keys.timestamp]);
    assert!(believes(&image, &rogue.site));
    // Recovery: another key in its place.
    let new = super::secret::create(&world.at("hq/keys/targets-2.pem"), None).unwrap();
    let [old, name] = ["targets", "targets-2"].map(slug);
    world.done(
        world
            .hq()
            .rotate_key(KeyRole::Targets, &old, &name, new.public()),
    );
    world.import(&world.export("berlin")).unwrap();
    assert_eq!(asks(&image, &world.site(), EVIL).unwrap(), None);
    let rogue = Rogue::copy(&world.site());
    let mut repo = publish::load(&rogue.site).unwrap();
    let evil = TargetChange::Put(EVIL.to_owned(), TargetFile::of(b"evil"));
    let refused = repo.sign_targets(&[evil], now.time().plus(DAY), now, &[&stolen]);
    assert!(refused.is_err(), "no root names it any more");
}

#[test]
fn a_stolen_region_key_reaches_its_region_s_paths_only_and_is_replaced() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let stolen = key(42);
    let change = world
        .hq()
        .add_region(&slug("emea"), stolen.public(), &[slug("berlin")]);
    let file = waiting(world.carry_out(&change.unwrap()));
    let mut ceremony = Ceremony::read(&file).unwrap();
    ceremony.sign(&[&stolen]).unwrap();
    ceremony.finish(&world.hq()).unwrap();
    fs::remove_file(file).unwrap();
    world.import(&world.export("berlin")).unwrap();
    let image = image(&world.site());
    let path = "bundles/emea-kiosk/66.0.json";
    // Attack: a list with an evil bundle in a courier's file.
    let good = world.hq().region_bytes(&slug("emea")).unwrap();
    let held = claimed_targets(&good).unwrap();
    let evil = |path: &str| TargetChange::Put(path.to_owned(), TargetFile::of(b"evil"));
    let draft = draft_targets(Some(&held), &[evil(path), evil(EVIL)], held.expires).unwrap();
    let list = add_signatures(&draft.bytes, &[&stolen]).unwrap();
    fs::write(world.hq().region_file(&slug("emea")), &list).unwrap();
    let courier = world.export("berlin");
    fs::write(world.hq().region_file(&slug("emea")), &good).unwrap();
    world.import(&courier).unwrap();
    assert!(
        asks(&image, &world.site(), path).unwrap().is_some(),
        "in the region it is believed"
    );
    assert_eq!(
        asks(&image, &world.site(), EVIL).unwrap(),
        None,
        "and nowhere else"
    );
    // Recovery: another key; what HQ holds of the list is signed anew by it. The
    // thief's version was higher, so the list is renewed once more.
    let new = super::secret::create(&world.at("hq/keys/region-emea.pem"), None).unwrap();
    world.done(world.hq().rotate_region(&slug("emea"), new.public()));
    world.done(world.hq().renew_region(&slug("emea")));
    world.import(&world.export("berlin")).unwrap();
    assert_eq!(asks(&image, &world.site(), path).unwrap(), None);
    // The thief's list is nobody's now.
    let mut repo = publish::load(&world.site()).unwrap();
    assert!(repo.import_delegated("emea", &list).is_err());
}

/// What a thief of a site's keys does with them at `site`.
fn poses_as(site: &Site, keys: &SiteKeys, image: &ImageTrust) -> Result<(), String> {
    let rogue = Rogue::copy(site);
    let mut repo = publish::load(&rogue.site).unwrap();
    let now = Now::Clock(crate::clock::read());
    let expiry = OnlineExpiry {
        snapshot: now.time().plus(90 * DAY),
        timestamp: now.time().plus(90 * DAY),
    };
    let signed = repo.sign_snapshot_and_timestamp(expiry, now, &[&keys.snapshot, &keys.timestamp]);
    for file in signed.map_err(|error| error.to_string())? {
        rogue.put(&file.path, &file.bytes);
    }
    asks(image, &rogue.site, EVIL).map(|_| ())
}

#[test]
fn stolen_site_keys_pose_as_that_site_only_and_are_replaced() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    world.add_site("tokio");
    let (berlin, tokio) = (world.site(), Site::at(world.at("tokio")));
    let (image, elsewhere) = (image(&berlin), image(&tokio));
    let stolen = SiteKeys::read(&berlin.keys_dir()).unwrap();
    // Attack: what HQ signed can be frozen and served as current, here ...
    poses_as(&berlin, &stolen, &image).unwrap();
    // ... no bundle can be forged, and another site is out of reach.
    let mut repo = publish::load(&berlin).unwrap();
    let now = Now::Clock(crate::clock::read());
    let evil = TargetChange::Put(EVIL.to_owned(), TargetFile::of(b"evil"));
    assert!(
        repo.sign_targets(&[evil], now.time().plus(DAY), now, &[&stolen.grant])
            .is_err()
    );
    assert!(poses_as(&tokio, &stolen, &elsewhere).is_err());

    // Recovery: a journal to carry over, new keys, HQ's word, the courier.
    let store = opened(&berlin);
    record_something(&berlin, store);
    let new = rekey::request(&berlin).unwrap();
    assert_eq!(
        new,
        rekey::request(&berlin).unwrap(),
        "asked twice, made once"
    );
    let file = world.at("berlin.keys");
    new.write(&file).unwrap();
    let read = rekey::PublicKeys::read(&file).unwrap();
    assert_eq!(read.fingerprint().unwrap(), new.fingerprint().unwrap());
    world.done(world.hq().rekey_site(&read));
    let courier = world.export("berlin");
    drop(opened(&berlin));
    // Not beside an appliance that goes on with the old keys.
    let served = opened(&berlin);
    let error = world.import(&courier).unwrap_err();
    assert!(error.contains("stop the appliance first"), "{error}");
    drop(served);
    world.import(&courier).unwrap();

    let keys = SiteKeys::read(&berlin.keys_dir()).unwrap();
    assert_eq!(rekey::PublicKeys::of(&slug("berlin"), &keys), new);
    assert!(!berlin.dir().join("keys.old").exists() && !berlin.dir().join("keys.next").exists());
    assert_eq!(status::of(&berlin).unwrap().urgency(), Urgency::Good);
    // A device with the old image follows the root chain to the new charter.
    let listed = asks(&image, &berlin, "sites/berlin.json").unwrap().unwrap();
    let charter = crate::site::charter::read(&berlin, &slug("berlin")).unwrap();
    assert!(listed.verify(&charter.to_json().unwrap()).is_ok());
    assert_eq!(charter.tls_key, keys.tls_key_digest());
    assert_eq!(charter.grant_key, keys.grant.public());
    // The thief's signatures are nobody's, and the journal is under the new key.
    assert!(poses_as(&berlin, &stolen, &image).is_err());
    assert_eq!(verified(&berlin, &keys.journal), Ok(()));
    assert!(verified(&berlin, &stolen.journal).is_err());
    // The same courier once more is no harm.
    world.import(&courier).unwrap();
}

#[test]
fn checkpoints_go_on_under_a_new_journal_key_and_still_name_what_was_changed_before() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let site = world.site();
    register(&site, opened(&site), "SN-AAAA-1");
    let old = SiteKeys::read(&site.keys_dir()).unwrap();
    assert_eq!(verified(&site, &old.journal), Ok(()));
    let new = rekey::request(&site).unwrap();
    world.done(world.hq().rekey_site(&new));
    let courier = world.export("berlin");
    drop(opened(&site));
    world.import(&courier).unwrap();
    let keys = SiteKeys::read(&site.keys_dir()).unwrap();
    register(&site, opened(&site), "SN-AAAA-2");
    assert_eq!(verified(&site, &keys.journal), Ok(()));
    assert!(verified(&site, &old.journal).is_err());
    let signed: Vec<u64> = opened(&site)
        .checkpoints()
        .unwrap()
        .iter()
        .map(|c| c.0)
        .collect();
    assert_eq!(
        signed,
        [1, 2],
        "the old key's line signed anew, the new one's beside it"
    );
    // A line from before the change of keys.
    let db = rusqlite::Connection::open(site.registry_file()).unwrap();
    let sql = "UPDATE journal SET line = replace(line, 'SN-AAAA-1', 'SN-AAAA-9') WHERE seq = 1";
    assert_eq!(db.execute(sql, []).unwrap(), 1);
    let error = verified(&site, &keys.journal).unwrap_err();
    assert!(
        error.contains("journal line 1") && error.contains("changed"),
        "{error}"
    );
}

#[test]
fn a_change_of_keys_that_a_crash_cut_short_goes_on_with_the_same_file() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let site = world.site();
    let new = rekey::request(&site).unwrap();
    world.done(world.hq().rekey_site(&new));
    let courier = world.export("berlin");
    for cut in ["between the renames", "before the metadata"] {
        let rogue = Rogue::copy(&site);
        let (keys, at) = (rogue.site.keys_dir(), |name: &str| {
            rogue.site.dir().join(name)
        });
        fs::rename(&keys, at("keys.old")).unwrap();
        if cut == "before the metadata" {
            fs::rename(at("keys.next"), &keys).unwrap();
        }
        crate::site::courier::import(&rogue.site, &courier).unwrap();
        let found = SiteKeys::read(&keys).unwrap();
        assert_eq!(rekey::PublicKeys::of(&slug("berlin"), &found), new, "{cut}");
        assert!(!at("keys.old").exists(), "{cut}");
    }
    // Before HQ has signed, other couriers come and go, and the old keys stay.
    let other = World::new(1, 1);
    other.add_site("berlin");
    let before = SiteKeys::read(&other.site().keys_dir()).unwrap();
    rekey::request(&other.site()).unwrap();
    other.done(other.hq().renew());
    other.import(&other.export("berlin")).unwrap();
    let after = SiteKeys::read(&other.site().keys_dir()).unwrap();
    assert_eq!(before.grant.public(), after.grant.public());
}

/// The registry, as soon as the writer of an office that was closed lets it go.
fn opened(site: &Site) -> Store {
    let began = std::time::Instant::now();
    loop {
        match Store::open(&site.registry_file()) {
            Ok(store) => return store,
            Err(error) => assert!(began.elapsed().as_secs() < 20, "{error:#}"),
        }
        std::thread::yield_now();
    }
}

/// A registration, so that the journal has a line.
fn record_something(site: &Site, store: Store) {
    register(site, store, "SN-AAAA-1");
}

fn register(site: &Site, store: Store, serial: &str) {
    use crate::office::{Command, ImportRow, Office, Order};
    let office = Office::open(site, &site.settings().unwrap(), store).unwrap();
    let csv = format!("Example Corp,Model One,{serial}\n");
    let rows = groundcrew_registry::import::Rows::new(csv.as_bytes(), "test").unwrap();
    let rows = rows.map(|row| {
        let row = row.unwrap();
        ImportRow {
            line: row.line,
            registration: row.content.unwrap(),
        }
    });
    let command = Command::Import {
        rows: rows.collect(),
        terms: crate::office::FileTerms::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let by = "test".to_owned();
    runtime
        .block_on(office.execute(Order { by, command }))
        .unwrap();
    runtime.block_on(office.close());
}

fn lines_of(store: &Store) -> Vec<String> {
    let mut lines = Vec::new();
    let kept = store.journal_after(0, |line| {
        lines.push(line.to_owned());
        Ok(())
    });
    kept.unwrap();
    lines
}

/// The site's journal by a key.
fn verified(site: &Site, key: &SigningKey) -> Result<(), String> {
    let store = opened(site);
    let checkpoints: Vec<Envelope> = store
        .checkpoints()
        .unwrap()
        .into_iter()
        .map(|c| c.1)
        .collect();
    assert!(!checkpoints.is_empty());
    let name = site.settings().unwrap().site;
    let verifier = Verifier::new(&name, &checkpoints, &key.public());
    let mut verifier = verifier.map_err(|error| error.to_string())?;
    for line in lines_of(&store) {
        verifier.line(&line).map_err(|error| error.to_string())?;
    }
    verifier
        .finish()
        .map(|_| ())
        .map_err(|error| error.to_string())
}

#[test]
fn a_stolen_journal_key_can_rewrite_a_site_s_story_but_no_copy_of_it() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let site = world.site();
    record_something(&site, opened(&site));
    let stolen = SiteKeys::read(&site.keys_dir()).unwrap().journal;
    // A copy kept elsewhere, as `journal export` writes it.
    let store = opened(&site);
    let (kept, lines) = (store.checkpoints().unwrap(), lines_of(&store));
    drop(store);
    let kept: Vec<Envelope> = kept.into_iter().map(|c| c.1).collect();
    // Attack, with the site's disk in hand: an empty story, signed well.
    let rogue = Rogue::copy(&site);
    let db = rusqlite::Connection::open(rogue.site.registry_file()).unwrap();
    db.execute("DELETE FROM journal", []).unwrap();
    drop(db);
    record_something(&rogue.site, opened(&rogue.site));
    let mut store = opened(&rogue.site);
    let forged = lines_of(&store);
    assert_ne!(forged, lines);
    let mut walk = Walk::new(&slug("berlin"));
    let chain = forged
        .iter()
        .map(|line| walk.line(line).unwrap())
        .last()
        .unwrap();
    let checkpoint = Checkpoint::of(&slug("berlin"), chain, crate::clock::read());
    let envelope = checkpoint.sign(&stolen).unwrap();
    let seq = chain.seq();
    store
        .write(&[
            Change::ForgetCheckpoints,
            Change::Checkpoint { seq, envelope },
        ])
        .unwrap();
    drop(store);
    assert_eq!(
        verified(&rogue.site, &stolen),
        Ok(()),
        "by itself it looks whole"
    );
    // The copy's signature tells.
    let mut verifier = Verifier::new(&slug("berlin"), &kept, &stolen.public()).unwrap();
    let told = forged.iter().find_map(|line| verifier.line(line).err());
    assert!(told.unwrap().to_string().contains("written anew"));
    // Recovery: new site keys; the forged story is not by the charter's key.
    let new = rekey::request(&site).unwrap();
    world.done(world.hq().rekey_site(&new));
    world.import(&world.export("berlin")).unwrap();
    let key = SiteKeys::read(&site.keys_dir()).unwrap().journal;
    assert_eq!(verified(&site, &key), Ok(()));
    assert!(verified(&rogue.site, &key).is_err());
}

#[test]
fn a_stolen_stick_is_bounded_by_its_charter_and_outdated_by_the_next_one() {
    // A stick is a site of its own, with a charter that is tight.
    let world = World::new(1, 1);
    world.add_site("berlin");
    let terms = super::change::NewTerms {
        tags: Some(vec![slug("kiosk")]),
        devices: Some(5),
        lifetime: Some(30 * DAY),
        minimum: Vec::new(),
    };
    world.done(world.hq().charter_site(&slug("berlin"), &terms));
    world.import(&world.export("berlin")).unwrap();
    let thief_s = Rogue::copy(&world.site());
    let image = image(&thief_s.site);
    // Attack: within its charter it lets devices in (the office's tests count
    // and look at tags), until the charter ends.
    let charter = crate::site::charter::read(&thief_s.site, &slug("berlin")).unwrap();
    assert!(charter.admits_another(4).is_ok() && charter.admits_another(5).is_err());
    assert!(
        charter
            .admits_tag(Some("office"), &slug("standard"))
            .is_err()
    );
    let later = |days| Now::Clock(crate::clock::read().plus(days * DAY));
    assert!(image.verify(later(29)).is_ok());
    assert!(
        image
            .verify(later(31))
            .unwrap_err()
            .to_string()
            .contains("expired")
    );
    // Recovery: HQ charters the site anew, with new keys; images built from
    // then on do not take the stick's charter any more.
    let new = rekey::request(&world.site()).unwrap();
    world.done(world.hq().rekey_site(&new));
    world.import(&world.export("berlin")).unwrap();
    let newer = super::region_tests::image(&world.site());
    let refused = asks(&newer, &thief_s.site, "sites/berlin.json").unwrap_err();
    assert!(
        refused.contains("rollback") || refused.contains("signatures"),
        "{refused}"
    );
}
