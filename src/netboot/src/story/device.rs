//! The story of one device: who it is, what happened, and its packets.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use groundcrew_core::DeviceId;
use groundcrew_core::encoding::base64;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use serde::{Deserialize, Serialize};

use super::At;
use super::event::{AgentStep, Answer, Event, TftpStep, What};
use super::transfer;

/// The most events of one device; the oldest make room.
pub const MAX_EVENTS: usize = 240;
/// The most packets of one device, and the most bytes kept of each.
pub const MAX_PACKETS: usize = 48;
/// See [`MAX_PACKETS`].
pub const MAX_PACKET: usize = 1500;
/// Cards and addresses remembered of one device.
const MAX_NAMES: usize = 8;
/// What repeats itself within this time is one event that happened several times.
const SAME_WITHIN: u64 = 60_000;

/// One device's story.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// By what it is known.
    pub names: Names,
    /// What happened, in order.
    pub events: VecDeque<Event>,
    /// How many older events were dropped to bound memory.
    #[serde(default)]
    pub dropped: u64,
    /// Packets as seen, in order.
    #[serde(default)]
    pub packets: VecDeque<Packet>,
    /// How many older packets were dropped.
    #[serde(default)]
    pub dropped_packets: u64,
}

/// By what a device is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    /// Cards it was seen with, the last one first.
    pub macs: Vec<MacAddr>,
    /// Addresses it was seen with, the last one first.
    pub ips: Vec<Ipv4Addr>,
    /// SMBIOS UUID.
    pub uuid: Option<SmbiosUuid>,
    /// SMBIOS serial number.
    pub serial: Option<String>,
    /// Maker.
    pub maker: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// The site's name for it.
    pub device: Option<DeviceId>,
}

/// What somebody says of themselves together with an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The card.
    pub mac: Option<MacAddr>,
    /// The address.
    pub ip: Option<Ipv4Addr>,
    /// SMBIOS UUID, where it is no placeholder.
    pub uuid: Option<SmbiosUuid>,
    /// SMBIOS serial number, where it is no placeholder.
    pub serial: Option<String>,
    /// Maker.
    pub maker: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// The site's name for it.
    pub device: Option<DeviceId>,
}

/// A UDP datagram as it was seen or sent. What the socket does not tell of its
/// frame is filled in when a capture is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// When.
    pub at: At,
    /// From where.
    pub from: SocketAddrV4,
    /// To where.
    pub to: SocketAddrV4,
    /// The device's card, where it is on this wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// The device sent it.
    pub by_device: bool,
    /// The payload, at most [`MAX_PACKET`] bytes: one that is longer is not kept.
    #[serde(with = "base64")]
    pub payload: Vec<u8>,
}

