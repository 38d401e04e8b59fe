//! The questions asked of one attempt, in order: the first answer counts. What
//! the device or the appliance said comes before what its silence means.

use groundcrew_core::words::Trouble;

use crate::dhcp::{Arch, Platform};
use crate::story::At;
use crate::story::attempt::{Stage, binds, for_uefi};
use crate::story::cause::Cause;
use crate::story::event::{
    AgentStep, Answer, BootText, ClientKind, Dhcp, Event, Message, Order, Overheard, ReplyWord,
    Silence, What,
};
use crate::story::transfer;

/// A cause, and what in the story shows it.
pub struct Finding {
    pub cause: Cause,
    pub evidence: Option<String>,
}

impl Finding {
    /// Who waited for a technician and is not heard any more waits no longer.
    pub fn at_the_end(self) -> Self {
        match self.cause {
            Cause::Waiting => Self {
                cause: Cause::AgentWentSilent,
                evidence: Some("it was waiting for a technician".to_owned()),
            },
            _ => self,
        }
    }
}

pub(super) fn plainly(cause: Cause) -> Option<Finding> {
    Some(Finding {
        cause,
        evidence: None,
    })
}

pub(super) fn shown(cause: Cause, evidence: impl Into<String>) -> Option<Finding> {
    Some(Finding {
        cause,
        evidence: Some(evidence.into()),
    })
}

/// One attempt.
pub struct View<'a> {
    pub(super) events: &'a [&'a Event],
    pub(super) reached: Stage,
}

