"""What this machine offers: rights, tools, KVM, and Debian's own packages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from .say import LabError

# tool -> why the lab needs it; `scripts/setup` installs the packages behind them.
TOOLS = {
    "qemu-system-x86_64": "runs the devices",
    "qemu-img": "overlays on the OEM disk",
    "ip": "namespaces and taps",
    "ethtool": "checksums on the veth",
    "setpriv": "ends children with the lab",
    "debugfs": "reads a device's disk afterwards",
    "e2fsck": "replays its journal",
}
BUILD_TOOLS = {
    "mmdebstrap": "installs Debian into a folder",
    "mke2fs": "makes the root file system",
    "mkfs.vfat": "makes the ESP",
    "mcopy": "fills the ESP",
    "sgdisk": "writes the partition table",
    "grub-mkimage": "makes both boot loaders",
}
FIRMWARE = [
    Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
    Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
]
FIRMWARE_ARM64 = [
    Path("/usr/share/AAVMF/AAVMF_CODE.fd"),
    Path("/usr/share/AAVMF/AAVMF_VARS.fd"),
]
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def require(tools):
    """Refuses with everything that is missing at once, and the one thing to do about it."""
    os.environ["PATH"] = os.environ.get("PATH", "") + ":" + SBIN
    if os.geteuid() != 0:
        raise LabError("must run as root (namespaces, taps, mmdebstrap): sudo scripts/lab")
    missing = [f"{tool} ({why})" for tool, why in tools.items() if not shutil.which(tool)]
    if missing:
        raise LabError("missing: " + ", ".join(missing) + "; run scripts/setup")


def require_network():
    if not os.path.exists("/dev/net/tun"):
        raise LabError("/dev/net/tun is missing: the kernel needs tun, bridge and veth (modprobe tun bridge veth)")


def require_firmware(kinds, arches=("amd64",)):
    if "uefi" in kinds:
        wanted = (FIRMWARE if "amd64" in arches else []) + (FIRMWARE_ARM64 if "arm64" in arches else [])
        missing = [str(path) for path in wanted if not path.exists()]
        if missing:
            raise LabError("missing UEFI firmware: " + ", ".join(missing) + "; run scripts/setup")


def accelerator(choice):
    """`kvm` only where the CPU really has it: a /dev/kvm without svm/vmx may hang."""
    modules = [name for name in ("kvm_intel", "kvm_amd") if os.path.isdir(f"/sys/module/{name}")]
    usable = bool(modules) and os.access("/dev/kvm", os.R_OK | os.W_OK)
    if choice == "on" and not usable:
        raise LabError("--kvm on: neither kvm_intel nor kvm_amd is loaded here; use --kvm auto")
    return "kvm" if usable and choice != "off" else "tcg"


def cache_dir():
    base = os.environ.get("GROUNDCREW_LAB_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundcrew-lab"


def run(argv, **options):
    """A command whose output matters only when it fails."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, errors="replace", **options)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LabError(f"`{' '.join(map(str, argv))}` failed ({done.returncode}):\n{tail}")
    return done.stdout


def debian_sources(codename):
    """deb lines for `codename` and its updates, from the mirrors this machine already uses."""
    wanted = (codename, f"{codename}-updates", f"{codename}-security")
    form = "$(CREATED_BY)|$(ORIGIN)|$(RELEASE)|$(REPO_URI)|$(COMPONENT)"
    lines = []
    for row in run(["apt-get", "indextargets", "--format", form]).splitlines():
        kind, origin, release, uri, component = row.split("|")
        line = f"deb {uri} {release} {component}"
        if (kind, origin, component) == ("Packages", "Debian", "main") and release in wanted and line not in lines:
            lines.append(line)
    if not any(f" {codename} main" in line for line in lines):
        raise LabError(f"no Debian {codename} mirror among this machine's apt sources (apt-get update first?)")
    return lines


def apt_options():
    """The proxy of this machine's apt, so that mmdebstrap goes the same way."""
    options = []
    for scheme in ("http", "https"):
        value = run(["apt-config", "shell", "P", f"Acquire::{scheme}::Proxy"]).strip()
        found = re.fullmatch(r"P='(.+)'", value)
        if found:
            options.append(f'Acquire::{scheme}::Proxy "{found[1]}";')
    return options


def kernel_deb(cache, say):
    """Debian's own kernel package (never a backport), downloaded once into `cache`."""
    shown = run(["apt-cache", "show", "--no-all-versions", "linux-image-amd64"])
    depends = re.search(r"^Depends:.*?(linux-image-6\.1\.[\w.-]+-amd64) \(= ([^)]+)\)", shown, re.M)
    if not depends:
        raise LabError(
            "apt's candidate for linux-image-amd64 is not Debian 12's 6.1 kernel (backports pinned higher?); "
            "give one with --kernel-deb FILE"
        )
    name, version = depends[1], depends[2]
    target = cache / f"{name}_{version}_amd64.deb"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    say(f"waiting for apt-get download {name} (about 69 MB, once)")
    part = cache / f".download-{os.getpid()}"
    part.mkdir()
    try:
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", f"{name}={version}"], cwd=part)
        (only,) = part.glob("*.deb")
        only.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
