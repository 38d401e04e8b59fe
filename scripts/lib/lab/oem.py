"""The OEM disk: an installed Debian 12 that boots by SeaBIOS and by OVMF.

Made once with mmdebstrap and cached by a hash of this recipe; every device runs
on an overlay of it. No loop device and no mount is needed: the file system is
filled by `mke2fs -d`, the ESP by mtools, and GRUB's sectors are patched as
`grub-bios-setup` would do it.
"""

import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
from pathlib import Path

from . import host
from .say import LabError

CODENAME = "bookworm"
HOSTNAME = "oem"
EPOCH = 1735689600  # 2025-01-01: any fixed time makes the same bytes from the same packages
CMDLINE = "console=ttyS0,115200 console=tty0 quiet"

SECTOR = 512
MIB = 1024 * 1024
DISK_MIB = 2048
BIOS_BOOT = (1, 1)  # first MiB, length in MiB
ESP = (2, 64)
ROOT = (66, DISK_MIB - 66 - 1)  # the last MiB holds the backup GPT
DISK_GUID = "7B1D0E52-4C2C-4E0B-9A51-6F2E4F454D01"
PART_GUID = {
    1: "7B1D0E52-4C2C-4E0B-9A51-6F2E4F454D11",
    2: "7B1D0E52-4C2C-4E0B-9A51-6F2E4F454D12",
    3: "7B1D0E52-4C2C-4E0B-9A51-6F2E4F454D13",
}
ROOT_UUID = "3f0c6e1a-8f0b-4f5d-9d0e-0e0d15c00001"
ROOT_LABEL = "oem-root"
ESP_SERIAL = "0E0D15C0"

KERNELS = {"cloud": "linux-image-cloud-amd64", "full": "linux-image-amd64"}
PACKAGES = [
    "systemd-sysv", "udev", "kmod", "initramfs-tools", "lz4", "e2fsprogs", "passwd", "login", "sudo",
    "procps", "ca-certificates",
]
# What an initrd must load to see its root disk; the cloud kernel has only the first line.
INITRD_MODULES = {
    "cloud": ["virtio_pci", "virtio_blk", "ext4"],
    "full": ["virtio_pci", "virtio_blk", "ext4", "ahci", "sd_mod", "nvme", "xhci_pci", "usb_storage", "uas"],
}
# Jobs of a running system that nobody waits for in a lab; each costs up to
# seconds under software emulation.
MASKED = [
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "systemd-tmpfiles-clean.timer", "getty@tty1.service",
    "systemd-random-seed.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "systemd-journal-catalog-update.service", "systemd-binfmt.service", "systemd-pstore.service",
    "systemd-hwdb-update.service", "ldconfig.service", "systemd-firstboot.service",
    "modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service",
    "modprobe@dm_mod.service", "modprobe@loop.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount", "kmod-static-nodes.service", "getty-static.service",
    "systemd-sysusers.service", "systemd-journal-flush.service", "systemd-initctl.socket",
    "systemd-modules-load.service", "systemd-ask-password-console.path", "systemd-ask-password-wall.path",
]
GRUB_EARLY = f"search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\n"
GRUB_MODULES = ["part_gpt", "ext2", "normal", "linux", "search", "search_fs_uuid", "configfile", "echo", "test", "minicmd"]
GRUB_CFG = f"""set timeout=0
set default=0
menuentry 'Debian GNU/Linux (OEM install)' {{
  search --no-floppy --fs-uuid --set=root {ROOT_UUID}
  linux /vmlinuz root=UUID={ROOT_UUID} ro {CMDLINE}
  initrd /initrd.img
}}
"""


