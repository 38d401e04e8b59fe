//! Failures, staged: each test makes one happen through the real services and
//! checks that its cause is named. `--nocapture` prints what was said.
//!
//! Time is moved by hand: the story is taken from the appliance with
//! `boot explain --json` and judged as of an hour later, which is what makes
//! silence mean something.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

#[path = "../common/mod.rs"]
mod common;

mod agent;
mod device;
mod dhcp;
mod disk;
mod loader;
mod order;
mod replay;
mod stage;
