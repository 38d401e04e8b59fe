//! The recorder: puts each event into the story of the device it is about, and
//! keeps memory bounded whoever knocks.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::At;
use super::device::{Packet, Story, Who};
use super::diagnose::{Asks, Hold, hold};
use super::event::{AgentStep, Answer, What};
use super::index::Index;

/// Names a story within one recorder.
pub type StoryId = u64;

/// What may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Stories.
    pub stories: usize,
    /// Bytes, about.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stories: 2048,
            bytes: 8 * 1024 * 1024,
        }
    }
}

/// Transactions remembered to tell two machines with one UUID apart.
const EXCHANGES: usize = 16;
/// One part in so many is kept for stories that something happened to just now,
/// however little they tell: else a full recorder would never see a device begin.
const FRESH_PART: usize = 4;
/// Two machines that take turns within this time run at the same time.
const TURNS_WITHIN: u64 = 60_000;

/// All stories.
#[derive(Debug, Default)]
pub struct Recorder {
    limits: Limits,
    stories: HashMap<StoryId, Kept>,
    index: Index,
    /// The least important and oldest first: how far it came, when it was touched.
    order: BTreeSet<(u8, u64, StoryId)>,
    /// The one that was touched longest ago first.
    ages: BTreeSet<(u64, StoryId)>,
    touches: u64,
    next: StoryId,
    bytes: usize,
    changed: BTreeSet<StoryId>,
    /// The last one of these that was taken: everybody's turn comes.
    taken: StoryId,
    /// Taken, and whether they were written is not known yet.
    writing: BTreeSet<StoryId>,
    /// Those in the file: only they are worth removing from it.
    filed: BTreeSet<StoryId>,
    removed: BTreeSet<StoryId>,
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Kept {
    story: Story,
    place: (u8, u64),
    weight: usize,
    /// Why it is to be held, by how it asks, as of so many events and dropped ones.
    by_text: Option<Hold>,
    by_dhcp: Option<Hold>,
    judged: (usize, u64),
    /// Recent DHCP transactions, for [`Recorder::overlaps`].
    exchanges: VecDeque<(MacAddr, u32, At)>,
}

impl Kept {
    /// What repeats itself changes no verdict.
    fn judge(&mut self) {
        let now = (self.story.events.len(), self.story.dropped);
        if self.judged != now {
            self.judged = now;
            self.by_text = hold(&self.story, Asks::ByText);
            self.by_dhcp = hold(&self.story, Asks::ByDhcp);
        }
    }
}

impl Recorder {
    /// With what earlier runs kept.
    pub fn new(limits: Limits, stories: impl IntoIterator<Item = (StoryId, Story)>) -> Self {
        let mut recorder = Self {
            limits,
            next: 1,
            ..Self::default()
        };
        let mut stories: Vec<_> = stories.into_iter().collect();
        stories.sort_by_key(|(_, story)| story.last());
        for (id, mut story) in stories {
            story.let_go();
            for event in &story.events {
                if let What::SameUuid { uuid, .. } = &event.what {
                    recorder.index.contest(uuid);
                }
            }
            recorder.next = recorder.next.max(id.saturating_add(1));
            recorder.filed.insert(id);
            recorder.stories.insert(
                id,
                Kept {
                    story,
                    ..Kept::default()
                },
            );
        }
        let mut ids: Vec<_> = recorder.stories.keys().copied().collect();
        ids.sort_by_key(|id| recorder.story(*id).map(Story::last));
        for id in ids {
            recorder.touch(id);
        }
        recorder.changed.clear();
        recorder
    }

    /// Something happened to `who`.
    pub fn note(&mut self, at: At, who: &Who, what: What) -> StoryId {
        let id = self.whose(at, who);
        if let Some(kept) = self.stories.get_mut(&id) {
            let names = &mut kept.story.names;
            let told = Who {
                ip: address(&what),
                ..Who::default()
            };
            for said in [who, &told] {
                if !names.know(said) {
                    self.index.leave(id, names);
                    names.learn(said);
                }
            }
            kept.story.push(at, who.mac, what);
        }
        self.touch(id);
        id
    }

