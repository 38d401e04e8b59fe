//! GRUB 2's configuration.
//!
//! A word ends at a space, `;` or a line's end; `$`, quotes and `\` mean
//! something. Words from outside pass [`plain`] and stand in single quotes,
//! where GRUB expands nothing. Files come by TFTP, because Debian's signed
//! network image has no http module, from the address the appliance has and not
//! from `next-server`, which another DHCP server may have set.

use crate::ipxe::{
    AgentBoot, AgentFiles, BootDecision, CONSOLES, CONSOLES_ARM64, KernelArg, ScriptSettings, plain,
};

/// Finds the loader on a UEFI machine's own disk; the same text is inside `local.efi`.
const OWN_DISK_EFI: &str = include_str!("../../../../image/local.cfg");

/// GRUB knows the card by itself, so the text asks it. It knows its address too,
/// but neither the mask nor the router, without which an address is worth nothing
/// behind a relay: the agent asks DHCP.
const NETWORK: &str = "gc.mac=$net_default_mac";

pub fn config(decision: &BootDecision, settings: &ScriptSettings, device: &str) -> String {
    let mut lines = vec![say(&format!(
        "{} serves site {}",
        settings.appliance, settings.site
    ))];
    if !plain(device).is_empty() {
        lines.push(say(&format!("this device is {device}")));
    }
    match decision {
        BootDecision::Agent(agent) => load(&mut lines, settings, agent),
        BootDecision::OwnDisk { why } => {
            lines.push(say(&format!("{why}; starting its own disk")));
            lines.push(own_disk());
        }
        BootDecision::Hold { message, seconds } => {
            lines.push(say(message));
            lines.push(say(&format!("asking again every {seconds} s")));
            lines.push(format!("sleep {}", (*seconds).max(1)));
            // GRUB asks for its names again, the device's first.
            lines.push("configfile $prefix/grub.cfg".to_owned());
        }
        BootDecision::Held {
            lines: why,
            seconds,
        } => {
            lines.extend(why.iter().map(|line| say(&line.replace('`', "?"))));
            lines.push(format!("sleep {seconds}"));
            lines.push(own_disk());
        }
        BootDecision::Menu(menu) => return config(&menu.default, settings, device),
        BootDecision::Shell | BootDecision::Memtest => {
            lines.push(say(
                "only iPXE can do what was ordered; starting its own disk",
            ));
            lines.push(own_disk());
        }
    }
    lines.join("\n") + "\n"
}

fn load(lines: &mut Vec<String>, settings: &ScriptSettings, agent: &AgentBoot) {
    let root = format!("(tftp,{})", settings.http.ip());
    lines.push(say(&format!(
        "loading the agent from {}",
        settings.http.ip()
    )));
    // One text for all processors: GRUB knows which it was built for.
    let x86 = load_files(&agent.files, CONSOLES, &root, settings, &agent.args);
    let arm = load_files(&agent.arm64, CONSOLES_ARM64, &root, settings, &agent.args);
    lines.push(format!(
        "if [ \"$grub_cpu\" = arm64 ]; then\n{arm}\nelse\n{x86}\nfi"
    ));
    lines.push(say("the agent could not be loaded; starting its own disk"));
    lines.push(own_disk());
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

fn own_disk() -> String {
    format!(
        "if [ \"$grub_platform\" = efi ]; then\n{OWN_DISK_EFI}else\nset root=(hd0)\nchainloader +1\nboot\nfi"
    )
}

fn say(words: &str) -> String {
    // `plain` lets an apostrophe stand, which would end the quotes.
    format!("echo 'groundcrew: {}'", plain(words).replace('\'', "?"))
}

/// A [`BootPath`](crate::path::BootPath) is printable ASCII; of that only an
/// apostrophe means something inside single quotes.
fn quoted(path: &str) -> String {
    path.replace('\'', "'\\''")
}
