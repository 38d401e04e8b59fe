//! A ceremony: files that several people sign one after the other, on machines
//! with no network, until every threshold is met. It travels as one file.
//!
//! ```text
//! begin (draft) -> sign -> sign -> … -> finish: everything at HQ is replaced, or nothing
//! ```
//! The file is not secret. Nothing in it is believed: who signs is shown what
//! the drafts themselves say, and `finish` works out what they lead to from
//! what HQ holds (`outcome.rs`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::{PublicKey, SigningKey};
use groundcrew_core::trust::tuf::repo::{
    Standing, add_signatures, claimed_root, claimed_targets, delegated_authority,
};
use groundcrew_core::trust::tuf::{Root, Targets};
use serde::{Deserialize, Serialize};

use super::{Hq, State};
use crate::durable::{self, Access};

/// Files on their way through the hands of those who sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceremony {
    /// The form of this file.
    pub groundcrew_ceremony: u32,
    /// What it is for, in the words of whoever began it. Not signed.
    pub purpose: String,
    /// What is to be signed.
    pub drafts: Vec<Draft>,
    /// HQ's state once it is done, as whoever began it meant it. HQ works it
    /// out from what was signed, and refuses a file that says another.
    pub after: State,
}

/// One file to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// The site whose root this is; none: HQ's targets.
    pub site: Option<SiteId>,
    /// The region whose list this is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Slug>,
    /// The metadata file with the signatures so far.
    pub file: Blob,
    /// What says whose signatures count: a root (for a root the one before it),
    /// or for a region's list the targets that delegate to it.
    pub by: Option<Blob>,
}

/// How far one threshold of one draft is met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DraftStanding {
    /// The draft, in words.
    pub what: String,
    /// Who signed.
    pub signed_by: Vec<String>,
    /// How many more must sign.
    pub missing: u32,
    /// Who may.
    pub missing_of: Vec<String>,
}

/// Bytes, base64 in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blob(#[serde(with = "groundcrew_core::encoding::base64")] pub Vec<u8>);

/// The form that this program writes.
pub const FORM: u32 = 1;

impl Ceremony {
    /// Reads a ceremony's file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let ceremony: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no ceremony of groundcrew", path.display()))?;
        ensure!(
            ceremony.groundcrew_ceremony == FORM,
            "{} is of another version of groundcrew",
            path.display()
        );
        Ok(ceremony)
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        durable::write(path, &bytes, Access::Public)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Signs every draft with those of `keys` that count there; how many
    /// signatures are new.
    pub fn sign(&mut self, keys: &[&SigningKey]) -> anyhow::Result<usize> {
        let mut added = 0;
        for draft in &mut self.drafts {
            let standings = draft.standings()?;
            let due = |key: &&&SigningKey| {
                let open = (key.public(), false);
                standings
                    .iter()
                    .any(|standing| standing.keys.contains(&open))
            };
            let due: Vec<&SigningKey> = keys.iter().filter(due).copied().collect();
            added += due.len();
            draft.file.0 = add_signatures(&draft.file.0, &due)?;
        }
        Ok(added)
    }

