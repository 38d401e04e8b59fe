//! The table of attacks, played against the real agent by rogue servers, and
//! what it said to each. `scripts/attacks` prints it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;

use common::device::{Agent, blob_of, refused, refused_about, replace};
use common::{DAY, Site, key, now, online, root_after};
use groundcrew_agent::enroll;
use groundcrew_agent::http::Api;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::{BundleRef, Grant, ReceiptResult};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::trust::tuf::repo::RoleSpec;
use groundcrew_core::trust::tuf::{MinimumVersions, RepoFile};
use groundcrew_core::trust::{Downgrade, Downgrades, ImageTrust};
use groundcrew_core::words::Trouble;

const STEPS: &str =
    "[[step]]\nname = \"motd\"\nfile = { path = \"/etc/motd\", content = \"hello\\n\" }\n";

fn site() -> Site {
    Site::serving(STEPS)
}

/// What a fresh device says that refreshes here.
fn refresh(site: &Site) -> String {
    refused(Agent::booted(site).refresh())
}

fn rollback() -> String {
    let site = site();
    let yesterday = site.files.lock().unwrap().clone();
    site.sign_again();
    let mut agent = Agent::booted(&site);
    agent.refresh().unwrap();
    let memory = agent.trust.memory();
    *site.files.lock().unwrap() = yesterday;
    let mut again = Agent::booted(&site);
    again.trust.remember(memory);
    // One with an empty disk cannot know; its image's versions are its floor.
    Agent::booted(&site).refresh().unwrap();
    refused_about(again.refresh(), Trouble::TrustMismatch)
}

fn rollback_of_an_empty_disk() -> String {
    let mut site = site();
    site.image.minimum = MinimumVersions {
        timestamp: 2,
        ..MinimumVersions::default()
    };
    refresh(&site)
}

fn freeze() -> String {
    let site = site();
    let mut agent = Agent::booted(&site);
    // Proven past: the site's own signature was good for 7 days.
    agent.trust.proven(now().plus(8 * DAY));
    refused_about(agent.refresh(), Trouble::TrustExpired)
}

fn mix_and_match() -> String {
    let site = site();
    let old = site.files.lock().unwrap()["/tuf/metadata/1.snapshot.json"].clone();
    site.list("other/file", b"x");
    replace(&site, "/2.snapshot.json", |_| old.clone());
    refresh(&site)
}

fn wrong_target() -> String {
    let (site, other) = (site(), Site::serving(&STEPS.replace("hello", "hallo")));
    let mut agent = Agent::booted(&site);
    let granted = agent.enroll(&site).unwrap();
    let manifest = |site: &Site| {
        let files = site.files.lock().unwrap();
        let mut found = files
            .iter()
            .filter(|(path, _)| path.ends_with(".1.2.0.json"));
        found.next().unwrap().1.clone()
    };
    let foreign = manifest(&other);
    replace(&site, ".1.2.0.json", |_| foreign.clone());
    refused(agent.download(&granted))
}

fn endless_metadata() -> String {
    let site = site();
    let long = |bytes: &[u8]| [bytes, &vec![b' '; 40 << 20]].concat();
    replace(&site, "/timestamp.json", long);
    refresh(&site)
}

fn endless_blob() -> String {
    let site = site();
    let mut agent = Agent::booted(&site);
    let granted = agent.enroll(&site).unwrap();
    let long = |bytes: &[u8]| [bytes, &vec![0; 40 << 20]].concat();
    replace(&site, &blob_of(&site), long);
    refused(agent.download(&granted))
}

/// The site's key is the thief's, as far as the thief can say.
fn extraneous_key() -> String {
    let site = site();
    let thief = key(99);
    site.publish(|repo| {
        let root = root_after(
            repo.root_bytes(),
            RoleSpec::one(key(1).public()),
            &thief,
            &[&thief],
        );
        vec![root]
    });
    refresh(&site)
}

