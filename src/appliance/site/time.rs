//! The time rule at a site: what is proven to be past, what a technician
//! decided, and what the clock says. Where the clock stands before either, the
//! time is unknown: nothing is signed and nobody is let in until it is set.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use groundcrew_core::UnixTime;
use groundcrew_core::time::{RELEASED, TimeFloor};
use groundcrew_registry::Entry;
use serde::{Deserialize, Serialize};

use super::{Site, publish};
use crate::durable::{self, Access};
use crate::store;

/// A clock that is this close, in seconds, is not set again.
const CLOSE: u64 = 60;

/// A time that is past, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The time.
    pub time: UnixTime,
    /// How it is known.
    pub by: &'static str,
}

/// How the time stands at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// What the machine's clock says.
    pub clock: UnixTime,
    /// What is past, whatever the clock says.
    pub proofs: Vec<Proof>,
    /// When HQ's signatures end: a clock after that is wrong, or HQ is missed.
    pub vouched_until: Option<UnixTime>,
    /// Whether the clock is believed.
    pub credible: bool,
}

/// What lies on disk: a technician said that it was so late.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    floor: UnixTime,
}

impl Standing {
    /// The proof that reaches furthest.
    pub fn floor(&self) -> Option<&Proof> {
        self.proofs.iter().max_by_key(|proof| proof.time)
    }

    /// What is wrong and what to do; nothing where the clock is believed.
    pub fn trouble(&self) -> Option<String> {
        let advice = "set it: groundcrew clock set 'YYYY-MM-DD HH:MM' (UTC)";
        if let Some(floor) = self.floor().filter(|floor| self.clock < floor.time) {
            return Some(format!(
                "the clock stands at {}, before {}, which is past ({}): nothing is signed and nobody is let in; {advice}",
                self.clock, floor.time, floor.by
            ));
        }
        let until = self.vouched_until.filter(|until| self.clock >= *until)?;
        Some(format!(
            "the clock stands at {}, and HQ's signatures ended at {until}: nothing is signed and nobody is let in; {advice}, or bring what HQ signed anew",
            self.clock
        ))
    }
}

/// Looks at a site, with what the clock says.
pub fn standing(site: &Site, clock: UnixTime) -> anyhow::Result<Standing> {
    let (mut proofs, vouched_until) = proven(site)?;
    let decided = decided(site)?;
    proofs.extend(decided.map(|time| Proof {
        time,
        by: "a technician set the clock",
    }));
    let mut standing = Standing {
        clock,
        proofs,
        vouched_until,
        credible: false,
    };
    standing.credible = standing.trouble().is_none();
    Ok(standing)
}

/// The floor of a site that has signed a timestamp at `issued`.
pub fn floor(site: &Site, issued: Option<UnixTime>) -> TimeFloor {
    let mut floor = TimeFloor::built_at(RELEASED);
    let decided = decided(site).unwrap_or_else(|error| {
        tracing::error!("what was decided about the clock is lost, set it anew: {error:#}");
        None
    });
    for time in issued.into_iter().chain(decided) {
        floor.raise(time);
    }
    floor
}

/// What a technician decided.
pub fn decided(site: &Site) -> anyhow::Result<Option<UnixTime>> {
    let path = file(site);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let decision: Decision =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    Ok(Some(decision.floor))
}

