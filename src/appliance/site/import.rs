//! What HQ signed reaches its site: roots, targets, the charter, bundles'
//! manifests. Everything is judged in memory as a TUF client would; only then
//! is the first byte written.

use anyhow::{Context as _, bail, ensure};
use groundcrew_core::SiteId;
use groundcrew_core::ids::Slug;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::time::Now;
use groundcrew_core::trust::Charter;
use groundcrew_core::trust::tuf::repo::{Repo, RepoFile, claimed_root, target_file};
use groundcrew_core::trust::tuf::signed::Authority;

use super::{Site, SiteKeys, publish, staleness};

/// What a site needs of HQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Whom it is for.
    pub site: SiteId,
    /// Every root from the first one on.
    pub roots: Vec<Vec<u8>>,
    /// HQ's targets.
    pub targets: Vec<u8>,
    /// Lists of the regions that the site is in, by the region's name.
    pub regions: Vec<(Slug, Vec<u8>)>,
    /// Target files by path: the charter, and manifests of bundles.
    pub files: Vec<(String, Vec<u8>)>,
}

/// What an import changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The root's version before (none at a new site) and now.
    pub root: (Option<u64>, u64),
    /// The targets' version before and now.
    pub targets: (Option<u64>, u64),
    /// How many target files came along.
    pub files: usize,
}

impl Imported {
    /// Whether anything of it was new here.
    pub fn is_news(&self) -> bool {
        self.root.0 != Some(self.root.1) || self.targets.0 != Some(self.targets.1)
    }
}

/// A package that was found good, ready to be written.
pub struct Checked {
    repo: Repo,
    metadata: Vec<RepoFile>,
    files: Vec<RepoFile>,
    imported: Imported,
}

/// Judges a package: that HQ signed it, for this site and its keys; that it is
/// not older than what the site has, and has not expired.
pub fn check(site: &Site, package: &Package, keys: &SiteKeys) -> anyhow::Result<Checked> {
    let name = site.settings()?.site;
    ensure!(
        package.site == name,
        "this is for the site {}, and this site is {name}: bring the file for {name}",
        package.site
    );
    let held = site.trust_dir().join("metadata/1.root.json").exists();
    let held = if held {
        Some(publish::load(site)?)
    } else {
        None
    };
    let before = |repo: &Repo| {
        (
            repo.root().version.get(),
            repo.targets().map(|t| t.version.get()),
        )
    };
    let before = held.as_ref().map(before);
    let (mut repo, mut metadata) = with_roots(held, &package.roots)?;
    metadata.push(
        repo.import_targets(&package.targets)
            .context("the targets")?,
    );
    for (name, list) in &package.regions {
        let file = repo.import_delegated(name.as_str(), list);
        metadata.push(file.with_context(|| format!("the list of the region {name}"))?);
    }
    unexpired(site, &repo)?;
    ours(&repo, keys)?;
    let files = listed(site, &repo, package, keys)?;
    let targets = repo.targets().map_or(0, |targets| targets.version.get());
    let imported = Imported {
        root: (before.map(|b| b.0), repo.root().version.get()),
        targets: (before.and_then(|b| b.1), targets),
        files: files.len(),
    };
    Ok(Checked {
        repo,
        metadata,
        files,
        imported,
    })
}

impl Checked {
    /// Whether target files of this path and content are listed.
    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Writes it all, and the site signs that it is current.
    pub fn write(mut self, site: &Site, keys: &SiteKeys) -> anyhow::Result<Imported> {
        publish::write_targets(site, &self.files)?;
        publish::write_metadata(site, &self.metadata)?;
        publish::sign_online(site, &mut self.repo, keys)?;
        // The same courier's file a second time is no news.
        if self.imported.is_news() {
            staleness::hear(site, publish::now(site, &self.repo).time())?;
        }
        Ok(self.imported)
    }
}

/// Judges a package and writes it.
pub fn take(site: &Site, package: &Package, keys: &SiteKeys) -> anyhow::Result<Imported> {
    std::fs::create_dir_all(site.trust_dir())?;
    let _hold = publish::hold(site)?;
    check(site, package, keys)?.write(site, keys)
}

