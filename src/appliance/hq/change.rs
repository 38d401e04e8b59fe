//! What HQ can decide. Each decision becomes a [`Ceremony`]; where the keys at
//! hand are enough, it is over at once.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::ids::{Slug, Version};
use groundcrew_core::keys::PublicKey;
use groundcrew_core::trust::tuf::TargetFile;
use groundcrew_core::trust::tuf::repo::{
    TargetChange, claimed_root, claimed_targets, draft_root, draft_targets,
};
use groundcrew_core::trust::{Charter, Downgrade, Downgrades};

use super::ceremony::{self, Blob, Ceremony, Draft, FORM};
use super::region::RegionChange;
use super::secret::{NewKey, Passphrase};
use super::{Hq, KeyRole, SiteRecord, State};
use crate::site::SiteKeys;
use crate::site::publish::OFFLINE_LIFETIME;
use crate::site::rekey::PublicKeys;

/// How much longer than targets a root is valid.
const ROOT_LIFETIME: u64 = OFFLINE_LIFETIME * 5;

/// A downgrade is an exception: a year at most.
const MOST_DOWNGRADE: u64 = 366 * 86_400;

/// A decision, ready to be signed.
#[derive(Clone, Debug)]
pub struct Change {
    purpose: String,
    after: State,
    targets: Vec<TargetChange>,
    renew: bool,
    pub(super) region: Option<RegionChange>,
}

impl Change {
    /// The charters that it lists anew.
    pub fn new_charters(&self) -> impl Iterator<Item = &Charter> {
        let put = |path: &String| {
            let mut targets = self.targets.iter();
            targets.any(|change| matches!(change, TargetChange::Put(known, _) if known == path))
        };
        let charters = self.after.sites.values().map(|record| &record.charter);
        charters.filter(move |charter| put(&Charter::target_path(&charter.site)))
    }
}

/// What became of a change.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Signed; HQ's new state.
    Done(Hq),
    /// More people must sign this file.
    Waiting {
        /// The ceremony's file.
        file: PathBuf,
        /// Who signed and who has not.
        standing: String,
    },
}

/// What a charter grants a site.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Tags that the site may hand out; none: any.
    pub tags: Vec<Slug>,
    /// How many devices it may admit.
    pub devices: u32,
    /// For how many seconds.
    pub lifetime: u64,
    /// Least versions of bundles.
    pub minimum: Vec<(Slug, Version)>,
}

/// What is to change about a charter; nothing said: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTerms {
    /// Tags that the site may hand out; an empty list: any.
    pub tags: Option<Vec<Slug>>,
    /// How many devices it may admit.
    pub devices: Option<u32>,
    /// For how many seconds from now on.
    pub lifetime: Option<u64>,
    /// Least versions of these bundles; those of others stay.
    pub minimum: Vec<(Slug, Version)>,
}

/// How long a charter is valid where nobody says a time, in seconds.
pub(super) const fn full_lifetime() -> u64 {
    OFFLINE_LIFETIME
}

impl Hq {
    /// A new site with these keys.
    pub fn add_site(
        &self,
        name: &SiteId,
        keys: &SiteKeys,
        terms: &Terms,
    ) -> anyhow::Result<Change> {
        if self.state().sites.contains_key(name) {
            bail!("HQ has a site `{name}` already; choose another name");
        }
        let charter = Charter {
            site: name.clone(),
            version: 1,
            tls_key: keys.tls_key_digest(),
            grant_key: keys.grant.public(),
            journal_key: keys.journal.public(),
            tags: terms.tags.clone(),
            expires: super::now()?.time().plus(terms.lifetime),
            devices: terms.devices,
            minimum: terms.minimum.iter().cloned().collect(),
        };
        let put = put(&charter)?;
        let mut after = self.state().clone();
        let record = SiteRecord {
            snapshot: keys.snapshot.public(),
            timestamp: keys.timestamp.public(),
            charter,
            lifetime: terms.lifetime,
        };
        after.sites.insert(name.clone(), record);
        Ok(self.change(format!("add site {name}"), after, vec![put]))
    }

    /// New keys for a site, which the site made and whose public halves came
    /// from it: its old ones were stolen or lost.
    pub fn rekey_site(&self, keys: &PublicKeys) -> anyhow::Result<Change> {
        let name = &keys.site;
        let mut record = self.site(name)?.clone();
        ensure!(
            record.timestamp != keys.timestamp,
            "HQ has these keys for {name} already"
        );
        record.snapshot = keys.snapshot;
        record.timestamp = keys.timestamp;
        record.charter = Charter {
            version: record.charter.version.saturating_add(1),
            tls_key: keys.tls,
            grant_key: keys.grant,
            journal_key: keys.journal,
            ..record.charter
        };
        let put = put(&record.charter)?;
        let mut after = self.state().clone();
        after.sites.insert(name.clone(), record);
        Ok(self.change(format!("rekey site {name}"), after, vec![put]))
    }

