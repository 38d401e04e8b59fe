//! What can happen to a device that boots, as the appliance sees it.

use std::net::Ipv4Addr;

use groundcrew_core::DeviceId;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use groundcrew_core::words::{self, Trouble};
use serde::{Deserialize, Serialize};

use super::At;
use crate::dhcp::limit::Limited;
use crate::dhcp::server::Noted;
use crate::dhcp::told::{self, Told};
use crate::dhcp::{
    BootClient, Ignored, MessageKind, Outcome, Platform, ReplyKind, Request, Verdict, Via,
};
use crate::tftp::{End, Refusal};

/// One thing that happened, perhaps several times in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, for the first time.
    pub at: At,
    /// When last, where it was more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<At>,
    /// How often.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// Through which card, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

const fn once() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_once(times: &u32) -> bool {
    *times == 1
}

impl Event {
    /// When it happened last.
    pub fn last(&self) -> At {
        self.until.unwrap_or(self.at)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// It sent a DHCP packet, and this became of it.
    Dhcp(Box<Dhcp>),
    /// Another server answered it.
    Overheard(Overheard),
    /// The address that it was about to get is used by somebody else.
    Conflict {
        /// The address.
        ip: Ipv4Addr,
        /// Who uses it.
        user: MacAddr,
    },
    /// It asked for a file by TFTP.
    Tftp(TftpFile),
    /// It asked for a file by HTTP.
    Http(HttpFile),
    /// It asked what to boot.
    Text(BootText),
    /// Its agent spoke with the appliance.
    Agent(AgentStep),
    /// Its agent gave up and said why; nobody vouches for these words.
    Says {
        /// About what.
        trouble: Trouble,
        /// While doing what.
        phase: String,
        /// The screen's words.
        text: String,
    },
    /// Another machine claims the same UUID.
    SameUuid {
        /// The UUID.
        uuid: SmbiosUuid,
        /// The other one's card.
        other: MacAddr,
    },
    /// A technician released it from being held.
    Released,
}

/// By which port a DHCP packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Door {
    /// Port 67.
    #[serde(rename = "67")]
    Dhcp,
    /// Port 4011.
    #[serde(rename = "4011")]
    Pxe,
}

/// The DHCP message types of clients (RFC 2131 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the RFC's names")]
pub enum Message {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// What kind of program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientKind {
    /// No boot program: an operating system, a phone.
    Plain,
    /// Our agent, by its vendor class.
    Agent,
    /// PXE firmware.
    Pxe,
    /// UEFI HTTP Boot.
    HttpBoot,
    /// iPXE.
    Ipxe,
    /// It wants to boot, and nothing here fits.
    Unsupported,
}

/// A DHCP packet and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    /// By which port.
    pub door: Door,
    /// Message type.
    pub message: Message,
    /// Who asks.
    pub client: ClientKind,
    /// Firmware is UEFI (`Some(true)`), BIOS (`Some(false)`), or did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uefi: Option<bool>,
    /// Architecture, option 93.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<u16>,
    /// Why nothing here fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<String>,
    /// Option 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_class: Option<String>,
    /// Option 77.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_class: Option<String>,
    /// The relay it came through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Ipv4Addr>,
    /// The server it chose, option 54.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Ipv4Addr>,
    /// The address it has or wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<Ipv4Addr>,
    /// What became of it.
    pub answer: Answer,
}

/// What became of a DHCP packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Answer {
    /// It was answered.
    Sent {
        /// offer, ack, nak.
        reply: ReplyWord,
        /// The address given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<Ipv4Addr>,
        /// The boot file told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// It told only what to boot, beside another server.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        proxied: bool,
    },
    /// It was not answered.
    Silent {
        /// Why, for programs.
        reason: Silence,
        /// Why, in the log's words.
        text: String,
    },
    /// It needs no answer: RELEASE, DECLINE.
    Noted {
        /// The address that the client found in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        declined: Option<Ipv4Addr>,
    },
}

/// A server's message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the RFC's names")]
pub enum ReplyWord {
    Offer,
    Ack,
    Nak,
}

/// Why a DHCP packet was not answered: [`Ignored`], without what varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Silence {
    /// It chose another server.
    OtherServer,
    /// It came through a relay of a network that `site.toml` does not name.
    OtherNetwork,
    /// Every address is taken.
    PoolEmpty,
    /// It asks too often.
    RateLimited,
    /// There is a flood.
    Flood,
    /// This appliance answers nobody now.
    NoRole,
    /// Beside another server: nothing to boot for it.
    NothingToBoot,
    /// Beside another server: that one's business.
    NotTheAddressServer,
    /// Anything else; the text says what.
    #[serde(other)]
    Other,
}

