//! Finding devices among very many: one pass, nothing cloned, and never more
//! rows than a page shows.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use groundcrew_core::hardware::MacAddr;
use groundcrew_core::{DeviceId, UnixTime};

use crate::device::{Device, Phase};
use crate::state::Registry;

/// The name under which lists show devices that wait for a technician, whatever
/// their phase.
pub const WAITING: &str = "waiting";

/// What to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    text: Vec<u8>,
    /// Whether the text could be a part of a MAC address.
    maybe_mac: bool,
    phase: Option<&'static str>,
    skip: usize,
    limit: usize,
}

/// A name that is none of a phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no phase; there are {names}", names = Phase::NAMES.join(", "))]
pub struct PhaseNameError(String);

impl Search {
    /// Up to `limit` devices.
    pub fn first(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Leaves out the first `skip` of them: the pages before.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Only those with `text` in their id, serial number, maker, model, tag,
    /// waiting code or a MAC address; capital and small letters alike.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.text = text.trim().bytes().take(128).collect();
        self.text.make_ascii_lowercase();
        let of_mac = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b':';
        self.maybe_mac = self.text.len() <= MAC_TEXT && self.text.iter().all(of_mac);
        self
    }

    /// Only those in this phase; [`WAITING`] is every device with a request
    /// that waits for a technician.
    pub fn phase(mut self, name: &str) -> Result<Self, PhaseNameError> {
        let known = Phase::NAMES.into_iter().find(|known| *known == name);
        let known = known.ok_or_else(|| PhaseNameError(groundcrew_core::ids::shown(name)))?;
        self.phase = Some(known);
        Ok(self)
    }

    fn takes(&self, device: &Device) -> bool {
        let phase = match self.phase {
            None => true,
            Some(WAITING) => device.pending.is_some(),
            Some(name) => device.phase.name() == name,
        };
        phase && (self.text.is_empty() || self.is_in(device))
    }

    fn is_in(&self, device: &Device) -> bool {
        let identity = &device.identity;
        let texts = [
            Some(device.id.as_str()),
            identity.serial.as_deref(),
            identity.manufacturer.as_deref(),
            identity.product.as_deref(),
            device.tag.as_ref().map(|tag| tag.as_str()),
        ];
        let has = |text: &str| contains(text.as_bytes(), &self.text);
        texts.into_iter().flatten().any(has)
            || (self.maybe_mac
                && identity
                    .macs
                    .iter()
                    .any(|mac| contains(&mac_text(mac), &self.text)))
            || device
                .pending
                .as_ref()
                .is_some_and(|pending| has(&pending.code.to_string()))
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The page's devices: those that wait for somebody first, then those that
    /// stopped, are at work, and the rest by name.
    pub devices: Vec<&'a Device>,
    /// How many there are on all pages together.
    pub matching: usize,
    /// How many of all devices are in each phase; a device that waits for a
    /// technician counts as [`WAITING`] only.
    pub counts: BTreeMap<&'static str, usize>,
}

impl Registry {
    /// The devices that `search` means and whose names come after `after`, by
    /// name, whatever its limits: for whoever reads all of them, a page at a time.
    pub fn search_after<'a>(
        &'a self,
        search: &'a Search,
        after: Option<&DeviceId>,
    ) -> impl Iterator<Item = &'a Device> {
        self.devices_after(after)
            .filter(|device| search.takes(device))
    }

    /// The devices that `search` means.
    pub fn search(&self, search: &Search) -> Found<'_> {
        let mut counts = [0; Phase::NAMES.len()];
        let mut found = Vec::new();
        for device in self.devices() {
            if let Some(count) = counts.get_mut(counted_as(device)) {
                *count += 1;
            }
            if search.takes(device) {
                found.push((rank(device), device));
            }
        }
        let matching = found.len();
        let by_rank = |(rank, device): &(Rank, &Device), (other, beside): &(Rank, &Device)| {
            (rank, &device.id).cmp(&(other, &beside.id))
        };
        let end = search.skip.saturating_add(search.limit);
        if end < found.len() {
            found.select_nth_unstable_by(end, by_rank);
            found.truncate(end);
        }
        found.sort_unstable_by(by_rank);
        let page = found.into_iter().skip(search.skip);
        Found {
            devices: page.map(|(_, device)| device).collect(),
            matching,
            counts: Phase::NAMES
                .into_iter()
                .zip(counts)
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// The place of a device's word in [`Phase::NAMES`].
const fn counted_as(device: &Device) -> usize {
    match device.phase {
        _ if device.pending.is_some() => 1,
        Phase::Registered => 0,
        Phase::Waiting => 1,
        Phase::Approved => 2,
        Phase::Rejected { .. } => 3,
        Phase::Provisioning { .. } => 4,
        Phase::Provisioned { .. } => 5,
        Phase::Failed { .. } => 6,
        Phase::Held { .. } => 7,
        Phase::Retired { .. } => 8,
    }
}

/// Smaller is shown first.
type Rank = (u8, Reverse<Option<UnixTime>>);

fn rank(device: &Device) -> Rank {
    let group = match device.phase {
        _ if device.pending.is_some() => 0,
        Phase::Held { .. } | Phase::Failed { .. } => 1,
        Phase::Approved | Phase::Provisioning { .. } => 2,
        Phase::Rejected { .. } => 3,
        Phase::Provisioned { .. } => 4,
        Phase::Registered | Phase::Waiting => 5,
        Phase::Retired { .. } => 6,
    };
    (group, Reverse(device.phase.since()))
}

/// The length of a MAC address as text.
const MAC_TEXT: usize = 17;

/// A MAC address as lists show it, without an allocation for each of very many.
fn mac_text(mac: &MacAddr) -> [u8; MAC_TEXT] {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'?');
    let mut text = [b':'; MAC_TEXT];
    for (place, byte) in text.chunks_mut(3).zip(mac.0) {
        for (place, nibble) in place.iter_mut().zip([byte >> 4, byte & 15]) {
            *place = digit(nibble);
        }
    }
    text
}

