//! Regions: a part of the target paths, signed by a key of the region's own.
//! HQ's targets delegate `NAME/*` and the bundles `NAME` and `NAME-…` to it; a
//! courier takes the region's list to the sites in the region.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::trust::tuf::repo::{
    Delegation, RoleSpec, TargetChange, claimed_targets, draft_targets,
};
use groundcrew_core::trust::tuf::{Repo, TargetFile, Targets};
use groundcrew_core::{SiteId, UnixTime};
use serde::{Deserialize, Serialize};

use super::change::Change;
use super::{Hq, State};
use crate::site::publish::OFFLINE_LIFETIME;

/// Names of TUF's own roles.
const TAKEN: [&str; 4] = ["root", "targets", "snapshot", "timestamp"];

/// A region as HQ knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Who signs for it.
    pub key: PublicKey,
    /// The sites that get its list.
    pub sites: BTreeSet<SiteId>,
}

/// What changes about a region's own list.
#[derive(Clone, Debug)]
pub struct RegionChange {
    /// The region.
    pub name: Slug,
    /// What it lists anew; nothing: the same, signed anew.
    pub targets: Vec<TargetChange>,
}

/// What HQ's targets say of a region.
pub fn delegation(name: &Slug, region: &Region) -> Delegation {
    Delegation {
        name: name.to_string(),
        paths: vec![
            format!("{name}/*"),
            format!("bundles/{name}/*"),
            format!("bundles/{name}-*/*"),
        ],
        keys: RoleSpec::one(region.key),
    }
}

impl Hq {
    /// A new region, whose key signs an empty list at once.
    pub fn add_region(
        &self,
        name: &Slug,
        key: PublicKey,
        sites: &[SiteId],
    ) -> anyhow::Result<Change> {
        ensure!(
            !TAKEN.contains(&name.as_str()),
            "`{name}` is a role of TUF itself: choose another name"
        );
        let overlaps = |other: &Slug| {
            let within = |a: &Slug, b: &Slug| a.as_str().starts_with(&format!("{b}-"));
            other == name || within(name, other) || within(other, name)
        };
        if let Some(other) = self.state().regions.keys().find(|other| overlaps(other)) {
            bail!(
                "the region `{other}` has the bundles `{other}-…` already: choose a name that neither begins the other"
            );
        }
        let mut after = self.state().clone();
        for site in sites {
            self.site(site)?;
        }
        if let Some(known) = after.name_of(&key) {
            bail!("this key signs for HQ already, as `{known}`: a region needs its own");
        }
        let sites = sites.iter().cloned().collect();
        after.regions.insert(name.clone(), Region { key, sites });
        Ok(self.region_change(format!("add region {name}"), after, name, Vec::new()))
    }

    /// The sites that bear a region's name, as its bundles do: `NAME`, `NAME-…`.
    pub fn sites_named_after(&self, region: &Slug) -> Vec<SiteId> {
        let within = format!("{region}-");
        let sites = self.state().sites.keys();
        let here = |site: &&SiteId| *site == region || site.as_str().starts_with(&within);
        sites.filter(here).cloned().collect()
    }

    /// Another key for a region, whose list is signed anew by it.
    pub fn rotate_region(&self, name: &Slug, key: PublicKey) -> anyhow::Result<Change> {
        let mut after = self.state().clone();
        region_of(&mut after, name)?.key = key;
        Ok(self.region_change(format!("rotate region {name}"), after, name, Vec::new()))
    }

    /// A region's list signed anew for its full time.
    pub fn renew_region(&self, name: &Slug) -> anyhow::Result<Change> {
        let mut after = self.state().clone();
        region_of(&mut after, name)?;
        Ok(self.region_change(format!("renew region {name}"), after, name, Vec::new()))
    }

    /// When each region's list ends. `hq renew` cannot sign them: their keys
    /// are not HQ's.
    pub fn regions_until(&self) -> Vec<(Slug, UnixTime)> {
        let names = self.state().regions.keys();
        let until = |name: &Slug| claimed_targets(&self.region_bytes(name)?).ok();
        names
            .filter_map(|name| Some((name.clone(), until(name)?.expires)))
            .collect()
    }

    /// A region's rights taken back: what it listed, nobody lists any more.
    pub fn remove_region(&self, name: &Slug) -> anyhow::Result<Change> {
        let mut after = self.state().clone();
        region_of(&mut after, name)?;
        after.regions.remove(name);
        let back = TargetChange::Undelegate(name.to_string());
        Ok(self.change(format!("remove region {name}"), after, vec![back]))
    }

