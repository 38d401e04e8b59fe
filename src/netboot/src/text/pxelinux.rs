//! pxelinux's configuration: a line is a keyword and its argument; a kernel's
//! file name ends at a space, what follows on an APPEND line is the kernel's.

use groundcrew_core::hardware::MacAddr;

use crate::ipxe::{AgentBoot, BootDecision, CONSOLES, ScriptSettings, plain};

pub fn config(
    decision: &BootDecision,
    settings: &ScriptSettings,
    device: &str,
    mac: Option<MacAddr>,
) -> String {
    let mut lines = vec![
        "DEFAULT groundcrew".to_owned(),
        "PROMPT 0".to_owned(),
        say(&format!(
            "{} serves site {}",
            settings.appliance, settings.site
        )),
    ];
    if !plain(device).is_empty() {
        lines.push(say(&format!("this device is {device}")));
    }
    match decision {
        BootDecision::Agent(agent) => load(&mut lines, settings, agent, mac),
        BootDecision::OwnDisk { why } => {
            lines.push(say(&format!("{why}; starting its own disk")));
            lines.push("LABEL groundcrew\n  LOCALBOOT 0".to_owned());
        }
        BootDecision::Held { lines: why, .. } => {
            lines.extend(why.iter().map(|line| say(line)));
            lines.push("LABEL groundcrew\n  LOCALBOOT 0".to_owned());
        }
        BootDecision::Menu(menu) => return config(&menu.default, settings, device, mac),
        BootDecision::Shell | BootDecision::Memtest => {
            lines.push(say(
                "only iPXE can do what was ordered; starting its own disk",
            ));
            lines.push("LABEL groundcrew\n  LOCALBOOT 0".to_owned());
        }
        // pxelinux cannot ask again; the disk is what a device on hold has.
        BootDecision::Hold { message, .. } => {
            lines.push(say(message));
            lines.push("LABEL groundcrew\n  LOCALBOOT 0".to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn load(
    lines: &mut Vec<String>,
    settings: &ScriptSettings,
    agent: &AgentBoot,
    mac: Option<MacAddr>,
) {
    // From the root of the TFTP tree, wherever pxelinux itself lies.
    let path = |path: &str| format!("::{}", path.replace(' ', "?"));
    let initrds: Vec<String> = agent
        .files
        .initrds
        .iter()
        .map(|p| path(p.as_str()))
        .collect();
    let mac = mac.map_or(String::new(), |mac| format!(" gc.mac={mac}"));
    let mut append = format!("{} {CONSOLES} loglevel=6{mac}", super::agent_args(settings));
    for arg in &agent.args {
        append.push(' ');
        append.push_str(arg.as_str());
    }
    lines.push(say(&format!(
        "loading the agent from {}",
        settings.http.ip()
    )));
    lines.push("ONERROR LOCALBOOT 0".to_owned());
    lines.push("LABEL groundcrew".to_owned());
    lines.push(format!("  LINUX {}", path(agent.files.kernel.as_str())));
    lines.push(format!("  INITRD {}", initrds.join(",")));
    lines.push(format!("  APPEND {append}"));
}

fn say(words: &str) -> String {
    format!("SAY groundcrew: {}", plain(words))
}
