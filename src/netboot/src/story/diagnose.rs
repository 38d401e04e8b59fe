//! From a story to what is said of it: where it stands, why, and what to do.

mod checks;
mod files;

use serde::{Deserialize, Serialize};

use super::attempt::{Attempt, SILENCE, Stage, attempts};
use super::cause::Cause;
use super::device::Story;
use super::event::{Event, Message, Order, What};
use super::{At, narrate};
use checks::{Finding, View};

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// On the network; it never asked to boot.
    Idle,
    /// On its way, and nothing is overdue.
    Booting,
    /// It did not get further.
    Failed,
    /// It waits for a technician.
    Waiting,
    /// It was sent to its own disk.
    OwnDisk,
    /// Somebody at the device decides.
    ByHand,
    /// It is held.
    Held,
    /// Provisioned.
    Done,
}

impl State {
    /// As lists show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Booting => "booting",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::OwnDisk => "own disk",
            Self::ByHand => "by hand",
            Self::Held => "held",
            Self::Done => "done",
        }
    }
}

/// What is said of a story at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Where it stands.
    pub state: State,
    /// How far the last attempt came.
    pub reached: Stage,
    /// When something happened last.
    pub last: At,
    /// Its firmware, as it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Why it did not get further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What in this story shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// [`Cause::likely`], for readers of the JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likely: Option<String>,
    /// [`Cause::cure`], likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// What else is worth knowing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The attempts before, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Past>,
    /// The last attempt, told line by line.
    pub lines: Vec<Line>,
}

/// An attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When it began.
    pub at: At,
    /// How far it came.
    pub reached: Stage,
    /// Why not further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub at: At,
    /// In words.
    pub text: String,
}

/// Why a device is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// It failed so each time.
    pub cause: Cause,
    /// How often.
    pub times: u32,
    /// The last time.
    pub last: At,
}

/// So many failures of one kind in a row hold a device.
pub const HOLD_AFTER: u32 = 3;
/// They must lie within this time, in milliseconds: an hour.
const HOLD_WITHIN: u64 = 3_600_000;

/// Says what `story` means at `now`.
pub fn diagnose(story: &Story, now: At) -> Diagnosis {
    let all = attempts(&story.events);
    let (last, before) = match all.split_last() {
        Some((last, before)) => (*last, before),
        None => (
            Attempt {
                first: 0,
                end: 0,
                reached: Stage::Seen,
            },
            &[][..],
        ),
    };
    let events = last.of(&story.events);
    let boot = last.boot(&story.events);
    if let Some(told) = failed_before(story, &last, before, now) {
        return told;
    }
    let firmware = checks::firmware(story.events.iter());
    let view = View::new(&boot, last.reached);
    let step = latest(&boot);
    let silent = now.since(step);
    let over = silent > view.patience() && !view.loading(now);
    let finding = view.judge(over).map(|finding| match over {
        true => finding.at_the_end(),
        false => finding,
    });
    let state = state(last.reached, finding.as_ref());
    let shown = events.iter().map(|event| narrate::line(event));
    let mut lines: Vec<Line> = shown.collect();
    if state == State::Failed && over {
        let of = if boot.len() < events.len() {
            " of this boot"
        } else {
            ""
        };
        lines.push(Line {
            at: now,
            text: format!("nothing more{of} for {}", narrate::span(silent)),
        });
    }
    let past = before.iter().map(|attempt| Past {
        at: story.events.get(attempt.first).map_or(At(0), |e| e.at),
        reached: attempt.reached,
        cause: judge_past(story, attempt).map(|finding| finding.cause),
    });
    let cause = finding.as_ref().map(|finding| finding.cause);
    Diagnosis {
        state,
        reached: last.reached,
        last: step,
        firmware,
        cause,
        evidence: finding.and_then(|finding| finding.evidence),
        likely: cause.map(|cause| cause.likely().to_owned()),
        cure: cause.map(|cause| cause.cure().to_owned()),
        notes: notes(story, &events, cause)
            .into_iter()
            .chain(own_system(&events, step).filter(|_| boot.len() < events.len()))
            .collect(),
        past: past.collect(),
        lines,
    }
}

/// A device that failed at work is sent to its own disk at its next start: the
/// failure is what there is to tell, not that.
fn failed_before(story: &Story, last: &Attempt, before: &[Attempt], now: At) -> Option<Diagnosis> {
    let failed = before.last()?;
    let sent_home = judge_past(story, last)?.cause == Cause::OwnDiskByOrder;
    let fault = judge_past(story, failed).is_some_and(|finding| finding.cause.is_fault());
    if !sent_home || !fault || failed.reached < Stage::AgentRuns {
        return None;
    }
    let mut until = story.clone();
    until.events.truncate(failed.end);
    let mut told = diagnose(&until, now);
    told.lines.pop_if(|line| line.at == now);
    let events = last.of(&story.events);
    told.lines
        .extend(events.iter().map(|event| narrate::line(event)));
    told.last = latest(&last.boot(&story.events));
    Some(told)
}

/// When the last of these happened.
fn latest(events: &[&Event]) -> At {
    let times = events.iter().map(|event| event.last());
    times.max().unwrap_or(At(0))
}

