//! Founding: HQ and its first site in one step, and further sites.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::change::{Progress, Terms};
use super::secret::Passphrase;
use super::{Hq, NewHq};
use crate::durable;
use crate::site::create::{NewSite, lay_out};
use crate::site::{Site, import, publish};

/// How many devices a charter admits where nobody says a number.
pub const DEVICES: u32 = 10_000;

/// What `init` grants its site.
pub fn default_terms() -> Terms {
    Terms {
        tags: Vec::new(),
        devices: DEVICES,
        lifetime: publish::OFFLINE_LIFETIME,
        minimum: Vec::new(),
    }
}

/// Makes `dir/hq` and `dir/site`; refuses where either exists. The folders get
/// their names last, so that a crash leaves nothing that looks finished.
pub fn create(dir: &Path, new: &NewSite<'_>) -> anyhow::Result<Site> {
    let (hq, site) = (dir.join("hq"), dir.join("site"));
    for made in [&hq, &site] {
        if made.exists() {
            bail!(
                "{} exists already; init never overwrites. Choose another folder, or move it away",
                made.display()
            );
        }
    }
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let draft = tempfile::Builder::new()
        .prefix(".groundcrew-init-")
        .tempdir_in(dir)?;
    let new_hq = NewHq {
        organisation: new.organisation,
        keys: 1,
        threshold: 1,
        passphrase: None,
    };
    let draft_hq = Hq::init(&draft.path().join("hq"), &new_hq)?;
    let draft_site = draft.path().join("site");
    let unencrypted = Passphrase::default();
    add_site(&draft_hq, &draft_site, new, &default_terms(), &unencrypted)?;
    fs::rename(draft_hq.dir(), &hq)?;
    fs::rename(&draft_site, &site)?;
    durable::sync_folder_of(&hq)?;
    Ok(Site::at(site))
}

/// Makes a site's folder at `out` and has HQ sign it. Where more people must
/// sign, the folder waits for what `trust export` will write.
pub fn add_site(
    hq: &Hq,
    out: &Path,
    new: &NewSite<'_>,
    terms: &Terms,
    passphrase: &Passphrase,
) -> anyhow::Result<Progress> {
    if out.exists() {
        bail!("{} exists already; choose another folder", out.display());
    }
    if hq.state().sites.contains_key(new.name) {
        bail!("HQ has a site `{}` already; choose another name", new.name);
    }
    let above = out.parent().filter(|p| !p.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    fs::create_dir_all(above).with_context(|| format!("making {}", above.display()))?;
    let draft = tempfile::Builder::new()
        .prefix(".groundcrew-site-")
        .tempdir_in(above)?;
    let draft_site = Site::at(draft.path().join("site"));
    let keys = lay_out(&draft_site, new)?;
    let change = hq.add_site(new.name, &keys, terms)?;
    fs::rename(draft_site.dir(), out)?;
    durable::sync_folder_of(out)?;
    let progress = hq.carry_out(&change, passphrase);
    match &progress {
        Ok(Progress::Done(hq)) => {
            let package = hq.package(new.name, Vec::new())?;
            import::take(&Site::at(out), &package, &keys)?;
        }
        Ok(Progress::Waiting { .. }) => {}
        // Nothing was signed: the keys in the folder count for nothing.
        Err(_) => fs::remove_dir_all(out)?,
    }
    progress
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    use crate::site::create::FirstMode;
    use groundcrew_core::SiteId;

    fn new_site(name: &SiteId) -> NewSite<'_> {
        NewSite {
            organisation: "Q \"uoted\" Ltd",
            name,
            address: "10.9.0.1/24".parse().unwrap(),
            interface: "eth9",
            mode: FirstMode::default(),
        }
    }

    #[test]
    fn makes_a_site_that_holds_together() {
        let folder = tempfile::tempdir().unwrap();
        let name = "berlin".parse().unwrap();
        let site = create(folder.path(), &new_site(&name)).unwrap();
        let settings = site.settings().unwrap();
        assert_eq!(settings.organisation, "Q \"uoted\" Ltd");
        let repo = publish::load(&site).unwrap();
        assert!(
            repo.targets()
                .unwrap()
                .targets
                .contains_key("sites/berlin.json")
        );
        assert!(publish::renewal_due(&repo) > crate::clock::read());
        for entry in fs::read_dir(site.keys_dir())
            .unwrap()
            .chain(fs::read_dir(folder.path().join("hq/keys")).unwrap())
        {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "no draft is left"
        );
        let out = folder.path().join("bundle");
        crate::bundle::build(&site.sources_dir().join("welcome"), &out, &mut |_, _| {}).unwrap();
    }

    #[test]
    fn never_overwrites() {
        let folder = tempfile::tempdir().unwrap();
        let name = "berlin".parse().unwrap();
        create(folder.path(), &new_site(&name)).unwrap();
        let error = create(folder.path(), &new_site(&name)).unwrap_err();
        assert!(error.to_string().contains("never overwrites"), "{error}");
    }
}