/// A technician says what time it is. The clock is set by `set` where it is
/// not close already; then the decision is kept, so that a clock that falls
/// back at the next start is noticed. A decision can be taken back by another
/// one, but not behind what was signed or recorded since.
pub fn decide(
    site: &Site,
    wanted: UnixTime,
    clock: UnixTime,
    set: impl FnOnce(UnixTime) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let (proofs, vouched_until) = proven(site)?;
    let late = proofs.iter().filter(|proof| proof.time > wanted);
    if let Some(proof) = late.max_by_key(|proof| proof.time) {
        bail!(
            "it cannot be {wanted}: {} is past ({})",
            proof.time,
            proof.by
        );
    }
    if let Some(until) = vouched_until.filter(|until| wanted >= *until) {
        bail!(
            "at {wanted} everything that HQ signed would have ended ({until}): if the time is right, bring what HQ signed anew first (`groundcrew trust import`)"
        );
    }
    if wanted.since(clock).max(clock.since(wanted)) > CLOSE {
        set(wanted).with_context(|| {
            "setting the machine's clock (run this as root; in a container the host's clock counts: set it there, then say the same here)"
        })?;
    }
    let decision = serde_json::to_vec_pretty(&Decision { floor: wanted })?;
    let path = file(site);
    durable::write(&path, &decision, Access::Public)
        .with_context(|| format!("writing {}", path.display()))
}

/// A time as people write it, in UTC or with their zone behind it:
/// `2026-11-23 10:00`, `2026-11-23T10:00:00Z`, `2026-11-23 12:00 +2`, `+05:30`.
pub fn spoken(text: &str) -> Option<UnixTime> {
    let text = text.trim();
    // The date has dashes of its own, ten characters of it.
    let zone = text.rfind(['+', '-']).filter(|at| *at > 10);
    let (time, zone) = text.split_at(zone.unwrap_or(text.len()));
    let form = time.trim().trim_end_matches('Z').replacen(' ', "T", 1);
    let full = match form.len() {
        16 => format!("{form}:00Z"),
        _ => format!("{form}Z"),
    };
    let time: UnixTime = full.parse().ok()?;
    if zone.is_empty() {
        return Some(time);
    }
    let (east, ahead) = (zone.starts_with('+'), zone.get(1..)?.trim());
    let (hours, minutes) = ahead.split_once(':').unwrap_or((ahead, "0"));
    let hours = hours.parse::<u64>().ok().filter(|hours| *hours <= 14)?;
    let minutes = minutes
        .parse::<u64>()
        .ok()
        .filter(|minutes| *minutes < 60)?;
    let shift = hours * 3600 + minutes * 60;
    let seconds = time.seconds();
    let utc = if east {
        seconds.checked_sub(shift)?
    } else {
        seconds + shift
    };
    Some(UnixTime::new(utc))
}

/// What is past without anybody's word, and until when HQ vouches.
fn proven(site: &Site) -> anyhow::Result<(Vec<Proof>, Option<UnixTime>)> {
    let mut proofs = vec![Proof {
        time: RELEASED,
        by: "this program was made",
    }];
    let mut vouched_until = None;
    if site.trust_dir().join("metadata/1.root.json").exists() {
        let repo = publish::load(site)?;
        vouched_until = Some(publish::vouched_until(&repo));
        proofs.extend(repo.issued_at().map(|time| Proof {
            time,
            by: "this site signed its metadata",
        }));
    }
    if let Some(line) = store::last_journal_line(&site.registry_file())? {
        proofs.push(Proof {
            time: Entry::read(&line)?.at(),
            by: "the journal's last entry",
        });
    }
    Ok((proofs, vouched_until))
}

fn file(site: &Site) -> PathBuf {
    site.dir().join("clock.json")
}

