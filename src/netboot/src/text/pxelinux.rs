//! pxelinux's configuration: a line is a keyword and its argument; a kernel's
//! file name ends at a space, what follows on an APPEND line is the kernel's.
//! Without a prompt what was said is gone at once, so a prompt is what waits.

use groundcrew_core::hardware::MacAddr;

use super::said;
use crate::ipxe::{AgentBoot, BootDecision, CONSOLES, Menu, ScriptSettings, plain};

/// What starts by itself where nothing is to be chosen.
const ONLY: &str = "groundcrew";

pub fn config(
    decision: &BootDecision,
    settings: &ScriptSettings,
    device: &str,
    mac: Option<MacAddr>,
) -> String {
    let mut lines = say(&format!(
        "{} serves site {}",
        settings.appliance, settings.site
    ));
    if !plain(device).is_empty() {
        lines.extend(say(&format!("this device is {device}")));
    }
    let (mut text, rest) = match decision {
        BootDecision::Agent(agent) => {
            lines.extend(say(&format!(
                "loading the agent from {}",
                settings.http.ip()
            )));
            (at_once(), load(settings, agent, ONLY, mac))
        }
        BootDecision::OwnDisk { why } => (
            at_once(),
            disk_after(say(&format!("{why}; starting its own disk"))),
        ),
        BootDecision::Held {
            lines: why,
            seconds,
        } => {
            let mut lines: Vec<String> = why.iter().flat_map(|words| say(words)).collect();
            let end = format!("its own disk starts in {seconds} s, or at Enter");
            lines.extend(say(&end));
            (prompt(ONLY, *seconds), disk_after(lines))
        }
        BootDecision::Menu(menu) => choose(settings, menu, mac),
        // Nobody can order these here; the site had another loader before.
        BootDecision::Shell | BootDecision::Memtest => (
            at_once(),
            disk_after(say(
                "only iPXE can do what was ordered; starting its own disk",
            )),
        ),
        // pxelinux cannot ask again; the disk is what a device on hold has.
        BootDecision::Hold { message, .. } => (at_once(), disk_after(say(message))),
    };
    text.extend(lines);
    text.extend(rest);
    text.join("\n") + "\n"
}

fn at_once() -> Vec<String> {
    vec![format!("DEFAULT {ONLY}"), "PROMPT 0".to_owned()]
}

/// Waits at a prompt, where only our labels mean anything. A key stops TIMEOUT,
/// and nobody may stand there any more: TOTALTIMEOUT goes on all the same.
fn prompt(default: &str, seconds: u16) -> Vec<String> {
    let tenths = u32::from(seconds.max(1)) * 10;
    vec![
        format!("DEFAULT {default}"),
        "PROMPT 1".to_owned(),
        format!("TIMEOUT {tenths}"),
        format!("TOTALTIMEOUT {}", tenths + 600),
        "ONTIMEOUT ".to_owned() + default,
        "IMPLICIT 0".to_owned(),
        "ALLOWOPTIONS 0".to_owned(),
    ]
}

/// A prompt for a word: the menus of syslinux are further files that the boot
/// folder does not have.
fn choose(
    settings: &ScriptSettings,
    menu: &Menu,
    mac: Option<MacAddr>,
) -> (Vec<String>, Vec<String>) {
    let default = match *menu.default {
        BootDecision::Agent(_) => "agent",
        _ => "disk",
    };
    let seconds = menu.seconds.max(1);
    let mut lines = Vec::new();
    for words in [
        "type one of these words, then Enter:",
        "  agent   provision this device",
        "  disk    start its own disk",
    ] {
        lines.push(format!("SAY groundcrew: {words}"));
    }
    lines.extend(say(&format!("{default} starts by itself in {seconds} s")));
    lines.extend(load(settings, &menu.agent, "agent", mac));
    lines.extend(disk("disk"));
    (prompt(default, seconds), lines)
}

fn disk(label: &str) -> [String; 2] {
    [format!("LABEL {label}"), "  LOCALBOOT 0".to_owned()]
}

fn disk_after(mut lines: Vec<String>) -> Vec<String> {
    lines.extend(disk(ONLY));
    lines
}

fn load(
    settings: &ScriptSettings,
    agent: &AgentBoot,
    label: &str,
    mac: Option<MacAddr>,
) -> Vec<String> {
    // From the root of the TFTP tree, wherever pxelinux itself lies.
    let path = |path: &str| format!("::{}", path.replace(' ', "?"));
    let initrds = agent.files.initrds.iter();
    let initrds: Vec<String> = initrds.map(|p| path(p.as_str())).collect();
    let mac = mac.map_or(String::new(), |mac| format!(" gc.mac={mac}"));
    let mut append = format!("{} {CONSOLES} loglevel=6{mac}", super::agent_args(settings));
    for arg in &agent.args {
        append.push(' ');
        append.push_str(arg.as_str());
    }
    vec![
        "ONERROR LOCALBOOT 0".to_owned(),
        format!("LABEL {label}"),
        format!("  LINUX {}", path(agent.files.kernel.as_str())),
        format!("  INITRD {}", initrds.join(",")),
        format!("  APPEND {append}"),
    ]
}

fn say(words: &str) -> Vec<String> {
    let lines = said(words).into_iter();
    lines
        .map(|line| format!("SAY groundcrew: {line}"))
        .collect()
}
