//! HQ's state once a ceremony is over, worked out from HQ's own state and what
//! was signed. The file that travelled is asked for three things only: the
//! words behind a digest that was signed (charters, downgrades), the names of
//! new keys, and the sites of a new region. None of them lets anybody sign.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::trust::tuf::key::{Key, KeyId};
use groundcrew_core::trust::tuf::metadata::RoleKeys;
use groundcrew_core::trust::tuf::repo::{RootSpec, claimed_root, claimed_targets, draft_root};
use groundcrew_core::trust::tuf::{Repo, Root, TargetFile, Targets};
use groundcrew_core::trust::{Charter, Downgrades};

use super::ceremony::{Ceremony, short};
use super::region::{self, Region};
use super::{Hq, Signers, SiteRecord, State};
use crate::site::publish::OFFLINE_LIFETIME;

/// How many seconds a change may take from its first date to its last.
const ONE_MOMENT: u64 = 3600;

impl Ceremony {
    /// The state that the signed drafts lead to.
    ///
    /// # Errors
    /// A signature does not count at HQ, something else was signed since, or
    /// the file says another outcome than what was signed.
    pub(super) fn outcome(&self, hq: &Hq) -> anyhow::Result<State> {
        self.says_each_once()?;
        let mut repos = self.repos_after(hq)?;
        let listed = self.targets_after(hq, &mut repos)?;
        let (root, targets) = self.signers_after(hq, &repos)?;
        let mut state = State {
            organisation: hq.state.organisation.clone(),
            root,
            targets,
            sites: BTreeMap::new(),
            downgrades: self.downgrades_after(hq, repos.keys(), &listed)?,
            regions: self.regions_after(hq, &listed)?,
        };
        for (site, repo) in &repos {
            let record = self.record_after(hq, site, repo.root(), &listed)?;
            root_says(site, repo, &state.root_spec(&record, repo.root().expires))?;
            state.sites.insert(site.clone(), record);
        }
        region::delegations_hold(&state, &listed)?;
        for (name, file) in self.region_drafts() {
            region::list_holds(hq, name, file, &mut repos.values_mut())?;
        }
        ensure!(
            self.meant(hq) == state,
            "this file says something else of HQ's keys, sites or regions than what was signed: it was changed on its way. Begin it again"
        );
        Ok(state)
    }

    /// What the file says of the outcome; who is in a region that HQ has, HQ knows.
    fn meant(&self, hq: &Hq) -> State {
        let mut meant = self.after.clone();
        for (name, region) in &mut meant.regions {
            if let Some(own) = hq.state.regions.get(name) {
                region.sites.clone_from(&own.sites);
            }
        }
        meant
    }