fn threshold_unmet() -> String {
    let site = site();
    // HQ went over to two of two: one of them is not enough for the next root.
    let both = RoleSpec {
        keys: vec![key(1).public(), key(8).public()],
        threshold: 2,
    };
    site.publish(|repo| {
        let two = root_after(
            repo.root_bytes(),
            both.clone(),
            &key(3),
            &[&key(1), &key(8)],
        );
        let three = root_after(&two.bytes, both.clone(), &key(99), &[&key(1)]);
        vec![two, three]
    });
    refresh(&site)
}

fn revoked_key() -> String {
    let site = site();
    site.publish(|repo| {
        let one = RoleSpec::one(key(1).public());
        let root = root_after(repo.root_bytes(), one, &key(13), &[&key(1)]);
        // Whoever has the old key goes on signing with it.
        std::iter::once(root).chain(online(repo, &key(3))).collect()
    });
    refresh(&site)
}

/// A good blob of another bundle, of the same length, under this one's name.
fn swapped_blob() -> String {
    let (site, other) = (site(), Site::serving(&STEPS.replace("hello", "hallo")));
    let mut agent = Agent::booted(&site);
    let granted = agent.enroll(&site).unwrap();
    let path = blob_of(&other);
    let foreign = other.files.lock().unwrap()[&path].clone();
    replace(&site, &blob_of(&site), |_| foreign.clone());
    refused_about(agent.download(&granted), Trouble::BundleChanged)
}