/// The standing as text.
pub fn render(standing: &Standing) -> String {
    let mut out = format!("The clock says {}.\n", standing.clock);
    for proof in &standing.proofs {
        let _ = writeln!(out, "  past: {}  {}", proof.time, proof.by);
    }
    if let Some(until) = standing.vouched_until {
        let _ = writeln!(out, "  HQ vouches until {until}.");
    }
    let _ = match standing.trouble() {
        None => writeln!(out, "It is believed: devices get the time from here."),
        Some(trouble) => writeln!(out, "It is NOT believed: {trouble}."),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hq::found;
    use crate::site::create::{FirstMode, NewSite};

    #[test]
    fn people_s_zones_are_understood() {
        let utc: UnixTime = "2026-11-23T10:00:00Z".parse().unwrap();
        for same in [
            "2026-11-23 10:00",
            "2026-11-23 10:00Z",
            "2026-11-23 12:00 +2",
            "2026-11-23 12:00+02:00",
            "2026-11-23T15:30:00 +5:30",
            "2026-11-23 05:00 -5",
            "2026-11-23 05:00 -05:00",
        ] {
            assert_eq!(spoken(same), Some(utc), "{same}");
        }
        for wrong in [
            "",
            "10:00 +2",
            "2026-11-23 12:00 +",
            "2026-11-23 12:00 +15",
            "2026-11-23 12:00 +2:60",
            "2026-11-23 12:00 CET",
            "1970-01-01 00:00 +2",
            "é+é",
        ] {
            assert_eq!(spoken(wrong), None, "{wrong}");
        }
    }

    fn site() -> (tempfile::TempDir, Site) {
        let folder = tempfile::tempdir().unwrap();
        let name = "berlin".parse().unwrap();
        let new = NewSite {
            organisation: "Test",
            name: &name,
            address: "10.9.0.1/24".parse().unwrap(),
            interface: "eth9",
            mode: FirstMode::default(),
        };
        let site = found::create(folder.path(), &new).unwrap();
        (folder, site)
    }

    fn at(text: &str) -> UnixTime {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_in_1970_in_2039_and_one_stepped_back_are_not_believed() {
        let (_folder, site) = site();
        let now = crate::clock::read();
        assert!(standing(&site, now).unwrap().credible);
        for (clock, why) in [
            (UnixTime::new(0), "before"),
            (at("2039-01-19T03:14:08Z"), "HQ's signatures ended"),
            (
                UnixTime::new(now.seconds() - 7200),
                "this site signed its metadata",
            ),
        ] {
            let standing = standing(&site, clock).unwrap();
            let trouble = standing.trouble().unwrap();
            assert!(!standing.credible && trouble.contains(why), "{trouble}");
            assert!(trouble.contains("groundcrew clock set"), "{trouble}");
        }
    }

    #[test]
    fn a_decision_is_kept_and_can_be_taken_back_but_not_behind_what_is_proven() {
        let (_folder, site) = site();
        let now = crate::clock::read();
        let tomorrow = now.plus(86_400);
        let mut was_set = None;
        decide(&site, tomorrow, UnixTime::new(0), |time| {
            was_set = Some(time);
            Ok(())
        })
        .unwrap();
        assert_eq!(was_set, Some(tomorrow));
        // After a start without a battery the clock is behind the decision.
        assert!(!standing(&site, now).unwrap().credible);
        assert!(standing(&site, tomorrow.plus(5)).unwrap().credible);
        assert_eq!(floor(&site, None).time(), tomorrow);
        // A slip of the hand is mended by another decision ...
        decide(&site, now.plus(5), tomorrow, |_| Ok(())).unwrap();
        assert!(standing(&site, now.plus(6)).unwrap().credible);
        // ... but what was signed stays past, and HQ's end is no time to set.
        let refused = |wanted| {
            let set = |_| panic!("the clock was touched");
            format!("{:#}", decide(&site, wanted, now, set).unwrap_err())
        };
        let yesterday = UnixTime::new(now.seconds() - 86_400);
        assert!(refused(yesterday).contains("is past (this site signed"));
        assert!(refused(now.plus(9 * 365 * 86_400)).contains("HQ signed"));
    }

    #[test]
    fn a_clock_that_cannot_be_set_decides_nothing_unless_it_is_right_already() {
        let (_folder, site) = site();
        let now = crate::clock::read();
        let denied = |_| Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        let error = decide(&site, now.plus(900), now, denied).unwrap_err();
        assert!(
            format!("{error:#}").contains("run this as root"),
            "{error:#}"
        );
        assert_eq!(decided(&site).unwrap(), None);
        decide(&site, now.plus(30), now, denied).unwrap();
        assert_eq!(decided(&site).unwrap(), Some(now.plus(30)));
    }
}
