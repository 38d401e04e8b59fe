//! One test per attack on an update: what the attacker did, what the client
//! says, and what it still trusts afterwards. Each is also a folder below
//! `attacks/`, for other clients to try (see its README).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{DAY, NOW, Sim, at, day, key, key_id, key_json, versions};
use groundcrew_core::time::{Now, UnixTime};
use groundcrew_core::trust::tuf::repo::add_signatures;
use groundcrew_core::trust::tuf::{Client, Limits, MinimumVersions, Poll, TufError};
use serde_json::{Value, json};

/// The role and the sentence of a refusal.
fn refused(result: Result<(), TufError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn rollback_of_timestamp() {
    let mut sim = Sim::attacked("rollback_of_timestamp");
    let old = sim.files["timestamp.json"].clone();
    sim.publish(&["timestamp"]);
    let trusted = sim.updated();
    sim.files.insert("timestamp.json".into(), old);
    let (after, result) = sim.update(trusted.clone(), at(0));
    assert_eq!(
        refused(result),
        "timestamp.json has version 1, older than version 2 known from the last update: refused as a rollback"
    );
    assert_eq!(after, trusted);
}

#[test]
fn rollback_of_snapshot() {
    for hashes in [true, false] {
        let mut sim = Sim::attacked("rollback_of_snapshot");
        sim.hashes = hashes;
        sim.publish(&["snapshot", "timestamp"]);
        let trusted = sim.updated();
        // Whoever has the timestamp key announces the old snapshot again.
        sim.set_version("snapshot", 1);
        sim.put("snapshot");
        sim.publish(&["timestamp"]);
        let (after, result) = sim.update(trusted.clone(), at(0));
        assert!(refused(result).starts_with("snapshot.json has version 1, older than version 2"));
        assert_eq!(versions(&after), [1, 2, 2, 1]);
    }
}

#[test]
fn rollback_of_targets() {
    for hashes in [true, false] {
        let mut sim = Sim::attacked("rollback_of_targets");
        sim.hashes = hashes;
        sim.publish(&["targets", "snapshot", "timestamp"]);
        let trusted = sim.updated();
        // Whoever has both site keys lists the old targets again.
        sim.set_version("targets", 1);
        sim.put("targets");
        sim.publish(&["snapshot", "timestamp"]);
        let (after, result) = sim.update(trusted, at(0));
        assert!(refused(result).starts_with("targets.json has version 1, older than version 2"));
        assert_eq!(versions(&after), [1, 3, 2, 2]);
    }
}

#[test]
fn rollback_and_gap_of_root() {
    for (version, sentence) in [
        (
            1,
            "root.json has version 1, but the chain of roots asks for version 2",
        ),
        (
            3,
            "root.json has version 3, but the chain of roots asks for version 2",
        ),
    ] {
        let mut sim = Sim::attacked("rollback_and_gap_of_root");
        sim.set_version("root", version);
        let bytes = sim.sign("root");
        sim.files.insert("2.root.json".into(), bytes);
        let (after, result) = sim.update(sim.stored(), at(0));
        assert_eq!(refused(result), sentence);
        assert_eq!(versions(&after), [1, 0, 0, 0]);
    }
}

#[test]
fn rollback_below_the_minimum_versions_of_a_client_that_remembers_nothing() {
    let mut sim =
        Sim::attacked("rollback_below_the_minimum_versions_of_a_client_that_remembers_nothing");
    let one = |minimum| Client::new(sim.stored(), at(0), Limits::default(), minimum).unwrap();
    let none = MinimumVersions::default();
    let clients = [
        ("root", one(MinimumVersions { root: 2, ..none })),
        (
            "timestamp",
            one(MinimumVersions {
                timestamp: 2,
                ..none
            }),
        ),
        (
            "snapshot",
            one(MinimumVersions {
                snapshot: 2,
                ..none
            }),
        ),
        ("targets", one(MinimumVersions { targets: 2, ..none })),
    ];
    for (role, mut client) in clients {
        let said = refused(sim.serve(&mut client));
        let expected = format!(
            "{role}.json has version 1, older than version 2 known from the image: refused as a rollback"
        );
        assert_eq!(said, expected);
    }
}

#[test]
fn freeze_by_each_role() {
    for (role, kept) in [
        ("root", [2, 1, 1, 1]),
        ("timestamp", [2, 1, 1, 1]),
        ("snapshot", [2, 2, 1, 1]),
        ("targets", [2, 2, 2, 1]),
    ] {
        let mut sim = Sim::attacked("freeze_by_each_role");
        let trusted = sim.updated();
        sim.edit(role)["expires"] = json!(day(5));
        sim.publish(&["root", "targets", "snapshot", "timestamp"]);
        let (after, result) = sim.update(trusted.clone(), at(5));
        let version = sim.version(role);
        let expected = format!(
            "{role}.json version {version} expired at {}; it is {}",
            day(5),
            day(5)
        );
        assert_eq!(refused(result), expected);
        assert_eq!(versions(&after), kept, "{role}");
        // One second earlier it holds.
        let earlier = Now::Clock(UnixTime::new(NOW + 5 * DAY - 1));
        let (after, result) = sim.update(trusted, earlier);
        assert_eq!((result, versions(&after)), (Ok(()), [2, 2, 2, 2]));
    }
}

#[test]
fn freeze_by_serving_the_same_for_ever() {
    let mut sim = Sim::attacked("freeze_by_serving_the_same_for_ever");
    let trusted = sim.updated();
    let (_, result) = sim.update(trusted, at(31));
    assert!(refused(result).starts_with("root.json version 1 expired"));
    // Expiry is judged by the floor where the clock is behind it.
    let (_, result) = sim.update(sim.stored(), Now::Floor(day(31)));
    assert!(refused(result).starts_with("root.json version 1 expired"));
}

#[test]
fn freeze_by_expired_timestamp_of_the_same_version() {
    let mut sim = Sim::attacked("freeze_by_expired_timestamp_of_the_same_version");
    sim.edit("timestamp")["expires"] = json!(day(2));
    sim.publish(&["timestamp"]);
    let trusted = sim.updated();
    let (_, result) = sim.update(trusted, at(3));
    assert!(refused(result).starts_with("timestamp.json version 2 expired"));
}

#[test]
fn mix_and_match_of_snapshot_and_targets() {
    for role in ["snapshot", "targets"] {
        for hashes in [true, false] {
            let mut sim = Sim::attacked("mix_and_match_of_snapshot_and_targets");
            sim.hashes = hashes;
            let old = sim.files[&format!("1.{role}.json")].clone();
            sim.publish(&["targets", "snapshot", "timestamp"]);
            // Well signed, but not what was announced.
            sim.files.insert(format!("2.{role}.json"), old);
            let said = refused(sim.update(sim.stored(), at(0)).1);
            let by = if role == "snapshot" {
                "timestamp"
            } else {
                "snapshot"
            };
            let expected = if hashes {
                format!(
                    "{role}.json is not the file that {by} version 2 announced: its length or hash differs"
                )
            } else {
                format!("{role}.json has version 1, but {by} version 2 asks for version 2")
            };
            assert_eq!(said, expected);
        }
    }
}

#[test]
fn a_role_s_file_in_another_role_s_place() {
    let mut sim = Sim::attacked("a_role_s_file_in_another_role_s_place");
    // One key for both roles does not make one file pass for the other.
    sim.set_keys("timestamp", &[3], 1);
    sim.publish(&["root", "snapshot", "timestamp"]);
    let snapshot = sim.files["2.snapshot.json"].clone();
    sim.files.insert("timestamp.json".into(), snapshot);
    let said = refused(sim.update(sim.stored(), at(0)).1);
    assert_eq!(
        said,
        "timestamp.json is malformed: `_type` is not `timestamp`"
    );
}

#[test]
fn wrong_key_for_each_role() {
    for (role, kept) in [
        ("root", [1, 0, 0, 0]),
        ("timestamp", [2, 0, 0, 0]),
        ("snapshot", [2, 2, 0, 0]),
        ("targets", [2, 2, 2, 0]),
    ] {
        let mut sim = Sim::attacked("wrong_key_for_each_role");
        sim.signers.insert(role.into(), vec![66]);
        sim.publish(&["root", "targets", "snapshot", "timestamp"]);
        let (after, result) = sim.update(sim.stored(), at(0));
        let root = if role == "root" { 1 } else { 2 };
        let expected = format!(
            "{role}.json version 2 is not signed as root version {root} demands: \
             0 of its signatures are good, 1 by different keys are needed"
        );
        assert_eq!(refused(result), expected);
        assert_eq!(versions(&after), kept);
    }
}

#[test]
fn signature_over_other_content() {
    let mut sim = Sim::attacked("signature_over_other_content");
    sim.publish(&["timestamp"]);
    let mut file: Value = serde_json::from_slice(&sim.files["timestamp.json"]).unwrap();
    file["signed"]["expires"] = json!(day(3000));
    sim.files
        .insert("timestamp.json".into(), file.to_string().into_bytes());
    let said = refused(sim.update(sim.stored(), at(0)).1);
    assert!(said.contains("0 of its signatures are good"), "{said}");
}

#[test]
fn threshold_unmet() {
    for role in ["root", "timestamp", "snapshot", "targets"] {
        let mut sim = Sim::attacked("threshold_unmet");
        sim.set_keys(role, &[10, 11, 12], 2);
        if role == "root" {
            sim.signers.insert("root".into(), vec![1, 10, 11]);
        }
        sim.publish(&["root", "targets", "snapshot", "timestamp"]);
        let trusted = sim.updated();
        assert_eq!(versions(&trusted), [2, 2, 2, 2]);
        sim.signers.insert(role.into(), vec![12]);
        sim.publish(&["root", "targets", "snapshot", "timestamp"]);
        let said = refused(sim.update(trusted, at(0)).1);
        let counted = "1 of its signatures are good, 2 by different keys are needed";
        assert!(said.starts_with(role) && said.ends_with(counted), "{said}");
    }
}

#[test]
fn same_key_counted_twice() {
    // Two ids for one key: an extra member changes the id, not the key.
    let mut sim = Sim::attacked("same_key_counted_twice");
    let mut twin = key_json(3);
    twin["comment"] = json!("twin");
    let twin_key: groundcrew_core::trust::tuf::key::Key =
        serde_json::from_value(twin.clone()).unwrap();
    let twin_id = twin_key.id().unwrap().as_str().to_owned();
    sim.edit("root")["keys"][&twin_id] = twin;
    sim.edit("root")["roles"]["snapshot"] = json!({"keyids": [key_id(3), twin_id], "threshold": 2});
    sim.publish(&["root", "snapshot"]);
    let mut file: Value = serde_json::from_slice(&sim.files["2.snapshot.json"]).unwrap();
    let mut signature = file["signatures"][0].clone();
    signature["keyid"] = json!(twin_id);
    file["signatures"].as_array_mut().unwrap().push(signature);
    sim.hashes = false;
    sim.edit("timestamp")["meta"]["snapshot.json"] = json!({"version": 2});
    sim.publish(&["timestamp"]);
    sim.files
        .insert("2.snapshot.json".into(), file.to_string().into_bytes());
    let said = refused(sim.update(sim.stored(), at(0)).1);
    assert!(
        said.ends_with("1 of its signatures are good, 2 by different keys are needed"),
        "{said}"
    );
}

#[test]
fn same_signature_twice() {
    let mut sim = Sim::attacked("same_signature_twice");
    let mut file: Value = serde_json::from_slice(&sim.files["timestamp.json"]).unwrap();
    let signature = file["signatures"][0].clone();
    file["signatures"].as_array_mut().unwrap().push(signature);
    sim.files
        .insert("timestamp.json".into(), file.to_string().into_bytes());
    let said = refused(sim.update(sim.stored(), at(0)).1);
    assert!(said.contains("two signatures name the same key"), "{said}");
}

#[test]
fn same_key_id_twice_in_a_role() {
    let mut sim = Sim::attacked("same_key_id_twice_in_a_role");
    sim.edit("root")["roles"]["snapshot"] =
        json!({"keyids": [key_id(3), key_id(3)], "threshold": 2});
    sim.publish(&["root"]);
    let said = refused(sim.update(sim.stored(), at(0)).1);
    assert!(said.contains("is listed twice for one role"), "{said}");
}

#[test]
fn key_under_a_foreign_id() {
    let mut sim = Sim::attacked("key_under_a_foreign_id");
    sim.edit("root")["keys"][key_id(3)] = key_json(66);
    sim.publish(&["root"]);
    let said = refused(sim.update(sim.stored(), at(0)).1);
    assert!(said.contains("is not the hash of its key"), "{said}");
}

#[test]
fn extraneous_key_signs_but_does_not_count() {
    // Key 66 is in the key list but in no role; its good signature beside
    // the snapshot key's is harmless, alone it is worth nothing.
    let mut sim = Sim::attacked("extraneous_key_signs_but_does_not_count");
    sim.edit("root")["keys"][key_id(66)] = key_json(66);
    sim.signers.insert("snapshot".into(), vec![66, 3]);
    sim.publish(&["root", "snapshot", "timestamp"]);
    let trusted = sim.updated();
    sim.signers.insert("snapshot".into(), vec![66]);
    sim.publish(&["snapshot", "timestamp"]);
    let said = refused(sim.update(trusted, at(0)).1);
    assert!(
        said.contains("snapshot.json version 3 is not signed"),
        "{said}"
    );
}

#[test]
fn new_root_must_satisfy_the_old_and_itself() {
    for (signers, accepted) in [(vec![20], false), (vec![1], false), (vec![1, 20], true)] {
        let mut sim = Sim::attacked("new_root_must_satisfy_the_old_and_itself");
        sim.set_keys("root", &[20], 1);
        sim.signers.insert("root".into(), signers);
        sim.publish(&["root"]);
        let (after, result) = sim.update(sim.stored(), at(0));
        assert_eq!(result.is_ok(), accepted);
        assert_eq!(versions(&after)[0], if accepted { 2 } else { 1 });
    }
}

#[test]
fn endless_root_chain_is_taken_in_portions() {
    let mut sim = Sim::attacked("endless_root_chain_is_taken_in_portions");
    for _ in 0..10 {
        sim.publish(&["root"]);
    }
    let limits = Limits {
        roots: 4,
        ..Limits::default()
    };
    let none = MinimumVersions::default();
    let mut client = Client::new(sim.stored(), at(0), limits, none).unwrap();
    sim.serve(&mut client).unwrap();
    assert_eq!(versions(&client.trusted())[0], 5);
    let mut client = Client::new(client.trusted(), at(0), limits, none).unwrap();
    sim.serve(&mut client).unwrap();
    assert_eq!(versions(&client.trusted())[0], 9);
}

#[test]
fn oversized_file_for_each_role() {
    for (name, limit) in [
        ("2.root.json", 512_000),
        ("timestamp.json", 16_384),
        ("1.snapshot.json", 2_000_000),
        ("1.targets.json", 5_000_000),
    ] {
        let mut sim = Sim::attacked("oversized_file_for_each_role");
        sim.hashes = false;
        sim.publish(&["root"]);
        for (role, of) in [("timestamp", "snapshot.json"), ("snapshot", "targets.json")] {
            sim.edit(role)["meta"][of] = json!({"version": 1});
            sim.put(role);
        }
        sim.edit("timestamp")["meta"]["snapshot.json"] = json!({"version": 1});
        sim.put("timestamp");
        // Blanks behind the content change no signature.
        let mut bytes = sim.files[name].clone();
        bytes.resize(limit, b' ');
        sim.files.insert(name.into(), bytes.clone());
        assert_eq!(sim.update(sim.stored(), at(0)).1, Ok(()), "{name}");
        bytes.push(b' ');
        sim.files.insert(name.into(), bytes);
        let said = refused(sim.update(sim.stored(), at(0)).1);
        assert!(
            said.ends_with(&format!("has more than the {limit} bytes that are allowed")),
            "{said}"
        );
    }
}

#[test]
fn an_announced_length_cannot_lift_the_limit() {
    let mut sim = Sim::attacked("an_announced_length_cannot_lift_the_limit");
    sim.edit("timestamp")["meta"]["snapshot.json"]["length"] = json!(u64::MAX);
    sim.publish(&["timestamp"]);
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    let _ = sim.serve(&mut client);
    let Poll::Fetch(fetch) = client.poll() else {
        panic!("the snapshot is still wanted");
    };
    assert_eq!(
        (fetch.path.as_str(), fetch.max_len),
        ("1.snapshot.json", 2_000_000)
    );
}

#[test]
fn a_role_dropped_from_the_snapshot() {
    let mut sim = Sim::attacked("a_role_dropped_from_the_snapshot");
    sim.delegate("targets", "region", 30, false, &["region/*"]);
    sim.publish(&["region", "targets", "snapshot", "timestamp"]);
    let trusted = sim.updated();
    sim.edit("snapshot")["meta"]
        .as_object_mut()
        .unwrap()
        .remove("region.json");
    sim.publish(&["snapshot", "timestamp"]);
    let said = refused(sim.update(trusted, at(0)).1);
    assert_eq!(said, "the snapshot version 3 does not list region.json");
    sim.edit("snapshot")["meta"] = json!({});
    sim.publish(&["snapshot", "timestamp"]);
    let said = refused(sim.update(sim.stored(), at(0)).1);
    assert_eq!(said, "the snapshot version 4 does not list targets.json");
}

#[test]
fn withheld_files() {
    for name in ["timestamp.json", "1.snapshot.json", "1.targets.json"] {
        let mut sim = Sim::attacked("withheld_files").without(name);
        let said = refused(sim.update(sim.stored(), at(0)).1);
        assert_eq!(said, format!("{name} is missing at the repository"));
    }
}

#[test]
fn fast_forward_of_timestamp_ends_with_its_key() {
    let mut sim = Sim::attacked("fast_forward_of_timestamp_ends_with_its_key");
    sim.set_version("timestamp", 1_000_000);
    sim.put("timestamp");
    let trusted = sim.updated();
    // Recovered, but with the old key: still stuck.
    sim.set_version("timestamp", 2);
    sim.put("timestamp");
    assert!(refused(sim.update(trusted.clone(), at(0)).1).contains("rollback"));
    sim.set_keys("timestamp", &[22], 1);
    sim.publish(&["root"]);
    sim.put("timestamp");
    let (after, result) = sim.update(trusted, at(0));
    assert_eq!((result, versions(&after)), (Ok(()), [2, 2, 1, 1]));
}

#[test]
fn fast_forward_of_snapshot_and_targets_ends_with_the_snapshot_key() {
    let mut sim = Sim::attacked("fast_forward_of_snapshot_and_targets_ends_with_the_snapshot_key");
    let sound = sim.clone();
    sim.set_version("snapshot", 1_000_000);
    sim.edit("snapshot")["meta"]["targets.json"] = json!({"version": 1_000_000});
    sim.edit("snapshot")["meta"]["invented.json"] = json!({"version": 1});
    sim.put("snapshot");
    sim.publish(&["timestamp"]);
    let (trusted, result) = sim.update(sim.stored(), at(0));
    assert!(result.is_err());
    assert_eq!(versions(&trusted), [1, 2, 1_000_000, 0]);
    let mut sim = sound;
    sim.set_keys("snapshot", &[23], 1);
    sim.publish(&["root", "snapshot", "timestamp", "timestamp"]);
    let (after, result) = sim.update(trusted, at(0));
    assert_eq!((result, versions(&after)), (Ok(()), [2, 3, 2, 1]));
}

#[test]
fn fast_forward_recovery_survives_an_interruption() {
    let mut sim = Sim::attacked("fast_forward_recovery_survives_an_interruption");
    sim.set_version("timestamp", 1_000_000);
    sim.put("timestamp");
    let trusted = sim.updated();
    sim.set_keys("timestamp", &[22], 1);
    sim.publish(&["root"]);
    // The update ends right after the root was stored.
    let timestamp = sim.files.remove("timestamp.json");
    let (trusted, result) = sim.update(trusted, at(0));
    assert!(timestamp.is_some() && result.is_err());
    sim.set_version("timestamp", 2);
    sim.put("timestamp");
    let (after, result) = sim.update(trusted, at(0));
    assert_eq!((result, versions(&after)), (Ok(()), [2, 2, 1, 1]));
}

#[test]
fn a_planted_root_on_the_disk_is_not_believed() {
    let mut sim = Sim::attacked("a_planted_root_on_the_disk_is_not_believed");
    let mut trusted = sim.updated();
    let mut evil = Sim::attacked("a_planted_root_on_the_disk_is_not_believed");
    evil.set_keys("root", &[66], 1);
    evil.set_version("root", 2);
    trusted.newer_roots.push(evil.sign("root"));
    let (after, result) = sim.update(trusted, at(0));
    assert_eq!((result, versions(&after)), (Ok(()), [1, 1, 1, 1]));
    assert!(after.newer_roots.is_empty());
}

#[test]
fn a_stolen_site_key_cannot_raise_the_time_floor_past_hq() {
    let mut sim = Sim::attacked("a_stolen_site_key_cannot_raise_the_time_floor_past_hq");
    for (issued, expires, believed) in [
        (day(3), day(10), Some(day(3))),
        (day(11), day(10), None),
        (day(31), day(40_000), None),
    ] {
        sim.edit("timestamp")["x-groundcrew-issued-at"] = json!(issued);
        sim.edit("timestamp")["expires"] = json!(expires);
        sim.publish(&["timestamp"]);
        let mut client = sim.client(sim.stored(), at(0)).unwrap();
        sim.serve(&mut client).unwrap();
        assert_eq!(client.issued_at(), believed);
    }
}

#[test]
fn shapes_that_are_refused() {
    let sim = Sim::attacked("shapes_that_are_refused");
    for (pointer, value) in [
        ("/version", json!(0)),
        ("/version", json!(-1)),
        ("/version", json!(1.5)),
        ("/version", json!("1")),
        ("/spec_version", json!("2.0.0")),
        ("/spec_version", json!("1.x")),
        ("/expires", json!("2030-02-30T00:00:00Z")),
        ("/roles/root/threshold", json!(0)),
        ("/roles/root/keyids", json!("all")),
        ("/roles/targets", json!(null)),
        ("/keys", json!([])),
        ("/x", json!("cafe\u{301}")),
    ] {
        let mut root = sim.signed["root"].clone();
        match root.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => root["x"] = value,
        }
        let file = json!({"signatures": [], "signed": root}).to_string();
        let bytes = add_signatures(file.as_bytes(), &[&key(1)]).unwrap_or(file.into_bytes());
        let mut stored = sim.stored();
        stored.root = bytes;
        let said = sim.client(stored, at(0)).unwrap_err().to_string();
        assert!(
            said.starts_with("root.json is malformed"),
            "{pointer}: {said}"
        );
    }
}
