//! A story cut into attempts to boot: each power-on, or each further try of the
//! firmware, and how far it came.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::At;
use super::event::{
    AgentStep, Answer, ClientKind, Dhcp, Event, HttpFile, Message, Order, ReplyWord, TftpStep, What,
};

/// How far an attempt came, in the order of a boot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It is on the network, and did not ask to boot.
    #[default]
    Seen,
    /// It asked to boot.
    Asked,
    /// It was offered something.
    Offered,
    /// It has an address.
    Address,
    /// It asked for a loader.
    LoaderBegun,
    /// The loader was sent.
    LoaderSent,
    /// iPXE runs.
    LoaderRuns,
    /// It was told what to boot.
    Told,
    /// It started its own disk, as told.
    OwnDisk,
    /// The kernel was sent.
    KernelSent,
    /// The initrd was sent.
    InitrdSent,
    /// The agent was heard.
    AgentRuns,
    /// It asks to be let in.
    Asking,
    /// It was let in.
    LetIn,
    /// It applies its bundle.
    Working,
    /// Its receipt came.
    Finished,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seen => "on the network",
            Self::Asked => "asked to boot",
            Self::Offered => "offer sent",
            Self::Address => "has an address",
            Self::LoaderBegun => "loader asked for",
            Self::LoaderSent => "loader sent",
            Self::LoaderRuns => "iPXE runs",
            Self::Told => "told what to boot",
            Self::OwnDisk => "own disk, as told",
            Self::KernelSent => "kernel sent",
            Self::InitrdSent => "kernel, initrd sent",
            Self::AgentRuns => "agent heard",
            Self::Asking => "asks to be let in",
            Self::LetIn => "let in",
            Self::Working => "applies its bundle",
            Self::Finished => "provisioned",
        })
    }
}

impl Stage {
    /// In at most seven letters, for lists.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Seen => "-",
            Self::Asked => "asked",
            Self::Offered => "offer",
            Self::Address => "address",
            Self::LoaderBegun | Self::LoaderSent => "loader",
            Self::LoaderRuns => "iPXE",
            Self::Told => "told",
            Self::OwnDisk => "disk",
            Self::KernelSent => "kernel",
            Self::InitrdSent => "initrd",
            Self::AgentRuns => "agent",
            Self::Asking => "asking",
            Self::LetIn => "let in",
            Self::Working => "working",
            Self::Finished => "done",
        }
    }
}

/// Events `first..end` of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Index of the first event.
    pub first: usize,
    /// Index behind the last event.
    pub end: usize,
    /// How far it came.
    pub reached: Stage,
}

impl Attempt {
    /// Its events.
    pub fn of<'a>(&self, events: &'a VecDeque<Event>) -> Vec<&'a Event> {
        events
            .iter()
            .skip(self.first)
            .take(self.end - self.first)
            .collect()
    }

    /// Those that tell of its boot: without what the system on its disk did
    /// afterwards. All of them where it never asked to boot.
    pub fn boot<'a>(&self, events: &'a VecDeque<Event>) -> Vec<&'a Event> {
        let mut own = OwnSystem::default();
        let mut told = self.of(events);
        if self.reached > Stage::Seen {
            told.retain(|event| !own.is_behind(&event.what));
        }
        told
    }
}

/// Tells apart what the system on a device's disk does: its own packets, and
/// what other servers answer to it.
#[derive(Default)]
struct OwnSystem {
    asked: bool,
}

impl OwnSystem {
    fn is_behind(&mut self, what: &What) -> bool {
        match what {
            What::Dhcp(dhcp) => {
                self.asked = dhcp.is_plain();
                self.asked
            }
            What::Overheard(_) | What::Conflict { .. } => self.asked,
            _ => false,
        }
    }
}

/// After such a silence the next question begins anew, in milliseconds.
pub(super) const SILENCE: u64 = 300_000;

/// The attempts in a story's events, in order.
pub fn attempts(events: &VecDeque<Event>) -> Vec<Attempt> {
    let mut found: Vec<Attempt> = Vec::new();
    let mut under_way = UnderWay::default();
    for (index, event) in events.iter().enumerate() {
        if found.is_empty() || under_way.is_over(event) {
            under_way = UnderWay::default();
            found.push(Attempt {
                first: index,
                end: index,
                reached: Stage::Seen,
            });
        }
        under_way.take(event);
        if let Some(last) = found.last_mut() {
            last.end = index + 1;
            last.reached = under_way.reached;
        }
    }
    found
}

/// What must be known of an attempt to see that another begins.
#[derive(Default)]
struct UnderWay {
    reached: Stage,
    last: At,
    /// iPXE got its address.
    ipxe_bound: bool,
    own: OwnSystem,
}

impl UnderWay {
    fn is_over(&self, event: &Event) -> bool {
        let silent = event.at.since(self.last) > SILENCE;
        match &event.what {
            What::Dhcp(dhcp) if dhcp.message == Message::Discover => match dhcp.client {
                // No boot begins by an installed system's packet.
                ClientKind::Plain => false,
                ClientKind::Agent => silent,
                // iPXE follows a loader that was sent; a ROM of iPXE begins with it.
                ClientKind::Ipxe => silent || self.ipxe_bound || self.reached >= Stage::Told,
                ClientKind::Pxe | ClientKind::HttpBoot | ClientKind::Unsupported => {
                    silent || self.reached >= Stage::Address
                }
            },
            // Nor by a renewal.
            What::Dhcp(dhcp) => {
                silent && !matches!(dhcp.client, ClientKind::Plain | ClientKind::Agent)
            }
            What::Text(_) => silent && self.reached > Stage::Told,
            // A technician's word ends what was before.
            What::Released => true,
            _ => false,
        }
    }

