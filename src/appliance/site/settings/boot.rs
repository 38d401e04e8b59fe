//! What `[boot]` says: which loader each kind of firmware gets.

use groundcrew_netboot::ARM64;
use groundcrew_netboot::dhcp::{LoaderFile, Loaders};
use serde::{Deserialize, Deserializer};

use crate::image::names;

/// What each kind of firmware is given to load first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// PC BIOS.
    pub bios: BiosLoader,
    /// UEFI, PXE.
    pub uefi: UefiLoader,
    /// UEFI, HTTP Boot.
    pub uefi_http: HttpLoader,
    /// Seconds that iPXE's menu waits, where the site wants one.
    pub menu: Option<u16>,
}

/// A loader for PC BIOS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BiosLoader {
    /// iPXE over the ROM's driver.
    #[default]
    Ipxe,
    /// pxelinux: TFTP only.
    Pxelinux,
}

/// A loader for UEFI's PXE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UefiLoader {
    /// iPXE over the firmware's driver. Secure Boot refuses it.
    #[default]
    Ipxe,
    /// The site's own signed image, whole.
    Uki,
    /// Debian's shim, and behind it the site's own image, signed by a key that
    /// the machine's owner enrolled (MOK).
    ShimUki,
    /// Debian's shim and GRUB, which Microsoft's key vouches for.
    Shim,
    /// Debian's GRUB alone.
    Grub,
}

/// A loader for UEFI's HTTP Boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpLoader {
    /// iPXE with drivers of its own.
    #[default]
    Ipxe,
    /// The site's own signed image, whole.
    Uki,
    /// The same behind Debian's shim.
    ShimUki,
}

impl Boot {
    /// The files, by the names that `image build` gives them.
    /// `arm64`: the boot tree has an image for 64-bit ARM, too. Its machines get
    /// what x86-64 ones do, out of a folder of their own.
    pub fn loaders(&self, arm64: bool) -> Loaders {
        let x64 = whole(str::to_owned);
        let x64_behind_shim = behind_shim(&names::BEHIND_SHIM, str::to_owned);
        let (arm, arm_http) = if arm64 {
            (self.arm64(), self.arm64_http())
        } else {
            (None, None)
        };
        let debian = Loaders::debian();
        Loaders {
            bios_pxe: match self.bios {
                BiosLoader::Ipxe => debian.bios_pxe,
                BiosLoader::Pxelinux => {
                    LoaderFile::that_asks(names::PXELINUX).map(LoaderFile::for_ipxe_too)
                }
            },
            efi_x64: match self.uefi {
                UefiLoader::Ipxe => debian.efi_x64,
                UefiLoader::Uki => x64.clone(),
                UefiLoader::ShimUki => x64_behind_shim.clone(),
                UefiLoader::Shim => LoaderFile::that_asks(names::SHIM),
                UefiLoader::Grub => LoaderFile::that_asks(names::GRUB),
            },
            efi_x64_http: match self.uefi_http {
                HttpLoader::Ipxe => debian.efi_x64_http,
                HttpLoader::Uki => x64,
                HttpLoader::ShimUki => x64_behind_shim,
            },
            efi_arm64: arm,
            efi_arm64_http: arm_http,
        }
    }

    fn arm64(&self) -> Option<LoaderFile> {
        match self.uefi {
            UefiLoader::Ipxe => LoaderFile::that_asks(&in_arm64(names::IPXE)),
            UefiLoader::Uki => whole(in_arm64),
            UefiLoader::ShimUki => behind_shim(&names::BEHIND_SHIM_ARM64, in_arm64),
            UefiLoader::Shim => LoaderFile::that_asks(&in_arm64(names::SHIM_ARM64)),
            UefiLoader::Grub => LoaderFile::that_asks(&in_arm64(names::GRUB_ARM64)),
        }
    }

    fn arm64_http(&self) -> Option<LoaderFile> {
        match self.uefi_http {
            HttpLoader::Ipxe => LoaderFile::that_asks(&in_arm64(names::IPXE)),
            HttpLoader::Uki => whole(in_arm64),
            HttpLoader::ShimUki => behind_shim(&names::BEHIND_SHIM_ARM64, in_arm64),
        }
    }

    /// Whether the site's own image is loaded by any machine.
    pub fn uki(&self) -> bool {
        self.uefi == UefiLoader::Uki || self.uefi_http == HttpLoader::Uki || self.behind_shim()
    }

