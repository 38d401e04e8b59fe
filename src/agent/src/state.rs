//! What a device keeps in `/var/lib/groundcrew` of its installed system.

use std::io;

use groundcrew_core::dsse::Envelope;
use groundcrew_core::enroll::Grant;
use serde::Serialize;

use crate::enroll::Keys;
use crate::rooted::{Directory, Rooted};
use crate::trust::Memory;

/// The folder, below the system's root.
pub const DIRECTORY: &str = "/var/lib/groundcrew";
const MEMORY: &str = "trusted.json";
const MAX_MEMORY: u64 = 16 << 20;
const SIGN_KEY: &str = "sign.pem";
const SEAL_KEY: &str = "seal.key";
const MAX_KEY: u64 = 4096;

/// What the disk remembers of trust; nothing, if there is nothing readable.
pub fn recall(root: &Rooted) -> Memory {
    let bytes = root.read(&format!("{DIRECTORY}/{MEMORY}"), MAX_MEMORY);
    bytes
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// The keys of an earlier start that was granted, if they lie here whole.
pub fn recall_keys(root: &Rooted) -> Option<Keys> {
    let read = |name| root.read(&format!("{DIRECTORY}/{name}"), MAX_KEY).ok();
    Keys::saved(&read(SIGN_KEY)?, &read(SEAL_KEY)?)
}

/// The folder, open for writing.
#[derive(Debug)]
pub struct State(Directory);

impl State {
    /// Opens (and makes) it; only root may look inside.
    pub fn open(root: &Rooted) -> io::Result<Self> {
        let parent = DIRECTORY
            .rsplit_once('/')
            .map_or(DIRECTORY, |(parent, _)| parent);
        root.directory(parent, 0o755)?;
        root.directory(DIRECTORY, 0o700).map(Self)
    }

    /// The folder itself.
    pub const fn directory(&self) -> &Directory {
        &self.0
    }

    /// The keys, from now on this device's. 0600.
    pub fn save_keys(&self, keys: &Keys) -> io::Result<()> {
        self.0
            .write("sign.pem", keys.sign.to_pem().as_bytes(), 0o600)?;
        self.0.write(
            "seal.key",
            format!("{}\n", keys.seal_secret()).as_bytes(),
            0o600,
        )
    }

    /// The grant, as it came, and in clear for people and scripts.
    pub fn save_grant(&self, envelope: &Envelope, grant: &Grant) -> io::Result<()> {
        self.save_json("grant.dsse.json", envelope)?;
        self.save_json("grant.json", grant)
    }

    /// The receipt, as it is sent.
    pub fn save_receipt(&self, envelope: &Envelope) -> io::Result<()> {
        self.save_json("receipt.dsse.json", envelope)
    }

    /// What to be stricter by at the next start.
    pub fn save_memory(&self, memory: &Memory) -> io::Result<()> {
        self.save_json(MEMORY, memory)
    }

    /// The agent's log of this start.
    pub fn save_log(&self, log: &str) -> io::Result<()> {
        self.0.write("agent.log", log.as_bytes(), 0o600)
    }

    fn save_json(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
        bytes.push(b'\n');
        self.0.write(name, &bytes, 0o600)
    }
}