/// Another server's message to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overheard {
    /// Whose.
    pub server: Ipv4Addr,
    /// offer, ack, nak.
    pub reply: ReplyWord,
    /// The address given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// The boot file told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Option 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_class: Option<String>,
}

/// A file asked for by TFTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TftpFile {
    /// Which, below the boot tree.
    pub file: String,
    /// What became of it.
    pub step: TftpStep,
}

/// How far a TFTP transfer went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TftpStep {
    /// It begins.
    Begun {
        /// Bytes of the file.
        size: u64,
        /// Block size used.
        block: u16,
        /// Window used.
        window: u16,
        /// It asked for options, so an OACK goes first.
        options: bool,
    },
    /// No such file.
    Missing,
    /// Refused for another reason.
    Refused {
        /// Which.
        why: String,
    },
    /// Too many transfers.
    Busy,
    /// Every byte was acknowledged.
    Sent {
        /// How many.
        bytes: u64,
        /// In how long.
        ms: u64,
    },
    /// The device ended it by an ERROR packet.
    EndedByDevice {
        /// RFC 1350's code; 8 is RFC 2347's "options refused".
        code: u16,
        /// Its words.
        text: String,
        /// Bytes acknowledged by then.
        sent: u64,
        /// Bytes in all.
        size: u64,
    },
    /// The device went silent.
    Silent {
        /// Bytes acknowledged by then.
        sent: u64,
        /// Bytes in all.
        size: u64,
    },
    /// The appliance ended it.
    Stopped {
        /// Bytes acknowledged by then.
        sent: u64,
        /// Bytes in all.
        size: u64,
        /// Why.
        #[serde(default)]
        why: String,
    },
}

/// A file asked for by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpFile {
    /// Path without the leading slash: `boot/vmlinuz`.
    pub path: String,
    /// Status of the answer.
    pub status: u16,
    /// Bytes handed to the network.
    pub sent: u64,
    /// Bytes of the whole answer.
    pub size: u64,
    /// How long it took.
    pub ms: u64,
    /// It has only begun; its end is told by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Why the appliance itself ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a boot text told a device to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Load the agent.
    Agent,
    /// Start the own disk.
    OwnDisk,
    /// Ask again later.
    Wait,
    /// It is held: it failed the same way again and again.
    Held,
    /// Choose from a menu.
    Menu,
    /// What a technician ordered for one boot.
    Once,
}

/// A boot text that was served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootText {
    /// To do what.
    pub told: Order,
    /// In the log's words.
    pub why: String,
}

/// What the agent and the appliance did over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum AgentStep {
    /// It began an enrollment.
    Started,
    /// It waits for a technician.
    Waiting {
        /// Why.
        reason: String,
    },
    /// It was let in.
    Granted {
        /// As which device.
        device: DeviceId,
    },
    /// A technician refused it.
    Rejected {
        /// Why.
        reason: String,
    },
    /// The appliance did not answer as it wished.
    Refused {
        /// The error's name, as [`enroll`](groundcrew_core::enroll)'s answers carry it.
        code: String,
        /// In words.
        text: String,
    },
    /// It reports what it is doing.
    Phase {
        /// download, apply, …
        phase: String,
    },
    /// Its receipt says that every step holds.
    Finished,
    /// Its receipt says that it stopped.
    Failed {
        /// Why, in the agent's words.
        reason: String,
    },
}

/// What our agent says in option 60.
const AGENT: &[u8] = b"groundcrew";

impl Dhcp {
    /// A request and what was decided about it.
    pub fn of(request: &Request, via: Via, outcome: &Outcome) -> Self {
        let known = |ip: Ipv4Addr| Some(ip).filter(|ip| !ip.is_unspecified());
        let class = |bytes: &[u8]| told::text(bytes.get(..80).unwrap_or(bytes));
        let (client, arch, unsupported) = match outcome.client {
            BootClient::Plain if request.vendor_class == AGENT => (ClientKind::Agent, None, None),
            BootClient::Plain => (ClientKind::Plain, None, None),
            BootClient::Pxe(arch) => (ClientKind::Pxe, Some(arch), None),
            BootClient::HttpBoot(arch) => (ClientKind::HttpBoot, Some(arch), None),
            BootClient::Ipxe(arch) => (ClientKind::Ipxe, Some(arch), None),
            BootClient::Unsupported(why) => (ClientKind::Unsupported, None, Some(why.to_string())),
        };
        Self {
            door: match via {
                Via::Dhcp => Door::Dhcp,
                Via::Pxe(_) => Door::Pxe,
            },
            message: request.kind.into(),
            client,
            uefi: arch.map(|arch| arch.platform == Platform::Efi),
            arch: arch.map(|arch| arch.id).or(request.archs.first().copied()),
            unsupported,
            vendor_class: class(&request.vendor_class),
            user_class: request.user_classes.first().and_then(|text| class(text)),
            relay: known(request.giaddr),
            server: request.server_id,
            wants: request.requested_ip.or(known(request.ciaddr)),
            answer: Answer::of(&outcome.verdict),
        }
    }

