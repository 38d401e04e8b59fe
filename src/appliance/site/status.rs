//! How a site's trust stands: who signed what, what is missing, what expires
//! when, and what to do about it. `trust status`, `check` and the log of
//! `serve` tell the same.

use groundcrew_core::trust::Charter;
use groundcrew_core::trust::tuf::metadata::RoleKeys;
use groundcrew_core::trust::tuf::repo::Standing;
use groundcrew_core::trust::tuf::{Repo, Root, Snapshot, Targets, Timestamp};
use groundcrew_core::{SiteId, UnixTime};
use serde::Serialize;

use super::{Site, charter, publish, staleness};

const DAY: u64 = 86_400;

/// How urgent something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// Nothing to do.
    Good,
    /// To be done before it expires.
    Soon,
    /// Devices refuse this site.
    Broken,
}

/// One signed thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// `root`, `targets`, `charter`, `region`, `budget`, `snapshot`, `timestamp`.
    pub what: &'static str,
    /// Who signed it, in words.
    pub signed: String,
    /// Its version.
    pub version: u64,
    /// When it ceases to be valid.
    pub expires: UnixTime,
    /// How urgent that is.
    pub urgency: Urgency,
    /// What to do; empty where there is nothing.
    pub todo: String,
}

/// All of a site's trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The site.
    pub site: SiteId,
    /// The time everything was judged at.
    pub now: UnixTime,
    /// How long this site can go on without HQ.
    pub without_hq_until: Option<UnixTime>,
    /// How many devices the charter admits, and tags it allows (none: any).
    pub terms: Option<(u32, Vec<String>)>,
    /// The signed things.
    pub parts: Vec<Part>,
    /// What is missing or does not hold, in words.
    pub missing: Vec<String>,
}

impl Status {
    /// The most urgent of all.
    pub fn urgency(&self) -> Urgency {
        let missing = if self.missing.is_empty() {
            Urgency::Good
        } else {
            Urgency::Broken
        };
        let parts = self.parts.iter().map(|part| part.urgency);
        parts.fold(missing, Ord::max)
    }
}

/// Looks at a site's trust folder.
pub fn of(site: &Site) -> anyhow::Result<Status> {
    of_at(site, crate::clock::read())
}

/// The same, by a clock that says `clock`.
pub fn of_at(site: &Site, clock: UnixTime) -> anyhow::Result<Status> {
    let settings = site.settings()?;
    let name = settings.site;
    let mut status = Status {
        site: name.clone(),
        now: clock,
        without_hq_until: None,
        terms: None,
        parts: Vec::new(),
        missing: Vec::new(),
    };
    if !site.trust_dir().join("metadata/1.root.json").exists() {
        let todo = format!(
            "HQ has not signed this site yet: complete the ceremony, then `groundcrew trust export {name}.courier --hq HQ --name {name}` there and `groundcrew trust import {name}.courier --site {}` here",
            site.dir().display()
        );
        status.missing.push(todo);
        return Ok(status);
    }
    let repo = publish::load(site)?;
    status.now = publish::now_by(site, &repo, clock).time();
    let charter = charter::of(site, &name, &repo);
    let limit = staleness::ends(site, settings.staleness);
    fill(&mut status, &repo, charter, limit, settings.staleness.warn);
    Ok(status)
}

