//! `groundcrew init`: an HQ with its offline keys, and its first site.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use groundcrew_core::SiteId;
use groundcrew_core::time::{Now, TimeFloor};
use groundcrew_core::trust::Charter;
use groundcrew_core::trust::tuf::repo::{Repo, RoleSpec, RootSpec, sign_root};

use super::keys::{self, file};
use super::{Cidr, Site, SiteKeys, publish, settings};
use crate::store::Store;

/// The annotated sample, which becomes the site's own file.
const SETTINGS: &str = include_str!("../../../config/site.toml");

/// The sample bundle source, for people to start from: path, content, whether it
/// is a program.
const SAMPLE_SOURCE: &[(&str, &str, bool)] = &[
    (
        "welcome/bundle.toml",
        include_str!("../../../config/bundle/welcome/bundle.toml"),
        false,
    ),
    (
        "welcome/motd",
        include_str!("../../../config/bundle/welcome/motd"),
        false,
    ),
    (
        "welcome/files/etc/profile.d/crew.sh",
        include_str!("../../../config/bundle/welcome/files/etc/profile.d/crew.sh"),
        false,
    ),
    (
        "welcome/files/usr/local/bin/crew-note",
        include_str!("../../../config/bundle/welcome/files/usr/local/bin/crew-note"),
        true,
    ),
];

/// How many devices the first charter admits.
const DEVICES: u32 = 10_000;

/// What to make.
#[derive(Clone, Debug)]
pub struct NewSite<'a> {
    /// The organisation's name.
    pub organisation: &'a str,
    /// The site's short name.
    pub name: &'a SiteId,
    /// The appliance's address.
    pub address: Cidr,
    /// The interface.
    pub interface: &'a str,
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
    let (draft_hq, draft_site) = (draft.path().join("hq"), Site::at(draft.path().join("site")));
    write_all(&draft_hq, &draft_site, new)?;
    fs::rename(&draft_hq, &hq)?;
    fs::rename(draft_site.dir(), &site)?;
    crate::durable::sync_folder_of(&hq)?;
    Ok(Site::at(site))
}

fn write_all(hq: &Path, site: &Site, new: &NewSite<'_>) -> anyhow::Result<()> {
    let text = settings_text(new)?;
    let hq_keys = hq.join("keys");
    for folder in [
        &hq_keys,
        &site.keys_dir(),
        &site.trust_dir(),
        &site.blobs_dir(),
        &site.boot_dir(),
        &site.sources_dir(),
    ] {
        fs::create_dir_all(folder)?;
    }
    for secret in [hq, hq_keys.as_path(), &site.keys_dir()] {
        fs::set_permissions(secret, fs::Permissions::from_mode(0o700))?;
    }
    let root_key = keys::create(&hq_keys.join(file::ROOT))?;
    let targets_key = keys::create(&hq_keys.join(file::TARGETS))?;
    let site_keys = SiteKeys::create(&site.keys_dir())?;
    let now = TimeFloor::built_at(groundcrew_core::time::RELEASED).now(crate::clock::read());
    if let Now::Floor(floor) = now {
        bail!(
            "the clock stands before {floor}, when this program was made: set it first, keys and signatures carry dates"
        );
    }
    let spec = RootSpec {
        expires: now.time().plus(publish::OFFLINE_LIFETIME * 5),
        root: RoleSpec::one(root_key.public()),
        targets: RoleSpec::one(targets_key.public()),
        snapshot: RoleSpec::one(site_keys.snapshot.public()),
        timestamp: RoleSpec::one(site_keys.timestamp.public()),
    };
    let root = sign_root(&spec, None, now, &[&root_key])?;
    let mut repo = Repo::new(&root.bytes)?;
    publish::write_metadata(site, &[root])?;
    let charter = Charter {
        site: new.name.clone(),
        version: 1,
        tls_key: site_keys.tls_key_digest(),
        grant_key: site_keys.grant.public(),
        journal_key: site_keys.journal.public(),
        tags: Vec::new(),
        expires: now.time().plus(publish::OFFLINE_LIFETIME),
        devices: DEVICES,
        minimum: std::collections::BTreeMap::new(),
    };
    let target = (Charter::target_path(new.name), charter.to_json()?);
    publish::put_targets(site, &mut repo, vec![target], &targets_key, &site_keys)?;
    Store::create(&site.registry_file())?;
    for (path, content, program) in SAMPLE_SOURCE {
        let path = site.sources_dir().join(path);
        fs::create_dir_all(path.parent().unwrap_or(site.dir()))?;
        fs::write(&path, content)?;
        let mode = if *program { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::write(site.settings_file(), text)?;
    rustix::fs::sync();
    Ok(())
}

/// The annotated sample with this site's values.
fn settings_text(new: &NewSite<'_>) -> anyhow::Result<String> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = SETTINGS.to_owned();
    for (line, key, value) in [
        ("name = \"hq\"", "name", new.name.to_string()),
        (
            "organisation = \"Example Ltd\"",
            "organisation",
            new.organisation.to_owned(),
        ),
        (
            "interface = \"eth1\"",
            "interface",
            new.interface.to_owned(),
        ),
        (
            "address = \"10.77.0.1/24\"",
            "address",
            new.address.to_string(),
        ),
        (
            "pool = \"10.77.0.128-10.77.0.254\"",
            "pool",
            new.address.default_pool().to_string(),
        ),
    ] {
        anyhow::ensure!(
            text.contains(line),
            "the sample site.toml has lost its line `{line}`; this is a bug"
        );
        text = text.replacen(line, &format!("{key} = {}", quoted(&value)), 1);
    }
    let parsed = settings::parse("site.toml", &text)?;
    anyhow::ensure!(
        parsed.site == *new.name && parsed.address == new.address,
        "site.toml came out wrong; this is a bug"
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_site(name: &SiteId) -> NewSite<'_> {
        NewSite {
            organisation: "Q \"uoted\" Ltd",
            name,
            address: "10.9.0.1/24".parse().unwrap(),
            interface: "eth9",
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
