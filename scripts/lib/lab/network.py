"""The lab's wire: two namespaces, so that nothing of it is seen by this machine.

    gclabPIDa            gclabPIDs
    groundcrew serve     br0 --- tap0, tap1, ...   (QEMU)
    gc0 10.77.0.1/24 ------- up0

With `--proxy`, `gclabPIDo` holds somebody else's DHCP server: dnsmasq at
10.77.0.2, which gives the addresses; the appliance only says what to boot.

With `--fw relay-...`, a router stands between them and relays DHCP:

    gc0 10.77.0.1/24 --- wan0 10.77.0.3 gclabPIDr 10.88.0.1 lan0 --- up0

Names carry the process id, so labs run side by side; what a killed lab left is
removed by the next one.
"""

import os
import re
import subprocess

from . import host
from .say import LabError

INTERFACE = "gc0"
ADDRESS = "10.77.0.1/24"
OTHER = "10.77.0.2"
ROUTER = "10.77.0.3"
RELAY = "10.88.0.1/24"


class Network:
    def __init__(self):
        self.appliance = f"gclab{os.getpid()}a"
        self.switch = f"gclab{os.getpid()}s"
        self.other = f"gclab{os.getpid()}o"
        self.relay = f"gclab{os.getpid()}r"
        self._dnsmasq = None
        self._dhcrelay = None

    def up(self, taps):
        """Everything with carrier; a kernel without bridge, veth or tun is named here."""
        sweep()
        try:
            self._up(taps)
        except LabError as err:
            raise LabError(f"{err}\nthe lab's network needs bridge, veth and tun in the kernel") from None

    def _up(self, taps):
        for name in (self.appliance, self.switch):
            host.run(["ip", "netns", "add", name])
            _ip(name, "link set lo up")
        # No duplicate address detection on a wire of our own: the link-local
        # address, from which router advertisements come, works at once.
        _sysctl(self.appliance, "net/ipv6/conf/default/accept_dad", "0")
        _sysctl(self.switch, "net/ipv6/conf/default/disable_ipv6", "1")
        _ip(self.switch, "link add br0 type bridge stp_state 0 forward_delay 0")
        _ip(self.appliance, f"link add {INTERFACE} type veth peer name up0 netns {self.switch}")
        _ip(self.appliance, f"addr add {ADDRESS} dev {INTERFACE}")
        # A veth hands on packets with unfinished checksums; PXE ROMs drop them.
        host.run(["ip", "netns", "exec", self.appliance, "ethtool", "-K", INTERFACE, "tx", "off"])
        _ip(self.switch, "link set up0 master br0")
        for link in ("up0", "br0"):
            _ip(self.switch, f"link set {link} up")
        _ip(self.appliance, f"link set {INTERFACE} up")
        for index in range(taps):
            _ip(self.switch, f"tuntap add dev {tap(index)} mode tap")
            _ip(self.switch, f"link set {tap(index)} master br0")
            _ip(self.switch, f"link set {tap(index)} up")

    def join_other(self):
        """Somebody else's machine on the same wire."""
        host.run(["ip", "netns", "add", self.other])
        _ip(self.other, "link set lo up")
        _ip(self.other, f"link add eth0 type veth peer name up1 netns {self.switch}")
        _ip(self.other, f"addr add {OTHER}/24 dev eth0")
        host.run(["ip", "netns", "exec", self.other, "ethtool", "-K", "eth0", "tx", "off"])
        _ip(self.switch, "link set up1 master br0 up")
        _ip(self.other, "link set eth0 up")

    def serve_dhcp(self, log):
        """Somebody else's DHCP server on the same wire."""
        self.join_other()
        with open(log, "wb") as out:
            self._dnsmasq = subprocess.Popen(
                inside(self.other, [
                    "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces",
                    "--no-ping", "--dhcp-range=10.77.0.50,10.77.0.90,255.255.255.0,10m", "--dhcp-leasefile=/dev/null", "--user=root",
                    "--pid-file", "--dhcp-authoritative", "--log-facility=-", "--log-dhcp",
                ]),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )

    def route(self, log):
        """A router with ISC's relay between the appliance and the devices' switch."""
        host.run(["ip", "netns", "add", self.relay])
        _ip(self.relay, "link set lo up")
        # The switch's cable comes out of the appliance and goes into the router ...
        _ip(self.appliance, f"link del {INTERFACE}")
        _ip(self.appliance, f"link add {INTERFACE} type veth peer name wan0 netns {self.relay}")
        _ip(self.relay, f"link add lan0 type veth peer name up0 netns {self.switch}")
        _ip(self.appliance, f"addr add {ADDRESS} dev {INTERFACE}")
        _ip(self.relay, f"addr add {ROUTER}/24 dev wan0")
        _ip(self.relay, f"addr add {RELAY} dev lan0")
        for name, link in ((self.appliance, INTERFACE), (self.relay, "wan0"), (self.relay, "lan0")):
            host.run(["ip", "netns", "exec", name, "ethtool", "-K", link, "tx", "off"])
            _ip(name, f"link set {link} up")
        _ip(self.switch, "link set up0 master br0 up")
        # ... which forwards, and the appliance knows the way back.
        _sysctl(self.relay, "net/ipv4/ip_forward", "1")
        _ip(self.appliance, f"route add 10.88.0.0/24 via {ROUTER}")
        with open(log, "wb") as out:
            self._dhcrelay = subprocess.Popen(
                inside(self.relay, ["dhcrelay", "-4", "-d", "-a", "--no-pid", "-iu", "wan0", "-id", "lan0", ADDRESS.split("/")[0]]),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )

    def down(self):
        for process in (self._dnsmasq, self._dhcrelay):
            if process is not None:
                process.kill()
                process.wait()
        existing = _namespaces()
        for name in (self.appliance, self.switch, self.other, self.relay):
            if name in existing:
                host.run(["ip", "netns", "del", name])


def address6(namespace):
    """An IPv6 prefix for whoever advertises one."""
    _ip(namespace, f"addr add fd00:77::1/64 dev {INTERFACE} nodad")


def tap(index):
    return f"tap{index}"


def inside(namespace, argv):
    """`argv` in a namespace (None: here), as a child that the kernel ends if this process dies."""
    enter = ["ip", "netns", "exec", namespace] if namespace else []
    return enter + ["setpriv", "--pdeathsig", "KILL"] + [str(a) for a in argv]


def sweep():
    """Removes the namespaces of labs that are no longer there."""
    for name in _namespaces():
        owner = re.fullmatch(r"gclab(\d+)[aosr]", name)
        if owner and not os.path.exists(f"/proc/{owner[1]}"):
            host.run(["ip", "netns", "del", name])


def _namespaces():
    return [line.split()[0] for line in host.run(["ip", "netns", "list"]).splitlines() if line.strip()]


def _ip(namespace, words):
    host.run(["ip", "-n", namespace] + words.split())


def _sysctl(namespace, key, value):
    """Best effort: the key is absent where the kernel has no IPv6."""
    host.run(["ip", "netns", "exec", namespace, "sh", "-c", f"[ ! -e /proc/sys/{key} ] || echo {value} > /proc/sys/{key}"])
