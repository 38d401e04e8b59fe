//! Which bundles the site's TUF repository lists, of those that are here.

use groundcrew_core::ids::{Slug, Version};
use groundcrew_core::trust::tuf::Repo;

use crate::site::{Site, publish};

/// The wanted version of a bundle, if it is published; else the newest one.
/// HQ lists what any of its sites may have: only what this site was given counts.
pub fn choose(site: &Site, repo: &Repo, name: &Slug, wanted: Option<Version>) -> Option<Version> {
    let prefix = format!("bundles/{name}/");
    let mut versions: Vec<Version> = repo
        .listed_paths()
        .filter_map(|path| version_of(path, &prefix))
        .filter(|found| wanted.is_none_or(|wanted| wanted == *found))
        .collect();
    versions.sort();
    versions.into_iter().rev().find(|version| {
        let path = format!("{prefix}{version}.json");
        let target = repo.listed(&path);
        target.is_some_and(|target| publish::target_bytes(site, &path, target).is_some())
    })
}

fn version_of(path: &str, prefix: &str) -> Option<Version> {
    let version = path.strip_prefix(prefix)?.strip_suffix(".json")?;
    version.parse().ok()
}
