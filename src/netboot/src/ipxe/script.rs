//! The text iPXE runs.
//!
//! iPXE splits a line at spaces, obeys `||`, `&&` and `#` as words, expands
//! `${...}` and continues a line that ends in a backslash. Whatever comes from
//! outside passes [`plain`], which leaves none of that.

use std::fmt::Write;
use std::net::SocketAddrV4;

use super::screen;
use crate::ARM64;
use crate::path::BootPath;

/// What a device shall do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootDecision {
    /// Load the agent's kernel and initrd from the boot tree.
    Agent(AgentBoot),
    /// Boot what is installed; `why` is shown, such as "provisioned as LAB-7".
    OwnDisk {
        /// One line for whoever watches.
        why: String,
    },
    /// Show a line and ask again after so many seconds.
    Hold {
        /// One line for whoever watches.
        message: String,
        /// Seconds between questions, at least 1.
        seconds: u16,
    },
    /// Show why nothing is done, for so long or until a key; then the own disk.
    Held {
        /// For whoever watches.
        lines: Vec<String>,
        /// Seconds it stays on the screen.
        seconds: u16,
    },
    /// Let whoever stands there choose.
    Menu(Menu),
    /// iPXE's shell.
    Shell,
    /// The memory test that lies in the boot tree.
    Memtest,
}

/// A menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu {
    /// What happens by itself: the agent, or the own disk.
    pub default: Box<BootDecision>,
    /// Seconds until then, at least 1.
    pub seconds: u16,
    /// What the entry for the agent loads.
    pub agent: AgentBoot,
    /// There is a memory test.
    pub memtest: bool,
}

/// What to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentBoot {
    /// On x86.
    pub files: AgentFiles,
    /// On 64-bit ARM.
    pub arm64: AgentFiles,
    /// More kernel arguments, behind the ones every agent gets.
    pub args: Vec<KernelArg>,
}

/// Kernel and initrds for one processor. Paths are below `/boot/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFiles {
    /// The kernel.
    pub kernel: BootPath,
    /// The initrds, in order.
    pub initrds: Vec<BootPath>,
}

impl AgentFiles {
    /// `vmlinuz` and `initrd.img` in a folder of the tree, or in the tree itself
    /// (`""`). `None` if that is no folder's name.
    pub fn standard(folder: &str) -> Option<Self> {
        let path = |name: &str| BootPath::from_tftp(&format!("{folder}/{name}")).ok();
        Some(Self {
            kernel: path("vmlinuz")?,
            initrds: vec![path("initrd.img")?],
        })
    }
}

/// What iPXE was built for, its `${platform}` and `${buildarch}`; decides what is
/// loaded and how the own disk is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// PC BIOS.
    Bios,
    /// UEFI on x86.
    Efi,
    /// UEFI on 64-bit ARM.
    EfiArm64,
}

impl Firmware {
    pub(super) fn from_ipxe(word: &str) -> Option<Self> {
        match word {
            "pcbios" => Some(Self::Bios),
            "efi" => Some(Self::Efi),
            _ => None,
        }
    }
}

/// What a device does when the agent cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Boot what is installed.
    #[default]
    OwnDisk,
    /// iPXE's shell, for a lab.
    Shell,
}

/// One kernel argument: printable ASCII without spaces and without what iPXE
/// or the kernel's own parser would take for syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelArg(String);

/// Text that cannot stand as one kernel argument.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a kernel argument: 1 to 255 letters, digits and -_.,:;/=+@%~!*")]
pub struct KernelArgError(String);

impl KernelArg {
    /// Checks one argument.
    pub fn new(text: &str) -> Result<Self, KernelArgError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.,:;/=+@%~!*".contains(&b);
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KernelArgError(plain(text)))
        }
    }

    /// The argument.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What every text of a site has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptSettings {
    /// The appliance's plain HTTP server.
    pub http: SocketAddrV4,
    /// Its enrollment port, on the same address.
    pub https_port: u16,
    /// The appliance's name, shown.
    pub appliance: String,
    /// The site, shown.
    pub site: String,
    /// How often loading is tried, at least once.
    pub attempts: u8,
    /// What follows then.
    pub on_failure: OnFailure,
}