    /// Whether every threshold is met.
    pub fn is_complete(&self) -> anyhow::Result<bool> {
        for draft in &self.drafts {
            if draft
                .standings()?
                .iter()
                .any(|standing| standing.missing() > 0)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is signed and what is missing, for people. What the drafts say is
    /// read from the drafts, not from the words about them.
    pub fn describe(&self) -> anyhow::Result<String> {
        let mut out = format!("Ceremony: {}\n", self.purpose);
        for draft in &self.drafts {
            let _ = writeln!(out, "- {}", draft.title()?);
            for line in draft.says()? {
                let _ = writeln!(out, "    {line}");
            }
            for standing in draft.standings()? {
                let _ = writeln!(out, "    {}", self.standing_in_words(&standing));
            }
        }
        Ok(out)
    }

    /// The same for programs.
    pub fn standings(&self) -> anyhow::Result<Vec<DraftStanding>> {
        let mut standings = Vec::new();
        for draft in &self.drafts {
            for standing in draft.standings()? {
                let names = |signed: bool| {
                    let keys = standing.keys.iter().filter(|(_, has)| *has == signed);
                    keys.map(|(key, _)| self.name_of(key)).collect()
                };
                standings.push(DraftStanding {
                    what: draft.title()?,
                    signed_by: names(true),
                    missing: standing.missing(),
                    missing_of: names(false),
                });
            }
        }
        Ok(standings)
    }

    fn standing_in_words(&self, standing: &Standing) -> String {
        let names = |signed: bool| {
            let keys = standing.keys.iter().filter(|(_, has)| *has == signed);
            let names: Vec<String> = keys.map(|(key, _)| self.name_of(key)).collect();
            names.join(", ")
        };
        let (signed, open) = (names(true), names(false));
        let signed = if signed.is_empty() {
            "nobody yet".to_owned()
        } else {
            signed
        };
        match standing.missing() {
            0 => format!("complete: signed by {signed}"),
            missing => format!("signed by {signed}; {missing} more needed of {open}"),
        }
    }

    fn name_of(&self, key: &PublicKey) -> String {
        let short = short(key);
        match self.after.name_of(key) {
            Some(name) => format!("{name} ({short})"),
            None => format!("the key {short}"),
        }
    }

    /// Takes everything over at HQ. What was begun from another state than
    /// HQ's present one is refused, and so is what says other things than the
    /// state that the signatures lead to.
    pub fn finish(&self, hq: &Hq) -> anyhow::Result<Hq> {
        if !self.is_complete()? {
            bail!("signatures are missing:\n{}", self.describe()?);
        }
        let state = self.outcome(hq)?;
        for draft in &self.drafts {
            let path = match (&draft.site, &draft.region) {
                (Some(site), _) => hq.root_file(site, claimed_root(&draft.file.0)?.version.get()),
                (None, Some(region)) => hq.region_file(region),
                (None, None) => hq.targets_file(),
            };
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            durable::write(&path, &draft.file.0, Access::Public)?;
        }
        let hq = Hq {
            dir: hq.dir.clone(),
            state,
        };
        hq.save()?;
        Ok(hq)
    }

    pub(super) fn targets_draft(&self) -> Option<&Draft> {
        let mut drafts = self.drafts.iter();
        drafts.find(|draft| draft.site.is_none() && draft.region.is_none())
    }

    pub(super) fn region_drafts(&self) -> impl Iterator<Item = (&Slug, &[u8])> {
        let drafts = self.drafts.iter();
        drafts.filter_map(|draft| Some((draft.region.as_ref()?, draft.file.0.as_slice())))
    }
}

impl Draft {
    /// How far each authority is satisfied; equal ones once.
    pub fn standings(&self) -> anyhow::Result<Vec<Standing>> {
        if let Some(region) = &self.region {
            let by = self
                .by
                .as_ref()
                .context("a region's list without targets")?;
            let by = claimed_targets(&by.0)?;
            let authority = delegated_authority(&by, region.as_str());
            let authority =
                authority.with_context(|| format!("the targets delegate nothing to {region}"))?;
            return Ok(vec![Standing::of::<Targets>(&self.file.0, &authority)?]);
        }
        let by = self.by.as_ref().map(|by| claimed_root(&by.0)).transpose()?;
        let mut standings = Vec::new();
        if self.site.is_some() {
            let own = claimed_root(&self.file.0)?;
            for root in by.iter().chain([&own]) {
                standings.push(Standing::of::<Root>(&self.file.0, &root.root_authority())?);
            }
        } else {
            let by = by.context("a draft of targets that names no root")?;
            standings.push(Standing::of::<Targets>(
                &self.file.0,
                &by.targets_authority(),
            )?);
        }
        standings.dedup();
        Ok(standings)
    }

    fn title(&self) -> anyhow::Result<String> {
        if let Some(region) = &self.region {
            let list = claimed_targets(&self.file.0)?;
            return Ok(format!(
                "list of the region {region}, version {}, valid until {}",
                list.version, list.expires
            ));
        }
        Ok(match &self.site {
            Some(site) => {
                let root = claimed_root(&self.file.0)?;
                format!(
                    "root of the site {site}, version {}, valid until {}",
                    root.version, root.expires
                )
            }
            None => {
                let targets = claimed_targets(&self.file.0)?;
                format!(
                    "targets, version {}, valid until {}",
                    targets.version, targets.expires
                )
            }
        })
    }

    /// What a signature would say yes to.
    fn says(&self) -> anyhow::Result<Vec<String>> {
        if self.site.is_none() {
            let targets = claimed_targets(&self.file.0)?;
            let names: Vec<&str> = targets.targets.keys().map(String::as_str).collect();
            let listed = match names.as_slice() {
                [] => "lists nothing".to_owned(),
                names => format!("lists {}", names.join(", ")),
            };
            let mut says = vec![listed];
            for role in targets.delegations.iter().flat_map(|d| &d.roles) {
                let paths = role.paths.clone().unwrap_or_default();
                let ids = role.keys.keyids.iter();
                let keys = ids.filter_map(|id| {
                    let delegations = targets.delegations.as_ref()?;
                    delegations.keys.get(id)?.ed25519()
                });
                let keys: Vec<String> = keys.map(|key| short(&key)).collect();
                says.push(format!(
                    "hands {} to {} ({})",
                    paths.join(", "),
                    role.name,
                    keys.join(", ")
                ));
            }
            return Ok(says);
        }
        let root = claimed_root(&self.file.0)?;
        let role = |name: &str, keys: &groundcrew_core::trust::tuf::metadata::RoleKeys| {
            let ids = keys
                .keyids
                .iter()
                .filter_map(|id| root.keys.get(id)?.ed25519());
            let ids: Vec<String> = ids.map(|key| short(&key)).collect();
            format!("{name}: {} of {}", keys.threshold, ids.join(", "))
        };
        let roles = &root.roles;
        Ok(vec![
            role("root", &roles.root),
            role("targets", &roles.targets),
            role("snapshot", &roles.snapshot),
            role("timestamp", &roles.timestamp),
        ])
    }
}

/// The beginning of a key, for people to compare.
pub(super) fn short(key: &PublicKey) -> String {
    key.hex().chars().take(8).collect()
}

impl Hq {
    /// The ceremonies that wait for signatures here, with their files.
    pub fn ceremonies(&self) -> anyhow::Result<Vec<(PathBuf, Ceremony)>> {
        let folder = self.dir().join("ceremonies");
        let entries = std::fs::read_dir(&folder);
        let entries = entries.with_context(|| format!("reading {}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
        paths.sort();
        let read = |path: PathBuf| Ok((path.clone(), Ceremony::read(&path)?));
        paths.into_iter().map(read).collect()
    }
}

/// A file name for a ceremony.
pub fn file_name(purpose: &str, hq: &Hq) -> PathBuf {
    let words = purpose.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).take(8).collect();
    let name: Slug = words
        .join("-")
        .to_lowercase()
        .chars()
        .take(40)
        .collect::<String>()
        .trim_matches('-')
        .parse()
        .unwrap_or_else(|_| "ceremony".parse().unwrap_or_else(|_| unreachable!()));
    hq.dir().join("ceremonies").join(format!("{name}.json"))
}
