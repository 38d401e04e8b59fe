//! Regions from their founding to their end, as a device of the site sees it.

use std::fs;

use groundcrew_core::ids::{Slug, Version};
use groundcrew_core::keys::SigningKey;
use groundcrew_core::time::Now;
use groundcrew_core::trust::tuf::repo::{
    TargetChange, add_signatures, claimed_targets, draft_targets,
};
use groundcrew_core::trust::tuf::{NotFound, Poll, TargetFile};
use groundcrew_core::trust::{Charter, Client, ImageTrust};

use super::ceremony::Ceremony;
use super::tests::{World, waiting};
use crate::site::status::{self, Urgency};
use crate::site::{Site, publish};

/// The trust of a boot image made at the site now.
pub(super) fn image(site: &Site) -> ImageTrust {
    let repo = publish::load(site).unwrap();
    let name = site.settings().unwrap().site;
    let path = Charter::target_path(&name);
    let target = &repo.targets().unwrap().targets[&path];
    ImageTrust {
        built_at: crate::clock::read(),
        site: name,
        root: repo.root_bytes().to_vec(),
        targets: repo.targets_bytes().unwrap().to_vec(),
        charter: publish::target_bytes(site, &path, target).unwrap(),
        minimum: Default::default(),
    }
}

/// Feeds a device's client from the files that the site serves.
pub(super) fn run(client: &mut Client, site: &Site) -> Result<(), String> {
    while let Poll::Fetch(fetch) = client.poll() {
        let file = fs::read(site.trust_dir().join("metadata").join(&fetch.path)).ok();
        let fed = client.feed(file.as_deref().ok_or(NotFound));
        fed.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A device that starts from this image, refreshes at this site, and asks for a path.
pub(super) fn asks(
    image: &ImageTrust,
    site: &Site,
    path: &str,
) -> Result<Option<TargetFile>, String> {
    let now = Now::Clock(crate::clock::read());
    let mut client = image.client(now, None).map_err(|error| error.to_string())?;
    run(&mut client, site)?;
    client.want(path);
    run(&mut client, site)?;
    Ok(client.target(path).cloned())
}

fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

const PATH: &str = "bundles/emea-kiosk/1.0.json";

fn bundle() -> Vec<(String, Vec<u8>)> {
    vec![(PATH.to_owned(), b"a manifest".to_vec())]
}

fn world() -> (World, SigningKey) {
    let world = World::new(1, 1);
    world.add_site("berlin");
    let key = SigningKey::from_seed([42; 32]).unwrap();
    let change = world
        .hq()
        .add_region(&slug("emea"), key.public(), &[slug("berlin")]);
    let file = waiting(world.carry_out(&change.unwrap()));
    sign(&world, &file, &key);
    (world, key)
}

fn sign(world: &World, file: &std::path::Path, key: &SigningKey) {
    let mut ceremony = Ceremony::read(file).unwrap();
    let told = ceremony.describe().unwrap();
    assert!(told.contains("list of the region emea"), "{told}");
    assert_eq!(ceremony.sign(&[key]).unwrap(), 1);
    ceremony.finish(&world.hq()).unwrap();
    fs::remove_file(file).unwrap();
}

fn publishes(world: &World, key: &SigningKey) {
    let change = world.hq().list_in_region(&slug("emea"), "kiosk", &bundle());
    let file = waiting(world.carry_out(&change.unwrap()));
    sign(world, &file, key);
}

#[test]
fn a_region_s_key_signs_and_devices_of_its_sites_resolve_it() {
    let (world, key) = world();
    world.add_site("tokio");
    let image = image(&world.site());
    assert_eq!(asks(&image, &world.site(), PATH).unwrap(), None);
    publishes(&world, &key);
    world.import(&world.export("berlin")).unwrap();
    let found = asks(&image, &world.site(), PATH).unwrap().unwrap();
    found.verify(b"a manifest").unwrap();
    let status = status::of(&world.site()).unwrap();
    assert_eq!(status.urgency(), Urgency::Good);
    let told = status::render(&status);
    assert!(told.contains("by the key of the region emea"), "{told}");
    // The site serves on, signs anew by itself, and still lists it.
    let repo = publish::load(&world.site()).unwrap();
    assert!(repo.snapshot().unwrap().meta.contains_key("emea.json"));
    assert_eq!(repo.listed_paths().filter(|path| *path == PATH).count(), 1);

    // A site outside gets HQ's list, which is the same, and not the region's.
    let tokio = Site::at(world.at("tokio"));
    let export = world.export("tokio");
    crate::site::courier::import(&tokio, &export).unwrap();
    assert_eq!(asks(&self::image(&tokio), &tokio, PATH).unwrap(), None);
    // ... until it joins.
    world
        .hq()
        .join_region(&slug("emea"), &[slug("tokio")])
        .unwrap();
    crate::site::courier::import(&tokio, &world.export("tokio")).unwrap();
    assert!(asks(&self::image(&tokio), &tokio, PATH).unwrap().is_some());
}

#[test]
fn a_region_signs_for_its_own_paths_only() {
    let (world, key) = world();
    for path in [
        "bundles/welcome/9.0.json",
        "sites/berlin.json",
        "bundles/emeax/1.0.json",
    ] {
        let file = vec![(path.to_owned(), b"x".to_vec())];
        let refused = world.hq().list_in_region(&slug("emea"), "x", &file);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("is not the region's")
        );
    }
    // Whoever has the key can sign such a list all the same; it means nothing.
    let hq = world.hq();
    let held = claimed_targets(&hq.region_bytes(&slug("emea")).unwrap()).unwrap();
    let evil = |path: &str| TargetChange::Put(path.to_owned(), TargetFile::of(b"evil"));
    let changes = [evil("sites/berlin.json"), evil("bundles/welcome/9.0.json")];
    let draft = draft_targets(Some(&held), &changes, held.expires).unwrap();
    let list = add_signatures(&draft.bytes, &[&key]).unwrap();
    fs::write(hq.region_file(&slug("emea")), list).unwrap();
    let before = image(&world.site());
    world.import(&world.export("berlin")).unwrap();
    let charter = asks(&before, &world.site(), "sites/berlin.json")
        .unwrap()
        .unwrap();
    assert!(
        charter.verify(b"evil").is_err(),
        "HQ's own list comes first"
    );
    assert_eq!(
        asks(&before, &world.site(), "bundles/welcome/9.0.json").unwrap(),
        None
    );
    let chosen = crate::office::published::choose(
        &world.site(),
        &publish::load(&world.site()).unwrap(),
        &slug("welcome"),
        Some("9.0".parse::<Version>().unwrap()),
    );
    assert_eq!(chosen, None);
}

#[test]
fn names_that_overlap_or_are_taken_are_refused() {
    let (world, _) = world();
    let key = SigningKey::from_seed([43; 32]).unwrap().public();
    for (name, why) in [
        ("emea", "already"),
        ("emea-north", "already"),
        ("targets", "role of TUF"),
    ] {
        let error = world.hq().add_region(&slug(name), key, &[]).unwrap_err();
        assert!(error.to_string().contains(why), "{name}: {error}");
    }
    let hq_s = *world.hq().state().targets.keys.values().next().unwrap();
    let error = world.hq().add_region(&slug("apac"), hq_s, &[]).unwrap_err();
    assert!(error.to_string().contains("needs its own"), "{error}");
    assert!(world.hq().add_region(&slug("apac"), key, &[]).is_ok());
}

#[test]
fn a_removed_region_lists_nothing_any_more_and_devices_go_on() {
    let (world, key) = world();
    publishes(&world, &key);
    world.import(&world.export("berlin")).unwrap();
    let image = image(&world.site());
    let now = publish::now(&world.site(), &publish::load(&world.site()).unwrap());
    let mut seen = image.client(now, None).unwrap();
    run(&mut seen, &world.site()).unwrap();
    world.done(world.hq().remove_region(&slug("emea")));
    world.import(&world.export("berlin")).unwrap();
    assert_eq!(asks(&image, &world.site(), PATH).unwrap(), None);
    // One that saw the region takes its end for no rollback.
    let mut again = image.client(now, Some(seen.trusted())).unwrap();
    run(&mut again, &world.site()).unwrap();
    assert!(again.is_current());
}

#[test]
fn renewing_everything_leaves_a_region_s_list_to_its_key_and_hq_knows_until_when() {
    let (world, key) = world();
    let before = world.hq().regions_until();
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].0, slug("emea"));
    let list = fs::read(world.hq().region_file(&slug("emea"))).unwrap();
    assert_eq!(claimed_targets(&list).unwrap().expires, before[0].1);
    world.carry_out(&world.hq().renew().unwrap());
    assert_eq!(world.hq().regions_until(), before);
    let change = world.hq().renew_region(&slug("emea"));
    let file = waiting(world.carry_out(&change.unwrap()));
    sign(&world, &file, &key);
    assert!(world.hq().regions_until()[0].1 >= before[0].1);
}