impl BootDecision {
    /// The text for one device. `device` names it as a person would know it,
    /// its serial for instance. Without `firmware` the text asks iPXE itself.
    pub fn script(
        &self,
        settings: &ScriptSettings,
        device: &str,
        firmware: Option<Firmware>,
    ) -> String {
        let mut text = header(settings, device);
        match self {
            Self::Agent(agent) => write_agent(&mut text, settings, agent, firmware),
            Self::OwnDisk { why } => {
                say(&mut text, &format!("{why}; starting its own disk"));
                write_own_disk(&mut text, settings, firmware);
            }
            Self::Hold { message, seconds } => {
                write_hold(&mut text, settings, message, (*seconds).max(1));
            }
            Self::Held { lines, seconds } => {
                screen::write_held(&mut text, settings, lines, *seconds, firmware);
            }
            Self::Menu(menu) => screen::write_menu(&mut text, settings, menu, firmware),
            Self::Shell => screen::write_shell(&mut text),
            Self::Memtest => screen::write_memtest(&mut text, settings, firmware),
        }
        text
    }
}

/// The text for loaders that are given a fixed URL instead of
/// [`script_url`](super::script_url): it asks again with the machine's names.
pub fn first_script(settings: &ScriptSettings) -> String {
    let mut text = String::from("#!ipxe\n");
    say(
        &mut text,
        &format!("asking {} at {}", settings.appliance, settings.http),
    );
    let url = super::script_url(settings.http);
    lines(&mut text, &["isset ${netX/ip} || dhcp ||"]);
    write_attempts(
        &mut text,
        settings,
        &[format!("chain --replace --autofree {url}")],
        "the boot text did not come",
    );
    write_failure(&mut text, settings, None);
    text
}

fn header(settings: &ScriptSettings, device: &str) -> String {
    let mut text = String::from("#!ipxe\n");
    lines(&mut text, &["echo"]);
    say(
        &mut text,
        &format!("{} serves site {}", settings.appliance, settings.site),
    );
    if !plain(device).is_empty() {
        say(&mut text, &format!("this device is {device}"));
    }
    text
}

pub(super) fn write_agent(
    text: &mut String,
    settings: &ScriptSettings,
    agent: &AgentBoot,
    firmware: Option<Firmware>,
) {
    let arm = firmware == Some(Firmware::EfiArm64);
    let (files, consoles) = if arm {
        (&agent.arm64, CONSOLES_ARM64)
    } else {
        (&agent.files, CONSOLES)
    };
    say(text, &format!("loading the agent from {}", settings.http));
    let base = format!("{}/boot", super::http_origin(settings.http));
    let mut kernel = format!("kernel {base}/{}", files.kernel.to_url_path());
    let mut commands = vec!["imgfree".to_owned()];
    let mut initrds = Vec::new();
    for (number, path) in files.initrds.iter().enumerate() {
        // The EFI stub finds an initrd by the name on its command line only.
        write_to(&mut kernel, format_args!(" initrd=initrd{number}"));
        initrds.push(format!(
            "initrd --name initrd{number} {base}/{}",
            path.to_url_path()
        ));
    }
    write_to(
        &mut kernel,
        format_args!(" {} {consoles} loglevel=6", agent_args(settings)),
    );
    for arg in &agent.args {
        write_to(&mut kernel, format_args!(" {}", arg.as_str()));
    }
    commands.push(kernel);
    commands.extend(initrds);
    commands.push("boot".to_owned());
    write_attempts(text, settings, &commands, "the agent could not be loaded");
    write_failure(text, settings, firmware);
}

/// Screen and serial line; the last is the kernel's own.
pub(crate) const CONSOLES: &str = "console=tty0 console=ttyS0,115200";
/// The same on 64-bit ARM, whose first serial line is a PL011.
pub(crate) const CONSOLES_ARM64: &str = "console=tty0 console=ttyAMA0,115200";

/// The network as iPXE has it, so that the agent need not ask DHCP again, and
/// where the appliance is.
fn agent_args(settings: &ScriptSettings) -> String {
    let (address, http, https) = (
        settings.http.ip(),
        settings.http.port(),
        settings.https_port,
    );
    format!(
        "gc.mac=${{netX/mac}} gc.ip=${{netX/ip}} gc.mask=${{netX/netmask}} gc.gw=${{netX/gateway}} gc.dns=${{netX/dns}} \
         gc.server={address} gc.http={http} gc.https={https}"
    )
}