impl<'a> View<'a> {
    pub fn new(events: &'a [&'a Event], reached: Stage) -> Self {
        Self { events, reached }
    }

    /// How long silence means nothing yet, in milliseconds. Generous where slow
    /// hardware unpacks an initrd.
    pub fn patience(&self) -> u64 {
        let seconds = match self.reached {
            Stage::Seen | Stage::Asked | Stage::Offered | Stage::Address => 20,
            Stage::LoaderBegun | Stage::Told | Stage::OwnDisk => 30,
            Stage::LoaderRuns => 45,
            Stage::LoaderSent | Stage::KernelSent => 60,
            Stage::AgentRuns | Stage::Asking => 90,
            // Firmware starts it at once, or refuses it at once.
            Stage::InitrdSent if self.image_is_whole() => 60,
            Stage::InitrdSent => 150,
            Stage::LetIn | Stage::Working | Stage::Finished => 600,
        };
        seconds * 1000
    }

    /// Whether a file is on its way to it: however long that takes, its end will
    /// be noted.
    pub fn loading(&self, now: At) -> bool {
        let mut open = transfer::open(self.events.iter().copied()).into_iter();
        open.any(|begun| now.since(begun.last()) <= transfer::LONGEST)
    }

    /// Why the attempt got no further. `over`: its patience has passed, or
    /// another attempt followed.
    pub fn judge(&self, over: bool) -> Option<Finding> {
        if self.reached == Stage::Finished {
            return None;
        }
        self.agent_said()
            .or_else(|| self.appliance_said())
            .or_else(|| self.duplicate())
            .or_else(|| self.told())
            .or_else(|| self.files())
            .or_else(|| self.refused_by_dhcp(over))
            .or_else(|| over.then(|| self.silence()).flatten())
    }

    /// Its last words, if it got no further since.
    fn agent_said(&self) -> Option<Finding> {
        for event in self.events.iter().rev() {
            match &event.what {
                What::Says { trouble, text, .. } => {
                    return shown(of_trouble(*trouble), format!("the device says: {text}"));
                }
                What::Agent(AgentStep::Failed { reason }) => {
                    return shown(of_reason(reason), format!("its receipt says: {reason}"));
                }
                What::Agent(AgentStep::Started | AgentStep::Refused { .. }) => {}
                What::Agent(_) => return None,
                _ => {}
            }
        }
        None
    }

    /// Two machines that say one UUID, while that can still be in the way.
    fn duplicate(&self) -> Option<Finding> {
        if self.reached >= Stage::LetIn {
            return None;
        }
        self.events.iter().find_map(|event| match event.what {
            What::SameUuid { uuid, other } => shown(
                Cause::DuplicateUuid,
                format!("{other} says the UUID {uuid}, too"),
            ),
            _ => None,
        })
    }

    /// The last word of the enrollment counts.
    fn appliance_said(&self) -> Option<Finding> {
        let step = self
            .events
            .iter()
            .rev()
            .find_map(|event| match &event.what {
                What::Agent(step) => Some(step),
                _ => None,
            })?;
        match step {
            AgentStep::Waiting { reason } => shown(Cause::Waiting, reason.clone()),
            AgentStep::Rejected { reason } => shown(Cause::Rejected, reason.clone()),
            AgentStep::Refused { code, text } => {
                let cause = match code.as_str() {
                    "clock-unknown" | "clock-beyond" => Cause::ClockUnknown,
                    "no-session" | "stale-challenge" => Cause::SessionRefused,
                    "wrong-site" => Cause::RootMismatch,
                    "busy" | "not-ready" => Cause::ApplianceNotReady,
                    _ => Cause::NotAllowed,
                };
                shown(cause, format!("the appliance said: {text}"))
            }
            _ => None,
        }
    }

    /// Its text left it to somebody, or was one for this once.
    fn by_hand(&self) -> bool {
        let text = self.text();
        text.is_some_and(|text| matches!(text.told, Order::Menu | Order::Once))
    }

    /// The last text it was told.
    fn text(&self) -> Option<&'a BootText> {
        self.events
            .iter()
            .rev()
            .find_map(|event| match &event.what {
                What::Text(text) => Some(text),
                _ => None,
            })
    }

    fn told(&self) -> Option<Finding> {
        if self.reached > Stage::OwnDisk {
            return None;
        }
        let text = self.text()?;
        match text.told {
            Order::OwnDisk => shown(Cause::OwnDiskByOrder, text.why.clone()),
            Order::Held => shown(Cause::Held, text.why.clone()),
            _ => None,
        }
    }

    /// DHCP said no, and said why.
    fn refused_by_dhcp(&self, over: bool) -> Option<Finding> {
        if !self.asks_by_dhcp() {
            return None;
        }
        // Another address is offered next, so a conflict is a cause only if that
        // did not help.
        if let Some(conflict) = self.conflict().filter(|_| over) {
            return shown(Cause::AddressConflict, conflict);
        }
        let last = self.last_dhcp()?;
        if let Some(why) = &last.unsupported {
            return shown(Cause::NoLoaderForArchitecture, why.clone());
        }
        let Answer::Silent { reason, text } = &last.answer else {
            return self.nameless_offer(last);
        };
        let cause = match reason {
            Silence::PoolEmpty => Cause::PoolEmpty,
            Silence::RateLimited | Silence::Flood => Cause::RateLimited,
            Silence::NoRole => Cause::NotServing,
            Silence::OtherNetwork => Cause::UnknownRelay,
            Silence::NothingToBoot => Cause::NoLoaderForArchitecture,
            Silence::OtherServer if over && last.client != ClientKind::Agent => {
                return self.took_another();
            }
            _ => return None,
        };
        shown(cause, text.clone())
    }

    /// Nothing but DHCP was heard of the program that runs on it now.
    fn asks_by_dhcp(&self) -> bool {
        match self.reached {
            Stage::LoaderRuns => true,
            Stage::AgentRuns => !self.agent_fetched(),
            reached => reached < Stage::LoaderBegun,
        }
    }

    fn agent_fetched(&self) -> bool {
        let of_agent = |path: &str| path.starts_with("tuf/") || path.starts_with("blobs/");
        let fetched =
            |event: &&Event| matches!(&event.what, What::Http(http) if of_agent(&http.path));
        self.events.iter().any(fetched)
    }

    /// An address that somebody else uses, where it got no other one since.
    fn conflict(&self) -> Option<String> {
        for event in self.events.iter().rev() {
            match &event.what {
                What::Conflict { ip, user } => return Some(format!("{ip} is used by {user}")),
                What::Dhcp(dhcp) if binds(dhcp) => return None,
                What::Dhcp(dhcp) => {
                    if let Answer::Noted { declined: Some(ip) } = dhcp.answer {
                        return Some(format!("the device found {ip} in use by somebody else"));
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// An address and no loader, though its architecture is known.
    fn nameless_offer(&self, last: &Dhcp) -> Option<Finding> {
        let arch = last.arch.and_then(Arch::by_id)?;
        let boots = matches!(last.client, ClientKind::Pxe | ClientKind::HttpBoot);
        match &last.answer {
            Answer::Sent {
                file: None,
                proxied: false,
                reply: ReplyWord::Offer | ReplyWord::Ack,
                ..
            } if boots => shown(
                Cause::NoLoaderForArchitecture,
                format!("no loader for {arch}"),
            ),
            _ => None,
        }
    }

    fn last_dhcp(&self) -> Option<&'a Dhcp> {
        self.dhcp().last().filter(|dhcp| !dhcp.is_plain())
    }

    fn dhcp(&self) -> impl DoubleEndedIterator<Item = &'a Dhcp> {
        self.events.iter().filter_map(|event| match &event.what {
            What::Dhcp(dhcp) => Some(dhcp.as_ref()),
            _ => None,
        })
    }

    fn overheard(&self) -> impl DoubleEndedIterator<Item = &'a Overheard> {
        self.events.iter().filter_map(|event| match &event.what {
            What::Overheard(other) => Some(other),
            _ => None,
        })
    }

    /// Nothing was said: what the silence means depends on where it began.
    fn silence(&self) -> Option<Finding> {
        match self.reached {
            Stage::Finished => None,
            Stage::OwnDisk => plainly(Cause::OwnDiskByOrder),
            Stage::Seen => plainly(Cause::OwnDiskByFirmware),
            Stage::Asked => plainly(Cause::NotServing),
            Stage::Offered => self.offered(|_| true),
            Stage::Address => self.addressed(),
            Stage::LoaderBegun => plainly(Cause::TransferCut),
            Stage::LoaderSent => self.loader_sent(),
            Stage::LoaderRuns => self.unheard(ClientKind::Ipxe),
            Stage::Told if self.by_hand() => plainly(Cause::ByHand),
            Stage::Told => plainly(Cause::TextNotFollowed),
            Stage::KernelSent | Stage::InitrdSent => self.image_sent(),
            Stage::AgentRuns if self.agent_fetched() => plainly(Cause::HttpsUnreachable),
            Stage::AgentRuns => self.unheard(ClientKind::Agent),
            Stage::Asking | Stage::LetIn | Stage::Working => plainly(Cause::AgentWentSilent),
        }
    }

    /// iPXE or the agent asked for an address, and then for nothing by HTTP.
    fn unheard(&self, client: ClientKind) -> Option<Finding> {
        let mut asked = self.dhcp().rev().filter(|dhcp| dhcp.client == client);
        let bound = asked.find(|dhcp| binds(dhcp));
        match bound.map(|dhcp| &dhcp.answer) {
            None => self.offered(|of| of == client),
            // The agent needs no more than an address, whoever gives it.
            Some(Answer::Silent { .. }) if client == ClientKind::Ipxe => self.took_another(),
            Some(_) => plainly(Cause::HttpUnreachable),
        }
    }

    /// Clients `of` a kind were offered an address, and took none.
    fn offered(&self, of: impl Fn(ClientKind) -> bool) -> Option<Finding> {
        let offer = |dhcp: &Dhcp| matches!(dhcp.answer, Answer::Sent { .. });
        let clients = || self.dhcp().filter(|dhcp| of(dhcp.client));
        if !clients().any(offer) {
            return plainly(Cause::NotServing);
        }
        let relay = clients().rev().find_map(|dhcp| dhcp.relay);
        let asks = |dhcp: &Dhcp| dhcp.message == Message::Discover && of(dhcp.client);
        let asked: u32 = self
            .events
            .iter()
            .filter(|event| matches!(&event.what, What::Dhcp(dhcp) if asks(dhcp)))
            .map(|event| event.times)
            .sum();
        let times = format!("{asked} question(s), each answered, and none taken up");
        match relay {
            Some(relay) => shown(
                Cause::RelayReplyLost,
                format!("{times}; the relay is {relay}"),
            ),
            None if self.proxied() && self.overheard().any(|other| other.ip.is_some()) => {
                self.took_another()
            }
            None => shown(Cause::OfferNotHeard, times),
        }
    }

    fn proxied(&self) -> bool {
        let proxied = |dhcp: &Dhcp| matches!(dhcp.answer, Answer::Sent { proxied: true, .. });
        self.dhcp().any(proxied)
    }

    /// It has an address, and asked for nothing.
    fn addressed(&self) -> Option<Finding> {
        let named = |dhcp: &Dhcp| {
            let answer = &dhcp.answer;
            matches!(
                answer,
                Answer::Sent {
                    reply: ReplyWord::Ack,
                    file: Some(_),
                    ..
                }
            )
        };
        let acked = self.dhcp().any(named);
        if !acked {
            return self.took_another();
        }
        let last = self.last_dhcp()?;
        let how = match last.client {
            ClientKind::HttpBoot => "HTTP (TCP port 80)",
            _ => "TFTP (UDP port 69)",
        };
        shown(
            Cause::LoaderNotAskedFor,
            format!("no question by {how} came"),
        )
    }

    /// It took the address of another server: why did that not lead here?
    fn took_another(&self) -> Option<Finding> {
        let chosen = self.dhcp().rev().find_map(|dhcp| dhcp.server);
        let theirs = self.overheard().rev().find(|other| other.ip.is_some());
        let server = chosen.or(theirs.map(|other| other.server));
        let named = server.map_or_else(String::new, |server| {
            format!("it took the offer of {server}")
        });
        let http = self.dhcp().any(|dhcp| dhcp.client == ClientKind::HttpBoot);
        let unclassed = theirs.is_some_and(|other| {
            let class = other.vendor_class.as_deref();
            other.file.is_some() && class != Some("HTTPClient")
        });
        if http && unclassed {
            return shown(Cause::NoHttpClientEcho, named);
        }
        if let Some(file) = theirs.and_then(|other| other.file.as_deref())
            && let Some(wrong) = self.wrong_loader(file)
        {
            return Some(wrong);
        }
        match self.proxied() {
            true => shown(Cause::ProxyOfferIgnored, named),
            false => shown(Cause::OtherServerTaken, named),
        }
    }

    pub(super) fn wrong_loader(&self, file: &str) -> Option<Finding> {
        let (machine, loader) = (self.uefi()?, for_uefi(file)?);
        let name = |uefi| if uefi { "UEFI" } else { "BIOS" };
        (machine != loader).then(|| Finding {
            cause: Cause::WrongLoader,
            evidence: Some(format!(
                "the device is {}, and {file} is for {}",
                name(machine),
                name(loader)
            )),
        })
    }

    pub(super) fn uefi(&self) -> Option<bool> {
        self.dhcp().find_map(|dhcp| dhcp.uefi)
    }
}

fn of_trouble(trouble: Trouble) -> Cause {
    match trouble {
        Trouble::Network => Cause::AgentNetwork,
        Trouble::Image => Cause::ImageBroken,
        Trouble::HttpUnreachable => Cause::HttpUnreachable,
        Trouble::HttpsUnreachable => Cause::HttpsUnreachable,
        Trouble::WrongServer => Cause::WrongServer,
        Trouble::Clock => Cause::ClockUnknown,
        Trouble::CharterExpired => Cause::CharterExpired,
        Trouble::TrustExpired => Cause::TrustExpired,
        Trouble::TrustMismatch => Cause::RootMismatch,
        Trouble::Session => Cause::SessionRefused,
        Trouble::Turned => Cause::NotAllowed,
        Trouble::Rejected => Cause::Rejected,
        Trouble::NoDisk => Cause::NoDisk,
        Trouble::NoSystem => Cause::NoSystem,
        Trouble::SeveralSystems => Cause::SeveralSystems,
        Trouble::ForeignSystem => Cause::ForeignSystem,
        Trouble::DiskFull => Cause::DiskFull,
        Trouble::Disk => Cause::DiskFault,
        Trouble::BundleMissing => Cause::BundleNotPublished,
        Trouble::BundleChanged => Cause::BundleChanged,
        Trouble::BundleInvalid => Cause::BundleInvalid,
        Trouble::Step => Cause::StepFailed,
        Trouble::Other => Cause::DeviceSays,
    }
}

/// A receipt of an agent that sends no last words: its sentences are known.
fn of_reason(reason: &str) -> Cause {
    let says = |text: &str| reason.contains(text);
    if says("more than one installed system") {
        Cause::SeveralSystems
    } else if says("no installed system") {
        Cause::NoSystem
    } else if says("has no disk") {
        Cause::NoDisk
    } else if says("No space left") {
        Cause::DiskFull
    } else {
        Cause::StepFailed
    }
}

/// The firmware, as the device last said.
pub fn firmware<'a>(events: impl DoubleEndedIterator<Item = &'a Event>) -> Option<String> {
    events.rev().find_map(|event| match &event.what {
        What::Dhcp(dhcp) if dhcp.client != ClientKind::Plain => {
            let arch = dhcp.arch.and_then(Arch::by_id)?;
            Some(match arch.platform {
                Platform::Bios => "BIOS".to_owned(),
                _ => arch.name.to_owned(),
            })
        }
        _ => None,
    })
}

/// Other servers that took part.
pub fn other_servers(events: &[&Event]) -> Vec<String> {
    let mut servers: Vec<String> = Vec::new();
    for event in events {
        if let What::Overheard(other) = &event.what {
            let text = match &other.file {
                Some(file) => format!("{} (boot file {file})", other.server),
                None => other.server.to_string(),
            };
            if !servers.contains(&text) && servers.len() < 4 {
                servers.push(text);
            }
        }
    }
    servers
}
