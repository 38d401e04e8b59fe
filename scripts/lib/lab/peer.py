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
ARM = "arm64"  # the folder of its files in the boot tree
ARM_ARGS = ARGS.replace("ttyS0", "ttyAMA0")
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
        shutil.copytree(self._boot, root / "boot", copy_function=os.link)
        (root / "boot.ipxe").write_text(
            f"#!ipxe\niseq ${{buildarch}} arm64 && goto arm ||\n"
            f"kernel http://{ADDRESS}/boot/vmlinuz initrd=initrd.img {NET} {ARGS}\n"
            f"initrd http://{ADDRESS}/boot/initrd.img\nboot\n:arm\n"
            f"kernel http://{ADDRESS}/boot/{ARM}/vmlinuz initrd=initrd.img {NET} {ARM_ARGS}\n"
            f"initrd http://{ADDRESS}/boot/{ARM}/initrd.img\nboot\n", encoding="ascii")
        (root / "boot/grub").mkdir()
        folder, args = (f"/{ARM}", ARM_ARGS) if self._kind.arch == "arm64" else ("", ARGS)
        (root / "boot/grub/grub.cfg").write_text(
            f"linux {folder}/vmlinuz gc.mac=$net_default_mac {args}\ninitrd {folder}/initrd.img\nboot\n", encoding="ascii")
        (root / "boot/pxelinux.cfg").mkdir()
        (root / "boot/pxelinux.cfg/default").write_text(
            f"DEFAULT agent\nPROMPT 0\nLABEL agent\n  LINUX ::vmlinuz\n  INITRD ::initrd.img\n  APPEND {ARGS}\n", encoding="ascii")

    def _dnsmasq(self):
        boot = self._kind.boot
        loader = {"uki": "groundcrew.efi", "shim-uki": "mok/shimx64.efi", "shim": "shimx64.efi", "grub": "grubx64.efi"}.get(boot.get("uefi"), "snponly.efi")
        arm = {"uki": "groundcrew.efi", "shim": "shimaa64.efi", "grub": "grubaa64.efi"}.get(boot.get("uefi"), "ipxe.efi")
        over_http = {"uki": "groundcrew.efi", "shim-uki": "mok/shimx64.efi"}.get(boot.get("uefi_http") or boot.get("uefi"), "ipxe.efi")
        ipxe = "pxelinux.0" if boot.get("bios") == "pxelinux" else f"http://{ADDRESS}/boot.ipxe"
        proxy, relay = self._kind.proxy, self._kind.relay
        if proxy:
            # The other server gives the addresses; firmware takes its loader from a PXE service.
            services = [f"--pxe-service=tag:!ipxe,{system},boot,{file}" for system, file in (("x86PC", "undionly.kpxe"), ("X86-64_EFI", loader))]
            ranges = ["--dhcp-range=10.77.0.0,proxy", *services, *(f"--pxe-service=tag:ipxe,{system},boot,{ipxe}" for system in ("x86PC", "X86-64_EFI"))]
        elif relay:
            ranges = ["--dhcp-range=10.88.0.128,10.88.0.254,255.255.255.0,1h", "--dhcp-option=option:router,10.88.0.1"]
        else:
            ranges = ["--dhcp-range=10.77.0.128,10.77.0.254,255.255.255.0,1h"]
        return [
            "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={network.INTERFACE}", "--bind-interfaces",
            "--user=root", "--pid-file", "--log-facility=-", "--log-dhcp", "--no-ping", "--dhcp-leasefile=/dev/null", "--dhcp-authoritative",
            *ranges, "--enable-ra", "--dhcp-range=fd00:77::,ra-only",
            "--enable-tftp", f"--tftp-root={self._root / 'boot'}",
            "--dhcp-match=set:ipxe,175", "--dhcp-match=set:bios,option:client-arch,0", "--dhcp-match=set:efi,option:client-arch,7",
            "--dhcp-match=set:http,option:client-arch,16", "--dhcp-match=set:arm,option:client-arch,11",
            "--dhcp-match=set:armhttp,option:client-arch,19", "--dhcp-option-force=tag:armhttp,60,HTTPClient", "--dhcp-option-force=tag:http,60,HTTPClient",
            "--dhcp-option-force=tag:ipxe,175,b0:01:01",
            f"--dhcp-boot=tag:ipxe,{ipxe}", "--dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe",
            f"--dhcp-boot=tag:arm,tag:!ipxe,{ARM}/{arm}",
            f"--dhcp-boot=tag:armhttp,tag:!ipxe,http://{ADDRESS}/boot/{ARM}/{over_http}",
            f"--dhcp-boot=tag:efi,tag:!ipxe,{loader}", f"--dhcp-boot=tag:http,tag:!ipxe,http://{ADDRESS}/boot/{over_http}",
        ]
