//! One folder per attack: what the device holds, what it is served, and what
//! it says. `GROUNDCREW_FIXTURES=1` writes them anew; else they are compared.

// Fixtures lie in files; the package itself has none.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use groundcrew_core::time::Now;
use groundcrew_core::trust::tuf::Trusted;
use serde_json::{Value, json};

/// What is larger is made by its test alone.
const MOST: usize = 64 * 1024;

/// How often each attack was played in this process.
static PLAYED: Mutex<BTreeMap<&str, usize>> = Mutex::new(BTreeMap::new());

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks")
}

/// Writes or compares the folder of one refused update.
pub fn keep(
    attack: &'static str,
    stored: &Trusted,
    served: &BTreeMap<String, Vec<u8>>,
    now: Now,
    says: &str,
) {
    if served.values().map(Vec::len).sum::<usize>() > MOST {
        return;
    }
    let number = {
        let mut played = PLAYED.lock().unwrap();
        let count = played.entry(attack).or_default();
        *count += 1;
        *count
    };
    let folder = root().join(attack).join(number.to_string());
    let files = files(stored, served, now, says);
    if std::env::var_os("GROUNDCREW_FIXTURES").is_some() {
        let _ = fs::remove_dir_all(&folder);
        for (path, bytes) in &files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        return;
    }
    for (path, bytes) in &files {
        let kept = fs::read(folder.join(path));
        assert!(
            kept.is_ok_and(|kept| kept == *bytes),
            "{}/{path} is not what the test makes: GROUNDCREW_FIXTURES=1 writes it anew",
            folder.display()
        );
    }
}

fn files(
    stored: &Trusted,
    served: &BTreeMap<String, Vec<u8>>,
    now: Now,
    says: &str,
) -> BTreeMap<String, Vec<u8>> {
    let clock = matches!(now, Now::Clock(_));
    let about = json!({"now": now.time(), "clock_is_believed": clock, "says": says});
    let mut files = BTreeMap::new();
    let mut text = serde_json::to_vec_pretty(&about).unwrap();
    text.push(b'\n');
    files.insert("attack.json".to_owned(), text);
    let roots = [&stored.root].into_iter().chain(&stored.newer_roots);
    for (bytes, number) in roots.zip(1..) {
        files.insert(format!("device/{number}.root.json"), bytes.clone());
    }
    let others = [
        ("timestamp", &stored.timestamp),
        ("snapshot", &stored.snapshot),
        ("targets", &stored.targets),
    ];
    for (role, bytes) in others {
        if let Some(bytes) = bytes {
            files.insert(format!("device/{role}.json"), bytes.clone());
        }
    }
    for (name, bytes) in served {
        files.insert(format!("served/{name}"), bytes.clone());
    }
    files
}

/// An attack as its folder tells it.
pub struct Attack {
    pub stored: Trusted,
    pub served: BTreeMap<String, Vec<u8>>,
    pub now: Now,
    pub says: String,
}

/// Reads a folder that `keep` wrote.
pub fn read(folder: &Path) -> Attack {
    let about: Value =
        serde_json::from_slice(&fs::read(folder.join("attack.json")).unwrap()).unwrap();
    let now = serde_json::from_value(about["now"].clone()).unwrap();
    let device = |name: &str| fs::read(folder.join("device").join(name)).ok();
    let mut roots = (1..).map_while(|number| device(&format!("{number}.root.json")));
    let stored = Trusted {
        root: roots.next().unwrap(),
        newer_roots: roots.collect(),
        timestamp: device("timestamp.json"),
        snapshot: device("snapshot.json"),
        targets: device("targets.json"),
        ..Trusted::default()
    };
    let mut served = BTreeMap::new();
    for entry in fs::read_dir(folder.join("served")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        served.insert(name, fs::read(entry.path()).unwrap());
    }
    Attack {
        stored,
        served,
        now: if about["clock_is_believed"] == true {
            Now::Clock(now)
        } else {
            Now::Floor(now)
        },
        says: about["says"].as_str().unwrap().to_owned(),
    }
}
