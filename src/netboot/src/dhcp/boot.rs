//! What a booting client is told to load, and from where.

use std::net::SocketAddrV4;

use super::arch::{Arch, Loader};
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
    /// The same, once its screen has told that it is held.
    Held,
}

/// Where boot files lie and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootService {
    /// Address and port of the plain HTTP server; the address also serves TFTP.
    pub http: SocketAddrV4,
    /// The loaders' files in the boot tree.
    pub loaders: Loaders,
}

/// Loader files in the boot tree (TFTP root, and `/boot/` over HTTP), one for
/// each [`Loader`] of the table. `None`: that kind of client gets an address only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaders {
    /// For BIOS PXE ROMs.
    pub bios_pxe: Option<LoaderFile>,
    /// For x86-64 UEFI PXE.
    pub efi_x64: Option<LoaderFile>,
    /// For x86-64 UEFI HTTP Boot.
    pub efi_x64_http: Option<LoaderFile>,
    /// For arm64 UEFI PXE; only where the boot tree has an image for it.
    pub efi_arm64: Option<LoaderFile>,
    /// For arm64 UEFI HTTP Boot.
    pub efi_arm64_http: Option<LoaderFile>,
}

/// A loader, and whether it asks what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderFile {
    /// Its file.
    pub file: BootPath,
    /// For a whole image, which asks nobody: what to load in its place.
    pub instead: Option<Instead>,
    /// An iPXE in the card's ROM loads it, too, instead of running its text.
    pub ipxe_too: bool,
}

/// What takes a whole image's place where the machine shall not start the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instead {
    /// Starts the machine's own disk.
    pub own_disk: BootPath,
    /// Tells on the screen that the machine is held, and starts its own disk.
    pub held: BootPath,
}

impl LoaderFile {
    /// A loader that is told by its text. `None` if `file` is no name in the tree.
    pub fn that_asks(file: &str) -> Option<Self> {
        Some(Self {
            file: BootPath::from_tftp(file).ok()?,
            instead: None,
            ipxe_too: false,
        })
    }

    /// A whole image, and what is loaded instead to start the own disk, or to
    /// tell first that the machine is held. `None` as in [`Self::that_asks`].
    pub fn whole(file: &str, own_disk: &str, held: &str) -> Option<Self> {
        Some(Self {
            file: BootPath::from_tftp(file).ok()?,
            instead: Some(Instead {
                own_disk: BootPath::from_tftp(own_disk).ok()?,
                held: BootPath::from_tftp(held).ok()?,
            }),
            // With Secure Boot iPXE's text would name a kernel that firmware refuses.
            ipxe_too: true,
        })
    }

    /// The same loader for iPXE ROMs, too.
    pub fn for_ipxe_too(self) -> Self {
        Self {
            ipxe_too: true,
            ..self
        }
    }

    fn name(&self, word: BootWord) -> &BootPath {
        match (word, &self.instead) {
            (BootWord::OwnDisk, Some(instead)) => &instead.own_disk,
            (BootWord::Held, Some(instead)) => &instead.held,
            (BootWord::Agent, _) | (_, None) => &self.file,
        }
    }
}

impl Loaders {
    /// The files of Debian's `ipxe` package, flat in the boot tree: on BIOS and
    /// over TFTP those that use the firmware's own network driver.
    pub fn debian() -> Self {
        Self {
            bios_pxe: LoaderFile::that_asks("undionly.kpxe"),
            efi_x64: LoaderFile::that_asks("snponly.efi"),
            efi_x64_http: LoaderFile::that_asks("ipxe.efi"),
            efi_arm64: None,
            efi_arm64_http: None,
        }
    }

    /// Whether DHCP tells this client what to do: what it loads asks nobody.
    pub fn tells(&self, client: &BootClient) -> bool {
        let row = client.arch().and_then(|arch| self.row(arch.loader?));
        row.is_some_and(|row| row.instead.is_some())
    }

    /// Every file that a client may be sent to.
    pub fn files(&self) -> Vec<&BootPath> {
        self.all()
            .flat_map(|loader| {
                let instead = loader.instead.iter();
                std::iter::once(&loader.file)
                    .chain(instead.flat_map(|instead| [&instead.own_disk, &instead.held]))
            })
            .collect()
    }

    fn all(&self) -> impl Iterator<Item = &LoaderFile> {
        let all = [
            &self.bios_pxe,
            &self.efi_x64,
            &self.efi_x64_http,
            &self.efi_arm64,
            &self.efi_arm64_http,
        ];
        all.into_iter().flatten()
    }

    /// The loader for one row of the architecture table.
    fn row(&self, loader: Loader) -> Option<&LoaderFile> {
        let row = match loader {
            Loader::BiosPxe => &self.bios_pxe,
            Loader::EfiX64 => &self.efi_x64,
            Loader::EfiX64Http => &self.efi_x64_http,
            Loader::EfiArm64 => &self.efi_arm64,
            Loader::EfiArm64Http => &self.efi_arm64_http,
        };
        row.as_ref()
    }

    /// The file for one row of the architecture table.
    pub fn file(&self, loader: Loader, word: BootWord) -> Option<&BootPath> {
        self.row(loader).map(|row| row.name(word))
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
            BootClient::Ipxe(arch) if self.for_ipxe(arch).is_some() => {
                let row = self.for_ipxe(arch)?;
                let file = row.name(word);
                // A whole image is large, and iPXE's HTTP fast; what asks by
                // TFTP later must have come by it.
                let tftp = row.instead.is_none();
                Some(BootOffer {
                    file: if tftp {
                        file.to_string()
                    } else {
                        self.boot_url(file)
                    },
                    nul: false,
                    vendor_class: None,
                    ipxe_options: alone.then(|| NO_PXEDHCP.to_vec()),
                    tftp_server_name: tftp,
                    quirks: &[&quirk::NEXT_SERVER_SET, &quirk::NO_PROXY_WAIT],
                })
            }
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

    /// The loader that an iPXE of this architecture is given instead of its text.
    fn for_ipxe(&self, arch: &Arch) -> Option<&LoaderFile> {
        self.loaders.row(arch.loader?).filter(|row| row.ipxe_too)
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

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
