//! Stories for people and scripts.

use groundcrew_netboot::story::{
    At, Cause, Diagnosis, Names, Stage, State, Story, StoryId, diagnose,
};
use serde::{Deserialize, Serialize};

use super::{BATCH, Flight, now};

/// One device in `boot list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoryLine {
    /// By what it is known.
    pub names: Names,
    /// When something happened last.
    pub last: At,
    /// Its firmware, as it said.
    pub firmware: Option<String>,
    /// Where it stands.
    pub state: State,
    /// How far its last attempt came.
    pub reached: Stage,
    /// Why not further.
    pub cause: Option<Cause>,
    /// The same in a few words.
    pub short: Option<String>,
    /// It asked to boot; else it is only a neighbour on the network.
    pub boots: bool,
}

/// What `boot explain --json` prints: the story as recorded and what is said of
/// it. Read again, it is a test: `tests/fixtures/stories`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fixture {
    /// The form of this file.
    pub format: u32,
    /// When it was told.
    pub now: At,
    /// What is said.
    pub diagnosis: Diagnosis,
    /// What was recorded.
    pub story: Story,
}

/// [`Fixture`], as it travels.
pub type StoryView = Fixture;

impl Flight {
    /// Every device, the last one first; `all`: with those that never asked to boot.
    pub fn list(&self, all: bool) -> Vec<StoryLine> {
        let at = now();
        // Copied, some at a time, so that nobody waits while they are judged.
        let ids: Vec<StoryId> = self.lock().stories().map(|(id, _)| id).collect();
        let mut stories: Vec<Story> = Vec::new();
        for some in ids.chunks(BATCH) {
            let recorder = self.lock();
            let known = some.iter().filter_map(|id| recorder.story(*id));
            let wanted = known.filter(|story| all || story.boots());
            stories.extend(wanted.map(without_packets));
        }
        let mut lines: Vec<StoryLine> = stories.iter().map(|story| line(story, at)).collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.last));
        lines
    }

    /// One device's story, and what is said of it.
    ///
    /// # Errors
    /// Nobody here is called so.
    pub fn explain(&self, name: &str) -> anyhow::Result<StoryView> {
        let story = self.with_story(name, Story::clone)?;
        let now = now();
        Ok(Fixture {
            format: 1,
            now,
            diagnosis: diagnose(&story, now),
            story,
        })
    }
}

pub(super) fn without_packets(story: &Story) -> Story {
    Story {
        names: story.names.clone(),
        events: story.events.clone(),
        dropped: story.dropped,
        ..Story::default()
    }
}

fn line(story: &Story, now: At) -> StoryLine {
    let diagnosis = diagnose(story, now);
    StoryLine {
        names: story.names.clone(),
        last: diagnosis.last,
        firmware: diagnosis.firmware,
        state: diagnosis.state,
        reached: diagnosis.reached,
        cause: diagnosis.cause,
        short: diagnosis.cause.map(|cause| cause.short().to_owned()),
        boots: story.boots(),
    }
}
