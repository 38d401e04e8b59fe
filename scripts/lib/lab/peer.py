"""The peer of the matrix: dnsmasq (DHCP, TFTP) and busybox's httpd with the very
same loaders, kernel and initrd, set up as its manual and iPXE's tell.

It is given what the appliance does by itself: a router advertisement, without
which iPXE waits 13 s, and no ProxyDHCP to wait for.
"""

import os
import shutil
import subprocess

from . import machine, network

ADDRESS = "10.77.0.1"
ARGS = "gc.server=10.77.0.1 console=tty0 console=ttyS0,115200 loglevel=6"
NET = "gc.mac=${netX/mac} gc.ip=${netX/ip} gc.mask=${netX/netmask}"


class Peer:
    """Serves `boot` (the site's boot folder) in the appliance's namespace."""

    def __init__(self, folder, boot, namespace, kind):
        self._root = folder / "peer"
        self._boot = boot
        self._namespace = namespace
        self._kind = kind
        self._processes = []
        self.log = folder / "logs/peer.log"

    def serve(self):
        self._lay_out()
        network.address6(self._namespace)
        log = open(self.log, "wb")
        self._start(["busybox", "httpd", "-f", "-p", f"{ADDRESS}:80", "-h", self._root], log)
        self._start(["dnsmasq", *self._dnsmasq()], log)

    def stop(self):
        for process in reversed(self._processes):
            machine.end(process)
        self._processes = []

    def _start(self, argv, log):
        self._processes.append(subprocess.Popen(
            network.inside(self._namespace, argv), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        ))

    def _lay_out(self):
        root = self._root
        (root / "boot").mkdir(parents=True)
        for path in self._boot.iterdir():
            if path.is_file():
                os.link(path, root / "boot" / path.name) if path.stat().st_dev == root.stat().st_dev else shutil.copy(path, root / "boot")
        (root / "boot.ipxe").write_text(
            f"#!ipxe\nkernel http://{ADDRESS}/boot/vmlinuz initrd=initrd.img {NET} {ARGS}\n"
            f"initrd http://{ADDRESS}/boot/initrd.img\nboot\n", encoding="ascii")
        (root / "boot/grub").mkdir()
        (root / "boot/grub/grub.cfg").write_text(
            f"linux /vmlinuz gc.mac=$net_default_mac gc.ip=$net_default_ip {ARGS}\ninitrd /initrd.img\nboot\n", encoding="ascii")
        (root / "boot/pxelinux.cfg").mkdir()
        (root / "boot/pxelinux.cfg/default").write_text(
            f"DEFAULT agent\nPROMPT 0\nLABEL agent\n  LINUX ::vmlinuz\n  INITRD ::initrd.img\n  APPEND {ARGS}\n", encoding="ascii")

    def _dnsmasq(self):
        boot = self._kind.boot
        loader = {"uki": "groundcrew.efi", "shim": "shimx64.efi", "grub": "grubx64.efi"}.get(boot.get("uefi"), "snponly.efi")
        over_http = "groundcrew.efi" if "uki" in (boot.get("uefi_http"), boot.get("uefi")) else "ipxe.efi"
        ipxe = "pxelinux.0" if boot.get("bios") == "pxelinux" else f"http://{ADDRESS}/boot.ipxe"
        return [
            "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={network.INTERFACE}", "--bind-interfaces",
            "--user=root", "--pid-file", "--log-facility=-", "--log-dhcp", "--no-ping", "--dhcp-leasefile=/dev/null", "--dhcp-authoritative",
            "--dhcp-range=10.77.0.128,10.77.0.254,255.255.255.0,1h", "--enable-ra", "--dhcp-range=fd00:77::,ra-only",
            "--enable-tftp", f"--tftp-root={self._root / 'boot'}",
            "--dhcp-match=set:ipxe,175", "--dhcp-match=set:bios,option:client-arch,0", "--dhcp-match=set:efi,option:client-arch,7",
            "--dhcp-match=set:http,option:client-arch,16", "--dhcp-option-force=tag:http,60,HTTPClient",
            "--dhcp-option-force=tag:ipxe,175,b0:01:01",
            f"--dhcp-boot=tag:ipxe,{ipxe}", "--dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe",
            f"--dhcp-boot=tag:efi,tag:!ipxe,{loader}", f"--dhcp-boot=tag:http,tag:!ipxe,http://{ADDRESS}/boot/{over_http}",
        ]
