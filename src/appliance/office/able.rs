//! What can be ordered for one boot, by the loader a device is given.

use crate::once::Once;
use crate::site::settings::{BiosLoader, Boot, HttpLoader, UefiLoader};

/// A loader, as `site.toml` names it, and what it can carry out.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Able {
    /// Whose it is.
    firmware: &'static str,
    setting: &'static str,
    loader: &'static str,
    orders: &'static [Once],
}

const ALL: &[Once] = &[
    Once::Menu,
    Once::Agent,
    Once::Disk,
    Once::Memtest,
    Once::Shell,
];
const BY_TEXT: &[Once] = &[Once::Menu, Once::Agent, Once::Disk];
/// It shows nothing and asks nobody: DHCP gives another image in its place.
pub const BY_DHCP: &[Once] = &[Once::Agent, Once::Disk];

/// Whether `once` can be carried out on a machine whose firmware calls itself so,
/// as far as that is known. What to say of the loaders that cannot; an error
/// where none can.
pub fn check(boot: &Boot, firmware: Option<&str>, once: Once) -> Result<String, String> {
    let given = loaders(boot, firmware);
    let cannot: Vec<String> = given
        .iter()
        .filter(|able| !able.orders.contains(&once))
        .map(|able| cannot(able, once))
        .collect();
    if cannot.len() == given.len() {
        return Err(cannot.join("; "));
    }
    Ok(cannot
        .iter()
        .map(|words| format!("; but {words}"))
        .collect())
}

fn cannot(able: &Able, once: Once) -> String {
    let Able {
        firmware,
        setting,
        loader,
        orders,
    } = able;
    let works: Vec<_> = orders.iter().map(|once| once.word()).collect();
    format!(
        "{firmware} gets {loader} here (`{setting}` in site.toml), which cannot do `{}`; what works \
         with it: {}",
        once.word(),
        works.join(", ")
    )
}

/// The loaders that a machine may be given.
fn loaders(boot: &Boot, firmware: Option<&str>) -> Vec<Able> {
    let all = [bios(boot.bios), uefi(boot.uefi), http(boot.uefi_http)];
    let [bios, uefi, http] = all;
    match firmware {
        Some(name) if name.contains("HTTP") => vec![http],
        Some(name) if name.contains("UEFI") => vec![uefi],
        Some(name) if name.contains("BIOS") => vec![bios],
        _ => all.to_vec(),
    }
}

fn bios(loader: BiosLoader) -> Able {
    let (loader, orders) = match loader {
        BiosLoader::Ipxe => ("iPXE", ALL),
        BiosLoader::Pxelinux => ("pxelinux", BY_TEXT),
    };
    Able {
        firmware: "BIOS",
        setting: "bios",
        loader,
        orders,
    }
}

fn uefi(loader: UefiLoader) -> Able {
    let (loader, orders) = match loader {
        UefiLoader::Ipxe => ("iPXE", ALL),
        UefiLoader::Shim => ("shim and GRUB", BY_TEXT),
        UefiLoader::Grub => ("GRUB", BY_TEXT),
        UefiLoader::Uki | UefiLoader::ShimUki => (UKI, BY_DHCP),
    };
    Able {
        firmware: "UEFI",
        setting: "uefi",
        loader,
        orders,
    }
}

fn http(loader: HttpLoader) -> Able {
    let (loader, orders) = match loader {
        HttpLoader::Ipxe => ("iPXE", ALL),
        HttpLoader::Uki | HttpLoader::ShimUki => (UKI, BY_DHCP),
    };
    Able {
        firmware: "UEFI HTTP Boot",
        setting: "uefi_http",
        loader,
        orders,
    }
}

const UKI: &str = "the site's signed image";

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(bios: BiosLoader, uefi: UefiLoader, uefi_http: HttpLoader) -> Boot {
        Boot {
            bios,
            uefi,
            uefi_http,
            menu: None,
        }
    }

    #[test]
    fn what_a_loader_cannot_do_is_refused_by_its_name() {
        let signed = boot(BiosLoader::Pxelinux, UefiLoader::Shim, HttpLoader::Uki);
        for (firmware, once, refused) in [
            (Some("BIOS"), Once::Disk, None),
            (Some("BIOS"), Once::Shell, Some("pxelinux")),
            (Some("64-bit UEFI"), Once::Menu, None),
            (Some("64-bit UEFI"), Once::Memtest, Some("shim and GRUB")),
            (Some("64-bit UEFI HTTP"), Once::Disk, None),
            (Some("64-bit UEFI HTTP"), Once::Menu, Some("signed image")),
            (None, Once::Agent, None),
            (None, Once::Shell, Some("pxelinux")),
        ] {
            let said = check(&signed, firmware, once).err();
            let (word, named) = (once.word(), refused.unwrap_or_default());
            assert_eq!(said.is_some(), refused.is_some(), "{firmware:?} {word}");
            assert!(said.unwrap_or_default().contains(named), "{word}");
        }
        let why = check(&signed, Some("BIOS"), Once::Shell).unwrap_err();
        assert!(
            why.ends_with("what works with it: menu, agent, disk"),
            "{why}"
        );
        for once in ALL {
            assert_eq!(check(&Boot::default(), None, *once), Ok(String::new()));
        }
        // A card never seen: said which of the loaders would not.
        let but = check(&signed, None, Once::Menu).unwrap();
        assert!(but.starts_with("; but UEFI HTTP Boot gets the site's signed image here"));
    }
}
