//! The stick: one USB medium that provisions with or without a network.
//!
//! ```text
//! build side                                   on the stick
//! plan    what goes on it, with ids made       run      the command `stick run`, which the agent starts
//!         of its content                       medium   finds the data partition, grows it, mounts it
//! build   writes and reads back                unlock   asks for the PIN, slowly
//! start   boot loaders, kernel, menu
//! kept    a stick that exists: sync, update (`bring`: what differs)
//! reader  the same, only read: backup
//! fill    content in, and read back            screens  what a technician sees on 80 x 24
//! transaction, steps   changes that a cut      vault, anchor   keys under a PIN; what nobody winds back
//!         at any moment leaves whole
//! gpt, fat32, ext4, grub   its parts
//! meanwhile  what nobody waits for yet
//! device  may this medium be written?
//! marks   does it hold what it says?
//! ```
//!
//! The image, in partitions:
//!
//! | nr | what | size |
//! |---|---|---|
//! | 1 | GRUB's core.img for a BIOS | 1 MiB |
//! | 2 | FAT32: shim, Debian's signed GRUB, menu, kernel, two initrds | 96 MiB |
//! | 3 | the anchor: two sectors outside of any file system | 1 MiB |
//! | 4 | ext4: the site, its keys in a vault; grows to the medium | what is needed, and 64 MiB |

pub mod anchor;
mod bring;
pub mod build;
pub mod device;
pub mod ext4;
pub mod fat32;
mod fill;
pub mod gpt;
pub mod grub;
pub mod kept;
mod kernel;
mod marks;
mod meanwhile;
pub mod plan;
pub mod reader;
pub mod run;
pub mod start;
pub mod steps;
mod transaction;
pub mod vault;

pub use crate::site::settings::{StickMode as Mode, StickSettings};

/// Where the site's keys are while a stick runs: memory, never the medium.
/// The site's folder on the stick has a link to it in the place of its keys.
pub const KEYS_IN_MEMORY: &str = "/run/groundcrew/keys";
/// Files at the top of the data partition.
pub mod file {
    /// The site's keys under a PIN.
    pub const VAULT: &str = "vault.json";
    /// The site's folder.
    pub const SITE: &str = "site";
}
