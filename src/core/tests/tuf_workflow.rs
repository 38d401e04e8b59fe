//! Updates that go well: what is asked for and in which order, key rotation,
//! what the disk spares the network, delegations.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Sim, at, day, versions};
use groundcrew_core::Digest;
use groundcrew_core::trust::tuf::{Client, Limits, MinimumVersions, NotFound, Poll, TufError};
use serde_json::json;

#[test]
fn first_update_asks_for_four_files_and_the_next_root() {
    let mut sim = Sim::new();
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    assert!(client.target("file").is_none());
    sim.serve(&mut client).unwrap();
    let expected = [
        "2.root.json",
        "timestamp.json",
        "1.snapshot.json",
        "1.targets.json",
    ];
    assert_eq!(sim.asked, expected);
    assert!(client.is_current());
    let target = client.target("file").unwrap();
    assert_eq!(
        (target.length, target.sha256()),
        (7, Some(Digest::of(b"content")))
    );
    let path = format!("{}.file", Digest::of(b"content").hex());
    assert_eq!(client.consistent_target_path("file"), Some(path));
    assert_eq!(client.consistent_target_path("other"), None);
    assert_eq!(client.issued_at(), Some(day(0)));
    assert_eq!(client.expires(), Some(day(30)));
    assert_eq!(client.feed(Err(NotFound)), Err(TufError::NotAsked));
}

#[test]
fn what_is_stored_and_current_is_not_fetched_again() {
    let mut sim = Sim::new();
    let trusted = sim.updated();
    sim.asked.clear();
    let (again, result) = sim.update(trusted.clone(), at(0));
    assert_eq!((result, &again), (Ok(()), &trusted));
    assert_eq!(sim.asked, ["2.root.json", "timestamp.json"]);
    // A damaged disk costs the network, not the trust.
    let mut damaged = trusted.clone();
    damaged.snapshot = Some(b"{".to_vec());
    damaged.targets = Some(Vec::new());
    sim.asked.clear();
    let (again, result) = sim.update(damaged, at(0));
    assert_eq!((result, again), (Ok(()), trusted));
    assert_eq!(sim.asked.len(), 4);
}

#[test]
fn keys_rotate_through_the_root_chain() {
    let mut sim = Sim::new();
    let trusted = sim.updated();
    // Root 1 -> 10 -> (10, 11, 12; 2 needed); then all others.
    sim.set_keys("root", &[10], 1);
    sim.signers.insert("root".into(), vec![1, 10]);
    sim.publish(&["root"]);
    sim.set_keys("root", &[10, 11, 12], 2);
    sim.publish(&["root"]);
    for (role, seed) in [("timestamp", 13), ("snapshot", 14), ("targets", 15)] {
        sim.set_keys(role, &[seed], 1);
    }
    sim.signers.insert("root".into(), vec![11, 12]);
    sim.publish(&["root", "targets", "snapshot", "timestamp"]);
    let (after, result) = sim.update(trusted, at(0));
    assert_eq!((result, versions(&after)), (Ok(()), [4, 2, 2, 2]));
    // The chain is stored; the next update needs only the newest.
    sim.asked.clear();
    let (again, result) = sim.update(after.clone(), at(0));
    assert_eq!((result, again), (Ok(()), after));
    assert_eq!(sim.asked, ["5.root.json", "timestamp.json"]);
}

#[test]
fn an_expired_root_is_replaced_by_the_next_one() {
    let mut sim = Sim::new();
    for role in ["root", "targets", "snapshot", "timestamp"] {
        sim.edit(role)["expires"] = json!(day(90));
    }
    sim.publish(&["root", "targets", "snapshot", "timestamp"]);
    let (after, result) = sim.update(sim.stored(), at(60));
    assert_eq!((result, versions(&after)), (Ok(()), [2, 2, 2, 2]));
}

