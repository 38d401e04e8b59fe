//! What a booting client is told to load, and from where.

use std::net::SocketAddrV4;

use super::arch::Loader;
use super::client::{BootClient, Quirk, quirk};
use crate::ipxe;
use crate::path::BootPath;

/// What a machine that boots from the network shall do, as far as DHCP decides
/// it: only where the loader is a whole image that asks nobody. iPXE, GRUB and
/// pxelinux are told by their text, which knows the machine better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BootWord {
    /// Start the agent.
    #[default]
    Agent,
    /// Start what is installed.
    OwnDisk,
}

/// Where boot files lie and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootService {
    /// Address and port of the plain HTTP server; the address also serves TFTP.
    pub http: SocketAddrV4,
    /// The loaders' files in the boot tree.
    pub loaders: Loaders,
}

/// Loader files in the boot tree (TFTP root, and `/boot/` over HTTP).
/// `None`: that kind of client gets an address only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaders {
    /// For BIOS PXE ROMs: `undionly.kpxe`, which uses the ROM's own driver.
    pub bios_pxe: Option<BootPath>,
    /// For x86-64 UEFI PXE: `snponly.efi`, which uses the firmware's driver.
    pub efi_x64: Option<BootPath>,
    /// For x86-64 UEFI HTTP Boot: `ipxe.efi`.
    pub efi_x64_http: Option<BootPath>,
    /// For arm64 UEFI PXE; Debian 12 has no build.
    pub efi_arm64: Option<BootPath>,
    /// For arm64 UEFI HTTP Boot.
    pub efi_arm64_http: Option<BootPath>,
    /// What starts an x86-64 UEFI machine's own disk, where its loader is an
    /// image that asks nobody.
    pub own_disk_x64: Option<BootPath>,
    /// The same for arm64.
    pub own_disk_arm64: Option<BootPath>,
}

impl Loaders {
    /// The files of Debian's `ipxe` package, flat in the boot tree.
    pub fn debian() -> Self {
        let file = |name| BootPath::from_tftp(name).ok();
        Self {
            bios_pxe: file("undionly.kpxe"),
            efi_x64: file("snponly.efi"),
            efi_x64_http: file("ipxe.efi"),
            ..Self::default()
        }
    }

    /// Whether any client is told by DHCP to start its own disk.
    pub fn need_word(&self) -> bool {
        self.own_disk_x64.is_some() || self.own_disk_arm64.is_some()
    }

    /// The file for one row of the architecture table.
    pub fn file(&self, loader: Loader, word: BootWord) -> Option<&BootPath> {
        let own_disk = match loader {
            Loader::BiosPxe => None,
            Loader::EfiX64 | Loader::EfiX64Http => self.own_disk_x64.as_ref(),
            Loader::EfiArm64 | Loader::EfiArm64Http => self.own_disk_arm64.as_ref(),
        };
        match word {
            BootWord::OwnDisk if own_disk.is_some() => own_disk,
            _ => self.agent_file(loader),
        }
    }

    fn agent_file(&self, loader: Loader) -> Option<&BootPath> {
        match loader {
            Loader::BiosPxe => self.bios_pxe.as_ref(),
            Loader::EfiX64 => self.efi_x64.as_ref(),
            Loader::EfiX64Http => self.efi_x64_http.as_ref(),
            Loader::EfiArm64 => self.efi_arm64.as_ref(),
            Loader::EfiArm64Http => self.efi_arm64_http.as_ref(),
        }
    }
}

/// The boot part of a reply, the same whether we or another server gives the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOffer {
    /// Boot file name or URL: option 67, and the `file` field where it fits.
    pub file: String,
    /// Append a NUL to option 67: [`quirk::FILE_NAME_NUL`].
    pub nul: bool,
    /// Option 60, for HTTP Boot only.
    pub vendor_class: Option<&'static str>,
    /// Option 175, for iPXE only: encapsulated `code, length, data`.
    pub ipxe_options: Option<Vec<u8>>,
    /// Option 66 where the client asks for it (TFTP loaders only).
    pub tftp_server_name: bool,
    /// The quirks that shaped it, for the log.
    pub quirks: &'static [&'static Quirk],
}

/// Option 175, sub-option 176 (no-pxedhcp) = 1: [`quirk::NO_PROXY_WAIT`].
const NO_PXEDHCP: [u8; 3] = [176, 1, 1];

impl BootService {
    /// What `client` is offered. `alone`: we give the address and no ProxyDHCP
    /// server is meant to be heard beside us.
    pub fn offer_for(&self, client: &BootClient, word: BootWord, alone: bool) -> Option<BootOffer> {
        match client {
            BootClient::Plain | BootClient::Unsupported(_) => None,
            BootClient::Pxe(arch) => Some(BootOffer {
                file: self.loaders.file(arch.loader?, word)?.to_string(),
                nul: true,
                vendor_class: None,
                ipxe_options: None,
                tftp_server_name: true,
                quirks: &[&quirk::FILE_NAME_NUL, &quirk::NO_PXE_CLASS],
            }),
            BootClient::HttpBoot(arch) => Some(BootOffer {
                file: self.boot_url(self.loaders.file(arch.loader?, word)?),
                nul: true,
                vendor_class: Some("HTTPClient"),
                ipxe_options: None,
                tftp_server_name: false,
                quirks: &[&quirk::HTTP_CLIENT_ECHO, &quirk::FILE_NAME_NUL],
            }),
            BootClient::Ipxe(_) => Some(BootOffer {
                file: ipxe::script_url(self.http),
                nul: false,
                vendor_class: None,
                ipxe_options: alone.then(|| NO_PXEDHCP.to_vec()),
                tftp_server_name: false,
                quirks: &[
                    &quirk::NEXT_SERVER_SET,
                    &quirk::BARE_USER_CLASS,
                    &quirk::NO_PROXY_WAIT,
                ],
            }),
        }
    }

    /// The URL of a file in the boot tree.
    pub fn boot_url(&self, path: &BootPath) -> String {
        format!(
            "{}/boot/{}",
            ipxe::http_origin(self.http),
            path.to_url_path()
        )
    }
}
