//! Sessions: handles of running enrollments. In memory only, bounded; losing
//! them costs a device one more request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use groundcrew_core::dsse::Verified;
use groundcrew_core::enroll::{Progress, Request, Session};
use groundcrew_core::{DeviceId, Digest};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Sessions kept at once; the oldest makes room.
const LIMIT: usize = 20_000;

/// One running enrollment.
#[derive(Clone)]
pub struct Enrollment {
    /// The device.
    pub device: DeviceId,
    /// What it asked; the grant will be bound to it.
    pub request: Arc<Verified<Request>>,
    /// What the agent is doing.
    pub progress: Option<Progress>,
    /// When its story was last told so.
    pub told: Option<Instant>,
    /// Woken when something was decided.
    pub changed: Arc<Notify>,
}

/// Between two reports of one phase that a device's story is told of.
const TELL_EVERY: Duration = Duration::from_secs(10);

impl Enrollment {
    /// The agent reports at `now`; whether its story is to hear of it: of each
    /// phase, and now and then that it is still at work.
    pub fn report(&mut self, progress: Progress, now: Instant) -> bool {
        let before = self.progress.as_ref();
        let same = before.is_some_and(|before| before.phase == progress.phase);
        self.progress = Some(progress);
        let tell = is_due(self.told.filter(|_| same), now);
        if tell {
            self.told = Some(now);
        }
        tell
    }
}

fn is_due(told: Option<Instant>, now: Instant) -> bool {
    told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY)
}

/// Keys that may have a session for the same device at once: the device's own,
/// and others that claim to be it.
const CLAIMANTS: usize = 4;

/// All running enrollments, found by the digest of their token: the table
/// itself holds nothing that could be used.
#[derive(Default)]
pub struct Sessions {
    by_token: HashMap<Digest, (u64, Enrollment)>,
    by_age: BTreeMap<u64, Digest>,
    /// Oldest first, at most [`CLAIMANTS`].
    by_device: HashMap<DeviceId, Vec<Digest>>,
    next: u64,
}

impl Sessions {
    /// Opens a session; one that the same key had for the device is closed. A
    /// stranger who claims to be a device at work does not close the device's.
    pub fn open(&mut self, token: &Session, enrollment: Enrollment) {
        let same_key = |old: &&Digest| {
            let old = self.by_token.get(*old).map(|(_, old)| old.request.sign_key);
            old == Some(enrollment.request.sign_key)
        };
        let of_device = self.by_device.get(&enrollment.device);
        let replaced = of_device.and_then(|all| {
            // Where there are too many, the last claimant makes room, not the first.
            let last = all.last().filter(|_| all.len() >= CLAIMANTS);
            all.iter().find(same_key).or(last).copied()
        });
        if let Some(old) = replaced {
            self.close(&old);
        }
        while self.by_token.len() >= LIMIT {
            let Some((_, oldest)) = self.by_age.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            self.close(&oldest);
        }
        let key = key(token);
        self.next += 1;
        self.by_age.insert(self.next, key);
        let of_device = self.by_device.entry(enrollment.device.clone());
        of_device.or_default().push(key);
        self.by_token.insert(key, (self.next, enrollment));
    }

    fn close(&mut self, key: &Digest) {
        if let Some((age, enrollment)) = self.by_token.remove(key) {
            self.by_age.remove(&age);
            if let Some(of_device) = self.by_device.get_mut(&enrollment.device) {
                of_device.retain(|other| other != key);
                if of_device.is_empty() {
                    self.by_device.remove(&enrollment.device);
                }
            }
            enrollment.changed.notify_waiters();
        }
    }

    /// The enrollment of a token.
    pub fn of_token(&mut self, token: &Session) -> Option<&mut Enrollment> {
        self.by_token
            .get_mut(&key(token))
            .map(|(_, enrollment)| enrollment)
    }

    /// The enrollments of a device, by whichever key.
    pub fn of_device(&self, device: &DeviceId) -> impl Iterator<Item = &Enrollment> {
        let tokens = self.by_device.get(device).into_iter().flatten();
        tokens.filter_map(|token| self.by_token.get(token).map(|(_, enrollment)| enrollment))
    }

    /// Wakes whoever waits for a decision about `device`.
    pub fn wake(&self, device: &DeviceId) {
        for enrollment in self.of_device(device) {
            enrollment.changed.notify_waiters();
        }
    }
}

fn key(token: &Session) -> Digest {
    Digest::of(&token.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_told_at_once_and_then_now_and_then() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(is_due(None, began), "a new phase");
        assert!(!is_due(Some(began), at(9)));
        assert!(is_due(Some(began), at(10)));
    }
}