def ensure(cache, say, kernel="cloud", rebuild=False):
    """Path of the raw disk image; built under a lock, so parallel labs build it once."""
    cache.mkdir(parents=True, exist_ok=True)
    image = cache / f"oem-{kernel}-{recipe_key(kernel)}.img"
    with open(cache / "oem.lock", "w", encoding="ascii") as lock:
        if image.exists() and not rebuild:
            return image
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another lab that builds the OEM disk")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists() or rebuild:
            _sweep(cache)
            _build(cache, image, say, kernel)
    return image


def recipe_key(kernel):
    """Changes whenever this recipe does."""
    return hashlib.sha256(Path(__file__).read_bytes() + kernel.encode()).hexdigest()[:12]


def _sweep(cache):
    """Under the lock: what a killed build left."""
    for left in cache.glob("oem-build-*"):
        shutil.rmtree(left, ignore_errors=True)


def _build(cache, image, say, kernel):
    host.require(host.BUILD_TOOLS)
    started = time.monotonic()
    os.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    work = Path(tempfile.mkdtemp(prefix="oem-build-", dir=cache))
    try:
        say(f"waiting for mmdebstrap: an installed Debian 12 with {KERNELS[kernel]} (once, 1 to 4 minutes)")
        root = work / "root"
        packages = _install(work, root, kernel)
        _settle(root)
        say(f"Debian is installed ({time.monotonic() - started:.0f} s, {len(packages)} packages); writing the disk")
        disk = work / "disk.img"
        _partition(disk)
        _fill_root(disk, root)
        _fill_esp(disk, work)
        _embed_bios_grub(disk, work)
        facts = {"packages": packages, "cmdline": CMDLINE, "root_uuid": ROOT_UUID}
        image.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        os.chmod(disk, 0o444)
        disk.rename(image)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        del os.environ["SOURCE_DATE_EPOCH"]
    say(f"OEM disk ready in {time.monotonic() - started:.0f} s: {image} ({image.stat().st_blocks * 512 // MIB} MiB)")


def _install(work, root, kernel):
    """mmdebstrap; the initrd's configuration is laid down before its tools are, so it is made once."""
    (work / "conf").write_text("MODULES=list\nCOMPRESS=lz4\nRESUME=none\n", encoding="ascii")
    (work / "modules").write_text("\n".join(INITRD_MODULES[kernel]) + "\n", encoding="ascii")
    lay = (
        f'install -D -m 644 "{work}/conf" "$1/etc/initramfs-tools/conf.d/oem" && '
        f'install -D -m 644 "{work}/modules" "$1/usr/share/initramfs-tools/modules.d/oem"'
    )
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory",
            "--include=" + ",".join(PACKAGES + [KERNELS[kernel]]), f"--essential-hook={lay}"]
    for option in ("doc", "man", "info", "locale", "lintian"):
        argv.append(f"--dpkgopt=path-exclude=/usr/share/{option}/*")
    argv += [f"--aptopt={option}" for option in host.apt_options()]
    host.run(argv + [CODENAME, root] + host.debian_sources(CODENAME))
    rows = host.run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n"])
    return rows.splitlines()


def _settle(root):
    """What an installer writes after the packages."""
    _write(root, "etc/hostname", HOSTNAME + "\n")
    _write(root, "etc/hosts", f"127.0.0.1\tlocalhost\n127.0.1.1\t{HOSTNAME}\n::1\tlocalhost ip6-localhost\n")
    _write(root, "etc/fstab", f"UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n"
           f"UUID={ESP_SERIAL[:4]}-{ESP_SERIAL[4:]} /boot/efi vfat umask=0077,noauto 0 1\n")
    _write(root, "etc/machine-id", "")  # empty: each device gets its own, without the first-boot presets
    _write(root, "boot/grub/grub.cfg", GRUB_CFG)
    _write(root, "etc/systemd/system.conf.d/lab.conf", "[Manager]\nDefaultTimeoutStartSec=30s\nDefaultTimeoutStopSec=10s\n")
    _write(root, "etc/systemd/journald.conf.d/lab.conf", "[Journal]\nStorage=volatile\nAudit=no\n")
    (root / "boot/efi").mkdir(exist_ok=True)
    units = root / "etc/systemd/system"
    for unit in MASKED:
        link = units / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    wants = units / "getty.target.wants"
    wants.mkdir(exist_ok=True)
    serial = wants / "serial-getty@ttyS0.service"
    serial.unlink(missing_ok=True)
    serial.symlink_to("/lib/systemd/system/serial-getty@.service")
    for link in ("vmlinuz", "initrd.img"):
        if not (root / link).is_symlink():
            raise LabError(f"the installed kernel made no /{link}: GRUB would have nothing to boot")


