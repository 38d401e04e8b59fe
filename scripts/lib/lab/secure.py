"""Secure Boot in the lab: OVMF's variables with a certificate enrolled.

virt-firmware (PyPI) writes the variables; it is kept in the lab's cache.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from . import host
from .say import LabError

CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
# PK and KEK of Debian, Microsoft's certificates in db: a machine as it is sold.
VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
OWNER = "6a0d3a1c-2f0a-5d0b-8a5c-0c0a77000001"
VIRT_FIRMWARE = "virt-firmware==26.10"


def arguments():
    """What QEMU needs beside the flash itself: only firmware may write variables."""
    return ["-global", "driver=cfi.pflash01,property=secure,value=on"]


def variables(target, certificate=None, mok=False):
    """Fresh variables; with `certificate` (PEM) the machine trusts that key, too: its firmware, or (`mok`) shim."""
    shutil.copy(VARS, target)
    if certificate is None:
        return
    tool = _tool()
    host.run([tool, "--inplace", target, "--add-mok" if mok else "--add-db", OWNER, certificate])


def _tool():
    """virt-fw-vars: the machine's own, or one in the lab's cache."""
    found = shutil.which("virt-fw-vars")
    if found:
        return found
    cache = host.cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / VIRT_FIRMWARE.replace("==", "-")
    tool = folder / "bin/virt-fw-vars"
    with open(cache / "virt-firmware.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tool.exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                host.run([sys.executable, "-m", "venv", folder])
                host.run([folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", VIRT_FIRMWARE])
            except (LabError, subprocess.SubprocessError) as err:
                shutil.rmtree(folder, ignore_errors=True)
                raise LabError(f"virt-firmware cannot be had from PyPI: {err}\ninstall virt-fw-vars by hand") from None
    return tool


def require():
    missing = [str(path) for path in (CODE, VARS) if not path.exists()]
    if missing:
        raise LabError("missing UEFI firmware: " + ", ".join(missing) + "; run scripts/setup")
