//! What HQ signed of this site, as it lies in its trust repository.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::trust::charter::Charter;
use groundcrew_core::trust::tuf::{Repo, TargetFile};

use super::{Site, publish};

/// The site's charter: listed by the targets that HQ signed, and read only when
/// its bytes are the ones listed. Its expiry is not judged.
pub fn read(site: &Site, name: &SiteId) -> anyhow::Result<Charter> {
    let repo = publish::load(site)?;
    let target = listed(&repo, name)?;
    let file = file(site, name, &target)?;
    let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    checked(&target, name, bytes).with_context(|| format!("reading {}", file.display()))
}

/// The bytes of the site's charter, for another site of the same HQ.
pub fn bytes(site: &Site, name: &SiteId) -> anyhow::Result<Vec<u8>> {
    let target = listed(&publish::load(site)?, name)?;
    let file = file(site, name, &target)?;
    std::fs::read(&file).with_context(|| format!("reading {}", file.display()))
}

/// The charter of another site of the same HQ, which brought its bytes: HQ lists
/// every site's at every site.
pub fn of_other(site: &Site, name: &SiteId, bytes: Vec<u8>) -> anyhow::Result<Charter> {
    checked(&listed(&publish::load(site)?, name)?, name, bytes)
}

fn listed(repo: &Repo, name: &SiteId) -> anyhow::Result<TargetFile> {
    let targets = repo.targets().context("the site has no targets metadata")?;
    let target = targets.targets.get(&Charter::target_path(name));
    target.cloned().with_context(|| {
        format!(
            "HQ has signed no charter for `{name}`; was `name` in site.toml changed after init?"
        )
    })
}

fn file(site: &Site, name: &SiteId, target: &TargetFile) -> anyhow::Result<PathBuf> {
    let digest = target.sha256();
    let digest = digest.context("the charter is listed without a SHA-256 digest")?;
    let folder = site.trust_dir().join("targets/sites");
    Ok(folder.join(format!("{}.{name}.json", digest.hex())))
}

fn checked(target: &TargetFile, name: &SiteId, bytes: Vec<u8>) -> anyhow::Result<Charter> {
    let bytes = target
        .verify(bytes)
        .context("the charter is not what HQ signed")?;
    let charter: Charter = serde_json::from_slice(&bytes).context("the charter")?;
    ensure!(
        charter.site == *name,
        "the charter is about the site {}, not {name}",
        charter.site
    );
    Ok(charter)
}
