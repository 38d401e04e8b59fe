//! Which bundles the site's TUF repository lists.

use groundcrew_core::ids::{Slug, Version};
use groundcrew_core::trust::tuf::Repo;

/// The wanted version of a bundle, if it is published; else the newest one.
pub fn choose(repo: &Repo, name: &Slug, wanted: Option<Version>) -> Option<Version> {
    let prefix = format!("bundles/{name}/");
    let mut versions = repo.targets()?.targets.keys().filter_map(|path| {
        path.strip_prefix(&prefix)?
            .strip_suffix(".json")?
            .parse::<Version>()
            .ok()
    });
    match wanted {
        Some(wanted) => versions.find(|found| *found == wanted),
        None => versions.max(),
    }
}