    /// Something happened to whom a story is already told of; else nothing.
    pub fn note_known(&mut self, at: At, who: &Who, what: What) -> Option<StoryId> {
        self.find(who)?;
        Some(self.note(at, who, what))
    }

    /// Something happened to the device of that story.
    pub fn note_in(&mut self, at: At, id: StoryId, what: What) {
        if let Some(kept) = self.stories.get_mut(&id) {
            kept.story.push(at, None, what);
            self.touch(id);
        }
    }

    /// A DHCP transaction of a card, after it was noted: two machines that say the same UUID and take
    /// turns within their transactions are told apart by it.
    pub fn exchange(&mut self, at: At, mac: MacAddr, uuid: Option<SmbiosUuid>, xid: u32) {
        let Some(uuid) = uuid else {
            return;
        };
        let Some(id) = self.index.uuid(&uuid) else {
            return;
        };
        let Some(kept) = self.stories.get_mut(&id) else {
            return;
        };
        let recent = &mut kept.exchanges;
        recent.retain(|(_, _, then)| at.since(*then) <= TURNS_WITHIN);
        let same =
            |(other, transaction, _): &(MacAddr, u32, At)| (*other, *transaction) == (mac, xid);
        let began = recent.iter().position(same);
        let between = began.and_then(|began| {
            let later = recent.iter().skip(began);
            later.map(|(other, ..)| *other).find(|other| *other != mac)
        });
        if recent.len() >= EXCHANGES {
            recent.pop_front();
        }
        recent.push_back((mac, xid, at));
        if let Some(other) = between {
            self.contest(at, id, uuid, mac, other);
        }
    }

    /// Keeps packets of a story.
    pub fn keep(&mut self, id: StoryId, packets: impl IntoIterator<Item = Packet>) {
        if let Some(kept) = self.stories.get_mut(&id) {
            packets
                .into_iter()
                .for_each(|packet| kept.story.keep(packet));
            self.touch(id);
        }
    }

    /// The story of whoever this is, if there is one.
    pub fn find(&self, who: &Who) -> Option<StoryId> {
        let index = &self.index;
        None.or_else(|| index.uuid(who.uuid.as_ref()?))
            .or_else(|| index.serial(who.serial.as_deref()?))
            .or_else(|| index.mac(who.mac?).filter(|id| self.fits(*id, who)))
            .or_else(|| index.device(who.device.as_ref()?))
            .or_else(|| index.ip(who.ip?).filter(|id| self.fits(*id, who)))
    }

    /// Whether nothing speaks against `who` being the device of that story: an
    /// address may have been somebody else's before, a dock lends its card.
    fn fits(&self, id: StoryId, who: &Who) -> bool {
        let Some(names) = self.story(id).map(|story| &story.names) else {
            return false;
        };
        let uuid = match (who.uuid, names.uuid) {
            (Some(said), Some(known)) => said.same_machine(&known),
            _ => true,
        };
        let serial = match (&who.serial, &names.serial) {
            (Some(said), Some(known)) => said.eq_ignore_ascii_case(known),
            _ => true,
        };
        let mac = who
            .mac
            .is_none_or(|mac| names.macs.is_empty() || names.macs.contains(&mac));
        uuid && serial && mac
    }

