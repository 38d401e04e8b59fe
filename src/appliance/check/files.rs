//! The site's folder: keys, trust metadata, boot files, published bundles.

use groundcrew_core::UnixTime;
use groundcrew_core::trust::tuf::Repo;
use groundcrew_registry::profile::{Profile, Wanted};

use super::Finding;
use crate::office::published;
use crate::site::{Settings, Site, SiteKeys, publish};

/// What devices load, and what it is for.
const BOOT_FILES: [(&str, &str); 6] = [
    ("vmlinuz", "the kernel"),
    ("initrd.img", "the agent"),
    ("undionly.kpxe", "the loader for BIOS"),
    ("snponly.efi", "the loader for UEFI"),
    ("ipxe.efi", "the loader for UEFI HTTP Boot"),
    ("local.efi", "the way to a UEFI machine's own disk"),
];

pub fn look(site: &Site, settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![keys(site), boot_files(site)];
    match publish::load(site) {
        Ok(repo) => {
            findings.push(freshness(&repo));
            findings.extend(profiles(site, settings, &repo));
        }
        Err(error) => {
            let cure = "restore the folder `trust` from a backup; devices refuse a site without it";
            findings.push(Finding::problem(
                "trust metadata",
                format!("{error:#}"),
                cure,
            ));
        }
    }
    findings
}

fn keys(site: &Site) -> Finding {
    match SiteKeys::read(&site.keys_dir()) {
        Ok(_) => Finding::good("keys", "all there, and only for this user"),
        Err(error) => Finding::problem(
            "keys",
            format!("{error:#}"),
            "restore the folder `keys` from a backup",
        ),
    }
}

fn boot_files(site: &Site) -> Finding {
    let missing: Vec<String> = BOOT_FILES
        .iter()
        .filter(|(name, _)| !site.boot_dir().join(name).is_file())
        .map(|(name, what)| format!("{name} ({what})"))
        .collect();
    if missing.is_empty() {
        return Finding::good("boot files", "kernel, agent and loaders are there");
    }
    let cure = format!("groundcrew image build --site {}", site.dir().display());
    Finding::problem(
        "boot files",
        format!("missing: {}", missing.join(", ")),
        cure,
    )
}

fn freshness(repo: &Repo) -> Finding {
    let now = crate::clock::read();
    let what = "trust metadata";
    let end = |time: Option<UnixTime>| time.unwrap_or(UnixTime::new(0));
    let offline = end(repo.targets().map(|targets| targets.expires)).min(repo.root().expires);
    let online = end(repo.timestamp().map(|timestamp| timestamp.expires));
    if offline <= now {
        let cure = "HQ must sign anew: publish any bundle with `groundcrew bundle publish`";
        return Finding::problem(what, format!("HQ's signature expired at {offline}"), cure);
    }
    if offline.since(now) < 60 * 86_400 {
        let cure = "publish any bundle with `groundcrew bundle publish` to sign anew";
        return Finding::warning(what, format!("HQ's signature expires at {offline}"), cure);
    }
    if online <= now {
        return Finding::warning(
            what,
            format!("the site's own signature expired at {online}"),
            "`groundcrew serve` renews it by itself when it starts",
        );
    }
    Finding::good(
        what,
        format!("signed; HQ's part until {offline}, the site's own until {online}"),
    )
}

fn profiles(site: &Site, settings: &Settings, repo: &Repo) -> Vec<Finding> {
    if settings.profiles.iter().len() == 0 {
        let cure = "add a [[profile]] to site.toml; config/site.toml shows one";
        return vec![Finding::problem(
            "profiles",
            "none, so no device can be given anything",
            cure,
        )];
    }
    settings
        .profiles
        .iter()
        .map(|profile| bundle_of(site, profile, repo))
        .collect()
}

fn bundle_of(site: &Site, profile: &Profile, repo: &Repo) -> Finding {
    let what = format!("profile {}", profile.name);
    let fixed = match profile.version {
        Wanted::Latest => None,
        Wanted::Exactly(version) => Some(version),
    };
    match published::choose(repo, &profile.bundle, fixed) {
        Some(version) => Finding::good(what, format!("gives {} {version}", profile.bundle)),
        None => {
            let found = format!("its bundle `{}` is not published", profile.bundle);
            let dir = site.dir().display();
            let cure = format!(
                "groundcrew bundle build {dir}/sources/{0} --out {0}.bundle, then groundcrew bundle publish {0}.bundle --hq HQ --site {dir}",
                profile.bundle
            );
            Finding::problem(what, found, cure)
        }
    }
}
