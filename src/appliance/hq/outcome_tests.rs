//! What a ceremony's file may not change on its way, and what HQ may do meanwhile.

use std::fs;

use groundcrew_core::ids::Slug;
use groundcrew_core::keys::SigningKey;
use groundcrew_core::trust::tuf::repo::{add_signatures, claimed_root, draft_root};

use super::ceremony::{Blob, Ceremony, Draft};
use super::change::NewTerms;
use super::tests::{World, waiting};
use super::{KeyRole, State};

fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

fn evil() -> SigningKey {
    SigningKey::from_seed([66; 32]).unwrap()
}

/// Somebody on the way adds a key of theirs.
fn with_evil(state: &mut State, role: KeyRole) {
    let keys = &mut state.signers(role).keys;
    keys.insert(slug("evil"), evil().public());
}

fn refused(world: &World, ceremony: &Ceremony) -> String {
    let before = fs::read(world.at("hq/hq.json")).unwrap();
    let error = format!("{:#}", ceremony.finish(&world.hq()).unwrap_err());
    assert_eq!(before, fs::read(world.at("hq/hq.json")).unwrap(), "{error}");
    error
}

/// A world with two sites, whose new region waits for the region's signature.
fn region_waiting() -> (World, Ceremony) {
    let world = World::new(1, 1);
    world.add_site("berlin");
    world.add_site("tokio");
    let key = SigningKey::from_seed([42; 32]).unwrap();
    let sites = [slug("berlin")];
    let change = world.hq().add_region(&slug("emea"), key.public(), &sites);
    let file = waiting(world.carry_out(&change.unwrap()));
    let mut ceremony = Ceremony::read(&file).unwrap();
    ceremony.sign(&[&key]).unwrap();
    fs::remove_file(file).unwrap();
    (world, ceremony)
}

#[test]
fn a_key_that_nobody_signed_does_not_come_in_with_a_region() {
    let (world, good) = region_waiting();
    for role in [KeyRole::Root, KeyRole::Targets] {
        let mut bad = good.clone();
        with_evil(&mut bad.after, role);
        refused(&world, &bad);
        let mut bad = good.clone();
        bad.after.signers(role).threshold = 2;
        refused(&world, &bad);
    }
    let mut bad = good.clone();
    bad.after.organisation = "Evil".to_owned();
    refused(&world, &bad);
    let mut bad = good.clone();
    bad.after.regions.get_mut(&slug("emea")).unwrap().key = evil().public();
    refused(&world, &bad);
    let mut bad = good.clone();
    bad.after.sites.get_mut(&slug("berlin")).unwrap().snapshot = evil().public();
    refused(&world, &bad);
    let mut bad = good.clone();
    bad.after.sites.get_mut(&slug("berlin")).unwrap().lifetime = u64::MAX;
    refused(&world, &bad);
    good.finish(&world.hq()).unwrap();
}

#[test]
fn nor_does_it_with_a_charter() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let key = world.hand_out("targets");
    let terms = NewTerms {
        devices: Some(5),
        ..NewTerms::default()
    };
    let change = world.hq().charter_site(&slug("berlin"), &terms).unwrap();
    let mut good = Ceremony::read(&waiting(world.carry_out(&change))).unwrap();
    good.sign(&[&key]).unwrap();
    let mut bad = good.clone();
    with_evil(&mut bad.after, KeyRole::Root);
    refused(&world, &bad);
    good.finish(&world.hq()).unwrap();
}

#[test]
fn a_new_site_s_root_cannot_bring_keys_that_only_it_names() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let key = world.hand_out("targets");
    let file = waiting(world.add_site("tokio"));
    let mut ceremony = Ceremony::read(&file).unwrap();
    ceremony.sign(&[&key]).unwrap();
    with_evil(&mut ceremony.after, KeyRole::Root);
    let after = &ceremony.after;
    let record = &after.sites[&slug("tokio")];
    let mut drafts = ceremony.drafts.iter_mut();
    let root = drafts.find(|d| d.site == Some(slug("tokio"))).unwrap();
    let expires = claimed_root(&root.file.0).unwrap().expires;
    let forged = draft_root(&after.root_spec(record, expires), None).unwrap();
    root.file = Blob(add_signatures(&forged.bytes, &[&evil()]).unwrap());
    assert!(ceremony.is_complete().unwrap(), "the forged root is whole");
    let error = refused(&world, &ceremony);
    assert!(error.contains("says something else"), "{error}");
}