impl Story {
    /// Adds an event; one that repeats another is counted there.
    pub(super) fn push(&mut self, at: At, mac: Option<MacAddr>, what: What) {
        let what = match what {
            What::Agent(step) => What::Agent(step.bounded()),
            what => what,
        };
        if let Some(same) = self.repeated(at, mac, &what) {
            same.times = same.times.saturating_add(1);
            same.until = Some(at);
            same.what = what;
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(Event {
            at,
            until: None,
            times: 1,
            mac,
            what,
        });
    }

    /// The process that noted its transfers has ended, and they with it.
    pub(super) fn let_go(&mut self) {
        let last = self.last();
        let open = transfer::open(self.events.iter());
        let ends: Vec<_> = open
            .into_iter()
            .filter_map(|begun| Some((begun.mac, transfer::let_go(&begun.what)?)))
            .collect();
        for (mac, end) in ends {
            self.push(last, mac, end);
        }
    }

    /// The event that `what` repeats. What an installed system does again and
    /// again, for years, is one event of each kind: it must not push out a boot.
    fn repeated(&mut self, at: At, mac: Option<MacAddr>, what: &What) -> Option<&mut Event> {
        if by_the_way(what) {
            let trailing = self.events.iter_mut().rev();
            let mut trailing = trailing.take_while(|event| by_the_way(&event.what));
            return trailing.find(|event| event.mac == mac && alike(&event.what, what));
        }
        let last = self.events.back_mut()?;
        let lasts = matches!(what, What::Agent(AgentStep::Phase { .. }));
        let soon = lasts || at.since(last.last()) <= SAME_WITHIN;
        (soon && last.mac == mac && last.what == *what).then_some(last)
    }

    /// Adds a packet.
    pub(super) fn keep(&mut self, packet: Packet) {
        if packet.payload.len() > MAX_PACKET {
            self.dropped_packets += 1;
            return;
        }
        if self.packets.len() >= MAX_PACKETS {
            self.packets.pop_front();
            self.dropped_packets += 1;
        }
        self.packets.push_back(packet);
    }

    /// When something happened last.
    pub fn last(&self) -> At {
        self.events.iter().map(Event::last).max().unwrap_or(At(0))
    }

    /// Whether it ever asked to boot here; else it is a neighbour on the wire.
    pub fn boots(&self) -> bool {
        self.events.iter().any(|event| match &event.what {
            What::Dhcp(dhcp) => !dhcp.is_plain(),
            What::Overheard(_) | What::Conflict { .. } => false,
            _ => true,
        })
    }

    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        let packets: usize = self.packets.iter().map(|p| p.payload.len() + 64).sum();
        let events: usize = self
            .events
            .iter()
            .map(|event| 320 + letters(&event.what))
            .sum();
        512 + events + packets
    }

    /// Takes over what happened to `other`, which is the same device.
    pub(super) fn absorb(&mut self, other: Self) {
        let mut events: Vec<Event> = self.events.drain(..).chain(other.events).collect();
        events.sort_by_key(|event| event.at);
        let surplus = events.len().saturating_sub(MAX_EVENTS);
        self.dropped += other.dropped + surplus as u64;
        self.events = events.into_iter().skip(surplus).collect();
        let mut packets: Vec<Packet> = self.packets.drain(..).chain(other.packets).collect();
        packets.sort_by_key(|packet| packet.at);
        let surplus = packets.len().saturating_sub(MAX_PACKETS);
        self.dropped_packets += other.dropped_packets + surplus as u64;
        self.packets = packets.into_iter().skip(surplus).collect();
        let Names {
            macs,
            ips,
            uuid,
            serial,
            maker,
            model,
            device,
        } = other.names;
        macs.into_iter()
            .for_each(|mac| remember(&mut self.names.macs, mac, false));
        ips.into_iter()
            .for_each(|ip| remember(&mut self.names.ips, ip, false));
        let names = &mut self.names;
        names.uuid = names.uuid.or(uuid);
        names.serial = names.serial.take().or(serial);
        names.maker = names.maker.take().or(maker);
        names.model = names.model.take().or(model);
        names.device = names.device.take().or(device);
    }

    /// What happened through `mac`, as a story of its own.
    pub(super) fn split(&mut self, mac: MacAddr) -> Self {
        let (theirs, mine) = self
            .events
            .drain(..)
            .partition(|event| event.mac == Some(mac));
        self.events = mine;
        let (packets, rest) = self
            .packets
            .drain(..)
            .partition(|packet| packet.mac == Some(mac));
        self.packets = rest;
        self.names.macs.retain(|known| *known != mac);
        Self {
            names: Names {
                macs: vec![mac],
                uuid: self.names.uuid,
                ..Names::default()
            },
            events: theirs,
            packets,
            ..Self::default()
        }
    }
}

impl Names {
    /// Whether it says nothing new.
    pub(super) fn know(&self, who: &Who) -> bool {
        fn same<T: PartialEq>(said: Option<&T>, known: Option<&T>) -> bool {
            said.is_none() || said == known
        }
        same(who.mac.as_ref(), self.macs.first())
            && same(who.ip.as_ref(), self.ips.first())
            && same(who.uuid.as_ref(), self.uuid.as_ref())
            && same(who.serial.as_ref(), self.serial.as_ref())
            && same(who.maker.as_ref(), self.maker.as_ref())
            && same(who.model.as_ref(), self.model.as_ref())
            && same(who.device.as_ref(), self.device.as_ref())
    }

