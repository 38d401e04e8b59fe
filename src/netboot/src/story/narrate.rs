//! Events in plain sentences, for a technician who is no expert.

use super::diagnose::Line;
use super::event::{
    AgentStep, Answer, ClientKind, Dhcp, Door, Event, HttpFile, Message, Order, Overheard,
    ReplyWord, TftpFile, TftpStep, What,
};
use crate::dhcp::Arch;

/// One event as a line.
pub fn line(event: &Event) -> Line {
    let mut text = sentence(&event.what);
    if event.times > 1 {
        let span = span(event.last().since(event.at));
        text = match event.what {
            What::Agent(AgentStep::Phase { .. }) => format!("{text} (for {span})"),
            _ => format!("{text} ({} times in {span})", event.times),
        };
    }
    Line { at: event.at, text }
}

/// A time as people say it: `300 ms`, `12 s`, `5 min`, `3 h`, `2 days`.
pub fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

fn sentence(what: &What) -> String {
    match what {
        What::Dhcp(dhcp) => of_dhcp(dhcp),
        What::Overheard(other) => of_other(other),
        What::Conflict { ip, user } => {
            format!("{ip} was about to be given, and {user} uses it already; put aside")
        }
        What::Tftp(tftp) => of_tftp(tftp),
        What::Http(http) => of_http(http),
        What::Text(text) => match text.told {
            Order::Agent => "asked what to boot; told: load the agent".to_owned(),
            Order::OwnDisk => format!("asked what to boot; told: its own disk ({})", text.why),
            Order::Wait => format!("asked what to boot; told: wait ({})", text.why),
            Order::Held => format!("asked what to boot; told: {}", text.why),
            Order::Menu => "asked what to boot; shown a menu".to_owned(),
            Order::Once => format!("asked what to boot; told for once: {}", text.why),
        },
        What::Agent(step) => of_agent(step),
        What::Says { phase, text, .. } if phase.is_empty() => format!("the device says: {text}"),
        What::Says { phase, text, .. } => format!("the device says, at `{phase}`: {text}"),
        What::SameUuid { uuid, other } => {
            format!("another machine ({other}) says the same UUID {uuid}")
        }
        What::Released => "released by a technician".to_owned(),
    }
}

fn who(dhcp: &Dhcp) -> String {
    let arch = dhcp.arch.and_then(Arch::by_id).map(|arch| arch.name);
    let on = arch.map_or_else(String::new, |arch| format!(" on {arch}"));
    match dhcp.client {
        ClientKind::Plain => "an operating system".to_owned(),
        ClientKind::Agent => "the agent".to_owned(),
        ClientKind::Pxe => format!("PXE firmware{on}"),
        ClientKind::HttpBoot => format!("HTTP Boot firmware{on}"),
        ClientKind::Ipxe => format!("iPXE{on}"),
        ClientKind::Unsupported => "firmware of a kind not served".to_owned(),
    }
}

fn of_dhcp(dhcp: &Dhcp) -> String {
    let mut text = who(dhcp);
    text.push_str(match (dhcp.message, dhcp.door) {
        (_, Door::Pxe) => " asked port 4011 for its boot file",
        (Message::Discover, _) => " asked for an address",
        (Message::Request, _) => " asked to have an address",
        (Message::Decline, _) => " declined an address",
        (Message::Release, _) => " gave its address back",
        (Message::Inform, _) => " asked for parameters",
    });
    let took = dhcp.server.filter(|_| dhcp.message == Message::Request);
    if let (Some(server), Answer::Silent { .. }) = (took, &dhcp.answer) {
        text.push_str(&format!(" of {server}"));
    }
    if let Some(relay) = dhcp.relay {
        text.push_str(&format!(" through the relay {relay}"));
    }
    match &dhcp.answer {
        Answer::Sent {
            reply,
            ip,
            file,
            proxied,
        } => {
            text.push_str(match reply {
                ReplyWord::Offer if *proxied => "; boot offer sent",
                ReplyWord::Offer => "; offered",
                ReplyWord::Ack if *proxied => "; told",
                ReplyWord::Ack => "; given",
                ReplyWord::Nak => "; refused, so that it begins anew",
            });
            if let Some(ip) = ip.filter(|_| *reply != ReplyWord::Nak) {
                text.push_str(&format!(" {ip}"));
            }
            if let Some(file) = file {
                let file = file.split('?').next().unwrap_or(file);
                text.push_str(&format!(", boot file {file}"));
            }
        }
        Answer::Silent { text: why, .. } => text.push_str(&format!("; not answered: {why}")),
        Answer::Noted { declined: Some(ip) } => {
            text.push_str(&format!(": {ip} is used by somebody else"));
        }
        Answer::Noted { declined: None } => {}
    }
    text
}