/// Signed by HQ all the same: the bundle's author is the attacker.
fn hostile(spoil: fn(Vec<u8>) -> Vec<u8>) -> String {
    let site = Site::serving_spoiled(spoil);
    let mut agent = Agent::booted(&site);
    let outcome = agent.provision(&site).unwrap();
    let planted = agent.dir.path().join("root/etc/a.conf");
    assert!(!planted.exists(), "nothing is touched");
    match outcome.result {
        ReceiptResult::Failed { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn dots() -> String {
    hostile(|mut archive| {
        archive[..3].copy_from_slice(b"../");
        archive
    })
}

fn symlink() -> String {
    hostile(|mut archive| {
        archive[156] = b'2';
        archive
    })
}

fn bomb() -> String {
    hostile(|mut archive| {
        archive.resize(64 << 20, 0);
        archive
    })
}

/// What an agent says to a grant made of the one it would get.
fn forged(change: impl Fn(Grant) -> Grant, by: u8) -> String {
    let site = site();
    let mut agent = Agent::booted(&site);
    let grant = agent.enroll(&site).unwrap().grant.into_inner();
    *site.forced.lock().unwrap() = Some(Envelope::sign(&change(grant), &key(by)).unwrap());
    refused(agent.enroll(&site))
}

/// Another device has other keys.
fn replayed_grant() -> String {
    let site = site();
    let stolen = Agent::booted(&site).enroll(&site).unwrap().envelope;
    *site.forced.lock().unwrap() = Some(stolen);
    refused(Agent::booted(&site).enroll(&site))
}

/// The same device, started again with its keys, has another nonce.
fn stale_grant() -> String {
    forged(|grant| grant, 5)
}

fn foreign_grant() -> String {
    let elsewhere = |grant| Grant {
        site: "elsewhere".parse().unwrap(),
        ..grant
    };
    // The other site's own key is not the one in this site's charter ...
    assert!(forged(elsewhere, 99).contains("no signature on the envelope matches"));
    // ... and even with a stolen key it names another site.
    forged(elsewhere, 5)
}

fn impersonated() -> String {
    let (site, impostor) = (site(), site());
    let mut agent = Agent::booted(&site);
    agent.refresh().unwrap();
    let charter = agent.trust.charter();
    let api = Api::new(site.address(), impostor.https, charter.tls_key).unwrap();
    let asked = enroll::enroll(
        &api,
        charter,
        &agent.keys,
        &HardwareReport::default(),
        &common::device::Quiet,
    );
    refused(asked)
}

fn expired_charter() -> String {
    let site = site();
    let mut agent = Agent::booted(&site);
    site.sign_again_until(now().plus(400 * DAY));
    agent.trust.proven(now().plus(200 * DAY));
    refused_about(agent.refresh(), Trouble::CharterExpired)
}

/// HQ's keys list a charter of another site under this one's name.
fn charter_of_another_site() -> String {
    let site = site();
    let mut charter: serde_json::Value = serde_json::from_slice(&site.image.charter).unwrap();
    charter["site"] = "elsewhere".into();
    site.list("sites/lab.json", charter.to_string().as_bytes());
    refresh(&site)
}

fn image_of_another_site() -> String {
    let site = site();
    let image = ImageTrust {
        site: "elsewhere".parse().unwrap(),
        ..site.image.clone()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trust.json");
    std::fs::write(&file, image.to_json().unwrap()).unwrap();
    refused(groundcrew_agent::trust::Trust::of_image(&file).map(drop))
}

/// A device that had 2.0 of the bundle, which the site serves as 1.2.
fn had_more(site: &Site) -> Agent {
    let mut agent = Agent::booted(site);
    agent.trust.applied(&BundleRef {
        version: "2.0".parse().unwrap(),
        ..site.bundle.clone()
    });
    let memory = serde_json::to_vec(&agent.trust.memory()).unwrap();
    let mut again = Agent::booted(site);
    again
        .trust
        .remember(serde_json::from_slice(&memory).unwrap());
    again
}

fn older_bundle() -> String {
    let site = site();
    let mut agent = had_more(&site);
    let granted = agent.enroll(&site).unwrap();
    refused(agent.download(&granted))
}

/// HQ allows the bundle again; to whom, until when.
fn allow(site: &Site, device: &str, until: u64) {
    let list = Downgrades {
        site: "lab".parse().unwrap(),
        allowed: vec![Downgrade {
            bundle: site.bundle.clone(),
            device: Some(device.parse().unwrap()),
            until: now().plus(until),
        }],
    };
    site.list("downgrades/lab.json", &list.to_json().unwrap());
}

fn downgrade_of_another_device() -> String {
    let site = site();
    allow(&site, "lab-00000000", DAY);
    let mut agent = had_more(&site);
    let granted = agent.enroll(&site).unwrap();
    refused(agent.download(&granted))
}

fn downgrade_that_is_over() -> String {
    let site = site();
    allow(&site, "lab-7k2m9qx4", DAY);
    let mut agent = had_more(&site);
    agent.trust.proven(now().plus(2 * DAY));
    let granted = agent.enroll(&site).unwrap();
    refused(agent.download(&granted))
}

type Row = (&'static str, fn() -> String, &'static str);

const ROWS: [Row; 25] = [
    ("rollback", rollback, "refused as a rollback"),
    (
        "rollback, empty disk",
        rollback_of_an_empty_disk,
        "known from the image",
    ),
    ("freeze", freeze, "timestamp.json version 1 expired"),
    ("mix-and-match", mix_and_match, "its length or hash differs"),
    ("wrong target", wrong_target, "is not what HQ signed"),
    (
        "endless metadata",
        endless_metadata,
        "longer than 16384 bytes",
    ),
    ("endless blob", endless_blob, "more than"),
    (
        "extraneous key",
        extraneous_key,
        "0 of its signatures are good",
    ),
    (
        "threshold unmet",
        threshold_unmet,
        "2 by different keys are needed",
    ),
    ("revoked key", revoked_key, "0 of its signatures are good"),
    ("swapped blob", swapped_blob, "was changed"),
    ("`..` in content", dots, "holds `../"),
    ("symlink in content", symlink, "entry type '2'"),
    (
        "decompression bomb",
        bomb,
        "more than the configuration names",
    ),
    (
        "grant replayed to another device",
        replayed_grant,
        "another signing key",
    ),
    ("stale grant", stale_grant, "another nonce"),
    (
        "grant of another site",
        foreign_grant,
        "the grant names another site",
    ),
    (
        "appliance impersonated",
        impersonated,
        "not the appliance of this site",
    ),
    (
        "charter expired",
        expired_charter,
        "the charter of `lab` expired",
    ),
    (
        "charter of another site",
        charter_of_another_site,
        "about the site `elsewhere`",
    ),
    (
        "image for another site",
        image_of_another_site,
        "no charter for the site `elsewhere`",
    ),
    (
        "bundle older than it had",
        older_bundle,
        "refused as a rollback",
    ),
    (
        "downgrade allowed to another",
        downgrade_of_another_device,
        "refused as a rollback",
    ),
    (
        "downgrade allowed until yesterday",
        downgrade_that_is_over,
        "HQ allowed that until",
    ),
    (
        "metadata cut short",
        cut_short,
        "its length or hash differs",
    ),
];

fn cut_short() -> String {
    let site = site();
    replace(&site, ".snapshot.json", |bytes| {
        bytes[..bytes.len() / 2].to_vec()
    });
    refresh(&site)
}

#[test]
fn every_attack_is_refused_for_its_own_reason() {
    let mut wrong = Vec::new();
    println!(); // libtest has begun a line
    for (attack, play, why) in ROWS {
        let said = play();
        println!("{attack:<34} {said}");
        if !said.contains(why) {
            wrong.push(format!("{attack}: expected `{why}`, it said: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "takes a minute: run `scripts/attacks`"]
fn a_server_that_drips_is_left() {
    use std::io::Write as _;
    let site = site();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 16000\r\n\r\n";
                let mut went = stream.write_all(head);
                while went.is_ok() {
                    std::thread::sleep(std::time::Duration::from_secs(1));
                    went = stream.write_all(b" ");
                }
            });
        }
    });
    let mut agent = Agent::booted(&site);
    agent.public = groundcrew_agent::http::Public::new(site.address(), port);
    let began = std::time::Instant::now();
    let said = std::cell::RefCell::new(Vec::new());
    let failed = agent
        .trust
        .refresh(&agent.public, &|text| said.borrow_mut().push(text));
    let (failed, said) = (failed.unwrap_err(), said.into_inner().join("; "));
    println!("\n{:<34} {failed} ({said})", "slow data");
    assert!(
        format!("{failed} {said}").contains("bytes came in a minute"),
        "{failed} {said}"
    );
    assert!(
        began.elapsed().as_secs() < 400,
        "it went on to something else"
    );
}

#[test]
fn a_downgrade_that_hq_allows_is_carried_out_and_is_the_new_floor() {
    let site = site();
    allow(&site, "lab-7k2m9qx4", DAY);
    let mut agent = had_more(&site);
    let outcome = agent.provision(&site).unwrap();
    assert_eq!(outcome.result, ReceiptResult::Provisioned);
    // What it has now counts: the same once more needs nobody's leave ...
    let memory = agent.trust.memory();
    let fresh = Site::serving(STEPS);
    let mut again = Agent::booted(&fresh);
    let text = serde_json::to_value(&memory).unwrap();
    assert_eq!(text["bundles"]["base"], "1.2.0");
    let only_bundles = serde_json::json!({"newer_roots": [], "bundles": text["bundles"]});
    again
        .trust
        .remember(serde_json::from_value(only_bundles).unwrap());
    again.provision(&fresh).unwrap();
    // ... and a disk that was imaged anew remembers nothing: the image's and the
    // charter's least versions are what is left.
    Agent::booted(&fresh).provision(&fresh).unwrap();
}

#[test]
fn a_device_that_trusted_the_old_root_follows_the_chain_to_new_site_keys() {
    let site = site();
    let old = site.image.clone();
    site.publish(|repo| {
        let one = RoleSpec::one(key(1).public());
        let root: RepoFile = root_after(repo.root_bytes(), one, &key(13), &[&key(1)]);
        repo.import_root(&root.bytes).unwrap();
        std::iter::once(root)
            .chain(online(repo, &key(13)))
            .collect()
    });
    let mut agent = Agent::booted(&site);
    assert_eq!(site.image.root, old.root);
    agent.provision(&site).unwrap();
}