    /// One draft of each file: a second one would be written without a look.
    fn says_each_once(&self) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        for draft in &self.drafts {
            ensure!(
                (draft.site.is_none() || draft.region.is_none())
                    && seen.insert((&draft.site, &draft.region)),
                "a file to be signed is in this ceremony twice: it was changed on its way"
            );
        }
        Ok(())
    }

    /// Every site's repository with its new root, where there is one.
    fn repos_after(&self, hq: &Hq) -> anyhow::Result<BTreeMap<SiteId, Repo>> {
        let drafted = self.drafts.iter().filter_map(|draft| draft.site.as_ref());
        let sites: BTreeSet<&SiteId> = hq.state.sites.keys().chain(drafted).collect();
        let repo = |site: &SiteId| Ok((site.clone(), self.repo_after(hq, site)?));
        sites.into_iter().map(repo).collect()
    }

    fn repo_after(&self, hq: &Hq, site: &SiteId) -> anyhow::Result<Repo> {
        let mut drafts = self.drafts.iter();
        let draft = drafts.find(|draft| draft.site.as_ref() == Some(site));
        match (hq.repo(site)?, draft.map(|draft| &draft.file.0)) {
            (Some(held), None) => Ok(held),
            // Interrupted after this root was written: take it up again.
            (Some(held), Some(file)) if held.root_bytes() == file => Ok(held),
            (Some(mut held), Some(file)) => {
                held.import_root(file).with_context(|| {
                    format!("the root of {site}: something else was signed since this ceremony began; begin it again")
                })?;
                Ok(held)
            }
            (None, Some(file)) => {
                ensure!(
                    claimed_root(file)?.version.get() == 1,
                    "the first root of {site} has another version than 1"
                );
                Ok(Repo::new(file)?)
            }
            (None, None) => anyhow::bail!("no root for {site} is among the drafts"),
        }
    }

    /// The targets that hold afterwards, accepted by every site's root.
    fn targets_after(
        &self,
        hq: &Hq,
        repos: &mut BTreeMap<SiteId, Repo>,
    ) -> anyhow::Result<Targets> {
        ensure!(
            !repos.is_empty(),
            "HQ has no site yet, so nobody says whose signatures count: `groundcrew hq site add`"
        );
        let held = hq.targets_bytes();
        let draft = self.targets_draft().map(|draft| &draft.file.0);
        let file = draft
            .or(held.as_ref())
            .context("no targets are among the drafts")?;
        let targets = claimed_targets(file)?;
        if let (Some(_), Some(held)) = (draft, held.as_ref().filter(|held| *held != file)) {
            let next = claimed_targets(held)?.version.get().saturating_add(1);
            ensure!(
                targets.version.get() == next,
                "targets.json: something else was signed since this ceremony began; begin it again"
            );
        }
        for (site, repo) in repos {
            repo.import_targets(file)
                .with_context(|| format!("targets.json by the root of {site}"))?;
        }
        Ok(targets)
    }

    /// Who signs from now on: what the roots say that follow those HQ holds.
    /// The root of a new site is signed by nobody but the keys that it names.
    fn signers_after(
        &self,
        hq: &Hq,
        repos: &BTreeMap<SiteId, Repo>,
    ) -> anyhow::Result<(Signers, Signers)> {
        let own = &hq.state;
        let Some(repo) = own.sites.keys().find_map(|site| repos.get(site)) else {
            return Ok((own.root.clone(), own.targets.clone()));
        };
        let root = repo.root();
        Ok((
            named(root, &root.roles.root, [&own.root, &self.after.root])?,
            named(
                root,
                &root.roles.targets,
                [&own.targets, &self.after.targets],
            )?,
        ))
    }

    /// A site's keys as its root names them, and its charter as it is listed.
    fn record_after(
        &self,
        hq: &Hq,
        site: &SiteId,
        root: &Root,
        listed: &Targets,
    ) -> anyhow::Result<SiteRecord> {
        let known = hq.state.sites.get(site);
        let target = listed.targets.get(&Charter::target_path(site));
        let mut charters = known.into_iter().chain(self.after.sites.get(site));
        let charter = charters.find_map(|record| {
            let bytes = record.charter.to_json().ok()?;
            let right = record.charter.site == *site && is_listed(target, &bytes);
            right.then(|| record.charter.clone())
        });
        let charter = charter.with_context(|| {
            format!("the charter of {site} that is listed is not the one that HQ has decided on")
        })?;
        let snapshot = sole_key(&root.keys, &root.roles.snapshot)?;
        let timestamp = sole_key(&root.keys, &root.roles.timestamp)?;
        let said = self.after.sites.get(site).map(|said| said.lifetime);
        let mut lifetime = lifetime_of(&charter, listed, said);
        if let Some(known) = known {
            // A root does not say whose it is: another site's would fit, too.
            ensure!(
                (snapshot, timestamp) == (known.snapshot, known.timestamp)
                    || charter.grant_key != known.charter.grant_key,
                "the root of {site} names other keys of the site than HQ knows, and its charter does not"
            );
            if charter.expires == known.charter.expires {
                lifetime = known.lifetime;
            }
        }
        Ok(SiteRecord {
            snapshot,
            timestamp,
            charter,
            lifetime,
        })
    }

    fn downgrades_after<'a>(
        &self,
        hq: &Hq,
        sites: impl Iterator<Item = &'a SiteId>,
        listed: &Targets,
    ) -> anyhow::Result<BTreeMap<SiteId, Downgrades>> {
        let mut after = BTreeMap::new();
        for site in sites {
            let target = listed.targets.get(&Downgrades::target_path(site));
            if target.is_none() {
                continue;
            }
            let own = hq.state.downgrades.get(site);
            let mut lists = own.into_iter().chain(self.after.downgrades.get(site));
            let list = lists.find(|list| {
                let bytes = list.to_json();
                list.site == *site && bytes.is_ok_and(|bytes| is_listed(target, &bytes))
            });
            let list = list.with_context(|| {
                format!(
                    "the downgrades of {site} that are listed are not those that HQ has decided on"
                )
            })?;
            after.insert(site.clone(), list.clone());
        }
        Ok(after)
    }

    /// The regions that the targets delegate to. Who is in one is not signed.
    fn regions_after(&self, hq: &Hq, listed: &Targets) -> anyhow::Result<BTreeMap<Slug, Region>> {
        let mut after = BTreeMap::new();
        let Some(delegations) = &listed.delegations else {
            return Ok(after);
        };
        for role in &delegations.roles {
            let name: Slug = role.name.parse()?;
            let key = sole_key(&delegations.keys, &role.keys)?;
            let own = hq.state.regions.get(&name);
            let known = own.or_else(|| self.after.regions.get(&name));
            let mut sites = known.map(|known| known.sites.clone()).unwrap_or_default();
            sites.retain(|site| hq.state.sites.contains_key(site));
            after.insert(name, Region { key, sites });
        }
        Ok(after)
    }
}

