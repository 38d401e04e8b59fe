//! What stories mean for the next boot: who is held, and who is released.

use std::net::IpAddr;

use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::ipxe::IpxeQuery;
use groundcrew_netboot::story::{Asks, At, Hold, Order, Story, StoryId, What, attempts, is_held};

use super::view::without_packets;
use super::{Flight, asker, now, one, text};

impl Flight {
    /// Why the device that asks is to be held, if it is.
    pub fn held(&self, query: &IpxeQuery, peer: Option<IpAddr>, asks: Asks) -> Option<Hold> {
        let recorder = self.lock();
        let id = recorder.find(&asker(query, peer))?;
        recorder.held(id, asks)
    }

    /// DHCP itself tells a device what to do: noted once in each attempt, because
    /// firmware asks DHCP several times.
    pub fn told_by_dhcp(&self, query: &IpxeQuery, told: Order, why: &str) {
        let what = text(told, why);
        let mut recorder = self.lock();
        let Some(id) = recorder.find(&asker(query, None)) else {
            return;
        };
        let told = recorder.story(id).is_some_and(|story| {
            let last = attempts(&story.events).last().copied();
            last.is_some_and(|last| {
                last.of(&story.events)
                    .iter()
                    .any(|event| event.what == what)
            })
        });
        if !told {
            recorder.note_in(now(), id, what);
        }
    }

    /// When the attempt began in which the machine asks.
    pub fn attempt_began(&self, query: &IpxeQuery, peer: Option<IpAddr>) -> Option<At> {
        let recorder = self.lock();
        let story = recorder.story(recorder.find(&asker(query, peer))?)?;
        let last = attempts(&story.events).last().copied()?;
        story.events.get(last.first).map(|event| event.at)
    }

    /// What the firmware behind a card calls itself, if it booted before.
    pub fn firmware(&self, mac: MacAddr) -> Option<String> {
        self.explain(&mac.to_string()).ok()?.diagnosis.firmware
    }

    /// A technician releases a device; its name, if it was held.
    ///
    /// # Errors
    /// Nobody here is called so.
    pub fn release(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let (id, story) = {
            let recorder = self.lock();
            let id = one(&recorder, name)?;
            let story = recorder.story(id).map(without_packets);
            (id, story.unwrap_or_default())
        };
        Ok(self.let_go(vec![(id, story)]))
    }

    /// Every device that is held goes on; their names.
    pub fn release_all(&self) -> Vec<String> {
        // Copied, so that nobody waits while they are judged.
        let stories = {
            let recorder = self.lock();
            let stories = recorder.stories();
            stories
                .filter(|(_, story)| story.boots())
                .map(|(id, story)| (id, without_packets(story)))
                .collect()
        };
        self.let_go(stories)
    }

    fn let_go(&self, stories: Vec<(StoryId, Story)>) -> Vec<String> {
        let held = stories.into_iter().filter(|(_, story)| is_held(story));
        let (mut names, mut released) = (Vec::new(), Vec::new());
        for (id, story) in held {
            let mut recorder = self.lock();
            recorder.note_in(now(), id, What::Released);
            released.extend(recorder.story(id).map(|story| (id, story.clone())));
            names.push(story.names.title());
        }
        // Somebody relies on it: written at once.
        if !released.is_empty() {
            self.keep(&released, &[]);
        }
        names.sort_unstable();
        names
    }
}
