//! A new site's folder: settings, keys, samples, an empty registry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use groundcrew_core::SiteId;

use super::{Cidr, Site, SiteKeys, settings};
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

/// Who gives devices their addresses, until somebody edits `site.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FirstMode {
    /// The appliance, but only where no other DHCP server answers for 45 s
    #[default]
    Auto,
    /// The appliance, at once: the network is its own
    Authoritative,
    /// Somebody else; the appliance only says what to boot
    Proxy,
}

impl FirstMode {
    /// The word in `site.toml`.
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Authoritative => "authoritative",
            Self::Proxy => "proxy",
        }
    }
}

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
    /// Who gives the addresses.
    pub mode: FirstMode,
}

/// Fills a site's folder with everything but what HQ signs; its new keys.
pub fn lay_out(site: &Site, new: &NewSite<'_>) -> anyhow::Result<SiteKeys> {
    let text = settings_text(new)?;
    for folder in [
        site.keys_dir(),
        site.trust_dir(),
        site.blobs_dir(),
        site.boot_dir(),
        site.sources_dir(),
    ] {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::set_permissions(site.keys_dir(), fs::Permissions::from_mode(0o700))?;
    let keys = SiteKeys::create(&site.keys_dir())?;
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
    Ok(keys)
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
        ("mode = \"auto\"", "mode", new.mode.word().to_owned()),
    ] {
        anyhow::ensure!(
            text.contains(line),
            "the sample site.toml has lost its line `{line}`; this is a bug"
        );
        text = text.replacen(line, &format!("{key} = {}", quoted(&value)), 1);
    }
    let parsed = settings::parse("site.toml", &text)?;
    anyhow::ensure!(
        parsed.site == *new.name && parsed.networks.iter().map(|n| n.address).eq([new.address]),
        "site.toml came out wrong; this is a bug"
    );
    Ok(text)
}
