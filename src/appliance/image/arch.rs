//! The processors that boot images are made for, and all that differs between them.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::names;
use super::secure::Machine;

/// A processor, by Debian's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86: BIOS and UEFI.
    #[default]
    Amd64,
    /// 64-bit ARM: UEFI.
    Arm64,
}

impl Arch {
    /// The name of Debian's port, as in file names of its packages.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The folder of its files inside the boot folder; x86's lie in it itself.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Amd64 => "",
            Self::Arm64 => groundcrew_netboot::ARM64,
        }
    }

    /// ELF's `e_machine`: EM_X86_64, EM_AARCH64.
    pub(super) fn elf(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }

    /// PE's `Machine`.
    pub(super) fn pe(self) -> Machine {
        match self {
            Self::Amd64 => Machine::X64,
            Self::Arm64 => Machine::Arm64,
        }
    }

    /// What GRUB calls UEFI on it.
    pub(super) fn grub(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-efi",
            Self::Arm64 => "arm64-efi",
        }
    }

    /// The package of GRUB's modules for it.
    pub(super) fn grub_package(self) -> &'static str {
        match self {
            Self::Amd64 => "grub-efi-amd64-bin",
            Self::Arm64 => "grub-efi-arm64-bin",
        }
    }

    /// Where Debian's package `systemd-boot-efi` puts the stub.
    pub fn stub(self) -> PathBuf {
        PathBuf::from(match self {
            Self::Amd64 => "/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
            Self::Arm64 => "/usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
        })
    }

    /// The agent's file, as `scripts/build-agent` names it.
    pub fn agent(self) -> &'static str {
        match self {
            Self::Amd64 => "groundcrew-agent",
            Self::Arm64 => "groundcrew-agent-arm64",
        }
    }

    /// Its names of what lies behind shim.
    pub(super) fn behind_shim(self) -> &'static names::BehindShim {
        match self {
            Self::Amd64 => &names::BEHIND_SHIM,
            Self::Arm64 => &names::BEHIND_SHIM_ARM64,
        }
    }

    /// The kernel's consoles: screen and serial line.
    pub fn consoles(self) -> &'static str {
        match self {
            Self::Amd64 => "console=tty0 console=ttyS0,115200",
            Self::Arm64 => "console=tty0 console=ttyAMA0,115200",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.debian())
    }
}