fn fill(
    status: &mut Status,
    repo: &Repo,
    charter: anyhow::Result<Charter>,
    limit: anyhow::Result<Option<UnixTime>>,
    loud: u64,
) {
    let root = repo.root();
    let by_hq = |role: &RoleKeys, standing: Option<Standing>| {
        let signed = standing.map(|s| s.keys.iter().filter(|(_, signed)| *signed).count());
        let (signed, all) = (signed.unwrap_or(0), role.keyids.len());
        let (threshold, keys) = (role.threshold, if all == 1 { "key" } else { "keys" });
        format!("by {signed} of HQ's {all} {keys}, {threshold} needed")
    };
    let standing = Standing::of::<Root>(repo.root_bytes(), &root.root_authority()).ok();
    let mut parts = vec![(
        "root",
        by_hq(&root.roles.root, standing),
        root.version.get(),
        root.expires,
    )];
    match (repo.targets(), repo.targets_bytes()) {
        (Some(targets), Some(bytes)) => {
            let standing = Standing::of::<Targets>(bytes, &root.targets_authority()).ok();
            if standing.as_ref().is_none_or(|s| s.missing() > 0) {
                status.missing.push("HQ's keys changed since it signed the targets: bring its newest by `groundcrew trust import`".to_owned());
            }
            let signed = by_hq(&root.roles.targets, standing);
            parts.push(("targets", signed, targets.version.get(), targets.expires));
        }
        _ => status.missing.push("HQ's targets".to_owned()),
    }
    match charter {
        Ok(charter) => {
            let tags = charter.tags.iter().map(ToString::to_string).collect();
            status.terms = Some((charter.devices, tags));
            parts.push((
                "charter",
                "as HQ's targets list it".to_owned(),
                charter.version,
                charter.expires,
            ));
        }
        Err(error) => status.missing.push(format!("{error:#}")),
    }
    for (name, list) in repo.delegated() {
        let signed = format!("by the key of the region {name}");
        parts.push(("region", signed, list.version.get(), list.expires));
    }
    let delegated = repo.targets().and_then(|t| t.delegations.as_ref());
    for role in delegated.into_iter().flat_map(|d| &d.roles) {
        let file = format!("{}.json", role.name);
        let held = repo.delegated().any(|(name, _)| name == role.name);
        if !held && repo.snapshot().is_some_and(|s| s.meta.contains_key(&file)) {
            status.missing.push(format!(
                "the list of the region {} is not here or does not hold: bring HQ's newest by `groundcrew trust import`",
                role.name
            ));
        }
    }
    match limit {
        Ok(Some(end)) => parts.push((
            "budget",
            "by nobody: the limit without HQ in site.toml".to_owned(),
            root.version.get(),
            end,
        )),
        Ok(None) => {}
        Err(error) => status.missing.push(format!("{error:#}")),
    }
    let hq_s = parts.iter().filter(|part| part.0 != "region");
    status.without_hq_until = hq_s.map(|part| part.3).min();
    let now = status.now;
    status.parts = parts
        .into_iter()
        .map(|(what, signed, version, expires)| {
            let urgency = match expires.since(now) {
                0 => Urgency::Broken,
                left if left < loud => Urgency::Soon,
                _ => Urgency::Good,
            };
            let todo = match urgency {
                Urgency::Good => String::new(),
                _ if what == "region" => {
                    "at HQ `groundcrew hq region renew`, then `trust export`; here `trust import`"
                        .to_owned()
                }
                _ => "at HQ `groundcrew hq renew`, then `trust export`; here `trust import`"
                    .to_owned(),
            };
            Part {
                what,
                signed,
                version,
                expires,
                urgency,
                todo,
            }
        })
        .chain(online(repo, now))
        .collect();
}

/// What the site signs itself: nobody has to do anything while it is served.
fn online(repo: &Repo, now: UnixTime) -> impl Iterator<Item = Part> {
    let part = |what, version, expires: UnixTime| {
        let over = expires <= now;
        Part {
            what,
            signed: "by this site's own key".to_owned(),
            version,
            expires,
            urgency: if over { Urgency::Soon } else { Urgency::Good },
            todo: if over {
                "`groundcrew serve` signs anew when it starts".to_owned()
            } else {
                String::new()
            },
        }
    };
    let snapshot = |s: &Snapshot| part("snapshot", s.version.get(), s.expires);
    let timestamp = |t: &Timestamp| part("timestamp", t.version.get(), t.expires);
    let both = [
        repo.snapshot().map(snapshot),
        repo.timestamp().map(timestamp),
    ];
    both.into_iter().flatten()
}

/// The status as text, 80 columns where its words allow.
pub fn render(status: &Status) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "Trust of the site {}, judged at {}\n",
        status.site, status.now
    );
    for part in &status.parts {
        let mark = match part.urgency {
            Urgency::Good => "ok  ",
            Urgency::Soon => "look",
            Urgency::Broken => "MEND",
        };
        let left = part.expires.since(status.now) / DAY;
        let until = match part.expires.since(status.now) {
            0 => format!("EXPIRED at {}", part.expires),
            _ => format!("until {} ({left} days)", part.expires),
        };
        let _ = writeln!(
            out,
            "  {mark} {:<9} version {}, {until}",
            part.what, part.version
        );
        let _ = writeln!(out, "                 signed {}", part.signed);
        if !part.todo.is_empty() {
            let _ = writeln!(out, "                 -> {}", part.todo);
        }
    }
    if let Some((devices, tags)) = &status.terms {
        let tags = if tags.is_empty() {
            "any tag".to_owned()
        } else {
            format!("the tags {}", tags.join(", "))
        };
        let _ = writeln!(out, "The charter admits {devices} devices, with {tags}.");
    }
    for missing in &status.missing {
        let _ = writeln!(out, "  MEND missing: {missing}");
    }
    if let Some(until) = status.without_hq_until {
        let _ = match until.since(status.now) {
            0 => writeln!(out, "Devices refuse this site until HQ has signed anew."),
            left => writeln!(
                out,
                "This site can go on without HQ until {until} ({} days).",
                left / DAY
            ),
        };
    }
    out
}
