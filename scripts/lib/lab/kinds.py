"""The kinds of firmware that the lab switches on: one table.

A kind is a machine (BIOS or UEFI, which card, which boot method, Secure Boot or
not) and what `[boot]` in site.toml says for it.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    name: str
    fw: str  # bios | uefi
    what: str  # for people
    boot: dict = field(default_factory=dict)  # lines of [boot] in site.toml
    nic: str = "virtio-net-pci"
    method: str = "pxe"  # pxe | http
    secure: bool = False  # Secure Boot is on, with Microsoft's keys in db
    own_key: bool = False  # a fresh key signs the image, and is enrolled
    mok: bool = False  # enrolled as machine owner key: shim knows it, firmware does not
    proxy: bool = False  # beside somebody else's DHCP server
    relay: bool = False  # behind a router with ISC's relay
    arch: str = "amd64"  # amd64 | arm64


_ALL = [
    Kind("bios", "bios", "BIOS, iPXE ROM, virtio"),
    Kind("bios-e1000", "bios", "BIOS, iPXE ROM, e1000", nic="e1000"),
    Kind("bios-pxelinux", "bios", "BIOS, pxelinux, TFTP only", {"bios": "pxelinux"}),
    Kind("uefi", "uefi", "UEFI PXE, iPXE"),
    Kind("uefi-http", "uefi", "UEFI HTTP Boot, iPXE", method="http"),
    Kind("uefi-uki", "uefi", "UEFI PXE, the site's image", {"uefi": "uki"}),
    Kind("uefi-http-uki", "uefi", "UEFI HTTP Boot, the site's image", {"uefi_http": "uki"}, method="http"),
    Kind("uefi-grub", "uefi", "UEFI PXE, Debian's GRUB", {"uefi": "grub"}),
    Kind("sb-shim", "uefi", "Secure Boot: shim, GRUB, TFTP", {"uefi": "shim"}, secure=True),
    Kind("sb-ipxe", "uefi", "Secure Boot and a loader that nobody signed", secure=True),
    Kind("sb-uki", "uefi", "Secure Boot: own key, PXE", {"uefi": "uki"}, secure=True, own_key=True),
    Kind("sb-http-uki", "uefi", "Secure Boot: own key, HTTP Boot", {"uefi": "uki"}, method="http", secure=True, own_key=True),
    Kind("sb-mok", "uefi", "Secure Boot: shim, own key as MOK, PXE", {"uefi": "shim-uki"}, secure=True, own_key=True, mok=True),
    Kind("sb-http-mok", "uefi", "Secure Boot: shim, own key as MOK, HTTP Boot", {"uefi": "shim-uki"}, method="http", secure=True, own_key=True, mok=True),
    Kind("proxy-bios", "bios", "BIOS beside dnsmasq", proxy=True),
    Kind("proxy-uefi", "uefi", "UEFI beside dnsmasq", proxy=True),
    Kind("relay-bios", "bios", "BIOS behind ISC's relay", relay=True),
    Kind("relay-uefi", "uefi", "UEFI behind ISC's relay", relay=True),
    Kind("relay-shim", "uefi", "shim, GRUB, TFTP behind ISC's relay", {"uefi": "shim"}, relay=True),
    Kind("arm64", "uefi", "arm64 UEFI PXE, iPXE", arch="arm64"),
    Kind("arm64-http", "uefi", "arm64 UEFI HTTP Boot, iPXE", method="http", arch="arm64"),
    Kind("arm64-shim", "uefi", "arm64 UEFI PXE, shim, GRUB, TFTP", {"uefi": "shim"}, arch="arm64"),
    Kind("arm64-uki", "uefi", "arm64 UEFI PXE, the site's image", {"uefi": "uki"}, arch="arm64"),
]
KINDS = {kind.name: kind for kind in _ALL}


def chosen(word):
    """The kinds of `--fw WORD`."""
    several = {"both": ("bios", "uefi"), "mixed": ("uefi", "arm64")}
    return [KINDS[name] for name in several.get(word, (word,))]
