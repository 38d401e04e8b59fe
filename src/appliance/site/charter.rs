//! What HQ signed of this site, as it lies in its trust repository.

use anyhow::{Context as _, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::trust::charter::Charter;

use super::{Site, publish};

/// The site's charter: listed by the targets that HQ signed, and read only when
/// its bytes are the ones listed. Its expiry is not judged.
pub fn read(site: &Site, name: &SiteId) -> anyhow::Result<Charter> {
    let repo = publish::load(site)?;
    let path = Charter::target_path(name);
    let targets = repo.targets().context("the site has no targets metadata")?;
    let target = targets.targets.get(&path).with_context(|| {
        format!(
            "HQ has signed no charter for `{name}`; was `name` in site.toml changed after init?"
        )
    })?;
    let digest = target
        .sha256()
        .context("the charter is listed without a SHA-256 digest")?;
    let file = site
        .trust_dir()
        .join("targets/sites")
        .join(format!("{}.{name}.json", digest.hex()));
    let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let bytes = target
        .verify(bytes)
        .with_context(|| format!("{} is not what HQ signed", file.display()))?;
    let charter: Charter =
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", file.display()))?;
    ensure!(
        charter.site == *name,
        "the charter is about the site {}, not {name}",
        charter.site
    );
    Ok(charter)
}