    /// New terms for a site; its charter gets the next version.
    pub fn charter_site(&self, name: &SiteId, terms: &NewTerms) -> anyhow::Result<Change> {
        let mut record = self.site(name)?.clone();
        ensure!(
            *terms != NewTerms::default(),
            "nothing to change: name new terms, such as --devices or --days"
        );
        record.lifetime = terms.lifetime.unwrap_or(record.lifetime);
        let now = super::now()?.time();
        let held = record.charter;
        let mut minimum = held.minimum;
        minimum.extend(terms.minimum.iter().cloned());
        record.charter = Charter {
            version: held.version.saturating_add(1),
            tags: terms.tags.clone().unwrap_or(held.tags),
            expires: match terms.lifetime {
                Some(lifetime) => now.plus(lifetime),
                None => held.expires,
            },
            devices: terms.devices.unwrap_or(held.devices),
            minimum,
            ..held
        };
        let put = put(&record.charter)?;
        let mut after = self.state().clone();
        after.sites.insert(name.clone(), record);
        Ok(self.change(format!("charter site {name}"), after, vec![put]))
    }

    /// An older bundle that devices of a site may get again until then; for
    /// one device or all.
    pub fn allow_downgrade(&self, site: &SiteId, allowed: Downgrade) -> anyhow::Result<Change> {
        let now = super::now()?.time();
        self.site(site)?;
        let bundle = allowed.bundle.clone();
        ensure!(
            self.listed(&bundle.target_path())?.is_some(),
            "HQ lists no {bundle}: there is nothing to go back to"
        );
        ensure!(allowed.until > now, "{} is over already", allowed.until);
        ensure!(
            allowed.until <= now.plus(MOST_DOWNGRADE),
            "{} is more than a year away: allow it for as long as it takes",
            allowed.until
        );
        if let Some(device) = &allowed.device {
            let here = device.as_str().strip_prefix(site.as_str());
            ensure!(
                here.is_some_and(|rest| rest.starts_with('-')),
                "{device} is no device of the site {site}"
            );
        }
        let mut after = self.state().clone();
        let list = after.downgrades.entry(site.clone()).or_insert(Downgrades {
            site: site.clone(),
            allowed: Vec::new(),
        });
        list.allowed.retain(|known| known.until > now);
        list.allowed.push(allowed);
        let put = TargetChange::Put(
            Downgrades::target_path(site),
            TargetFile::of(&list.to_json()?),
        );
        Ok(self.change(format!("allow {bundle} at {site}"), after, vec![put]))
    }

    /// One more key for a role.
    pub fn add_key(
        &self,
        role: KeyRole,
        name: &Slug,
        key: PublicKey,
        threshold: Option<u32>,
    ) -> anyhow::Result<Change> {
        let mut after = self.state().clone();
        if let Some(known) = after.name_of(&key) {
            bail!("this key is there already, as `{known}`");
        }
        let signers = after.signers(role);
        ensure!(
            !signers.keys.contains_key(name),
            "there is a key `{name}` already"
        );
        signers.keys.insert(name.clone(), key);
        signers.threshold = threshold.unwrap_or(signers.threshold);
        self.keys_changed(format!("add key {name}"), after)
    }

    /// A key that is lost, stolen, or whose owner left.
    pub fn remove_key(
        &self,
        role: KeyRole,
        name: &Slug,
        threshold: Option<u32>,
    ) -> anyhow::Result<Change> {
        let mut after = self.state().clone();
        let signers = after.signers(role);
        signers.keys.remove(name).with_context(|| no_key(name))?;
        signers.threshold = threshold.unwrap_or(signers.threshold);
        self.keys_changed(format!("remove key {name}"), after)
    }

    /// A key in the place of another.
    pub fn rotate_key(
        &self,
        role: KeyRole,
        old: &Slug,
        new: &Slug,
        key: PublicKey,
    ) -> anyhow::Result<Change> {
        let mut after = self.state().clone();
        let signers = after.signers(role);
        signers.keys.remove(old).with_context(|| no_key(old))?;
        ensure!(
            !signers.keys.contains_key(new),
            "there is a key `{new}` already"
        );
        signers.keys.insert(new.clone(), key);
        self.keys_changed(format!("rotate key {old} to {new}"), after)
    }

    /// Everything signed anew: roots and targets for their full time, each
    /// charter for as long as HQ made it last.
    pub fn renew(&self) -> anyhow::Result<Change> {
        let now = super::now()?.time();
        let mut after = self.state().clone();
        let mut targets = Vec::new();
        for record in after.sites.values_mut() {
            record.charter.version = record.charter.version.saturating_add(1);
            record.charter.expires = now.plus(record.lifetime);
            targets.push(put(&record.charter)?);
        }
        let mut change = self.change("renew everything".to_owned(), after, targets);
        change.renew = true;
        Ok(change)
    }