#[test]
fn a_second_draft_of_a_file_is_refused() {
    let (world, mut ceremony) = region_waiting();
    let hq = world.hq();
    let record = &hq.state().sites[&slug("berlin")];
    let mut state = hq.state().clone();
    with_evil(&mut state, KeyRole::Root);
    let expires = hq.repo(&slug("berlin")).unwrap().unwrap().root().expires;
    let forged = draft_root(&state.root_spec(record, expires), None).unwrap();
    let held = fs::read(world.at("hq/sites/berlin/1.root.json")).unwrap();
    for file in [
        held.clone(),
        add_signatures(&forged.bytes, &[&evil()]).unwrap(),
    ] {
        ceremony.drafts.push(Draft {
            site: Some(slug("berlin")),
            region: None,
            file: Blob(file),
            by: None,
        });
    }
    let error = refused(&world, &ceremony);
    assert!(error.contains("twice"), "{error}");
    assert_eq!(
        held,
        fs::read(world.at("hq/sites/berlin/1.root.json")).unwrap()
    );
}

#[test]
fn roots_of_two_sites_cannot_change_places() {
    let world = World::new(1, 1);
    world.add_site("berlin");
    world.add_site("tokio");
    let root = world.hand_out("root");
    let new = SigningKey::from_seed([43; 32]).unwrap().public();
    let change = world
        .hq()
        .add_key(KeyRole::Root, &slug("root-2"), new, None);
    let file = waiting(world.carry_out(&change.unwrap()));
    let mut good = Ceremony::read(&file).unwrap();
    good.sign(&[&root]).unwrap();
    let mut bad = good.clone();
    for draft in &mut bad.drafts {
        draft.site = draft.site.as_ref().map(|site| match site.as_str() {
            "berlin" => slug("tokio"),
            _ => slug("berlin"),
        });
    }
    let keys = |state: &State, site| {
        let record = &state.sites[&slug(site)];
        (record.snapshot, record.timestamp)
    };
    let (berlin, tokio) = (keys(&good.after, "berlin"), keys(&good.after, "tokio"));
    for (site, keys) in [("berlin", tokio), ("tokio", berlin)] {
        let record = bad.after.sites.get_mut(&slug(site)).unwrap();
        (record.snapshot, record.timestamp) = keys;
    }
    let error = refused(&world, &bad);
    assert!(error.contains("its charter does not"), "{error}");
    let after = good.finish(&world.hq()).unwrap();
    assert_eq!(*after.state(), good.after, "names and all");
}

#[test]
fn an_hq_without_sites_believes_no_targets() {
    let (_, mut ceremony) = region_waiting();
    ceremony.drafts.retain(|draft| draft.site.is_none());
    let fresh = World::new(1, 1);
    ceremony.after = fresh.hq().state().clone();
    let error = refused(&fresh, &ceremony);
    assert!(error.contains("no site yet"), "{error}");
    assert!(!fresh.at("hq/targets.json").exists());
}

#[test]
fn who_joined_a_region_meanwhile_stays_in_it() {
    let (world, ceremony) = region_waiting();
    ceremony.finish(&world.hq()).unwrap();
    let key = SigningKey::from_seed([42; 32]).unwrap();
    let file = waiting(world.carry_out(&world.hq().renew_region(&slug("emea")).unwrap()));
    let mut ceremony = Ceremony::read(&file).unwrap();
    ceremony.sign(&[&key]).unwrap();
    let joined = world.hq().join_region(&slug("emea"), &[slug("tokio")]);
    joined.unwrap();
    let after = ceremony.finish(&world.hq()).unwrap();
    assert!(
        after.state().regions[&slug("emea")]
            .sites
            .contains(&slug("tokio"))
    );
}

#[test]
fn new_terms_keep_what_they_do_not_name_and_renewing_loosens_nothing() {
    const DAY: u64 = 86_400;
    let world = World::new(1, 1);
    world.add_site("berlin");
    let charter = |world: &World| world.hq().site(&slug("berlin")).unwrap().charter.clone();
    let change = |terms: NewTerms| world.done(world.hq().charter_site(&slug("berlin"), &terms));
    change(NewTerms {
        tags: Some(vec![slug("kiosk")]),
        devices: Some(7),
        lifetime: Some(7 * DAY),
        minimum: vec![(slug("welcome"), "1.2".parse().unwrap())],
    });
    let first = charter(&world);
    change(NewTerms {
        devices: Some(5),
        minimum: vec![(slug("kiosk"), "2.0".parse().unwrap())],
        ..NewTerms::default()
    });
    let second = charter(&world);
    assert_eq!((second.version, second.devices), (3, 5));
    assert_eq!((&second.tags, second.expires), (&first.tags, first.expires));
    assert_eq!(second.minimum.len(), 2);
    world.done(world.hq().renew());
    let renewed = charter(&world);
    let left = renewed.expires.since(crate::clock::read());
    assert!((7 * DAY - 60..=7 * DAY).contains(&left), "{left} s");
    assert_eq!((renewed.devices, &renewed.tags), (5, &first.tags));
    let nothing = NewTerms::default();
    let error = world
        .hq()
        .charter_site(&slug("berlin"), &nothing)
        .unwrap_err();
    assert!(error.to_string().contains("nothing to change"), "{error}");
}
