//! GRUB 2's configuration.
//!
//! A word ends at a space, `;` or a line's end; `$`, quotes and `\` mean
//! something. Words from outside pass [`plain`] and stand in single quotes,
//! where GRUB expands nothing. Files come by TFTP, because Debian's signed
//! network image has no http module, from the address the appliance has and not
//! from `next-server`, which another DHCP server may have set.

use super::said;
use crate::ipxe::{
    AgentBoot, AgentFiles, BootDecision, CONSOLES, CONSOLES_ARM64, KernelArg, Menu, ScriptSettings,
    plain,
};

/// Finds the loader on a UEFI machine's own disk; the same text is inside `local.efi` and `held.efi`.
const OWN_DISK_EFI: &str = include_str!("../../../../image/local.cfg");

/// GRUB knows the card by itself, so the text asks it. It knows its address too,
/// but neither the mask nor the router, without which an address is worth nothing
/// behind a relay: the agent asks DHCP.
const NETWORK: &str = "gc.mac=$net_default_mac";

pub fn config(decision: &BootDecision, settings: &ScriptSettings, device: &str) -> String {
    let mut lines = say(&format!(
        "{} serves site {}",
        settings.appliance, settings.site
    ));
    if !plain(device).is_empty() {
        lines.extend(say(&format!("this device is {device}")));
    }
    lines.extend(carry_out(decision, settings));
    lines.join("\n") + "\n"
}

fn carry_out(decision: &BootDecision, settings: &ScriptSettings) -> Vec<String> {
    match decision {
        BootDecision::Agent(agent) => load(settings, agent),
        BootDecision::OwnDisk { why } => own_disk(&format!("{why}; starting its own disk")),
        BootDecision::Hold { message, seconds } => {
            let mut lines = say(message);
            lines.extend(say(&format!("asking again every {seconds} s")));
            lines.push(format!("sleep {}", (*seconds).max(1)));
            // GRUB asks for its names again, the device's first.
            lines.push("configfile $prefix/grub.cfg".to_owned());
            lines
        }
        BootDecision::Held {
            lines: why,
            seconds,
        } => {
            let mut lines: Vec<String> = why.iter().flat_map(|words| say(words)).collect();
            lines.extend(say(&format!(
                "its own disk starts in {seconds} s, or at Escape"
            )));
            lines.push(format!("sleep --interruptible {seconds}"));
            lines.extend(own_disk("starting its own disk"));
            lines
        }
        BootDecision::Menu(menu) => choose(settings, menu),
        // Nobody can order these here; the site had another loader before.
        BootDecision::Shell | BootDecision::Memtest => {
            own_disk("only iPXE can do what was ordered; starting its own disk")
        }
    }
}

/// GRUB shows a menu of what a text defines when it is read to its end.
fn choose(settings: &ScriptSettings, menu: &Menu) -> Vec<String> {
    let default = match *menu.default {
        BootDecision::Agent(_) => "agent",
        _ => "disk",
    };
    let seconds = menu.seconds.max(1);
    let mut lines = vec![
        format!("set default={default}"),
        "set timeout_style=menu".to_owned(),
        format!("set timeout={seconds}"),
    ];
    for (id, title, body) in [
        (
            "agent",
            "Provision this device",
            load(settings, &menu.agent),
        ),
        (
            "disk",
            "Start its own disk",
            own_disk("starting its own disk"),
        ),
    ] {
        lines.push(format!("menuentry '{title}' --id {id} {{"));
        lines.extend(body);
        lines.push("}".to_owned());
    }
    lines
}

fn load(settings: &ScriptSettings, agent: &AgentBoot) -> Vec<String> {
    let root = format!("(tftp,{})", settings.http.ip());
    let mut lines = say(&format!("loading the agent from {}", settings.http.ip()));
    // One text for all processors: GRUB knows which it was built for.
    let x86 = load_files(&agent.files, CONSOLES, &root, settings, &agent.args);
    let arm = load_files(&agent.arm64, CONSOLES_ARM64, &root, settings, &agent.args);
    lines.push(format!(
        "if [ \"$grub_cpu\" = arm64 ]; then\n{arm}\nelse\n{x86}\nfi"
    ));
    lines.extend(own_disk(
        "the agent could not be loaded; starting its own disk",
    ));
    lines
}

fn load_files(
    files: &AgentFiles,
    consoles: &str,
    root: &str,
    settings: &ScriptSettings,
    args: &[KernelArg],
) -> String {
    let mut kernel = format!(
        "linux '{root}/{}' {} {consoles} loglevel=6 {NETWORK}",
        quoted(files.kernel.as_str()),
        super::agent_args(settings)
    );
    for arg in args {
        kernel.push_str(&format!(" '{}'", arg.as_str()));
    }
    let initrds = files.initrds.iter();
    let initrds = initrds.map(|path| format!(" '{root}/{}'", quoted(path.as_str())));
    let initrd = format!("initrd{}", initrds.collect::<String>());
    // Each only where the one before it worked: a kernel without its initrd panics.
    format!("if {kernel}; then if {initrd}; then boot; fi; fi")
}

fn own_disk(words: &str) -> Vec<String> {
    let mut lines = say(words);
    lines.push(format!(
        "if [ \"$grub_platform\" = efi ]; then\n{OWN_DISK_EFI}else\nset root=(hd0)\nchainloader +1\nboot\nfi"
    ));
    lines
}

fn say(words: &str) -> Vec<String> {
    let lines = said(words).into_iter();
    lines
        .map(|line| format!("echo 'groundcrew: {}'", quoted(&line)))
        .collect()
}

/// A [`BootPath`](crate::path::BootPath) and what [`plain`] leaves are printable
/// ASCII; of that only an apostrophe means something inside single quotes.
fn quoted(words: &str) -> String {
    words.replace('\'', "'\\''")
}
