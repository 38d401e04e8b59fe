"""The OEM disk for 64-bit ARM: Debian's kernel, GRUB, base files and busybox.

No program of it can run here, so nothing is configured by a package's script:
packages are unpacked, and busybox is its init. It boots by AAVMF to a login
prompt on the serial line. Layout, ids and file names are those of `oem`.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from . import foreign, host, oem
from .say import LabError

CMDLINE = "console=tty0 console=ttyAMA0,115200 quiet"
# What the initrd loads to see its root disk, in this order; `modprobe` knows what they need.
MODULES = ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"]
GRUB_MODULES = [*oem.GRUB_MODULES, "fat"]
GRUB_CFG = f"""set timeout=0
search --no-floppy --fs-uuid --set=root {oem.ROOT_UUID}
linux /vmlinuz root=/dev/vda3 ro {CMDLINE}
initrd /initrd.img
boot
"""
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root /sbin /usr/sbin /usr/bin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in MODULES; do modprobe $module; done
until [ -b /dev/vda3 ]; do sleep 0.1; done
mount -t ext4 -o rw /dev/vda3 /root || exec sh
umount /proc /sys
exec switch_root /root /sbin/init
""".replace("MODULES", " ".join(MODULES))
INITTAB = """::sysinit:/etc/init.d/rcS
ttyAMA0::respawn:/sbin/getty -L ttyAMA0 115200 vt100
::shutdown:/bin/sync
::ctrlaltdel:/sbin/reboot
"""
RCS = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
hostname -F /etc/hostname
"""
APPLETS = ["sh", "mount", "hostname", "sync", "cat", "ls", "date", "mkdir", "mv", "rm", "dirname", "env"]
SBIN = ["init", "getty", "reboot"]


def ensure(cache, say):
    """Path of the raw disk image; built under a lock."""
    debs = foreign.ensure(cache, say)
    key = hashlib.sha256(Path(__file__).read_bytes() + "".join(path.name for path in debs.values()).encode()).hexdigest()[:12]
    image = cache / f"oem-arm64-{key}.img"
    with open(cache / "oem-arm64.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            _build(cache, image, debs, say)
    return image


def _build(cache, image, debs, say):
    host.require(host.BUILD_TOOLS)
    started = time.monotonic()
    say("writing the arm64 OEM disk (once, under a minute)")
    os.environ["SOURCE_DATE_EPOCH"] = str(oem.EPOCH)
    work = Path(tempfile.mkdtemp(prefix="oem-arm64-build-", dir=cache))
    try:
        root = work / "root"
        for name in ("base-files", "busybox-static"):
            host.run(["dpkg-deb", "-x", debs[name], root])
        host.run(["dpkg-deb", "-x", debs[foreign.KERNEL], work / "kernel"])
        host.run(["dpkg-deb", "-x", debs["grub-efi-arm64-bin"], work / "grub"])
        _settle(root)
        _kernel(root, work)
        disk = work / "disk.img"
        oem._partition(disk)
        oem._fill_root(disk, root)
        _fill_esp(disk, work)
        os.chmod(disk, 0o444)
        disk.rename(image)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        del os.environ["SOURCE_DATE_EPOCH"]
    say(f"arm64 OEM disk ready in {time.monotonic() - started:.0f} s: {image}")


def _settle(root):
    for name in ("dev", "proc", "sys", "run", "sbin", "etc/init.d"):
        (root / name).mkdir(parents=True, exist_ok=True)
    oem._write(root, "etc/hostname", oem.HOSTNAME + "\n")
    oem._write(root, "etc/hosts", f"127.0.0.1\tlocalhost\n127.0.1.1\t{oem.HOSTNAME}\n")
    oem._write(root, "etc/fstab", f"UUID={oem.ROOT_UUID} / ext4 errors=remount-ro 0 1\n")
    oem._write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    oem._write(root, "etc/group", "root:x:0:\nadm:x:4:\nsudo:x:27:\n")
    oem._write(root, "etc/shadow", "root:*:20000:0:99999:7:::\n")
    oem._write(root, "etc/gshadow", "root:*::\nadm:*::\nsudo:*::\n")
    oem._write(root, "etc/machine-id", "")
    oem._write(root, "etc/inittab", INITTAB)
    oem._write(root, "etc/init.d/rcS", RCS)
    (root / "etc/init.d/rcS").chmod(0o755)
    oem._write(root, "boot/grub/grub.cfg", GRUB_CFG)
    for folder, names in (("bin", APPLETS), ("sbin", SBIN)):
        for name in names:
            (root / folder / name).symlink_to("/bin/busybox")


def _kernel(root, work):
    """/vmlinuz, and an initrd of busybox and the few modules in front of the root disk."""
    (kernel,) = (work / "kernel/boot").glob("vmlinuz-*")
    version = kernel.name.removeprefix("vmlinuz-")
    shutil.copy(kernel, root / "vmlinuz")
    host.run(["depmod", "-b", work / "kernel", version])
    initrd = work / "initrd"
    (initrd / "bin").mkdir(parents=True)
    shutil.copy(root / "bin/busybox", initrd / "bin/busybox")
    (initrd / "init").write_text(INIT, encoding="ascii")
    (initrd / "init").chmod(0o755)
    modules = Path("lib/modules") / version
    for path in _needed(work / "kernel" / modules):
        target = initrd / modules / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / "kernel" / modules / path, target)
    host.run(["depmod", "-b", initrd, version])
    with open(root / "initrd.img", "wb") as out:
        names = "\n".join(str(path.relative_to(initrd)) for path in sorted(initrd.rglob("*")))
        done = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=initrd, input=names.encode(), stdout=out, check=False)
    if done.returncode != 0:
        raise LabError("cpio could not write the arm64 OEM disk's initrd")


def _needed(modules):
    """MODULES and what they depend on, as modules.dep says."""
    depends = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, needs = line.partition(":")
        depends[Path(path).name.split(".ko")[0].replace("-", "_")] = [path, *needs.split()]
    builtin = {Path(line).name.split(".ko")[0].replace("-", "_") for line in (modules / "modules.builtin").read_text().splitlines()}
    missing = [name for name in MODULES if name not in depends and name not in builtin]
    if missing:
        raise LabError(f"the arm64 kernel has no module {', '.join(missing)}")
    return sorted({path for name in MODULES for path in depends.get(name, [])})


def _fill_esp(disk, work):
    early = work / "early.cfg"
    early.write_text(oem.GRUB_EARLY, encoding="ascii")
    loader = work / "BOOTAA64.EFI"
    host.run(["grub-mkimage", "-d", work / "grub/usr/lib/grub/arm64-efi", "-O", "arm64-efi", "-o", loader, "-p", "/boot/grub",
              "-c", early, *GRUB_MODULES])
    host.run(["mkfs.vfat", "-F", "32", "-s", "1", "-i", oem.ESP_SERIAL, "-n", "ESP", "--invariant",
              f"--offset={oem.ESP[0] * oem.MIB // oem.SECTOR}", disk, str(oem.ESP[1] * 1024)])
    drive = f"{disk}@@{oem.ESP[0]}M"
    host.run(["mmd", "-i", drive, "::EFI", "::EFI/BOOT"])
    host.run(["mcopy", "-i", drive, loader, "::EFI/BOOT/BOOTAA64.EFI"])
