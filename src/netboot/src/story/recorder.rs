//! The recorder: puts each event into the story of the device it is about, and
//! keeps memory bounded whoever knocks.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;

use groundcrew_core::DeviceId;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use super::At;
use super::device::{Packet, Story, Who};
use super::event::{Answer, What};

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
/// UUIDs that several machines claim; more are not told apart.
const MAX_CONTESTED: usize = 64;
/// Two machines that take turns within this time run at the same time.
const TURNS_WITHIN: u64 = 60_000;

/// All stories.
#[derive(Debug, Default)]
pub struct Recorder {
    limits: Limits,
    stories: HashMap<StoryId, Kept>,
    by_mac: HashMap<MacAddr, StoryId>,
    by_uuid: HashMap<[u8; 16], StoryId>,
    by_serial: HashMap<String, StoryId>,
    by_ip: HashMap<Ipv4Addr, StoryId>,
    by_device: HashMap<DeviceId, StoryId>,
    /// UUIDs that name no machine.
    contested: BTreeSet<[u8; 16]>,
    /// The least important and oldest first: how far it came, when it was touched.
    order: BTreeSet<(u8, u64, StoryId)>,
    touches: u64,
    next: StoryId,
    bytes: usize,
    changed: BTreeSet<StoryId>,
    /// The last one of these that was taken: everybody's turn comes.
    taken: StoryId,
    removed: BTreeSet<StoryId>,
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Kept {
    story: Story,
    place: (u8, u64),
    weight: usize,
    /// Recent DHCP transactions, for [`Recorder::overlaps`].
    exchanges: VecDeque<(MacAddr, u32, At)>,
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
        for (id, story) in stories {
            for event in &story.events {
                if let What::SameUuid { uuid, .. } = event.what
                    && recorder.contested.len() < MAX_CONTESTED
                {
                    recorder.contested.insert(uuid.order_free());
                }
            }
            recorder.next = recorder.next.max(id.saturating_add(1));
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
            kept.story.names.learn(who);
            if let Some(ip) = address(&what) {
                kept.story.names.learn(&Who {
                    ip: Some(ip),
                    ..Who::default()
                });
                self.by_ip.insert(ip, id);
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
        let Some(uuid) = uuid.filter(|uuid| !self.contested.contains(&uuid.order_free())) else {
            return;
        };
        let Some(id) = self.by_uuid.get(&uuid.order_free()).copied() else {
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

    /// Keeps a packet of a story.
    pub fn keep(&mut self, id: StoryId, packet: Packet) {
        if let Some(kept) = self.stories.get_mut(&id) {
            kept.story.keep(packet);
            self.touch(id);
        }
    }

    /// The story of whoever this is, if there is one.
    pub fn find(&self, who: &Who) -> Option<StoryId> {
        let uuid = who.uuid.map(|uuid| uuid.order_free());
        let uuid = uuid.filter(|uuid| !self.contested.contains(uuid));
        let serial = who.serial.as_ref().map(|serial| serial.to_lowercase());
        None.or_else(|| self.by_uuid.get(&uuid?))
            .or_else(|| self.by_serial.get(&serial?))
            .or_else(|| self.by_mac.get(&who.mac?).filter(|id| self.fits(**id, who)))
            .or_else(|| self.by_device.get(who.device.as_ref()?))
            .or_else(|| self.by_ip.get(&who.ip?).filter(|id| self.fits(**id, who)))
            .copied()
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

    /// All of them, in no order.
    pub fn stories(&self) -> impl Iterator<Item = (StoryId, &Story)> {
        self.stories.iter().map(|(id, kept)| (*id, &kept.story))
    }

    /// How many stories were forgotten to bound memory.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// At most `most` stories that changed since they were last taken, and all
    /// that are gone.
    pub fn take_changes(&mut self, most: usize) -> (Vec<(StoryId, Story)>, Vec<StoryId>) {
        let after = self.changed.range(self.taken.saturating_add(1)..);
        let before = self.changed.range(..=self.taken);
        let ids: Vec<_> = after.chain(before).take(most).copied().collect();
        let mut changed = Vec::with_capacity(ids.len());
        for id in ids {
            self.changed.remove(&id);
            self.taken = id;
            changed.extend(self.story(id).map(|story| (id, story.clone())));
        }
        let removed = std::mem::take(&mut self.removed);
        (changed, removed.into_iter().collect())
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
            who.mac.and_then(|mac| self.by_mac.get(&mac)).copied(),
            who.ip.and_then(|ip| self.by_ip.get(&ip)).copied(),
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
        let Some(id) = self.by_uuid.get(&uuid.order_free()).copied() else {
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
        if self.contested.len() >= MAX_CONTESTED {
            return;
        }
        self.contested.insert(uuid.order_free());
        self.by_uuid.remove(&uuid.order_free());
        let Some(kept) = self.stories.get_mut(&id) else {
            return;
        };
        let mut theirs = kept.story.split(mac);
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
        self.order.remove(&(kept.place.0, kept.place.1, id));
        self.bytes -= kept.weight;
        kept.place = (importance(&kept.story), self.touches);
        kept.weight = kept.story.weight();
        self.bytes += kept.weight;
        self.order.insert((kept.place.0, kept.place.1, id));
        let names = &kept.story.names;
        for mac in &names.macs {
            self.by_mac.insert(*mac, id);
        }
        if let Some(ip) = names.ips.first() {
            self.by_ip.insert(*ip, id);
        }
        if let Some(uuid) = names.uuid.map(|uuid| uuid.order_free())
            && !self.contested.contains(&uuid)
        {
            self.by_uuid.insert(uuid, id);
        }
        if let Some(serial) = &names.serial {
            self.by_serial.insert(serial.to_lowercase(), id);
        }
        if let Some(device) = &names.device {
            self.by_device.insert(device.clone(), id);
        }
        self.changed.insert(id);
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.stories.len() > self.limits.stories || self.bytes > self.limits.bytes {
            let Some((_, _, id)) = self.order.first().copied() else {
                return;
            };
            self.remove(id);
            self.forgotten += 1;
        }
    }

    fn remove(&mut self, id: StoryId) -> Option<Story> {
        let kept = self.stories.remove(&id)?;
        self.order.remove(&(kept.place.0, kept.place.1, id));
        self.bytes -= kept.weight;
        self.changed.remove(&id);
        self.removed.insert(id);
        let names = &kept.story.names;
        for mac in &names.macs {
            forget(&mut self.by_mac, mac, id);
        }
        for ip in &names.ips {
            forget(&mut self.by_ip, ip, id);
        }
        if let Some(uuid) = names.uuid {
            forget(&mut self.by_uuid, &uuid.order_free(), id);
        }
        if let Some(serial) = &names.serial {
            forget(&mut self.by_serial, &serial.to_lowercase(), id);
        }
        if let Some(device) = &names.device {
            forget(&mut self.by_device, device, id);
        }
        Some(kept.story)
    }
}

fn forget<K: std::hash::Hash + Eq>(index: &mut HashMap<K, StoryId>, key: &K, id: StoryId) {
    if index.get(key) == Some(&id) {
        index.remove(key);
    }
}

/// What a flood of made-up packets cannot push out: whoever came further.
fn importance(story: &Story) -> u8 {
    let rank = |what: &What| match what {
        What::Dhcp(dhcp) if dhcp.client == super::ClientKind::Plain => 0,
        What::Dhcp(_) | What::Overheard(_) | What::Conflict { .. } => 1,
        What::Tftp(_) | What::Http(_) | What::SameUuid { .. } => 2,
        What::Text(_) | What::Says { .. } | What::Released => 3,
        What::Agent(_) => 4,
    };
    let ranks = story.events.iter().map(|event| rank(&event.what));
    ranks.max().unwrap_or(0)
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