/// The repository led on by the roots that it does not have; those it has must
/// be the same bytes.
fn with_roots(held: Option<Repo>, roots: &[Vec<u8>]) -> anyhow::Result<(Repo, Vec<RepoFile>)> {
    let first = roots.first().context("no root is in it")?;
    let mut metadata = Vec::new();
    let mut repo = match held {
        Some(repo) => repo,
        None => {
            let path = "1.root.json".to_owned();
            metadata.push(RepoFile {
                path,
                bytes: first.clone(),
            });
            Repo::new(first)?
        }
    };
    let known = repo.root().version.get();
    let newest = roots.last().map(|bytes| claimed_root(bytes)).transpose()?;
    let newest = newest.map_or(0, |root| root.version.get());
    ensure!(
        newest >= known,
        "its newest root has version {newest}, older than version {known} that this site has: refused as a rollback"
    );
    for bytes in roots {
        let version = claimed_root(bytes)?.version.get();
        if version == known && *bytes != repo.root_bytes() && metadata.is_empty() {
            bail!(
                "its root version {version} is another one than this site's: it is of another HQ, or somebody signed twice"
            );
        }
        if version > known {
            metadata.push(
                repo.import_root(bytes)
                    .with_context(|| format!("root version {version}"))?,
            );
        }
    }
    Ok((repo, metadata))
}

fn unexpired(site: &Site, repo: &Repo) -> anyhow::Result<()> {
    let now = publish::now(site, repo).time();
    let targets = repo.targets().map(|targets| targets.expires);
    for (what, expires) in [("root", Some(repo.root().expires)), ("targets", targets)] {
        if let Some(expires) = expires.filter(|expires| *expires <= now) {
            bail!(
                "its {what} expired at {expires}, and it is {now}: HQ must sign anew (`groundcrew hq renew`)"
            );
        }
    }
    Ok(())
}

/// The root must name this site's own keys: without them it could not sign that
/// it is current.
fn ours(repo: &Repo, keys: &SiteKeys) -> anyhow::Result<()> {
    let root = repo.root();
    for (what, authority, key) in [
        (
            "snapshot",
            root.snapshot_authority(),
            keys.snapshot.public(),
        ),
        (
            "timestamp",
            root.timestamp_authority(),
            keys.timestamp.public(),
        ),
    ] {
        ensure!(
            names(&authority, key),
            "its root does not name this site's {what} key: HQ made it for other keys"
        );
    }
    Ok(())
}

pub(super) fn names(authority: &Authority<'_>, key: PublicKey) -> bool {
    let mut ids = authority.role.keyids.iter();
    ids.any(|id| authority.keys.get(id).and_then(|k| k.ed25519()) == Some(key))
}

/// The files, each as the targets list it; the charter is among them and names
/// this appliance.
fn listed(
    site: &Site,
    repo: &Repo,
    package: &Package,
    keys: &SiteKeys,
) -> anyhow::Result<Vec<RepoFile>> {
    let mut files = Vec::new();
    for (path, bytes) in &package.files {
        let target = repo.listed(path);
        let target = target
            .with_context(|| format!("{path} is not listed by HQ nor by a region of this site"))?;
        target.verify(bytes).with_context(|| path.clone())?;
        files.push(target_file(path, bytes.clone())?);
    }
    let path = Charter::target_path(&package.site);
    let charter = package.files.iter().find(|(found, _)| *found == path);
    let (_, charter) = charter.with_context(|| format!("the charter {path} is not in it"))?;
    let charter: Charter = serde_json::from_slice(charter).context("the charter")?;
    ensure!(
        charter.site == package.site
            && charter.tls_key == keys.tls_key_digest()
            && charter.grant_key == keys.grant.public()
            && charter.journal_key == keys.journal.public(),
        "the charter names other keys than this site's: devices would not believe this appliance"
    );
    charter.unexpired(Now::Clock(publish::now(site, repo).time()))?;
    Ok(files)
}
