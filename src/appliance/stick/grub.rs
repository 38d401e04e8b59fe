//! What starts a stick: GRUB's own image for a BIOS, Debian's signed shim and
//! GRUB for UEFI, and the menu that both show.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::gpt::{Guid, SECTOR};
use super::meanwhile::Meanwhile;
use super::{Mode, StickSettings};

/// Where the menu lies on the start partition: Debian's signed GRUB looks there.
pub const MENU: &str = "EFI/debian/grub.cfg";
/// The serial number of the start partition's file system is told to GRUB.
pub const VOLUME_LABEL: [u8; 11] = *b"GROUNDCREW ";

const BOOT_IMG: &str = "boot.img";
const PC: &str = "i386-pc";
const MKIMAGE: &str = "grub-mkimage";
/// Where boot.img has the sector of core.img.
const CORE_AT: usize = 0x5c;

/// What core.img needs to find the menu and to do what it says.
const MODULES: [&str; 14] = [
    "biosdisk",
    "part_gpt",
    "fat",
    "normal",
    "configfile",
    "linux",
    "echo",
    "test",
    "search",
    "search_fs_uuid",
    "search_fs_file",
    "serial",
    "terminal",
    "minicmd",
];

/// The three programs that UEFI starts, with the names they have on the stick.
const EFI: [(&str, &str, &str); 3] = [
    (
        "EFI/BOOT/BOOTX64.EFI",
        "shim/shimx64.efi.signed",
        "shim-signed",
    ),
    (
        "EFI/BOOT/grubx64.efi",
        "grub/x86_64-efi-signed/grubx64.efi.signed",
        "grub-efi-amd64-signed",
    ),
    (
        "EFI/BOOT/mmx64.efi",
        "shim/mmx64.efi.signed",
        "shim-helpers-amd64-signed",
    ),
];

/// A file that UEFI starts.
pub struct EfiProgram {
    /// Its path on the start partition.
    pub path: &'static str,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Reads shim, GRUB and MokManager below `usr_lib` (`/usr/lib`).
pub fn efi_programs(usr_lib: &Path) -> anyhow::Result<Vec<EfiProgram>> {
    EFI.into_iter()
        .map(|(path, file, package)| {
            let file = usr_lib.join(file);
            let content = fs::read(&file).with_context(|| {
                format!(
                    "reading {}: `apt-get install {package}` brings it",
                    file.display()
                )
            })?;
            ensure!(
                content.starts_with(b"MZ"),
                "{} is no EFI program",
                file.display()
            );
            Ok(EfiProgram { path, content })
        })
        .collect()
}

/// GRUB for a BIOS: the boot code of the MBR, and what lies in the BIOS-boot
/// partition.
pub struct BiosGrub {
    /// 440 bytes.
    pub boot: Vec<u8>,
    /// Whole sectors.
    pub core: Vec<u8>,
    /// The sector that core.img begins at.
    pub first: u64,
}

/// Makes it for a BIOS-boot partition at sector `first`, as `grub-bios-setup`
/// would install it. `grub` is the folder `/usr/lib/grub`. What is missing there
/// is said at once; the rest takes as long as all else that starts a stick.
pub fn bios(grub: &Path, first: u64, room: u64) -> anyhow::Result<Meanwhile<BiosGrub>> {
    let modules = grub.join(PC);
    let path = modules.join(BOOT_IMG);
    let boot = fs::read(&path).with_context(|| {
        format!(
            "reading {}: `apt-get install grub-pc-bin` brings it",
            path.display()
        )
    })?;
    let mut command = Command::new(MKIMAGE);
    let found = command.arg("--version").output();
    found.context("starting grub-mkimage: `apt-get install grub-common` brings it")?;
    Ok(Meanwhile::begin(move || {
        let core = mkimage(&modules)?;
        ensure!(
            core.len() as u64 <= room,
            "GRUB's core.img has {} bytes, more than the {room} of its partition",
            core.len()
        );
        knowing_each_other(boot, core, first)
    }))
}

fn knowing_each_other(
    mut boot: Vec<u8>,
    mut core: Vec<u8>,
    first: u64,
) -> anyhow::Result<BiosGrub> {
    boot.truncate(440);
    // The sector of core.img; any drive number that the BIOS names; and that
    // number is believed (two NOPs instead of a jump).
    patch(&mut boot, CORE_AT, &first.to_le_bytes())?;
    patch(&mut boot, 0x64, &[0xff])?;
    patch(&mut boot, 0x66, &[0x90, 0x90])?;
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    let rest = u16::try_from(core.len() / SECTOR as usize - 1)?;
    // diskboot's block list: where the rest of core.img lies, how long it is,
    // and the segment it is loaded to.
    patch(&mut core, 0x1f4, &(first + 1).to_le_bytes())?;
    patch(&mut core, 0x1fc, &rest.to_le_bytes())?;
    patch(&mut core, 0x1fe, &0x820_u16.to_le_bytes())?;
    Ok(BiosGrub { boot, core, first })
}

/// Where the next core.img of a medium with this first sector goes: the half of
/// the BIOS-boot partition that the boot code does not name. First sector and
/// bytes.
pub fn other_place(mbr: &[u8], first: u64, bytes: u64) -> (u64, u64) {
    let (first_half, second_half) = halves(first, bytes);
    let named = mbr.get(CORE_AT..).and_then(|rest| rest.first_chunk());
    match named.is_some_and(|sector| u64::from_le_bytes(*sector) == second_half.0) {
        true => first_half,
        false => second_half,
    }
}

/// The two places for a core.img in a BIOS-boot partition.
pub const fn halves(first: u64, bytes: u64) -> ((u64, u64), (u64, u64)) {
    let half = bytes / 2 / SECTOR;
    ((first, half * SECTOR), (first + half, half * SECTOR))
}

fn patch(image: &mut [u8], at: usize, bytes: &[u8]) -> anyhow::Result<()> {
    let place = image.get_mut(at..at + bytes.len());
    place
        .context("GRUB's image is shorter than any")?
        .copy_from_slice(bytes);
    Ok(())
}

fn mkimage(modules: &Path) -> anyhow::Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let out: PathBuf = folder.path().join("core.img");
    let mut command = Command::new(MKIMAGE);
    command.args([
        "--format",
        PC,
        "--prefix",
        "(,gpt2)/EFI/debian",
        "--directory",
    ]);
    command.arg(modules).arg("--output").arg(&out).args(MODULES);
    let done = command.output().context("starting grub-mkimage")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!(
            "grub-mkimage: {}; is grub-pc-bin installed?",
            said.trim().chars().take(300).collect::<String>()
        );
    }
    Ok(fs::read(&out)?)
}

