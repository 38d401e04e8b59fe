//! A TUF repository in memory that can be made wrong in every way: the signed
//! contents are plain JSON, and every file is signed by whatever keys a test
//! says.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by test programs that each use a part of it"
)]

pub mod folder;

use std::collections::BTreeMap;

use groundcrew_core::Digest;
use groundcrew_core::keys::SigningKey;
use groundcrew_core::time::{Now, UnixTime};
use groundcrew_core::trust::tuf::key::Key;
use groundcrew_core::trust::tuf::repo::add_signatures;
use groundcrew_core::trust::tuf::{
    Client, Limits, MinimumVersions, NotFound, Poll, Trusted, TufError,
};
use serde_json::{Value, json};

/// 2026-03-01T00:00:00Z, when the tests play.
pub const NOW: u64 = 1_772_323_200;
pub const DAY: u64 = 86_400;

pub fn at(days: u64) -> Now {
    Now::Clock(UnixTime::new(NOW + days * DAY))
}

pub fn day(days: u64) -> UnixTime {
    UnixTime::new(NOW + days * DAY)
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32]).unwrap()
}

pub fn key_id(seed: u8) -> String {
    Key::from(key(seed).public())
        .id()
        .unwrap()
        .as_str()
        .to_owned()
}

pub fn key_json(seed: u8) -> Value {
    serde_json::to_value(Key::from(key(seed).public())).unwrap()
}

/// A repository: the signed contents as they would be published next, who
/// signs them, and the files that clients see.
#[derive(Clone)]
pub struct Sim {
    pub signed: BTreeMap<String, Value>,
    pub signers: BTreeMap<String, Vec<u8>>,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether the next snapshot and timestamp say lengths and hashes.
    pub hashes: bool,
    pub asked: Vec<String>,
    /// The attack this plays: refused updates have a folder of its name.
    pub attack: Option<&'static str>,
}

impl Sim {
    /// Version 1 of everything, published; keys 1 to 4 for root, timestamp,
    /// snapshot, targets; one target `file`.
    pub fn new() -> Self {
        let head = |role: &str| json!({"_type": role, "spec_version": "1.0.31", "version": 0, "expires": day(30)});
        let mut sim = Self {
            signed: BTreeMap::new(),
            signers: BTreeMap::new(),
            files: BTreeMap::new(),
            hashes: true,
            asked: Vec::new(),
            attack: None,
        };
        let mut root = head("root");
        root["consistent_snapshot"] = json!(true);
        root["keys"] = json!({});
        root["roles"] = json!({});
        sim.signed.insert("root".into(), root);
        for (seed, role) in [
            (1, "root"),
            (2, "timestamp"),
            (3, "snapshot"),
            (4, "targets"),
        ] {
            sim.set_keys(role, &[seed], 1);
        }
        let mut targets = head("targets");
        targets["targets"] = json!({});
        sim.signed.insert("targets".into(), targets);
        let mut snapshot = head("snapshot");
        snapshot["meta"] = json!({"targets.json": {"version": 1}});
        sim.signed.insert("snapshot".into(), snapshot);
        let mut timestamp = head("timestamp");
        timestamp["meta"] = json!({"snapshot.json": {"version": 1}});
        timestamp["x-groundcrew-issued-at"] = json!(day(0));
        sim.signed.insert("timestamp".into(), timestamp);
        sim.add_target("targets", "file", b"content");
        sim.publish(&["root", "targets", "snapshot", "timestamp"]);
        sim
    }

    /// The same, for the attack of this name.
    pub fn attacked(attack: &'static str) -> Self {
        Self {
            attack: Some(attack),
            ..Self::new()
        }
    }

    pub fn edit(&mut self, role: &str) -> &mut Value {
        self.signed.get_mut(role).unwrap()
    }

    pub fn version(&self, role: &str) -> u64 {
        self.signed[role]["version"].as_u64().unwrap()
    }

    pub fn set_version(&mut self, role: &str, version: u64) {
        self.edit(role)["version"] = json!(version);
    }

    /// Lets these keys, and only these, sign for a top-level role.
    pub fn set_keys(&mut self, role: &str, seeds: &[u8], threshold: u32) {
        let root = self.edit("root");
        for seed in seeds {
            root["keys"][key_id(*seed)] = key_json(*seed);
        }
        let ids: Vec<String> = seeds.iter().map(|seed| key_id(*seed)).collect();
        root["roles"][role] = json!({"keyids": ids, "threshold": threshold});
        self.signers.insert(role.into(), seeds.to_vec());
    }

    pub fn add_target(&mut self, role: &str, path: &str, bytes: &[u8]) {
        let hash = Digest::of(bytes).hex();
        self.edit(role)["targets"][path] =
            json!({"length": bytes.len(), "hashes": {"sha256": hash}});
    }