    /// Learns what is said now.
    pub(super) fn learn(&mut self, who: &Who) {
        if let Some(mac) = who.mac {
            remember(&mut self.macs, mac, true);
        }
        if let Some(ip) = who.ip {
            remember(&mut self.ips, ip, true);
        }
        let text = |known: &mut Option<String>, said: &Option<String>| {
            if said.is_some() {
                known.clone_from(said);
            }
        };
        self.uuid = who.uuid.or(self.uuid);
        text(&mut self.serial, &who.serial);
        text(&mut self.maker, &who.maker);
        text(&mut self.model, &who.model);
        if who.device.is_some() {
            self.device.clone_from(&who.device);
        }
    }

    /// Whether `text` names it: a card, UUID, serial number, the site's id, an address.
    pub fn named(&self, text: &str) -> bool {
        let text = text.trim();
        let serial = self.serial.as_deref();
        let is_mac = text.parse().is_ok_and(|mac| self.macs.contains(&mac));
        let uuid: Option<SmbiosUuid> = text.parse().ok();
        is_mac
            || serial.is_some_and(|serial| serial.eq_ignore_ascii_case(text))
            || self.device.as_ref().is_some_and(|id| id.as_str() == text)
            || text.parse().is_ok_and(|ip| self.ips.first() == Some(&ip))
            || matches!((uuid, &self.uuid), (Some(a), Some(b)) if a.same_machine(b))
    }

    /// How lists call it.
    pub fn title(&self) -> String {
        let mac = || self.macs.first().map(ToString::to_string);
        let ip = || self.ips.first().map(ToString::to_string);
        let device = self.device.as_ref().map(ToString::to_string);
        device.or_else(mac).or_else(ip).unwrap_or_default()
    }
}

/// The bytes of an event's texts.
fn letters(what: &What) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    match what {
        What::Dhcp(dhcp) => {
            let answer = match &dhcp.answer {
                Answer::Sent { file, .. } => length(file),
                Answer::Silent { text, .. } => text.len(),
                Answer::Noted { .. } => 0,
            };
            answer
                + length(&dhcp.vendor_class)
                + length(&dhcp.user_class)
                + length(&dhcp.unsupported)
        }
        What::Overheard(other) => length(&other.file) + length(&other.vendor_class),
        What::Tftp(tftp) => {
            let step = match &tftp.step {
                TftpStep::Refused { why } | TftpStep::Stopped { why, .. } => why.len(),
                TftpStep::EndedByDevice { text, .. } => text.len(),
                _ => 0,
            };
            tftp.file.len() + step
        }
        What::Http(http) => http.path.len() + length(&http.why),
        What::Text(text) => text.why.len(),
        What::Agent(step) => match step {
            AgentStep::Waiting { reason }
            | AgentStep::Rejected { reason }
            | AgentStep::Failed { reason } => reason.len(),
            AgentStep::Refused { code, text } => code.len() + text.len(),
            AgentStep::Phase { phase } => phase.len(),
            AgentStep::Started | AgentStep::Granted { .. } | AgentStep::Finished => 0,
        },
        What::Says { phase, text, .. } => phase.len() + text.len(),
        What::Conflict { .. } | What::SameUuid { .. } | What::Released => 0,
    }
}

/// It may happen to a device that does not boot.
fn by_the_way(what: &What) -> bool {
    match what {
        What::Dhcp(dhcp) => dhcp.is_plain(),
        What::Overheard(_) | What::Conflict { .. } => true,
        _ => false,
    }
}

fn alike(one: &What, other: &What) -> bool {
    match (one, other) {
        (What::Dhcp(one), What::Dhcp(other)) => one.message == other.message,
        _ => one == other,
    }
}

fn remember<T: PartialEq>(known: &mut Vec<T>, one: T, first: bool) {
    known.retain(|other| *other != one);
    if first {
        known.insert(0, one);
    } else {
        known.push(one);
    }
    known.truncate(MAX_NAMES);
}