/// The menu's text. `data` is the GUID of the data partition, `volume` the
/// serial number of the start partition's file system.
pub fn menu(settings: &StickSettings, data: Guid, volume: u32, site: &str) -> String {
    let default = settings.default;
    let seconds = settings.seconds;
    let volume = format!("{:04X}-{:04X}", volume >> 16, volume & 0xffff);
    let mut text = format!(
        "\
# groundcrew stick of the site {site}. Written by `groundcrew stick build`.
if [ \"$grub_platform\" = pc ]; then
  if serial --unit=0 --speed=115200; then
    terminal_input console serial
    terminal_output console serial
  fi
fi
set timeout={seconds}
set default={default}
if [ ! -e /vmlinuz ]; then
  search --no-floppy --fs-uuid --set=root {volume}
fi
"
    );
    for mode in Mode::ALL {
        text.push_str(&format!(
            "\
menuentry '{title}' --id {mode} {{
  echo 'groundcrew: {title} ...'
  linux /vmlinuz groundcrew.stick={mode} groundcrew.data={data} gc.server=127.0.0.1 \
console=tty0 console=ttyS0,115200 loglevel=4
  initrd /initrd.img /crew.img
}}
",
            title = mode.title(),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_has_three_entries_and_fits_a_terminal() {
        let settings = StickSettings {
            default: Mode::Appliance,
            seconds: 7,
        };
        let text = menu(&settings, Guid::of(5), 0x6763_0001, "hq");
        assert!(
            text.contains("set timeout=7\nset default=appliance\n"),
            "{text}"
        );
        assert!(text.contains("--set=root 6763-0001"), "{text}");
        for mode in Mode::ALL {
            assert!(text.contains(&format!("--id {mode} ")), "{text}");
            assert!(mode.title().len() <= 70 && !mode.title().contains('\''));
        }
    }

    #[test]
    fn boot_code_and_core_image_know_each_other() {
        let made = |room| bios(Path::new("/usr/lib/grub"), 2048, room).unwrap();
        let mut grub = made(1 << 20);
        let grub = grub.get().unwrap();
        assert_eq!(grub.boot.len(), 440);
        assert_eq!(grub.boot[0x5c..0x64], 2048_u64.to_le_bytes());
        assert_eq!(grub.core[0x1f4..0x1fc], 2049_u64.to_le_bytes());
        let rest = u16::from_le_bytes([grub.core[0x1fc], grub.core[0x1fd]]);
        assert_eq!(grub.core.len(), (usize::from(rest) + 1) * 512);
        let mut again = made(1 << 20);
        assert!(
            again.get().unwrap().core == grub.core,
            "the same bytes each time"
        );
        assert!(made(512).get().is_err());
        let missing = bios(Path::new("/nowhere"), 2048, 1 << 20).err().unwrap();
        assert!(
            missing.to_string().contains("apt-get install grub-pc-bin"),
            "{missing:#}"
        );
    }
}