/// The root is the one that HQ would draft.
fn root_says(site: &SiteId, repo: &Repo, spec: &RootSpec) -> anyhow::Result<()> {
    let root = repo.root();
    let mut drafted = claimed_root(&draft_root(spec, Some(repo.root_bytes()))?.bytes)?;
    drafted.version = root.version;
    ensure!(
        drafted == *root,
        "the root of {site} says something else than HQ's keys and this site's"
    );
    Ok(())
}

/// A role of a root as signers, by the first names that are known.
fn named(root: &Root, role: &RoleKeys, known: [&Signers; 2]) -> anyhow::Result<Signers> {
    let mut keys = BTreeMap::new();
    for id in &role.keyids {
        let key = ed25519(&root.keys, id)?;
        let name = known.iter().find_map(|signers| {
            let mut named = signers.keys.iter();
            named
                .find(|(_, known)| **known == key)
                .map(|(name, _)| name)
        });
        let name = name.with_context(|| format!("the key {} has no name", short(&key)))?;
        ensure!(
            keys.insert(name.clone(), key).is_none(),
            "two keys are called `{name}`"
        );
    }
    Ok(Signers {
        threshold: role.threshold.get(),
        keys,
    })
}

fn ed25519(keys: &BTreeMap<KeyId, Key>, id: &KeyId) -> anyhow::Result<PublicKey> {
    let key = keys.get(id).and_then(Key::ed25519);
    key.context("it names a key that is not Ed25519")
}

fn sole_key(keys: &BTreeMap<KeyId, Key>, role: &RoleKeys) -> anyhow::Result<PublicKey> {
    match role.keyids.as_slice() {
        [only] => ed25519(keys, only),
        _ => anyhow::bail!("it names several keys where HQ names one"),
    }
}

fn is_listed(target: Option<&TargetFile>, bytes: &[u8]) -> bool {
    target.is_some_and(|listed| listed.sha256() == TargetFile::of(bytes).sha256())
}

/// For how many seconds a new charter was made. It and the targets that list it
/// are of one moment, and both dates are signed; `said` is the round number.
fn lifetime_of(charter: &Charter, listed: &Targets, said: Option<u64>) -> u64 {
    let until = charter.expires.seconds().saturating_add(OFFLINE_LIFETIME);
    let signed = until.saturating_sub(listed.expires.seconds());
    said.filter(|said| said.abs_diff(signed) <= ONE_MOMENT)
        .unwrap_or(signed)
}
