"""The OEM disk as Secure Boot wants it: Debian's signed shim and GRUB on the ESP,
where Debian's installer puts them. Made from the plain one in seconds, cached."""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from . import host, oem
from .say import LabError

# on the ESP -> from which package's file
LOADERS = {
    "EFI/debian/shimx64.efi": Path("/usr/lib/shim/shimx64.efi.signed"),
    "EFI/debian/grubx64.efi": Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
    "EFI/BOOT/BOOTX64.EFI": Path("/usr/lib/shim/shimx64.efi.signed"),
    "EFI/BOOT/grubx64.efi": Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
}
# Debian's GRUB reads this; Secure Boot lets it load no modules, and it needs none.
GRUB_CFG = f"search.fs_uuid {oem.ROOT_UUID} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"


def ensure(plain, say):
    """Path of the signed sibling of the OEM disk `plain`."""
    missing = [str(path) for path in LOADERS.values() if not path.exists()]
    if missing:
        raise LabError("missing signed loaders: " + ", ".join(sorted(set(missing))) + "; run scripts/setup")
    key = hashlib.sha256(Path(__file__).read_bytes() + b"".join(path.read_bytes() for path in LOADERS.values())).hexdigest()[:8]
    target = plain.with_name(f"{plain.stem}-signed-{key}.img")
    with open(plain.parent / "oem-signed.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            say("writing the OEM disk's sibling with signed loaders (once)")
            _make(plain, target)
    return target


def _make(plain, target):
    part = target.with_suffix(".part")
    host.run(["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", plain, part])
    drive = f"{part}@@{oem.ESP[0]}M"
    host.run(["mmd", "-i", drive, "::EFI/debian"])
    for name, source in LOADERS.items():
        host.run(["mcopy", "-o", "-i", drive, source, f"::{name}"])
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as config:
        config.write(GRUB_CFG)
        config.flush()
        host.run(["mcopy", "-o", "-i", drive, config.name, "::EFI/debian/grub.cfg"])
    os.chmod(part, 0o444)
    part.rename(target)