    /// Target files listed: bundles.
    pub fn list(&self, what: &str, files: &[(String, Vec<u8>)]) -> Change {
        let put = |(path, bytes): &(String, Vec<u8>)| {
            TargetChange::Put(path.clone(), TargetFile::of(bytes))
        };
        let targets = files.iter().map(put).collect();
        self.change(format!("publish {what}"), self.state().clone(), targets)
    }

    /// Signs with the keys at hand, and takes the change over if they suffice.
    pub fn carry_out(&self, change: &Change, passphrase: &Passphrase) -> anyhow::Result<Progress> {
        self.carry_out_with(change, None, passphrase)
    }

    /// The same with a key that was made for it. The key is written when
    /// everything else is right, and before anything names it.
    pub fn carry_out_with(
        &self,
        change: &Change,
        new: Option<&NewKey>,
        passphrase: &Passphrase,
    ) -> anyhow::Result<Progress> {
        let mut ceremony = self.begin(change)?;
        let keys = self.keys_at_hand(passphrase)?;
        let keys: Vec<_> = keys.iter().chain(new.map(NewKey::key)).collect();
        ceremony.sign(&keys)?;
        let complete = ceremony.is_complete()?;
        let file = ceremony::file_name(&ceremony.purpose, self);
        if complete {
            ceremony.outcome(self)?;
        } else if file.exists() {
            bail!(
                "{} is under way already: sign and finalize it, or delete it",
                file.display()
            );
        }
        if let Some(new) = new {
            new.save()?;
        }
        if complete {
            return Ok(Progress::Done(ceremony.finish(self)?));
        }
        ceremony.write(&file)?;
        let standing = ceremony.describe()?;
        Ok(Progress::Waiting { file, standing })
    }

    pub(super) fn change(
        &self,
        purpose: String,
        after: State,
        targets: Vec<TargetChange>,
    ) -> Change {
        Change {
            purpose,
            after,
            targets,
            renew: false,
            region: None,
        }
    }

    fn keys_changed(&self, purpose: String, after: State) -> anyhow::Result<Change> {
        for (role, signers) in [("root", &after.root), ("targets", &after.targets)] {
            let keys = signers.keys.len();
            let possible =
                usize::try_from(signers.threshold).is_ok_and(|t| (1..=keys).contains(&t));
            ensure!(
                possible,
                "{} of {keys} {role} keys cannot be asked to sign: say --threshold 1 to {keys}",
                signers.threshold
            );
        }
        Ok(self.change(purpose, after, Vec::new()))
    }

    /// The drafts that a change needs, unsigned.
    fn begin(&self, change: &Change) -> anyhow::Result<Ceremony> {
        let now = super::now()?.time();
        let mut drafts = Vec::new();
        let mut any_root = None;
        for (site, record) in &change.after.sites {
            let previous = self.repo(site)?.map(|repo| repo.root_bytes().to_vec());
            let spec = change.after.root_spec(record, now.plus(ROOT_LIFETIME));
            let file = draft_root(&spec, previous.as_deref())?.bytes;
            let unchanged = match &previous {
                Some(old) => {
                    let (old, new) = (claimed_root(old)?, claimed_root(&file)?);
                    old.keys == new.keys && old.roles == new.roles
                }
                None => false,
            };
            any_root.get_or_insert_with(|| file.clone());
            if !unchanged || change.renew {
                let (site, by) = (Some(site.clone()), previous.map(Blob));
                drafts.push(Draft {
                    site,
                    region: None,
                    file: Blob(file),
                    by,
                });
            }
        }
        let held = self
            .targets_bytes()
            .map(|bytes| claimed_targets(&bytes))
            .transpose()?;
        let signers_changed = change.after.targets != self.state().targets;
        if let Some(root) = any_root
            && (!change.targets.is_empty() || signers_changed || change.renew || held.is_none())
        {
            let file = draft_targets(held.as_ref(), &change.targets, now.plus(OFFLINE_LIFETIME))?;
            drafts.push(Draft {
                site: None,
                region: None,
                file: Blob(file.bytes),
                by: Some(Blob(root)),
            });
        } else if !change.targets.is_empty() {
            bail!("HQ has no site yet, so nothing can be signed for one: `groundcrew hq site add`");
        }
        if let Some(region) = &change.region {
            let by = drafts.last().filter(|draft| draft.site.is_none());
            let by = by
                .map(|draft| draft.file.0.clone())
                .or_else(|| self.targets_bytes());
            drafts.push(Draft {
                site: None,
                region: Some(region.name.clone()),
                file: Blob(self.draft_region(region)?),
                by: by.map(Blob),
            });
        }
        Ok(Ceremony {
            groundcrew_ceremony: FORM,
            purpose: change.purpose.clone(),
            drafts,
            after: change.after.clone(),
        })
    }
}

fn put(charter: &Charter) -> anyhow::Result<TargetChange> {
    let file = TargetFile::of(&charter.to_json()?);
    Ok(TargetChange::Put(Charter::target_path(&charter.site), file))
}

fn no_key(name: &Slug) -> String {
    format!("there is no key `{name}` for this role; `groundcrew hq show` lists them")
}