    /// Files that a region lists.
    pub fn list_in_region(
        &self,
        name: &Slug,
        what: &str,
        files: &[(String, Vec<u8>)],
    ) -> anyhow::Result<Change> {
        let mut after = self.state().clone();
        region_of(&mut after, name)?;
        let held = self
            .targets_bytes()
            .context("HQ has signed no targets yet")?;
        let targets = claimed_targets(&held)?;
        let delegations = targets.delegations.as_ref();
        let role = delegations.and_then(|d| d.roles.iter().find(|r| r.name == name.as_str()));
        let role = role.with_context(|| format!("HQ's targets do not delegate to `{name}` yet"))?;
        let mut puts = Vec::new();
        for (path, bytes) in files {
            ensure!(
                role.covers(path),
                "{path} is not the region's: its bundles are `{name}` and `{name}-…`, its other files {name}/…"
            );
            puts.push(TargetChange::Put(path.clone(), TargetFile::of(bytes)));
        }
        let purpose = format!("publish {what} in the region {name}");
        Ok(self.region_change(purpose, after, name, puts))
    }

    /// Sites join a region: nothing is signed, the courier takes more along.
    pub fn join_region(&self, name: &Slug, sites: &[SiteId]) -> anyhow::Result<Self> {
        let mut hq = self.clone();
        for site in sites {
            self.site(site)?;
            region_of(&mut hq.state, name)?.sites.insert(site.clone());
        }
        hq.save()?;
        Ok(hq)
    }

    fn region_change(
        &self,
        purpose: String,
        after: State,
        name: &Slug,
        targets: Vec<TargetChange>,
    ) -> Change {
        let delegate = after.regions.get(name).filter(|region| {
            // Told again only where something about it changed.
            self.state().regions.get(name).map(|known| known.key) != Some(region.key)
        });
        let delegate = delegate.map(|region| TargetChange::Delegate(delegation(name, region)));
        let mut change = self.change(purpose, after, delegate.into_iter().collect());
        change.region = Some(RegionChange {
            name: name.clone(),
            targets,
        });
        change
    }

    /// A region's next list, with no signature yet.
    pub(super) fn draft_region(&self, change: &RegionChange) -> anyhow::Result<Vec<u8>> {
        let held = self.region_bytes(&change.name);
        let held = held.map(|bytes| claimed_targets(&bytes)).transpose()?;
        let expires = super::now()?.time().plus(OFFLINE_LIFETIME);
        Ok(draft_targets(held.as_ref(), &change.targets, expires)?.bytes)
    }

    pub(super) fn region_file(&self, name: &Slug) -> PathBuf {
        self.dir().join("regions").join(format!("{name}.json"))
    }

    /// A region's list as it was signed last. It stays when the region is
    /// removed: a later one of its name goes on with its versions.
    pub(super) fn region_bytes(&self, name: &Slug) -> Option<Vec<u8>> {
        std::fs::read(self.region_file(name)).ok()
    }

    /// The lists of the regions that a site is in.
    pub(super) fn regions_of(&self, site: &SiteId) -> Vec<(Slug, Vec<u8>)> {
        let regions = self.state().regions.iter();
        let here = regions.filter(|(_, region)| region.sites.contains(site));
        here.filter_map(|(name, _)| Some((name.clone(), self.region_bytes(name)?)))
            .collect()
    }
}

fn region_of<'a>(state: &'a mut State, name: &Slug) -> anyhow::Result<&'a mut Region> {
    let known: Vec<String> = state.regions.keys().map(ToString::to_string).collect();
    state.regions.get_mut(name).with_context(|| {
        format!(
            "HQ knows no region `{name}`; it knows: {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        )
    })
}

/// The targets delegate what `state` says, no more and no less.
pub(super) fn delegations_hold(state: &State, targets: &Targets) -> anyhow::Result<()> {
    let changes: Vec<_> = state
        .regions
        .iter()
        .map(|(name, region)| TargetChange::Delegate(delegation(name, region)))
        .collect();
    let meant = claimed_targets(&draft_targets(None, &changes, targets.expires)?.bytes)?;
    let by_name = |targets: &Targets| {
        let delegations = targets.delegations.clone().map(|mut delegations| {
            delegations.roles.sort_by(|a, b| a.name.cmp(&b.name));
            (delegations.keys, delegations.roles)
        });
        delegations.unwrap_or_default()
    };
    ensure!(
        by_name(&meant) == by_name(targets),
        "the targets delegate to other keys or paths than HQ's regions"
    );
    Ok(())
}

/// A region's list that is to follow the one held is the next one, and every
/// site's repository takes it.
pub(super) fn list_holds(
    hq: &Hq,
    name: &Slug,
    file: &[u8],
    repos: &mut dyn Iterator<Item = &mut Repo>,
) -> anyhow::Result<()> {
    if let Some(held) = hq.region_bytes(name).filter(|held| held != file) {
        let next = claimed_targets(&held)?.version.get().saturating_add(1);
        ensure!(
            claimed_targets(file)?.version.get() == next,
            "the list of the region {name}: something else was signed since this ceremony began; begin it again"
        );
    }
    for repo in repos {
        repo.import_delegated(name.as_str(), file)
            .with_context(|| format!("the list of the region {name}"))?;
    }
    Ok(())
}
