//! Asking for the PIN. The count of wrong ones is on the medium *before* a try
//! is made: pulling the stick gives nobody a fresh one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::super::anchor::{Anchor, AnchorKey};
use super::super::plan::{journal_end, line_digest};
use super::super::vault::{Pin, Vault, VaultError};
use super::super::{KEYS_IN_MEMORY, file};
use super::medium::{self, AnchorPlace, Stick};
use super::terminal::Terminal;
use crate::durable::{self, Access};
use crate::site::Site;
use crate::store;

/// The anchor of an open stick, to be moved on as the journal grows.
pub struct Kept {
    anchor: Anchor,
    place: AnchorPlace,
    key: AnchorKey,
}

/// Asks until the vault opens, puts the keys into memory, and makes sure that
/// the stick goes on from its own state.
pub fn unlock(terminal: &mut Terminal, stick: &Stick) -> anyhow::Result<Kept> {
    let path = Path::new(medium::MOUNT).join(file::VAULT);
    let json = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let vault = Vault::read(&json)?;
    let (mut anchor, place) = stick.anchor()?;
    terminal.page(&[
        format!("groundcrew stick of the site {}", vault.site()),
        String::new(),
        "Its keys are locked. Type the PIN that was chosen when it was built, then".to_owned(),
        "Enter; the backspace key takes back a character, Tab shows what is typed.".to_owned(),
        String::new(),
        "The keyboard is read as a US one. On a German one Y and Z change places, on a".to_owned(),
        "French one A and Q, Z and W; figures are typed without Shift, and signs lie".to_owned(),
        "elsewhere: look with Tab.".to_owned(),
        String::new(),
    ]);
    let secrets = loop {
        let wait = anchor.wait();
        if wait > 0 {
            terminal.say(&format!(
                "{} wrong PINs so far: the next may be typed in {wait} s.\n",
                anchor.tries
            ));
            std::thread::sleep(Duration::from_secs(wait));
        }
        let pin: Pin = match terminal.secret("US keyboard, Tab shows it. PIN: ").parse() {
            Ok(pin) => pin,
            Err(error) => {
                terminal.say(&format!("{error}\n"));
                continue;
            }
        };
        anchor.tries = anchor.tries.saturating_add(1);
        place.write(&mut anchor)?;
        terminal.say("opening the vault ...\n");
        match vault.open(&pin) {
            Ok(secrets) => break secrets,
            Err(VaultError::WrongPin) => terminal.say("This is not the PIN.\n"),
            Err(error) => return Err(error.into()),
        }
    };
    anchor.tries = 0;
    place.write(&mut anchor)?;
    put_keys(&secrets)?;
    let key = AnchorKey::of(&secrets);
    let registry = site().registry_file();
    let head_at = |entries| {
        let line = store::journal_line(&registry, entries).ok().flatten();
        line.map(|line| line_digest(&line))
    };
    anchor.check(&key, head_at)?;
    Ok(Kept { anchor, place, key })
}

/// The site on the stick.
pub fn site() -> Site {
    Site::at(Path::new(medium::MOUNT).join(file::SITE))
}

/// Keys go into memory only: a stick that is pulled has them sealed.
fn put_keys(secrets: &[u8]) -> anyhow::Result<()> {
    let keys: BTreeMap<String, String> =
        serde_json::from_slice(secrets).context("the vault holds no keys; build the stick anew")?;
    let folder = Path::new(KEYS_IN_MEMORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    for (name, pem) in keys {
        let plain =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') && !name.starts_with('.');
        anyhow::ensure!(
            plain,
            "the vault holds a file that is no key; build the stick anew"
        );
        durable::write(&folder.join(name), pem.as_bytes(), Access::Secret)?;
    }
    Ok(())
}

impl Kept {
    /// Moves the anchor to where the journal is now. `true` if it had moved.
    pub fn follow(&mut self, entries: u64) -> anyhow::Result<bool> {
        if entries <= self.anchor.entries {
            return Ok(false);
        }
        // What is read back from the store is committed.
        let line = store::journal_line(&site().registry_file(), entries)?;
        let Some(line) = line else { return Ok(false) };
        self.anchor.take(entries, line_digest(&line), &self.key);
        self.place.write(&mut self.anchor)?;
        Ok(true)
    }

    /// The same at the end, when nobody writes any more.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        let (entries, _) = journal_end(&site().registry_file())?;
        self.follow(entries).map(drop)
    }
}
