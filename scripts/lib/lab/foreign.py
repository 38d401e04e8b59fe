"""Debian's packages for 64-bit ARM on a machine of another kind: apt with lists
of its own, so that this machine's apt learns of no foreign architecture.

    PACKAGES  what is taken from which release
    ensure()  package -> its file in the lab's cache, fetched once
"""

import fcntl
import json
import re

from . import host
from .say import LabError

KERNEL = "linux-image-arm64"  # depends on the real one
PACKAGES = {
    "bookworm": [KERNEL, "grub-efi-arm64-bin", "grub-efi-arm64-signed", "shim-signed", "systemd-boot-efi", "busybox-static", "base-files"],
    # Debian 12 has no iPXE for ARM; this one is the same file on every machine.
    "trixie": ["ipxe"],
}
LOADERS = ("ipxe", "grub-efi-arm64-bin", "grub-efi-arm64-signed", "shim-signed", "systemd-boot-efi")


def ensure(cache, say):
    """Package name -> path of its .deb."""
    folder = cache / "arm64"
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "packages.json"
    with open(cache / "arm64.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not index.exists():
            say("waiting for apt-get: Debian's kernel and loaders for arm64 (about 70 MB, once)")
            files = {}
            for release, packages in PACKAGES.items():
                files |= _fetch(folder, release, packages)
            index.write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
    return {name: folder / file for name, file in json.loads(index.read_text(encoding="utf-8")).items()}


def _fetch(folder, release, packages):
    state = folder / f"apt-{release}"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text("\n".join(_sources(release)) + "\n", encoding="utf-8")
    options = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "root", "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status", "Dir::Cache": state / "cache", "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null", "Acquire::Languages": "none",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    host.run(["apt-get", *words, "--quiet", "update"])
    names = {name: name for name in packages}
    if KERNEL in names:
        shown = host.run(["apt-cache", *words, "show", "--no-all-versions", KERNEL])
        real = re.search(r"^Depends:.*?(linux-image-[\w.-]+-arm64)\b", shown, re.M)
        if not real:
            raise LabError(f"apt's {KERNEL} names no kernel package")
        names[KERNEL] = real[1]
    host.run(["apt-get", *words, "--quiet", "download", *names.values()], cwd=folder)
    return {name: max(folder.glob(f"{real}_*.deb"), key=lambda path: path.stat().st_mtime).name for name, real in names.items()}


def _sources(release):
    """The mirrors that this machine uses for Debian 12; another release is at the same place."""
    lines = host.debian_sources("bookworm")
    if release == "bookworm":
        return lines
    return [re.sub(r" bookworm main", f" {release} main", line) for line in lines if " bookworm main" in line]
