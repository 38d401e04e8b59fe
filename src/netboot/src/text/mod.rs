//! Files that do not lie anywhere: texts made for one device, where its loader
//! asks for a file by a name that says who it is.
//!
//! ```text
//! TFTP file name -> TextRequest -> the caller finds the machine and decides
//!                                  -> TextRequest::text(decision, …)
//! ```
//!
//! | loader | asks for, in this order |
//! |---|---|
//! | iPXE started by TFTP | `autoexec.ipxe` beside itself |
//! | GRUB 2.06 from the network | `grub.cfg-UUID`, `grub.cfg-01-MAC`, `grub.cfg-HEXIP` and its beginnings, `grub.cfg` below its prefix |
//! | pxelinux | `pxelinux.cfg/UUID`, `…/01-MAC`, `…/HEXIP` and its beginnings, `…/default` |
//!
//! A file of that name in the boot tree goes before the text made here.
//! iPXE's text is the same for all and calls `/ipxe`, because over HTTP it tells
//! its serial number, too.

mod grub;
mod pxelinux;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

use crate::ipxe::{BootDecision, ScriptSettings, first_script, folded, plain};
use crate::path::BootPath;

/// The language of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// iPXE's script.
    Ipxe,
    /// GRUB 2's configuration.
    Grub,
    /// pxelinux's configuration.
    Pxelinux,
}

/// Who the name says the text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// The one with this hardware address.
    Mac(MacAddr),
    /// The one with this SMBIOS UUID, in whichever byte order.
    Uuid(SmbiosUuid),
    /// Whoever asks: known only by the address the question came from.
    Asking,
}

/// A file name that means a text made for one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRequest {
    /// In which language.
    pub syntax: Syntax,
    /// For whom.
    pub machine: Machine,
}

impl TextRequest {
    /// Reads a file name; `None` for an ordinary file. Names by hexadecimal
    /// address are nobody's: the name without them is asked for right after.
    pub fn of(path: &BootPath) -> Option<Self> {
        let mut components = path.components().rev();
        let (name, folder) = (components.next()?, components.next());
        let made = |syntax, machine| Some(Self { syntax, machine });
        if name == "autoexec.ipxe" || name == "boot.ipxe" {
            return made(Syntax::Ipxe, Machine::Asking);
        }
        if folder == Some("pxelinux.cfg") {
            return match name {
                "default" => made(Syntax::Pxelinux, Machine::Asking),
                _ => made(Syntax::Pxelinux, named(name)?),
            };
        }
        match name.strip_prefix("grub.cfg")? {
            "" => made(Syntax::Grub, Machine::Asking),
            rest => made(Syntax::Grub, named(rest.strip_prefix('-')?)?),
        }
    }

    /// The text. `device` names it as a person would know it; `mac` is the
    /// hardware address it boots from, if the name or its lease tells.
    pub fn text(
        &self,
        decision: &BootDecision,
        settings: &ScriptSettings,
        device: &str,
        mac: Option<MacAddr>,
    ) -> String {
        match self.syntax {
            Syntax::Ipxe => first_script(settings),
            Syntax::Grub => grub::config(decision, settings, device),
            Syntax::Pxelinux => pxelinux::config(decision, settings, device, mac),
        }
    }
}

/// `01-52-54-00-77-00-01` (hardware type 1 is Ethernet) or a UUID.
fn named(name: &str) -> Option<Machine> {
    if name.len() == 20
        && let Some(mac) = name.strip_prefix("01-")
    {
        return mac.replace('-', ":").parse().ok().map(Machine::Mac);
    }
    if name.len() == 36 {
        return name.parse().ok().map(Machine::Uuid);
    }
    None
}

/// The most lines of a screen that one saying may take.
const SAID_LINES: usize = 10;

/// A saying as lines of a screen, in letters that no loader obeys.
fn said(words: &str) -> Vec<String> {
    let lines = folded(words).into_iter().take(SAID_LINES);
    lines.map(|line| plain(&line)).collect()
}

/// What the agent is told in every language: where the appliance is. Its address
/// it asks DHCP for, because neither of these loaders can tell address, mask and router.
fn agent_args(settings: &ScriptSettings) -> String {
    format!(
        "gc.server={} gc.http={} gc.https={}",
        settings.http.ip(),
        settings.http.port(),
        settings.https_port
    )
}

#[cfg(test)]
mod tests;