fn of_other(other: &Overheard) -> String {
    let did = match other.reply {
        ReplyWord::Offer => "offered",
        ReplyWord::Ack => "gave",
        ReplyWord::Nak => "refused",
    };
    let what = other
        .ip
        .map_or_else(|| " what to boot".to_owned(), |ip| format!(" {ip}"));
    let file = other.file.as_ref();
    let file = file.map_or_else(String::new, |file| format!(", boot file {file}"));
    format!("another server, {}, {did}{what}{file}", other.server)
}

fn of_tftp(tftp: &TftpFile) -> String {
    let file = &tftp.file;
    match &tftp.step {
        TftpStep::Begun {
            size,
            block,
            window,
            ..
        } => {
            format!("asks for {file} by TFTP ({size} bytes, blocks of {block}, window {window})")
        }
        TftpStep::Missing => format!("asked for {file} by TFTP; there is no such file"),
        TftpStep::Refused { why } => format!("asked for {file} by TFTP; refused: {why}"),
        TftpStep::Busy => format!("asked for {file} by TFTP; too many transfers, not answered"),
        TftpStep::Sent { bytes, ms } => {
            format!("has {file}: {bytes} bytes in {}", span(*ms))
        }
        TftpStep::EndedByDevice {
            code: 8,
            sent: 0,
            size,
            ..
        } => {
            format!(
                "ended the transfer of {file} at once (asked for its size, {size}, or refuses the options)"
            )
        }
        TftpStep::EndedByDevice {
            code,
            text,
            sent,
            size,
        } => format!("gave up {file} at byte {sent} of {size}: {text} (error {code})"),
        TftpStep::Silent { sent, size } => {
            format!("went silent while it loaded {file}, at byte {sent} of {size}")
        }
        TftpStep::Stopped { sent, size, why } => {
            format!("the appliance ended {file} at byte {sent} of {size}: {why}")
        }
    }
}

fn of_http(http: &HttpFile) -> String {
    let HttpFile {
        path,
        status,
        sent,
        size,
        ms,
        open,
        why,
    } = http;
    if let Some(why) = why {
        return format!("the appliance ended {path} by HTTP at byte {sent} of {size}: {why}");
    }
    match *status {
        404 => format!("asked for {path} by HTTP; there is no such file"),
        500.. => format!("asked for {path} by HTTP; the appliance could not read it ({status})"),
        400.. => format!("asked for {path} by HTTP; refused ({status})"),
        _ if *open => format!("asks for {path} by HTTP ({size} bytes)"),
        _ if sent < size => format!("broke off {path} by HTTP at byte {sent} of {size}"),
        _ => format!("has {path} by HTTP: {size} bytes in {}", span(*ms)),
    }
}

fn of_agent(step: &AgentStep) -> String {
    match step {
        AgentStep::Started => "the agent begins to ask to be let in".to_owned(),
        AgentStep::Waiting { reason } => format!("the agent waits for a technician: {reason}"),
        AgentStep::Granted { device } => format!("let in as {device}"),
        AgentStep::Rejected { reason } => format!("refused by a technician: {reason}"),
        AgentStep::Refused { text, .. } => format!("the agent was turned away: {text}"),
        AgentStep::Phase { phase } => format!("the agent is at `{phase}`"),
        AgentStep::Finished => "provisioned: its receipt is stored".to_owned(),
        AgentStep::Failed { reason } => format!("its receipt says that it stopped: {reason}"),
    }
}
