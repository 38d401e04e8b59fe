//! The site's folder: keys, trust metadata, boot files, published bundles.

use std::collections::BTreeSet;

use groundcrew_core::trust::tuf::Repo;
use groundcrew_netboot::ARM64;
use groundcrew_registry::profile::{Profile, Wanted};

use super::Finding;
use crate::image::names;
use crate::office::published;
use crate::site::status::{self, Urgency};
use crate::site::{Settings, Site, SiteKeys, publish};

/// What devices load, and what it is for.
const BOOT_FILES: [(&str, &str); 6] = [
    (names::VMLINUZ, "the kernel"),
    (names::INITRD, "the agent"),
    (names::UNDIONLY, "the loader for BIOS"),
    (names::SNPONLY, "the loader for UEFI"),
    (names::IPXE, "the loader for UEFI HTTP Boot"),
    (names::OWN_DISK, "the way to a UEFI machine's own disk"),
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
    let missing = site.missing_boot_files(settings);
    if missing.is_empty() {
        return Finding::good("boot files", "kernel, agent and loaders are there");
    }
    let told: Vec<_> = missing
        .iter()
        .map(|name| format!("{name} ({})", what_for(name)))
        .collect();
    Finding::problem(
        "boot files",
        format!("missing: {}", told.join(", ")),
        builds(site, settings, &missing),
    )
}

fn what_for(name: &str) -> &'static str {
    let held = [
        names::HELD,
        names::BEHIND_SHIM.held.shim,
        names::BEHIND_SHIM_ARM64.held.shim,
    ];
    let known = BOOT_FILES.iter().find(|(known, _)| *known == name);
    match known {
        Some((_, what)) => what,
        None if held.iter().any(|held| name.ends_with(held)) => {
            "tells on its screen that a device is held"
        }
        None => "named by [boot] in site.toml",
    }
}

/// The orders that bring them, one for each processor.
fn builds(site: &Site, settings: &Settings, missing: &BTreeSet<String>) -> String {
    let signed = match settings.boot.uki() {
        true => " --sign-key KEY --sign-cert CERT",
        false => "",
    };
    let order = |more: &str| {
        let dir = site.dir().display();
        format!("groundcrew image build --site {dir}{more}{signed}")
    };
    let (arm, x64): (Vec<_>, Vec<_>) = missing.iter().partition(|name| name.starts_with(ARM64));
    let orders = [(x64, ""), (arm, " --arch arm64")];
    let needed = orders.iter().filter(|(missing, _)| !missing.is_empty());
    let orders: Vec<_> = needed.map(|(_, more)| order(more)).collect();
    orders.join("; ")
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