    /// A role that `parent` trusts for `paths`, with its own key.
    pub fn delegate(
        &mut self,
        parent: &str,
        name: &str,
        seed: u8,
        terminating: bool,
        paths: &[&str],
    ) {
        let role = json!({
            "name": name, "keyids": [key_id(seed)], "threshold": 1,
            "terminating": terminating, "paths": paths,
        });
        let parent = self.edit(parent);
        if parent["delegations"].is_null() {
            parent["delegations"] = json!({"keys": {}, "roles": []});
        }
        parent["delegations"]["keys"][key_id(seed)] = key_json(seed);
        parent["delegations"]["roles"]
            .as_array_mut()
            .unwrap()
            .push(role);
        if !self.signed.contains_key(name) {
            let targets = json!({"_type": "targets", "spec_version": "1.0.31", "version": 0,
                "expires": day(30), "targets": {}});
            self.signed.insert(name.into(), targets);
            self.signers.insert(name.into(), vec![seed]);
        }
    }

    /// Raises the versions of these roles and publishes them, in this order;
    /// snapshot and timestamp name what is current then.
    pub fn publish(&mut self, roles: &[&str]) {
        for role in roles {
            let next = self.version(role) + 1;
            self.set_version(role, next);
            self.put(role);
        }
    }

    /// Signs the content as it stands, stores the file, and enters it where
    /// its version is announced.
    pub fn put(&mut self, role: &str) {
        let bytes = self.sign(role);
        let version = self.version(role);
        let mut meta = json!({"version": version});
        if self.hashes {
            meta["length"] = json!(bytes.len());
            meta["hashes"] = json!({"sha256": Digest::of(&bytes).hex()});
        }
        let name = match role {
            "timestamp" => "timestamp.json".to_owned(),
            _ => format!("{version}.{role}.json"),
        };
        match role {
            "root" | "timestamp" => {}
            "snapshot" => self.edit("timestamp")["meta"]["snapshot.json"] = meta,
            _ => {
                if self.signed.contains_key("snapshot") {
                    self.edit("snapshot")["meta"][format!("{role}.json")] = meta;
                }
            }
        }
        self.files.insert(name, bytes);
    }

    /// The role's file, signed by its signers.
    pub fn sign(&self, role: &str) -> Vec<u8> {
        let keys: Vec<SigningKey> = self.signers[role].iter().map(|seed| key(*seed)).collect();
        let keys: Vec<&SigningKey> = keys.iter().collect();
        let file = json!({"signatures": [], "signed": self.signed[role]});
        add_signatures(&serde_json::to_vec(&file).unwrap(), &keys).unwrap()
    }

    /// Removes a file, or nothing.
    pub fn without(mut self, name: &str) -> Self {
        self.files.remove(name);
        self
    }

    pub fn stored(&self) -> Trusted {
        Trusted {
            root: self.files["1.root.json"].clone(),
            ..Trusted::default()
        }
    }

    pub fn client(&self, stored: Trusted, now: Now) -> Result<Client, TufError> {
        Client::new(stored, now, Limits::default(), MinimumVersions::default())
    }

    /// A whole update from what is stored: what is trusted after it, and how
    /// it ended.
    pub fn update(&mut self, stored: Trusted, now: Now) -> (Trusted, Result<(), TufError>) {
        let mut client = match self.client(stored.clone(), now) {
            Ok(client) => client,
            Err(error) => return (stored, Err(error)),
        };
        let result = self.serve(&mut client);
        if let (Some(attack), Err(error)) = (self.attack, &result) {
            folder::keep(attack, &stored, &self.files, now, &error.to_string());
        }
        (client.trusted(), result)
    }

    /// A first update that must succeed.
    pub fn updated(&mut self) -> Trusted {
        let (trusted, result) = self.update(self.stored(), at(0));
        result.expect("the repository is sound");
        trusted
    }

    /// Answers the client until it needs nothing.
    pub fn serve(&mut self, client: &mut Client) -> Result<(), TufError> {
        for _ in 0..2_000 {
            let Poll::Fetch(fetch) = client.poll() else {
                return Ok(());
            };
            self.asked.push(fetch.path.clone());
            let file = self.files.get(&fetch.path).map(Vec::as_slice);
            client.feed(file.ok_or(NotFound))?;
        }
        panic!("the client asks for ever");
    }
}

/// The versions of (root, timestamp, snapshot, targets) in what is trusted; 0
/// for none.
pub fn versions(trusted: &Trusted) -> [u64; 4] {
    let of = |bytes: Option<&[u8]>| {
        let file: Option<Value> = bytes.map(|bytes| serde_json::from_slice(bytes).unwrap());
        file.map_or(0, |file| file["signed"]["version"].as_u64().unwrap())
    };
    let root = trusted.newer_roots.last().unwrap_or(&trusted.root);
    [
        of(Some(root)),
        of(trusted.timestamp.as_deref()),
        of(trusted.snapshot.as_deref()),
        of(trusted.targets.as_deref()),
    ]
}