def _write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _partition(disk):
    with open(disk, "wb") as file:
        file.truncate(DISK_MIB * MIB)
    argv = ["sgdisk", "--clear", f"--disk-guid={DISK_GUID}"]
    for number, (first, length), kind, name in (
        (1, BIOS_BOOT, "EF02", "bios-boot"), (2, ESP, "EF00", "esp"), (3, ROOT, "8300", "root"),
    ):
        start = first * MIB // SECTOR
        argv += [f"--new={number}:{start}:{start + length * MIB // SECTOR - 1}", f"--typecode={number}:{kind}",
                 f"--change-name={number}:{name}", f"--partition-guid={number}:{PART_GUID[number]}"]
    host.run(argv + [disk])


def _fill_root(disk, root):
    environment = dict(os.environ, E2FSPROGS_FAKE_TIME=str(EPOCH))
    extended = f"offset={ROOT[0] * MIB},hash_seed={ROOT_UUID},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    host.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-U", ROOT_UUID, "-d", root, "-E", extended,
              disk, f"{ROOT[1]}M"], env=environment)


def _fill_esp(disk, work):
    """FAT32 with the removable-media path, which firmware finds without a boot entry."""
    early = work / "early.cfg"
    early.write_text(GRUB_EARLY, encoding="ascii")
    loader = work / "BOOTX64.EFI"
    host.run(["grub-mkimage", "-O", "x86_64-efi", "-o", loader, "-p", "/boot/grub", "-c", early, "fat"] + GRUB_MODULES)
    host.run(["mkfs.vfat", "-F", "32", "-s", "1", "-i", ESP_SERIAL, "-n", "ESP", "--invariant",
              f"--offset={ESP[0] * MIB // SECTOR}", disk, str(ESP[1] * 1024)])
    drive = f"{disk}@@{ESP[0]}M"
    host.run(["mmd", "-i", drive, "::EFI", "::EFI/BOOT"])
    host.run(["mcopy", "-i", drive, loader, "::EFI/BOOT/BOOTX64.EFI"])


def _embed_bios_grub(disk, work):
    """core.img into the BIOS-boot partition, boot.img into the MBR, both told where core.img lies."""
    core_file = work / "core.img"
    host.run(["grub-mkimage", "-O", "i386-pc", "-o", core_file, "-p", "/boot/grub", "-c", work / "early.cfg", "biosdisk"]
             + GRUB_MODULES)
    core = bytearray(core_file.read_bytes())
    core += bytes(-len(core) % SECTOR)
    if len(core) > BIOS_BOOT[1] * MIB:
        raise LabError(f"GRUB's core.img ({len(core)} bytes) does not fit the BIOS-boot partition")
    first = BIOS_BOOT[0] * MIB // SECTOR
    boot = bytearray(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes())
    struct.pack_into("<Q", boot, 0x5C, first)  # kernel_sector
    boot[0x64] = 0xFF  # boot_drive: the one the BIOS names
    boot[0x66:0x68] = b"\x90\x90"  # trust the BIOS's drive number
    struct.pack_into("<QHH", core, 0x1F4, first + 1, len(core) // SECTOR - 1, 0x820)  # diskboot's block list
    with open(disk, "r+b") as file:
        file.write(boot[:440])
        file.seek(first * SECTOR)
        file.write(core)