    /// Of a system that somebody installed, or of a neighbour: no part of a boot.
    pub fn is_plain(&self) -> bool {
        self.client == ClientKind::Plain
    }
}

impl Answer {
    fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Reply(reply) => Self::Sent {
                reply: reply.kind.into(),
                ip: Some(reply.yiaddr).filter(|ip| !ip.is_unspecified()),
                file: Told::read(&reply.bytes).and_then(|told| told.file),
                proxied: reply.proxied,
            },
            Verdict::Noted(Noted::Declined(ip)) => Self::Noted {
                declined: Some(*ip),
            },
            Verdict::Noted(_) => Self::Noted { declined: None },
            Verdict::Ignored(why) => Self::Silent {
                reason: Silence::of(why),
                text: why.to_string(),
            },
        }
    }
}

impl Silence {
    fn of(why: &Ignored) -> Self {
        match why {
            Ignored::OtherServer(_) => Self::OtherServer,
            Ignored::OtherNetwork(_) => Self::OtherNetwork,
            Ignored::PoolExhausted { .. } => Self::PoolEmpty,
            Ignored::RateLimited(Limited::Client) => Self::RateLimited,
            Ignored::RateLimited(Limited::Total) => Self::Flood,
            Ignored::NoRole(_) => Self::NoRole,
            Ignored::NothingToBoot => Self::NothingToBoot,
            Ignored::NotTheAddressServer => Self::NotTheAddressServer,
            _ => Self::Other,
        }
    }
}

impl From<Told> for Overheard {
    fn from(told: Told) -> Self {
        Self {
            server: told.server,
            reply: told.kind.into(),
            ip: Some(told.address).filter(|ip| !ip.is_unspecified()),
            file: told.file,
            vendor_class: told.vendor_class,
        }
    }
}

impl From<MessageKind> for Message {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Discover => Self::Discover,
            MessageKind::Request => Self::Request,
            MessageKind::Decline => Self::Decline,
            MessageKind::Release => Self::Release,
            MessageKind::Inform => Self::Inform,
        }
    }
}

impl From<ReplyKind> for ReplyWord {
    fn from(kind: ReplyKind) -> Self {
        match kind {
            ReplyKind::Offer => Self::Offer,
            ReplyKind::Ack => Self::Ack,
            ReplyKind::Nak => Self::Nak,
        }
    }
}

impl AgentStep {
    /// With no more of its words than anybody reads: some are strangers'.
    pub(super) fn bounded(mut self) -> Self {
        if let Some(text) = self.text() {
            let shown = text.chars().take(words::MAX_TEXT);
            *text = shown
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
        }
        self
    }

    fn text(&mut self) -> Option<&mut String> {
        match self {
            Self::Waiting { reason } | Self::Rejected { reason } | Self::Failed { reason } => {
                Some(reason)
            }
            Self::Refused { text, .. } => Some(text),
            Self::Phase { phase } => Some(phase),
            Self::Started | Self::Granted { .. } | Self::Finished => None,
        }
    }
}

impl TftpStep {
    /// How a transfer ended: acknowledged bytes, bytes in all, milliseconds.
    pub fn ended(end: &End, sent: u64, size: u64, ms: u64) -> Self {
        match end {
            End::Complete => Self::Sent { bytes: size, ms },
            End::PeerError(code, text) => Self::EndedByDevice {
                code: *code,
                text: groundcrew_core::ids::shown(text),
                sent,
                size,
            },
            End::Silence => Self::Silent { sent, size },
            End::TooLong => Self::stopped(sent, size, "it took too long"),
            End::Aborted(why) => Self::stopped(sent, size, why),
        }
    }

    /// A transfer that the appliance ended, and why.
    pub(super) fn stopped(sent: u64, size: u64, why: &str) -> Self {
        let why = why.to_owned();
        Self::Stopped { sent, size, why }
    }

    /// A request that begins no transfer.
    pub fn refused(why: &Refusal) -> Self {
        Self::Refused {
            why: why.to_string(),
        }
    }
}
