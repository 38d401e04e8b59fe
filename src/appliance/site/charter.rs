//! What HQ signed of this site, as it lies in its trust repository.

use anyhow::{Context as _, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::trust::charter::Charter;
use groundcrew_core::trust::tuf::{Repo, TargetFile};

use super::{Site, publish};

/// The site's charter as HQ signed it last. Its expiry is not judged.
pub fn read(site: &Site, name: &SiteId) -> anyhow::Result<Charter> {
    of(site, name, &publish::load(site)?)
}

/// The same, of a repository that is loaded already.
pub fn of(site: &Site, name: &SiteId, repo: &Repo) -> anyhow::Result<Charter> {
    parsed(name, &bytes(site, name, repo)?)
}

/// Its bytes: those that HQ's targets list, and no others.
pub fn bytes(site: &Site, name: &SiteId, repo: &Repo) -> anyhow::Result<Vec<u8>> {
    let target = listed(repo, name)?;
    let bytes = publish::target_bytes(site, &Charter::target_path(name), target);
    bytes.with_context(|| {
        format!(
            "the newest charter of {name} is not here, or not as HQ signed it: bring what `groundcrew trust export` writes"
        )
    })
}

/// The charter of another site of the same HQ, which brought its bytes: HQ lists
/// every site's at every site.
pub fn of_other(site: &Site, name: &SiteId, bytes: Vec<u8>) -> anyhow::Result<Charter> {
    let repo = publish::load(site)?;
    let bytes = listed(&repo, name)?.verify(bytes);
    parsed(name, &bytes.context("the charter is not what HQ signed")?)
}

fn listed<'a>(repo: &'a Repo, name: &SiteId) -> anyhow::Result<&'a TargetFile> {
    let targets = repo.targets().context("the site has no targets metadata")?;
    let target = targets.targets.get(&Charter::target_path(name));
    target.with_context(|| {
        format!(
            "HQ lists no charter for the site {name}; was `name` in site.toml changed after init?"
        )
    })
}

fn parsed(name: &SiteId, bytes: &[u8]) -> anyhow::Result<Charter> {
    let charter: Charter =
        serde_json::from_slice(bytes).context("the charter cannot be read, update this program")?;
    ensure!(
        charter.site == *name,
        "the charter is about the site {}, not {name}",
        charter.site
    );
    Ok(charter)
}
