//! Rogue servers against the real agent: what each attack gets is the reason
//! that the device shows. The whole table is in `src/core/src/trust/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;

use common::device::{Agent, blob_of, refused, refused_about, replace};
use common::{DAY, Site, key, now};
use groundcrew_agent::trust::Memory;
use groundcrew_core::SiteId;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::Grant;
use groundcrew_core::words::Trouble;

const STEPS: &str =
    "[[step]]\nname = \"motd\"\nfile = { path = \"/etc/motd\", content = \"hello\\n\" }\n";

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