    fn take(&mut self, event: &Event) {
        self.last = self.last.max(event.last());
        if self.own.is_behind(&event.what) {
            return;
        }
        if let What::Dhcp(dhcp) = &event.what {
            self.ipxe_bound |= dhcp.client == ClientKind::Ipxe && binds(dhcp);
        }
        if let Some(stage) = stage(&event.what, self.reached) {
            self.reached = self.reached.max(stage);
        }
    }
}

/// Which stage an event shows; `reached` tells files of the loader from files
/// of the text.
pub(super) fn stage(what: &What, reached: Stage) -> Option<Stage> {
    match what {
        What::Dhcp(dhcp) => of_dhcp(dhcp),
        What::Overheard(other) => {
            (other.reply == ReplyWord::Ack && reached >= Stage::Asked).then_some(Stage::Address)
        }
        What::Conflict { .. } | What::SameUuid { .. } | What::Released => None,
        What::Tftp(tftp) => Some(match &tftp.step {
            TftpStep::Sent { .. } => sent(&tftp.file),
            _ => Stage::LoaderBegun,
        }),
        What::Http(http) => of_http(http, reached),
        What::Text(text) => Some(match text.told {
            Order::OwnDisk => Stage::OwnDisk,
            _ => Stage::Told,
        }),
        What::Says { .. } => Some(Stage::AgentRuns),
        What::Agent(step) => Some(match step {
            AgentStep::Started
            | AgentStep::Waiting { .. }
            | AgentStep::Rejected { .. }
            | AgentStep::Refused { .. } => Stage::Asking,
            AgentStep::Granted { .. } => Stage::LetIn,
            AgentStep::Phase { .. } | AgentStep::Failed { .. } => Stage::Working,
            AgentStep::Finished => Stage::Finished,
        }),
    }
}

fn of_dhcp(dhcp: &Dhcp) -> Option<Stage> {
    let offered = matches!(
        dhcp.answer,
        Answer::Sent {
            reply: ReplyWord::Offer,
            ..
        }
    );
    match dhcp.client {
        ClientKind::Plain => Some(Stage::Seen),
        ClientKind::Ipxe => Some(Stage::LoaderRuns),
        ClientKind::Agent => Some(Stage::AgentRuns),
        _ if binds(dhcp) => Some(Stage::Address),
        _ if offered => Some(Stage::Offered),
        _ => Some(Stage::Asked),
    }
}

/// It has an address after this: ours, or it took another server's.
pub(super) fn binds(dhcp: &Dhcp) -> bool {
    let acked = matches!(
        dhcp.answer,
        Answer::Sent {
            reply: ReplyWord::Ack,
            ..
        }
    );
    let took_another = dhcp.message == Message::Request
        && dhcp.server.is_some()
        && matches!(dhcp.answer, Answer::Silent { .. });
    acked || took_another
}

fn of_http(http: &HttpFile, reached: Stage) -> Option<Stage> {
    let whole = !http.open && http.status < 400 && http.sent >= http.size;
    let path = http.path.as_str();
    if path.starts_with("tuf/") {
        return Some(Stage::AgentRuns);
    }
    if path.starts_with("blobs/") {
        return Some(Stage::Working);
    }
    let file = path.strip_prefix("boot/")?;
    match (whole, kind(file)) {
        (true, FileKind::OwnDisk) => Some(Stage::OwnDisk),
        (true, _) => Some(sent(file)),
        (false, _) if reached >= Stage::Told => Some(Stage::Told),
        (false, _) => Some(Stage::LoaderBegun),
    }
}

fn sent(file: &str) -> Stage {
    match kind(file) {
        FileKind::Kernel => Stage::KernelSent,
        FileKind::Initrd | FileKind::Image => Stage::InitrdSent,
        FileKind::OwnDisk => Stage::OwnDisk,
        FileKind::Loader => Stage::LoaderSent,
        FileKind::Optional => Stage::LoaderBegun,
    }
}

/// What a file of the boot tree is for, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Loader,
    Kernel,
    Initrd,
    /// Kernel and initrd as one EFI program, which firmware starts by itself.
    Image,
    /// Finds the loader on the machine's own disk, told that it is held or not.
    OwnDisk,
    /// Loaders look for these and do without.
    Optional,
}

pub(super) fn kind(file: &str) -> FileKind {
    let name = file.rsplit('/').next().unwrap_or(file);
    let optional = [
        "revocations",
        "shim_certificate",
        "grub.cfg-",
        "grub.cfg",
        "01-",
    ];
    // shim starts each under GRUB's name (`image::names::BehindShim`).
    let behind_shim = |folder: &str| file.contains(&format!("{folder}/grub"));
    if ["local.efi", "held.efi"].contains(&name)
        || behind_shim("mok-disk")
        || behind_shim("mok-held")
    {
        FileKind::OwnDisk
    } else if name == "groundcrew.efi" || behind_shim("mok") {
        FileKind::Image
    } else if name.starts_with("vmlinuz") || name.starts_with("linux") {
        FileKind::Kernel
    } else if name.starts_with("initrd") {
        FileKind::Initrd
    } else if optional.iter().any(|prefix| name.starts_with(prefix))
        || file.starts_with("pxelinux.cfg/")
        || file.ends_with(".lst")
        || file.ends_with(".mod")
    {
        FileKind::Optional
    } else {
        FileKind::Loader
    }
}

/// The firmware a loader is for, by its usual names: UEFI or BIOS.
pub(super) fn for_uefi(file: &str) -> Option<bool> {
    let name = file
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or(file)
        .to_lowercase();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    if ends(&[".efi", ".efi.signed"]) {
        Some(true)
    } else if ends(&[".kpxe", ".pxe", ".kkpxe", ".0", ".com"]) {
        Some(false)
    } else {
        None
    }
}