/// A system that asks for an address long after a boot was started without one.
fn own_system(events: &[&Event], step: At) -> Option<String> {
    let begins = |event: &&&Event| {
        let plain = matches!(&event.what,
            What::Dhcp(dhcp) if dhcp.is_plain() && dhcp.message == Message::Discover);
        plain && event.last().since(step) > SILENCE
    };
    events.iter().find(begins).map(|_| {
        "Since then the system on its disk asked for an address; the device did not ask to boot."
            .to_owned()
    })
}

/// Every attempt of a story, line by line.
pub fn tell(story: &Story) -> Vec<Line> {
    story.events.iter().map(narrate::line).collect()
}

fn state(reached: Stage, finding: Option<&Finding>) -> State {
    match finding.map(|finding| finding.cause) {
        Some(Cause::Waiting) => State::Waiting,
        Some(Cause::OwnDiskByOrder) => State::OwnDisk,
        Some(Cause::ByHand) => State::ByHand,
        Some(Cause::Held) => State::Held,
        Some(Cause::OwnDiskByFirmware) => State::Idle,
        Some(_) => State::Failed,
        None => match reached {
            Stage::Seen => State::Idle,
            Stage::Finished => State::Done,
            Stage::OwnDisk => State::OwnDisk,
            _ => State::Booting,
        },
    }
}

fn judge_past(story: &Story, attempt: &Attempt) -> Option<Finding> {
    View::new(&attempt.boot(&story.events), attempt.reached).judge(true)
}

fn notes(story: &Story, events: &[&Event], cause: Option<Cause>) -> Vec<String> {
    let mut notes = Vec::new();
    let twin = story
        .events
        .iter()
        .rev()
        .find_map(|event| match event.what {
            What::SameUuid { uuid, other } => Some((uuid, other)),
            _ => None,
        });
    if let Some((uuid, other)) = twin.filter(|_| cause != Some(Cause::DuplicateUuid)) {
        notes.push(format!(
            "The machine with the card {other} says the same UUID {uuid}; it names neither."
        ));
    }
    let rivals = checks::other_servers(events);
    if !rivals.is_empty() {
        notes.push(format!(
            "Another DHCP server took part: {}.",
            rivals.join(", ")
        ));
    }
    if story.dropped > 0 {
        notes.push(format!(
            "{} older events of this device were dropped.",
            story.dropped
        ));
    }
    notes
}

/// How a device asks what to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Its loader does. Whatever stopped it before that is overcome.
    ByText,
    /// Its firmware does, by DHCP, for an image that asks nobody. What stopped it
    /// before it had that image would stop it on the way to its own disk, too.
    ByDhcp,
}

impl Asks {
    /// Whether a device that asks so is past a failure of an earlier attempt.
    fn is_past(self, attempt: &Attempt, cause: Option<Cause>) -> bool {
        match self {
            // What asks is a loader, and no whole image that does not start.
            Self::ByText => attempt.reached < Stage::Told || cause == Some(Cause::ImageNotStarted),
            Self::ByDhcp => attempt.reached < Stage::LoaderSent,
        }
    }
}

/// Whether a device that asks what to boot now is to be held: the attempts
/// before failed the same way [`HOLD_AFTER`] times in a row.
pub fn hold(story: &Story, asks: Asks) -> Option<Hold> {
    let mut all = attempts(&story.events);
    if asks == Asks::ByText {
        // The one under way, in which a loader may ask twice.
        all.pop();
    }
    chain(story, &all, asks)
}

/// Whether a device will be held when it asks the next time, however it asks.
pub fn is_held(story: &Story) -> bool {
    let all = attempts(&story.events);
    let held = |asks: Asks| chain(story, &all, asks).is_some();
    held(Asks::ByText) || held(Asks::ByDhcp)
}

fn chain(story: &Story, all: &[Attempt], asks: Asks) -> Option<Hold> {
    let mut events = story.events.iter();
    let released = events.rposition(|event| matches!(event.what, What::Released));
    let mut found: Option<Hold> = None;
    let mut remembered = None;
    for attempt in all.iter().rev() {
        if attempt.end <= released.unwrap_or(0) {
            break;
        }
        let ended = story.events.get(attempt.end - 1).map_or(At(0), Event::last);
        let cause = judge_past(story, attempt).map(|finding| finding.cause);
        if asks.is_past(attempt, cause) || cause.is_some_and(Cause::is_ours) {
            continue;
        }
        if cause == Some(Cause::Held) {
            remembered = remembered.or_else(|| held_for(&attempt.of(&story.events), ended));
            continue;
        }
        match (cause.filter(|cause| cause.is_fault()), &mut found) {
            (Some(cause), None) => {
                found = Some(Hold {
                    cause,
                    times: 1,
                    last: ended,
                });
            }
            (Some(cause), Some(hold))
                if hold.cause == cause && hold.last.since(ended) <= HOLD_WITHIN =>
            {
                hold.times += 1;
            }
            _ => break,
        }
    }
    // What it was held for may have been dropped from the story since.
    found
        .filter(|hold| hold.times >= HOLD_AFTER)
        .or(remembered.filter(|_| story.dropped > 0))
}

/// What a device was told that it is held for.
fn held_for(events: &[&Event], last: At) -> Option<Hold> {
    let why = events.iter().find_map(|event| match &event.what {
        What::Text(text) if text.told == Order::Held => Some(text.why.as_str()),
        _ => None,
    })?;
    let mut causes = Cause::ALL.iter().copied();
    let cause = causes.find(|cause| cause.is_fault() && why.contains(cause.short()))?;
    Some(Hold {
        cause,
        times: HOLD_AFTER,
        last,
    })
}