/// `wanted` is in small letters.
fn contains(text: &[u8], wanted: &[u8]) -> bool {
    let Some((first, rest)) = wanted.split_first() else {
        return true;
    };
    text.windows(wanted.len()).any(|part| {
        part.split_first().is_some_and(|(byte, more)| {
            byte.to_ascii_lowercase() == *first && more.eq_ignore_ascii_case(rest)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Registration;
    use crate::event::{Actor, Change, Event};
    use groundcrew_core::hardware::Identity;

    fn registry(count: u8) -> Registry {
        let site = "lab".parse().unwrap();
        let mut registry = Registry::new(site, crate::state::Limits::default());
        let changes = (0..count).map(|n| Change {
            device: DeviceId::new(registry.site(), [0, 0, 0, 0, n]),
            actor: Actor::Site,
            event: Event::Registered {
                registration: Box::new(Registration {
                    identity: Identity {
                        serial: Some(format!("Serial-{n:03}")),
                        ..Identity::default()
                    },
                    tag: None,
                    user: None,
                    product_id: None,
                    hash: None,
                    source: "test".into(),
                }),
            },
        });
        let changes = changes.collect();
        registry.record(UnixTime::new(1), changes).unwrap();
        registry
    }

    #[test]
    fn pages_follow_one_another_without_gap() {
        let registry = registry(25);
        let mut seen = Vec::new();
        for skip in [0, 10, 20, 30] {
            let found = registry.search(&Search::first(10).after(skip));
            assert_eq!(found.matching, 25);
            assert_eq!(found.counts.get("registered"), Some(&25));
            seen.extend(found.devices.iter().map(|device| device.id.clone()));
        }
        let all: Vec<DeviceId> = registry.devices().map(|device| device.id.clone()).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn names_lead_from_page_to_page() {
        let registry = registry(25);
        let search = Search::first(0).text("serial-0");
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = registry.search_after(&search, after.as_ref()).take(10);
            let page: Vec<DeviceId> = page.map(|device| device.id.clone()).collect();
            let Some(last) = page.last().cloned() else {
                break;
            };
            seen.extend(page);
            after = Some(last);
        }
        let all: Vec<DeviceId> = registry.devices().map(|device| device.id.clone()).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn every_device_is_counted_under_its_phase_s_name() {
        let registry = registry(1);
        let mut device = registry.devices().next().unwrap().clone();
        let since = UnixTime::new(1);
        for phase in [
            Phase::Registered,
            Phase::Waiting,
            Phase::Approved,
            Phase::Rejected {
                reason: String::new(),
                since,
            },
            Phase::Held {
                reason: String::new(),
                since,
                before: Box::new(Phase::Waiting),
            },
            Phase::Retired { since },
        ] {
            device.phase = phase;
            assert_eq!(Phase::NAMES[counted_as(&device)], device.phase.name());
        }
    }

    #[test]
    fn a_mac_address_is_searched_as_it_is_shown() {
        for bytes in [[0; 6], [0xff; 6], [1, 0x2a, 0xb3, 0x4c, 0xd5, 0x6e]] {
            let mac = MacAddr(bytes);
            assert_eq!(mac_text(&mac), mac.to_string().as_bytes());
        }
    }

    #[test]
    fn text_is_found_in_either_case_and_phases_by_name() {
        let registry = registry(25);
        let count = |search: Search| registry.search(&search).matching;
        assert_eq!(count(Search::first(9).text("sErIaL-01")), 10);
        assert_eq!(count(Search::first(9).text("no such thing")), 0);
        assert_eq!(count(Search::first(9).phase("registered").unwrap()), 25);
        assert_eq!(count(Search::first(9).phase("waiting").unwrap()), 0);
        let error = Search::first(9).phase("lost").unwrap_err().to_string();
        assert!(error.contains("`lost` is no phase; there are registered, waiting"));
    }
}
