//! The flight recorder: what happened to each device that wanted to boot, why,
//! and what to do about it.
//!
//! ```text
//! packet, file, text, words -> Recorder::note(at, who, what) -> the device's Story
//! Story, now                -> diagnose -> sentences, how far it got, Cause and its cure
//! ```
//!
//! [`Recorder`] joins what belongs to one device (MAC, UUID, serial number,
//! address, the site's id), and is bounded in devices, events and bytes. A
//! [`Story`] is plain data: what `boot explain --json` prints can be read again
//! and diagnosed again, which is what `tests/fixtures/stories` holds.

mod at;
mod attempt;
mod cause;
mod device;
mod diagnose;
mod event;
mod index;
mod narrate;
pub mod pcap;
mod recorder;
#[cfg(test)]
mod tests;
mod transfer;

pub use at::At;
pub use attempt::{Attempt, Stage, attempts};
pub use cause::Cause;
pub use device::{MAX_EVENTS, MAX_PACKETS, Names, Packet, Story, Who};
pub use diagnose::{Asks, Diagnosis, Hold, Line, Past, State, diagnose, hold, is_held, tell};
pub use event::{
    AgentStep, Answer, BootText, ClientKind, Dhcp, Door, Event, HttpFile, Message, Order,
    Overheard, ReplyWord, Silence, TftpFile, TftpStep, What,
};
pub use recorder::{Limits, Recorder, StoryId, collected};
