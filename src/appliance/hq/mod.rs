//! HQ: whoever holds the offline keys. Nothing that `serve` does reaches this
//! room; a site gets what HQ signed as a [`Package`], over a folder or a stick.
//!
//! On disk: `hq.json` (who signs, which sites there are), `keys/` (the private
//! keys that are at hand here), `sites/NAME/N.root.json` (each site's roots),
//! `targets.json` (charters and bundles, the same bytes at every site),
//! `regions/` (lists that regions sign), `ceremonies/` (what waits for more signatures).

pub mod ceremony;
pub mod change;
pub mod courier;
pub mod found;
mod outcome;
#[cfg(test)]
mod outcome_tests;
pub mod region;
#[cfg(test)]
mod region_tests;
pub mod secret;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod theft_tests;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use groundcrew_core::SiteId;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::{PublicKey, SigningKey};
use groundcrew_core::time::{Now, TimeFloor, UnixTime};
use groundcrew_core::trust::tuf::repo::{RoleSpec, RootSpec, claimed_targets};
use groundcrew_core::trust::tuf::{Repo, TargetFile};
use groundcrew_core::trust::{Charter, Downgrades, Trusted};
use serde::{Deserialize, Serialize};

use crate::durable::{self, Access};
use crate::site::import::Package;
use secret::Passphrase;

/// What HQ has decided and signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The organisation, as devices show it.
    pub organisation: String,
    /// Who signs roots.
    pub root: Signers,
    /// Who signs targets: charters and bundles.
    pub targets: Signers,
    /// The sites.
    #[serde(default)]
    pub sites: BTreeMap<SiteId, SiteRecord>,
    /// Older bundles that sites' devices may get again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub downgrades: BTreeMap<SiteId, Downgrades>,
    /// The regions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<Slug, region::Region>,
}

/// Who signs for a role, and how many of them must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signers {
    /// How many must sign.
    pub threshold: u32,
    /// Public keys, by a name that people know.
    pub keys: BTreeMap<Slug, PublicKey>,
}

impl Signers {
    fn spec(&self) -> RoleSpec {
        RoleSpec {
            keys: self.keys.values().copied().collect(),
            threshold: self.threshold,
        }
    }
}

/// A site as HQ knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRecord {
    /// The site's key for snapshots.
    pub snapshot: PublicKey,
    /// The site's key for timestamps.
    pub timestamp: PublicKey,
    /// Its charter.
    pub charter: Charter,
    /// For how many seconds HQ gives it a charter; `hq renew` does it again.
    #[serde(default = "change::full_lifetime")]
    pub lifetime: u64,
}

/// A role whose keys HQ holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyRole {
    /// Signs roots: who may sign at all.
    Root,
    /// Signs targets: charters and bundles.
    Targets,
}

impl State {
    /// Who signs for `role`.
    pub fn signers(&mut self, role: KeyRole) -> &mut Signers {
        match role {
            KeyRole::Root => &mut self.root,
            KeyRole::Targets => &mut self.targets,
        }
    }

    /// What the root of `site` says.
    fn root_spec(&self, site: &SiteRecord, expires: UnixTime) -> RootSpec {
        RootSpec {
            expires,
            root: self.root.spec(),
            targets: self.targets.spec(),
            snapshot: RoleSpec::one(site.snapshot),
            timestamp: RoleSpec::one(site.timestamp),
        }
    }

    /// The name of a key, where it has one.
    pub fn name_of(&self, key: &PublicKey) -> Option<&Slug> {
        let mut named = self.root.keys.iter().chain(&self.targets.keys);
        let named = named.find(|(_, known)| *known == key).map(|(name, _)| name);
        let region = || self.regions.iter().find(|(_, region)| region.key == *key);
        named.or_else(|| region().map(|(name, _)| name))
    }
}

/// HQ's folder.
#[derive(Clone, Debug)]
pub struct Hq {
    dir: PathBuf,
    state: State,
}

/// How a new HQ signs.
#[derive(Clone, Debug)]
pub struct NewHq<'a> {
    /// The organisation's name.
    pub organisation: &'a str,
    /// Root keys.
    pub keys: u32,
    /// How many of them must sign.
    pub threshold: u32,
    /// A passphrase for every key made.
    pub passphrase: Option<&'a str>,
}

impl Hq {
    /// Makes an HQ at `dir`, which must not exist.
    pub fn init(dir: &Path, new: &NewHq<'_>) -> anyhow::Result<Self> {
        if dir.exists() {
            bail!(
                "{} exists already; init never overwrites. Choose another folder, or move it away",
                dir.display()
            );
        }
        if new.threshold == 0 || new.threshold > new.keys || new.keys > 16 {
            bail!(
                "{} of {} keys cannot be asked to sign: use 1 to 16 keys, and a threshold of at most as many",
                new.threshold,
                new.keys
            );
        }
        now()?;
        for folder in [
            dir,
            &dir.join("keys"),
            &dir.join("sites"),
            &dir.join("ceremonies"),
        ] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        let make = |name: &str| -> anyhow::Result<(Slug, PublicKey)> {
            let path = dir.join("keys").join(format!("{name}.pem"));
            Ok((
                name.parse()?,
                secret::create(&path, new.passphrase)?.public(),
            ))
        };
        let root = match new.keys {
            1 => vec![make("root")?],
            n => (1..=n)
                .map(|n| make(&format!("root-{n}")))
                .collect::<Result<_, _>>()?,
        };
        let signers = |keys: Vec<_>, threshold| Signers {
            threshold,
            keys: keys.into_iter().collect(),
        };
        let state = State {
            organisation: new.organisation.to_owned(),
            root: signers(root, new.threshold),
            targets: signers(vec![make("targets")?], 1),
            sites: BTreeMap::new(),
            downgrades: BTreeMap::new(),
            regions: BTreeMap::new(),
        };
        let hq = Self {
            dir: dir.to_owned(),
            state,
        };
        hq.save()?;
        Ok(hq)
    }

