//! The site's folder: keys, trust metadata, boot files, published bundles.

use groundcrew_core::trust::tuf::Repo;
use groundcrew_registry::profile::{Profile, Wanted};

use super::Finding;
use crate::office::published;
use crate::site::status::{self, Urgency};
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
    let mut findings = vec![keys(site), boot_files(site, settings)];
    match publish::load(site) {
        Ok(repo) => {
            findings.push(freshness(site));
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

fn boot_files(site: &Site, settings: &Settings) -> Finding {
    let loaders = settings.boot.loaders(site.has_arm64());
    let wanted = loaders.files();
    let chosen = wanted
        .iter()
        .filter(|path| BOOT_FILES.iter().all(|(name, _)| *name != path.as_str()))
        .map(|path| (path.as_str(), "named by [boot] in site.toml"));
    let missing: Vec<String> = BOOT_FILES
        .iter()
        .copied()
        .chain(chosen)
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

/// The first thing about the site's trust that is to be done, or that all is well.
fn freshness(site: &Site) -> Finding {
    let what = "trust metadata";
    let status = match status::of(site) {
        Ok(status) => status,
        Err(error) => {
            return Finding::problem(what, format!("{error:#}"), "groundcrew trust status");
        }
    };
    let dir = site.dir().display();
    let cure = |todo: &str| format!("{todo} (`groundcrew trust status --site {dir}` tells more)");
    if let Some(missing) = status.missing.first() {
        return Finding::problem(
            what,
            format!("missing: {missing}"),
            cure("bring what HQ signed"),
        );
    }
    // The first of equally urgent ones: what HQ signed stands before what the site does.
    let worst = status.parts.iter().rev().max_by_key(|part| part.urgency);
    match worst.filter(|part| part.urgency != Urgency::Good) {
        Some(part) if part.urgency == Urgency::Broken => {
            let found = format!("the {} expired at {}", part.what, part.expires);
            Finding::problem(what, found, cure(&part.todo))
        }
        Some(part) => {
            let found = format!("the {} is valid until {}", part.what, part.expires);
            Finding::warning(what, found, cure(&part.todo))
        }
        None => {
            let until = status.without_hq_until.unwrap_or(status.now);
            Finding::good(
                what,
                format!("signed; the site can go on without HQ until {until}"),
            )
        }
    }
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
    match published::choose(site, repo, &profile.bundle, fixed) {
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