    /// The stories that a person's word for a device means, the last one first.
    pub fn named(&self, text: &str) -> Vec<StoryId> {
        let found = self.stories.iter();
        let mut found: Vec<_> = found
            .filter(|(_, kept)| kept.story.names.named(text))
            .map(|(id, kept)| (std::cmp::Reverse(kept.story.last()), *id))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// A story.
    pub fn story(&self, id: StoryId) -> Option<&Story> {
        self.stories.get(&id).map(|kept| &kept.story)
    }

    /// Why its device is to be held, if it is: judged when something was noted, so
    /// that nobody who asks waits for it.
    pub fn held(&self, id: StoryId, asks: Asks) -> Option<Hold> {
        let kept = self.stories.get(&id)?;
        match asks {
            Asks::ByText => kept.by_text,
            Asks::ByDhcp => kept.by_dhcp,
        }
    }

    /// All of them, in no order.
    pub fn stories(&self) -> impl Iterator<Item = (StoryId, &Story)> {
        self.stories.iter().map(|(id, kept)| (*id, &kept.story))
    }

    /// How many stories were forgotten to bound memory.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How many names are looked up.
    #[cfg(test)]
    pub(super) fn names(&self) -> usize {
        self.index.len()
    }

    /// At most `most` stories that changed since they were last taken, and all
    /// that are gone. [`Recorder::written`] says what became of them.
    pub fn take_changes(&mut self, most: usize) -> (Vec<(StoryId, Story)>, Vec<StoryId>) {
        let after = self.changed.range(self.taken.saturating_add(1)..);
        let before = self.changed.range(..=self.taken);
        let ids: Vec<_> = after.chain(before).take(most).copied().collect();
        let mut changed = Vec::with_capacity(ids.len());
        for id in ids {
            self.changed.remove(&id);
            self.writing.insert(id);
            self.taken = id;
            changed.extend(self.story(id).map(|story| (id, story.clone())));
        }
        let removed = std::mem::take(&mut self.removed);
        (changed, removed.into_iter().collect())
    }

    /// What was taken is in the file now and `gone` is not, or nothing of it
    /// happened, and then it is taken again.
    pub fn written(&mut self, gone: &[StoryId], kept: bool) {
        let taken = std::mem::take(&mut self.writing);
        if kept {
            self.filed.extend(taken);
            for id in gone {
                self.filed.remove(id);
            }
            return;
        }
        self.removed.extend(gone);
        for id in taken {
            if self.stories.contains_key(&id) {
                self.changed.insert(id);
            } else if !self.filed.contains(&id) {
                self.removed.remove(&id);
            }
        }
    }

    /// Finds or begins the story that `who` belongs to, and joins what turns out
    /// to be one device.
    fn whose(&mut self, at: At, who: &Who) -> StoryId {
        self.tell_apart(at, who);
        let found = self.find(who);
        let id = found.unwrap_or_else(|| {
            let id = self.next;
            self.next += 1;
            self.stories.insert(id, Kept::default());
            id
        });
        // What was known only by its card or address so far.
        let others = [
            who.mac.and_then(|mac| self.index.mac(mac)),
            who.ip.and_then(|ip| self.index.ip(ip)),
        ];
        for (other, by_ip) in others.into_iter().zip([false, true]) {
            let Some(other) = other.filter(|other| *other != id) else {
                continue;
            };
            let nameless = self.story(other).is_some_and(|story| {
                let names = &story.names;
                let bare = names.uuid.is_none() && names.serial.is_none();
                bare && (!by_ip || names.macs.is_empty())
            });
            if nameless {
                self.join(id, other);
            }
        }
        id
    }

    fn join(&mut self, id: StoryId, other: StoryId) {
        let Some(old) = self.remove(other) else {
            return;
        };
        if let Some(kept) = self.stories.get_mut(&id) {
            kept.story.absorb(old);
        }
    }

    /// One UUID, and two serial numbers: two machines.
    fn tell_apart(&mut self, at: At, who: &Who) {
        let (Some(uuid), Some(serial), Some(mac)) = (who.uuid, &who.serial, who.mac) else {
            return;
        };
        let Some(id) = self.index.uuid(&uuid) else {
            return;
        };
        let Some(names) = self.story(id).map(|story| &story.names) else {
            return;
        };
        let another = names
            .serial
            .as_ref()
            .is_some_and(|known| !known.eq_ignore_ascii_case(serial));
        let other = names.macs.iter().find(|known| **known != mac).copied();
        if another && let Some(other) = other {
            self.contest(at, id, uuid, mac, other);
        }
    }

    /// From now on `uuid` names nobody: each card has its own story.
    fn contest(&mut self, at: At, id: StoryId, uuid: SmbiosUuid, mac: MacAddr, other: MacAddr) {
        if !self.index.contest(&uuid) {
            return;
        }
        let Some(kept) = self.stories.get_mut(&id) else {
            return;
        };
        let mut theirs = kept.story.split(mac);
        kept.judged = (0, 0);
        let what = |other| What::SameUuid { uuid, other };
        kept.story.push(at, Some(other), what(mac));
        theirs.push(at, Some(mac), what(other));
        let new = self.next;
        self.next += 1;
        self.stories.insert(
            new,
            Kept {
                story: theirs,
                ..Kept::default()
            },
        );
        self.touch(id);
        self.touch(new);
    }

    /// Enters a story's names, its weight and its place in the order of leaving.
    fn touch(&mut self, id: StoryId) {
        self.touches += 1;
        let Some(kept) = self.stories.get_mut(&id) else {
            return;
        };
        let (rank, touched) = kept.place;
        self.order.remove(&(rank, touched, id));
        self.ages.remove(&(touched, id));
        self.bytes -= kept.weight;
        kept.judge();
        kept.place = (importance(&kept.story), self.touches);
        kept.weight = kept.story.weight();
        self.bytes += kept.weight;
        self.order.insert((kept.place.0, self.touches, id));
        self.ages.insert((self.touches, id));
        self.index.enter(id, &kept.story.names);
        self.changed.insert(id);
        self.make_room();
    }

    fn make_room(&mut self) {
        let fresh = (self.limits.stories / FRESH_PART) as u64;
        while self.stories.len() > self.limits.stories || self.bytes > self.limits.bytes {
            let least = self.order.first().copied();
            let stale = least.filter(|(_, touched, _)| touched + fresh < self.touches);
            let id = stale.map(|(_, _, id)| id);
            let Some(id) = id.or(self.ages.first().map(|(_, id)| *id)) else {
                return;
            };
            self.remove(id);
            self.forgotten += 1;
        }
    }

    fn remove(&mut self, id: StoryId) -> Option<Story> {
        let kept = self.stories.remove(&id)?;
        let (rank, touched) = kept.place;
        self.order.remove(&(rank, touched, id));
        self.ages.remove(&(touched, id));
        self.bytes -= kept.weight;
        self.changed.remove(&id);
        if self.filed.contains(&id) || self.writing.contains(&id) {
            self.removed.insert(id);
        }
        self.index.leave(id, &kept.story.names);
        Some(kept.story)
    }
}

/// What a flood of made-up packets cannot push out: whoever came further. A
/// device that is provisioned and starts its own disk is one among many again.
fn importance(story: &Story) -> u8 {
    let rank = |what: &What| match what {
        What::Dhcp(dhcp) if dhcp.is_plain() => 0,
        What::Dhcp(_) | What::Overheard(_) | What::Conflict { .. } => 1,
        What::Agent(AgentStep::Finished) => 1,
        What::Tftp(_) | What::Http(_) | What::SameUuid { .. } => 2,
        What::Text(_) | What::Says { .. } | What::Released => 3,
        What::Agent(_) => 4,
    };
    let finished = |what: &What| matches!(what, What::Agent(AgentStep::Finished));
    let whats = story.events.iter().rev().map(|event| &event.what);
    let mut since = whats.take_while(|what| !finished(what)).map(rank).max();
    if story.events.iter().any(|event| finished(&event.what)) {
        since = since.max(Some(1));
    }
    since.unwrap_or(0)
}

/// The address that an event shows to be the device's.
fn address(what: &What) -> Option<Ipv4Addr> {
    match what {
        What::Dhcp(dhcp) => match &dhcp.answer {
            Answer::Sent { ip: Some(ip), .. } => Some(*ip),
            // It chose another server's, or uses it already.
            _ => dhcp
                .wants
                .filter(|_| dhcp.server.is_some() || dhcp.door == super::Door::Pxe),
        },
        What::Overheard(other) => other.ip,
        _ => None,
    }
}

/// The stories as a map, for tests and files.
pub fn collected(recorder: &Recorder) -> BTreeMap<StoryId, Story> {
    let stories = recorder.stories();
    stories.map(|(id, story)| (id, story.clone())).collect()
}