    /// Whether any machine's shim starts it.
    pub fn behind_shim(&self) -> bool {
        self.uefi == UefiLoader::ShimUki || self.uefi_http == HttpLoader::ShimUki
    }

    /// Whether Debian's shim or GRUB is loaded by any machine.
    pub fn shim(&self) -> bool {
        matches!(self.uefi, UefiLoader::Shim | UefiLoader::Grub)
    }
}

/// `at`: the place of a file in the boot tree, by its name.
fn whole(at: fn(&str) -> String) -> Option<LoaderFile> {
    LoaderFile::whole(&at(names::UKI), &at(names::OWN_DISK), &at(names::HELD))
}

fn behind_shim(names: &names::BehindShim, at: fn(&str) -> String) -> Option<LoaderFile> {
    LoaderFile::whole(
        &at(names.image.shim),
        &at(names.own_disk.shim),
        &at(names.held.shim),
    )
}

fn in_arm64(name: &str) -> String {
    format!("{ARM64}/{name}")
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBoot {
    bios: BiosLoader,
    uefi: UefiLoader,
    uefi_http: Option<HttpLoader>,
    menu: bool,
    #[serde(deserialize_with = "menu_seconds")]
    menu_seconds: Option<u16>,
}

impl RawBoot {
    /// Whoever has PXE load the signed image means HTTP Boot, too.
    pub(super) fn checked(&self) -> Boot {
        Boot {
            bios: self.bios,
            uefi: self.uefi,
            uefi_http: self.uefi_http.unwrap_or(match self.uefi {
                UefiLoader::Uki => HttpLoader::Uki,
                UefiLoader::ShimUki => HttpLoader::ShimUki,
                _ => HttpLoader::Ipxe,
            }),
            menu: self.menu.then(|| self.menu_seconds.unwrap_or(MENU_SECONDS)),
        }
    }
}

/// Long enough to read the menu, short enough not to be switched off.
const MENU_SECONDS: u16 = 8;

fn menu_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(deserializer)? {
        seconds @ 1..=300 => Ok(Some(seconds)),
        other => Err(serde::de::Error::custom(format!(
            "a menu of {other} s: use 1 to 300"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const SAMPLE: &str = include_str!("../../../../config/site.toml");

    #[test]
    fn loaders_are_ipxe_until_somebody_says_otherwise() {
        let boot = |lines: &str| {
            parse(
                "site.toml",
                &SAMPLE.replacen("[boot]", &format!("[boot]\n{lines}"), 1),
            )
        };
        assert_eq!(boot("").unwrap().boot, Boot::default());
        assert_eq!(Boot::default().loaders(false), Loaders::debian());
        let uki = boot("uefi = \"uki\"").unwrap().boot;
        assert_eq!(uki.uefi_http, HttpLoader::Uki);
        let mixed = boot("uefi = \"uki\"\nuefi_http = \"ipxe\"").unwrap().boot;
        assert_eq!(mixed.uefi_http, HttpLoader::Ipxe);
        assert!(mixed.uki());
        let behind = boot("uefi = \"shim-uki\"").unwrap().boot;
        assert!(behind.uki() && behind.behind_shim() && !behind.shim());
        assert_eq!(behind.uefi_http, HttpLoader::ShimUki);
        let shim = boot("uefi = \"shim\"\nbios = \"pxelinux\"").unwrap().boot;
        assert!(shim.shim() && !shim.uki());
        for (lines, file) in [
            ("", "arm64/ipxe.efi"),
            ("uefi = \"shim\"", "arm64/shimaa64.efi"),
            ("uefi = \"uki\"", "arm64/groundcrew.efi"),
            ("uefi = \"shim-uki\"", "arm64/mok/shimaa64.efi"),
        ] {
            let loaders = boot(lines).unwrap().boot.loaders(true);
            assert_eq!(loaders.efi_arm64.unwrap().file.as_str(), file);
        }
        let menu = |lines: &str| boot(lines).map(|settings| settings.boot.menu);
        assert_eq!(menu(""), Ok(None));
        assert_eq!(menu("menu = true"), Ok(Some(8)));
        assert_eq!(menu("menu = true\nmenu_seconds = 20"), Ok(Some(20)));
        let wrong = menu("menu_seconds = 0").unwrap_err().to_string();
        assert!(wrong.contains("use 1 to 300"), "{wrong}");
        let wrong = boot("uefi_http = \"shim\"").unwrap_err().to_string();
        assert!(wrong.contains("ipxe") && wrong.contains("uki"), "{wrong}");
    }
}
