//! When something new came from HQ last, and what the site's own limit makes of
//! it. A site that hears nothing cannot know of keys that were stolen since.

use std::path::PathBuf;

use anyhow::Context as _;
use groundcrew_core::UnixTime;
use serde::{Deserialize, Serialize};

use super::Site;
use super::settings::Staleness;
use crate::durable::{self, Access};

/// What lies on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Heard {
    at: UnixTime,
}

/// Something new came from HQ.
pub fn hear(site: &Site, now: UnixTime) -> anyhow::Result<()> {
    let path = file(site);
    let heard = serde_json::to_vec_pretty(&Heard { at: now })?;
    durable::write(&path, &heard, Access::Public)
        .with_context(|| format!("writing {}", path.display()))
}

/// When something new came last, if that is known.
pub fn heard(site: &Site) -> anyhow::Result<Option<UnixTime>> {
    let path = file(site);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let heard: Heard = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    Ok(Some(heard.at))
}

/// When the site's own limit is reached; none where it has none.
///
/// # Errors
/// It has one, and when HQ was heard last is not known.
pub fn ends(site: &Site, staleness: Staleness) -> anyhow::Result<Option<UnixTime>> {
    let Some(after) = staleness.after else {
        return Ok(None);
    };
    let heard = heard(site)?.context(
        "`stale_after` is set, and when HQ was heard last is not known: bring what `groundcrew hq renew` and `trust export` write",
    )?;
    Ok(Some(heard.plus(after)))
}

/// Whether anybody may be let in by the site's own limit.
pub fn check(site: &Site, staleness: Staleness, now: UnixTime) -> anyhow::Result<()> {
    match ends(site, staleness)? {
        Some(end) if end <= now => anyhow::bail!(
            "nothing new came from HQ until {end}, the limit in site.toml (`stale_after`): bring what HQ signed anew (`groundcrew trust import`)"
        ),
        _ => Ok(()),
    }
}

fn file(site: &Site) -> PathBuf {
    site.trust_dir().join("heard.json")
}