#[test]
fn after_an_error_the_same_file_is_taken_from_another_source() {
    let mut sim = Sim::new();
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    let good = sim.files["timestamp.json"].clone();
    sim.files
        .insert("timestamp.json".into(), b"garbage".to_vec());
    assert!(sim.serve(&mut client).is_err());
    sim.files.insert("timestamp.json".into(), good);
    assert_eq!(sim.serve(&mut client), Ok(()));
    assert!(client.is_current());
}

#[test]
fn without_consistent_snapshots_names_are_plain() {
    let mut sim = Sim::new();
    sim.edit("root")["consistent_snapshot"] = json!(false);
    sim.publish(&["root"]);
    for role in ["snapshot", "targets"] {
        let file = sim.files.remove(&format!("1.{role}.json")).unwrap();
        sim.files.insert(format!("{role}.json"), file);
    }
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    sim.serve(&mut client).unwrap();
    assert_eq!(
        client.consistent_target_path("file").as_deref(),
        Some("file")
    );
}

#[test]
fn unknown_members_and_keys_are_tolerated_and_signed() {
    let mut sim = Sim::new();
    let unknown = json!({"keytype": "lms", "scheme": "lms", "keyval": {"public": "x"}});
    let key: groundcrew_core::trust::tuf::key::Key =
        serde_json::from_value(unknown.clone()).unwrap();
    let id = key.id().unwrap().as_str().to_owned();
    sim.edit("root")["keys"][&id] = unknown;
    let ids = sim.edit("root")["roles"]["timestamp"]["keyids"]
        .as_array_mut()
        .unwrap();
    ids.push(json!(id));
    sim.edit("root")["x-new"] = json!({"a": [1, 2]});
    sim.edit("root")["roles"]["timestamp"]["x-new"] = json!(true);
    sim.publish(&["root"]);
    let (after, result) = sim.update(sim.stored(), at(0));
    assert_eq!((result, versions(&after)[0]), (Ok(()), 2));
}

/// Looks for one target and tells which delegated files that took.
fn look_up(sim: &mut Sim, path: &str) -> (Option<u64>, Vec<String>) {
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    sim.serve(&mut client).unwrap();
    sim.asked.clear();
    client.want(path);
    let result = sim.serve(&mut client);
    assert_eq!(result, Ok(()));
    let length = client.target(path).map(|target| target.length);
    (length, std::mem::take(&mut sim.asked))
}

#[test]
fn delegations_are_searched_in_order_and_depth_first() {
    let mut sim = Sim::new();
    sim.delegate("targets", "a", 40, false, &["x/*"]);
    sim.delegate("targets", "b", 41, true, &["x/*", "y/*"]);
    sim.delegate("targets", "c", 42, false, &["x/*", "y/*", "z/?"]);
    sim.delegate("a", "d", 43, false, &["x/1*"]);
    sim.add_target("c", "x/9", b"never: b ends the search");
    sim.add_target("c", "z/1", b"c");
    sim.add_target("d", "x/1", b"dd");
    sim.add_target("d", "z/2", b"not its path");
    sim.add_target("b", "x/1", b"later than d");
    sim.publish(&["a", "b", "c", "d", "targets", "snapshot", "timestamp"]);
    let names = |list: &[&str]| {
        list.iter()
            .map(|n| format!("1.{n}.json"))
            .collect::<Vec<_>>()
    };
    assert_eq!(look_up(&mut sim, "file"), (Some(7), names(&[])));
    assert_eq!(look_up(&mut sim, "x/1"), (Some(2), names(&["a", "d"])));
    assert_eq!(look_up(&mut sim, "x/9"), (None, names(&["a", "b"])));
    assert_eq!(look_up(&mut sim, "z/1"), (Some(1), names(&["c"])));
    assert_eq!(look_up(&mut sim, "z/2"), (None, names(&["c"])));
    assert_eq!(look_up(&mut sim, "w"), (None, names(&[])));
}