/// `commands` one after the other; from the beginning again when one fails.
fn write_attempts(
    text: &mut String,
    settings: &ScriptSettings,
    commands: &[String],
    failure: &str,
) {
    let attempts = settings.attempts.max(1);
    lines(text, &["set try:int32 1", ":again"]);
    for command in commands {
        write_to(text, format_args!("{command} || goto failed\n"));
    }
    lines(text, &[":failed"]);
    say_raw(
        text,
        &format!(
            "{} (try ${{try}} of {attempts}); see the line above",
            plain(failure)
        ),
    );
    write_to(
        text,
        format_args!("iseq ${{try}} {attempts} && goto giveup ||\n"),
    );
    lines(text, &["inc try", "sleep 3", "goto again", ":giveup"]);
}

fn write_failure(text: &mut String, settings: &ScriptSettings, firmware: Option<Firmware>) {
    match settings.on_failure {
        OnFailure::OwnDisk => {
            say(text, "giving up; starting its own disk");
            write_own_disk(text, settings, firmware);
        }
        OnFailure::Shell => {
            say(text, "giving up; this is the shell of iPXE, exit leaves it");
            lines(text, &["shell", "exit 1"]);
        }
    }
}

/// The program that finds the loader on a UEFI machine's own disk, below `/boot/`.
const OWN_DISK_EFI: &str = "local.efi";

/// BIOS: the first disk, as the ROM would. UEFI: a program that finds the disk's
/// loader, because firmware goes on with its next *network* entry when iPXE
/// ends: OVMF asks for HTTP Boot then and is back here, or sits for a minute.
/// Where that fails, back to the firmware; with status 1, because after a
/// success EDK2 shows its menu instead of going on.
pub(super) fn write_own_disk(
    text: &mut String,
    settings: &ScriptSettings,
    firmware: Option<Firmware>,
) {
    let bios = "sanboot --no-describe --drive 0x80 ||".to_owned();
    let boot = format!("{}/boot", super::http_origin(settings.http));
    let efi = format!("chain {boot}/{OWN_DISK_EFI} ||");
    let arm = format!("chain {boot}/{ARM64}/{OWN_DISK_EFI} ||");
    match firmware {
        Some(Firmware::Efi) => lines(text, &[&efi]),
        Some(Firmware::EfiArm64) => lines(text, &[&arm]),
        Some(Firmware::Bios) => lines(text, &[&bios]),
        None => {
            lines(
                text,
                &[
                    "iseq ${platform} efi && goto efi ||",
                    &bios,
                    "goto leave",
                    ":efi",
                    &efi,
                    ":leave",
                ],
            );
        }
    }
    say(
        text,
        "going back to the firmware, which tries its next boot device",
    );
    lines(text, &["exit 1"]);
}

fn write_hold(text: &mut String, settings: &ScriptSettings, message: &str, seconds: u16) {
    say(text, message);
    say(text, &format!("asking again every {seconds} s"));
    let url = super::script_url(settings.http);
    lines(text, &[":again"]);
    // --replace: the new text takes this one's place, so that hours of waiting
    // do not pile up texts in memory.
    write_to(
        text,
        format_args!("sleep {seconds}\nchain --replace --autofree {url} || goto again\n"),
    );
}

/// A line on the screen and the serial console.
pub(super) fn say(text: &mut String, words: &str) {
    say_raw(text, &plain(words));
}

/// Like [`say`] for words of ours that hold `${...}`.
fn say_raw(text: &mut String, words: &str) {
    write_to(text, format_args!("echo groundcrew: {words}\n"));
}

pub(super) fn lines(text: &mut String, lines: &[&str]) {
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
}

pub(super) fn write_to(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = text.write_fmt(words);
}

/// Text that iPXE prints and cannot obey: letters, digits and a few marks stay,
/// anything else becomes `?`; spaces are single. At most 160 characters.
pub(crate) fn plain(text: &str) -> String {
    let mark = |c: char| {
        if c.is_ascii_alphanumeric() || " -_.,:;/()=+@!*'".contains(c) {
            c
        } else {
            '?'
        }
    };
    let kept: String = text.chars().take(160).map(mark).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
