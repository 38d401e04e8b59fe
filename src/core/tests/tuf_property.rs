//! Hostile bytes: nothing panics, and no changed byte is believed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::LazyLock;

use common::{Sim, at};
use groundcrew_core::trust::tuf::{Client, NotFound, Poll};
use proptest::prelude::*;
use serde_json::Value;

const ROLES: [&str; 4] = [
    "2.root.json",
    "timestamp.json",
    "1.snapshot.json",
    "1.targets.json",
];

/// A repository without hashes in its indexes, so that signatures alone stand
/// against a change; two keys must sign targets.
fn sim() -> Sim {
    let mut sim = Sim::new();
    sim.hashes = false;
    sim.set_keys("targets", &[4, 5], 2);
    sim.publish(&["root"]);
    for role in ["targets", "snapshot", "timestamp"] {
        sim.put(role);
    }
    sim
}

static SIM: LazyLock<Sim> = LazyLock::new(sim);

/// What a client believes in the end: the signed contents.
fn beliefs(client: &Client) -> Vec<Value> {
    let trusted = client.trusted();
    let root = trusted.newer_roots.last().cloned().unwrap();
    let files = [
        Some(root),
        trusted.timestamp,
        trusted.snapshot,
        trusted.targets,
    ];
    let signed =
        |bytes: &Vec<u8>| serde_json::from_slice::<Value>(bytes).unwrap()["signed"].clone();
    files.iter().flatten().map(signed).collect()
}

fn run(sim: &mut Sim) -> Option<Vec<Value>> {
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    sim.serve(&mut client).ok()?;
    Some(beliefs(&client))
}

#[test]
fn every_flipped_byte_is_refused_or_means_the_same() {
    let sim = &*SIM;
    let signed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["signed"].clone();
    for (name, mut client) in ROLES.iter().zip(waiting(sim)) {
        let sound = &sim.files[*name];
        for place in 0..sound.len() {
            let mut changed = sound.clone();
            changed[place] ^= [0x01, 0x20, 0x80][place % 3];
            if client.clone().feed(Ok(&changed)).is_ok() {
                assert_eq!(signed(&changed), signed(sound), "{name} byte {place}");
            }
        }
        assert_eq!(client.feed(Ok(sound)), Ok(()));
    }
}

/// Clients that each wait for one of [`ROLES`].
fn waiting(sim: &Sim) -> Vec<Client> {
    let mut client = sim.client(sim.stored(), at(0)).unwrap();
    let mut clients = Vec::new();
    while let Poll::Fetch(fetch) = client.poll() {
        if ROLES.contains(&fetch.path.as_str()) {
            clients.push(client.clone());
        }
        let file = sim.files.get(&fetch.path).map(Vec::as_slice);
        client.feed(file.ok_or(NotFound)).unwrap();
    }
    clients
}

/// Feeds `bytes` in the place of one of [`ROLES`].
fn feed_nth(nth: usize, bytes: &[u8]) -> bool {
    static CLIENTS: LazyLock<Vec<Client>> = LazyLock::new(|| waiting(&SIM));
    CLIENTS[nth].clone().feed(Ok(bytes)).is_ok()
}

/// JSON that looks a little like metadata.
fn json_like() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("_type"),
        Just("keys"),
        Just("roles"),
        Just("version"),
        Just("meta"),
        Just("targets"),
        Just("signed"),
        Just("signatures"),
        Just("keyid"),
        Just("sig"),
        Just("expires"),
        Just("root"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(word.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(nth in 0..4_usize, bytes: Vec<u8>) {
        prop_assert!(!feed_nth(nth, &bytes));
    }

    #[test]
    fn arbitrary_json_never_panics(nth in 0..4_usize, signed in json_like(), signatures in json_like()) {
        let file = serde_json::json!({"signed": signed, "signatures": signatures});
        prop_assert!(!feed_nth(nth, file.to_string().as_bytes()));
        prop_assert!(!feed_nth(nth, signed.to_string().as_bytes()));
    }

    #[test]
    fn a_replaced_member_never_panics_and_is_never_believed(
        role in 0..4_usize, pick: prop::sample::Index, value in json_like(),
    ) {
        let mut changed = SIM.clone();
        let believed = run(&mut changed.clone()).unwrap();
        let bytes = changed.files.get_mut(ROLES[role]).unwrap();
        let mut file: Value = serde_json::from_slice(bytes).unwrap();
        let members = file["signed"].as_object_mut().unwrap();
        let name = pick.get(&members.keys().cloned().collect::<Vec<_>>()).clone();
        members.insert(name, value);
        *bytes = file.to_string().into_bytes();
        let now = run(&mut changed);
        prop_assert!(now.is_none_or(|now| now == believed));
    }
}

#[test]
fn deep_nesting_is_refused() {
    for nth in 0..4 {
        let deep = "[".repeat(10_000);
        assert!(!feed_nth(nth, deep.as_bytes()));
        let deep = "{\"signed\":".repeat(1_000);
        assert!(!feed_nth(nth, deep.as_bytes()));
    }
}