#[test]
fn a_terminating_delegation_ends_the_search_of_those_above_it_too() {
    let mut sim = Sim::new();
    sim.delegate("targets", "a", 40, false, &["x/*"]);
    sim.delegate("targets", "c", 41, false, &["x/*"]);
    sim.delegate("a", "t", 42, true, &["x/*"]);
    sim.add_target("c", "x/5", b"never");
    sim.publish(&["a", "c", "t", "targets", "snapshot", "timestamp"]);
    let (found, asked) = look_up(&mut sim, "x/5");
    assert_eq!(found, None);
    assert_eq!(asked, ["1.a.json", "1.t.json"]);
}

#[test]
fn circles_and_crowds_of_delegations_end() {
    let mut sim = Sim::new();
    sim.delegate("targets", "a", 40, false, &["*"]);
    sim.delegate("a", "b", 41, false, &["*"]);
    sim.delegate("b", "a", 40, false, &["*"]);
    sim.publish(&["a", "b", "targets", "snapshot", "timestamp"]);
    assert_eq!(look_up(&mut sim, "none").1.len(), 2);
    let roles: Vec<String> = (0..40).map(|n| format!("r{n}")).collect();
    for role in &roles {
        sim.delegate("targets", role, 50, false, &["*"]);
        sim.publish(&[role]);
    }
    sim.publish(&["targets", "snapshot", "timestamp"]);
    assert_eq!(look_up(&mut sim, "none").1.len(), 32);
}

#[test]
fn hash_prefixes_choose_the_bin() {
    let mut sim = Sim::new();
    let hex = Digest::of(b"some/path").hex();
    sim.delegate("targets", "bin", 40, false, &[]);
    let role = &mut sim.edit("targets")["delegations"]["roles"][0];
    role.as_object_mut().unwrap().remove("paths");
    role["path_hash_prefixes"] = json!([&hex[..2]]);
    sim.add_target("bin", "some/path", b"12345");
    sim.publish(&["bin", "targets", "snapshot", "timestamp"]);
    assert_eq!(look_up(&mut sim, "some/path").0, Some(5));
    assert_eq!(look_up(&mut sim, "some/other").1.len(), 0);
}

#[test]
fn a_role_is_verified_anew_for_each_delegator() {
    // `shared` is signed by key 42; `a` names that key, `b` another one.
    let mut sim = Sim::new();
    sim.delegate("targets", "a", 40, false, &["a/*"]);
    sim.delegate("targets", "b", 41, false, &["b/*"]);
    sim.delegate("a", "shared", 42, false, &["a/*"]);
    sim.delegate("b", "shared", 43, false, &["b/*"]);
    sim.add_target("shared", "a/1", b"1");
    sim.add_target("shared", "b/1", b"1");
    sim.publish(&["a", "b", "shared", "targets", "snapshot", "timestamp"]);
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    sim.serve(&mut client).unwrap();
    client.want("a/1");
    sim.serve(&mut client).unwrap();
    assert!(client.target("a/1").is_some());
    client.want("b/1");
    let said = sim.serve(&mut client).unwrap_err().to_string();
    assert!(
        said.starts_with("shared.json version 1 is not signed as b version 1 demands"),
        "{said}"
    );
    assert!(client.target("b/1").is_none());
}

#[test]
fn delegated_files_are_stored_and_odd_names_stay_in_their_tree() {
    let mut sim = Sim::new();
    sim.delegate("targets", "../odd/?", 40, false, &["x"]);
    sim.add_target("../odd/?", "x", b"x");
    sim.publish(&["../odd/?", "targets", "snapshot", "timestamp"]);
    let file = sim.files.remove("1.../odd/?.json").unwrap();
    sim.files.insert("1...%2Fodd%2F%3F.json".into(), file);
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    sim.serve(&mut client).unwrap();
    client.want("x");
    sim.serve(&mut client).unwrap();
    assert!(client.target("x").is_some());
    // The next client finds it on the disk.
    let stored = client.trusted();
    let mut client =
        Client::new(stored, at(0), Limits::default(), MinimumVersions::default()).unwrap();
    sim.serve(&mut client).unwrap();
    client.want("x");
    assert_eq!(client.poll(), Poll::Done);
    assert!(client.target("x").is_some());
}