    /// Opens the HQ at `dir`.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("hq.json");
        let text = fs::read(&path).with_context(|| {
            format!(
                "reading {}: is {} HQ's folder? `groundcrew hq init` makes one",
                path.display(),
                dir.display()
            )
        })?;
        let state = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        Ok(Self {
            dir: dir.to_owned(),
            state,
        })
    }

    /// HQ's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What HQ has decided and signed.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The record of a site.
    pub fn site(&self, name: &SiteId) -> anyhow::Result<&SiteRecord> {
        self.state.sites.get(name).with_context(|| {
            let known: Vec<_> = self.state.sites.keys().map(Slug::as_str).collect();
            format!(
                "HQ knows no site `{name}`; it knows: {}",
                if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                }
            )
        })
    }

    /// Everything that was signed for a site, as its own repository begins.
    pub fn repo(&self, site: &SiteId) -> anyhow::Result<Option<Repo>> {
        let mut roots = self.roots(site).into_iter();
        let Some(root) = roots.next() else {
            return Ok(None);
        };
        let trusted = Trusted {
            root,
            newer_roots: roots.collect(),
            targets: self.targets_bytes(),
            delegated: self
                .state
                .regions
                .keys()
                .filter_map(|name| Some((name.to_string(), self.region_bytes(name)?)))
                .collect(),
            ..Trusted::default()
        };
        let repo = Repo::open(&trusted).with_context(|| format!("what HQ signed for {site}"))?;
        Ok(Some(repo))
    }

    /// What HQ's targets, or a region's, list under a path.
    pub fn listed(&self, path: &str) -> anyhow::Result<Option<TargetFile>> {
        let regions = self.state.regions.keys();
        let lists = regions.filter_map(|name| self.region_bytes(name));
        for bytes in self.targets_bytes().into_iter().chain(lists) {
            if let Some(target) = claimed_targets(&bytes)?.targets.remove(path) {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// What a site needs of HQ; `files` are target files besides the charter.
    pub fn package(&self, site: &SiteId, files: Vec<(String, Vec<u8>)>) -> anyhow::Result<Package> {
        let record = self.site(site)?;
        let charter = (Charter::target_path(site), record.charter.to_json()?);
        let downgrades = self.state.downgrades.get(site).map(|list| {
            let path = Downgrades::target_path(site);
            list.to_json().map(|bytes| (path, bytes))
        });
        let roots = self.roots(site);
        let targets = self.targets_bytes();
        let targets = targets.filter(|_| !roots.is_empty()).with_context(|| {
            format!("the signatures for {site} are not complete yet: `groundcrew hq sign`, then `groundcrew hq finalize`")
        })?;
        Ok(Package {
            site: site.clone(),
            roots,
            targets,
            regions: self.regions_of(site),
            files: std::iter::once(charter)
                .chain(downgrades.transpose()?)
                .chain(files)
                .collect(),
        })
    }

    /// Where a private key of this name lies, if it is at hand.
    pub fn key_file(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(format!("{name}.pem"))
    }

    /// The private keys at hand that count for something, by their file.
    pub fn keys_at_hand(&self, passphrase: &Passphrase) -> anyhow::Result<Vec<SigningKey>> {
        let files = self.key_files()?;
        let keys = files.iter().map(|path| secret::read(path, passphrase));
        keys.collect()
    }

    /// Whether a key at hand has a passphrase, so that new ones are to have one.
    pub fn uses_passphrases(&self) -> anyhow::Result<bool> {
        for path in self.key_files()? {
            if secret::has_passphrase(&path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn key_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.dir.join("keys");
        let entries =
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "pem"));
        paths.sort();
        Ok(paths)
    }

    fn roots(&self, site: &SiteId) -> Vec<Vec<u8>> {
        let read = |version: u64| fs::read(self.root_file(site, version)).ok();
        (1..).map_while(read).collect()
    }

    fn root_file(&self, site: &SiteId, version: u64) -> PathBuf {
        self.dir
            .join("sites")
            .join(site.as_str())
            .join(format!("{version}.root.json"))
    }

    fn targets_file(&self) -> PathBuf {
        self.dir.join("targets.json")
    }

    fn targets_bytes(&self) -> Option<Vec<u8>> {
        fs::read(self.targets_file()).ok()
    }

    fn save(&self) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.state)?;
        text.push(b'\n');
        let path = self.dir.join("hq.json");
        durable::write(&path, &text, Access::Public)
            .with_context(|| format!("writing {}", path.display()))
    }
}

/// The time to sign with.
pub fn now() -> anyhow::Result<Now> {
    let now = TimeFloor::built_at(groundcrew_core::time::RELEASED).now(crate::clock::read());
    match now {
        Now::Clock(_) => Ok(now),
        Now::Floor(floor) => bail!(
            "the clock stands before {floor}, when this program was made: set it first, keys and signatures carry dates"
        ),
    }
}
