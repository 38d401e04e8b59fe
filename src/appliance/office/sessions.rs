//! Sessions: handles of running enrollments. In memory only, bounded; losing
//! them costs a device one more request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use groundcrew_core::dsse::Verified;
use groundcrew_core::enroll::{Progress, Request, Session};
use groundcrew_core::{DeviceId, Digest};
use tokio::sync::Notify;

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
    /// Woken when something was decided.
    pub changed: Arc<Notify>,
}

/// All running enrollments, found by the digest of their token: the table
/// itself holds nothing that could be used.
#[derive(Default)]
pub struct Sessions {
    by_token: HashMap<Digest, (u64, Enrollment)>,
    by_age: BTreeMap<u64, Digest>,
    by_device: HashMap<DeviceId, Digest>,
    next: u64,
}

impl Sessions {
    /// Opens a session; one that the same device had is closed.
    pub fn open(&mut self, token: &Session, enrollment: Enrollment) {
        if let Some(old) = self.by_device.get(&enrollment.device).copied() {
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
        self.by_device.insert(enrollment.device.clone(), key);
        self.by_token.insert(key, (self.next, enrollment));
    }

    fn close(&mut self, key: &Digest) {
        if let Some((age, enrollment)) = self.by_token.remove(key) {
            self.by_age.remove(&age);
            self.by_device.remove(&enrollment.device);
            enrollment.changed.notify_waiters();
        }
    }

    /// The enrollment of a token.
    pub fn of_token(&mut self, token: &Session) -> Option<&mut Enrollment> {
        self.by_token
            .get_mut(&key(token))
            .map(|(_, enrollment)| enrollment)
    }

    /// The enrollment of a device.
    pub fn of_device(&self, device: &DeviceId) -> Option<&Enrollment> {
        self.by_token
            .get(self.by_device.get(device)?)
            .map(|(_, enrollment)| enrollment)
    }

    /// Wakes whoever waits for a decision about `device`.
    pub fn wake(&self, device: &DeviceId) {
        if let Some(enrollment) = self.of_device(device) {
            enrollment.changed.notify_waiters();
        }
    }
}

fn key(token: &Session) -> Digest {
    Digest::of(&token.0)
}
