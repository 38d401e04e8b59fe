"""One QEMU machine: its hardware, its command line, its serial line and QMP.

Nothing here decides anything: threads read and put events into the scenario's queue.
"""

import json
import os
import queue
import re
import select
import shutil
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from . import host, milestones, network, secure
from .kinds import KINDS
from .say import LabError

RAM_MIB = 512
ARM_RAM_MIB = 1024  # its kernel has 33 MB and is not compressed
BUSES = ("virtio", "ahci", "nvme", "usb")
NICS = ("virtio-net-pci", "e1000")
_NAMESPACE = uuid.UUID("6a0d3a1c-2f0a-5d0b-8a5c-0c0a77000000")


@dataclass(frozen=True)
class Hardware:
    """What firmware tells of the machine; the same values go into its registration."""

    name: str
    index: int
    fw: str
    serial: str
    uuid: uuid.UUID
    mac: str
    bus: str = "virtio"
    nic: str = "virtio-net-pci"
    manufacturer: str = "Groundcrew Lab"
    product: str = "Bench One"
    kind: str = ""

    @staticmethod
    def make(index, number, fw, bus="virtio", nic="virtio-net-pci", kind=""):
        """`index` counts all machines of a run (tap, MAC), `number` those of this firmware (name, serial)."""
        name = "arm" if kind and KINDS[kind].arch == "arm64" else fw
        serial = f"GCLAB{name[0].upper()}{number:04}"
        mac = f"52:54:00:77:{index >> 8:02x}:{index & 255:02x}"
        return Hardware(f"{name}{number}", index, fw, serial, uuid.uuid5(_NAMESPACE, serial), mac, bus, nic, kind=kind or fw)


@dataclass(frozen=True)
class Event:
    """kind: serial, reset, exit of a machine; log, ready, exit of the appliance. `at` is monotonic time."""

    kind: str
    who: object
    at: float
    text: str = ""


class Machine:
    def __init__(self, hardware, folder, accel, namespace, events):
        self.hardware = hardware
        self._folder = folder
        self._accel = accel
        self._namespace = namespace
        self._events = events
        self._process = None
        self._qmp = None
        self._answers = queue.Queue()
        self._threads = []
        self.disk = folder / "disk.qcow2"
        self.log = folder / "serial.log"
        self.powered_at = None
        self.extra = []  # further words for QEMU
        self.pause = None  # see `lines`
        self.kind = KINDS[hardware.kind or hardware.fw]

    def insert_disk(self, oem_image, certificate=None):
        """A fresh overlay on the OEM disk and fresh UEFI variables."""
        self._folder.mkdir(parents=True)
        host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", oem_image, self.disk])
        if self.kind.secure:
            secure.variables(self._folder / "vars.fd", certificate, self.kind.mok)
        elif self.hardware.fw == "uefi":
            code = host.FIRMWARE_ARM64 if self.kind.arch == "arm64" else host.FIRMWARE
            host.run(["cp", "--sparse=always", code[1], self._folder / "vars.fd"])

    def power_on(self, wire=True, disk_first=False):
        """`wire=False` takes the NIC out: the machine has nothing but its own disk.
        `disk_first`: its firmware asks the network only where the disk does not start."""
        argv = self._command(wire, disk_first)
        qmp = self._listen()
        self.powered_at = time.monotonic()
        self._process = subprocess.Popen(
            network.inside(self._namespace, argv),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_serial, args=(self._process,), daemon=True),
            threading.Thread(target=self._read_qmp, args=(qmp, self._process), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def power_off(self):
        """SIGTERM makes QEMU flush its disk and leave; the serial log is complete afterwards."""
        process, self._process = self._process, None
        if process is None:
            return
        end(process)
        for thread in self._threads:
            thread.join(timeout=5)

    def type(self, keys):
        """On the serial line, where firmware and iPXE read keys, too."""
        self._process.stdin.write(keys.encode("ascii"))
        self._process.stdin.flush()

    def screen(self):
        """The lines of the text screen of a PC with a VGA card: what lies in its memory at 0xb8000."""
        dump = self._folder / "screen"
        dump.unlink(missing_ok=True)
        self._qmp.sendall(json.dumps({"execute": "pmemsave", "arguments": {"val": 0xB8000, "size": 4000, "filename": str(dump)}}).encode() + b"\n")
        try:
            self._answers.get(timeout=10)
        except queue.Empty:
            raise LabError(f"{self.hardware.name}: QEMU wrote no screen") from None
        text = dump.read_bytes()[::2].decode("cp437")
        return [text[at:at + 80].rstrip() for at in range(0, 2000, 80)]

    def _command(self, wire, disk_first):
        hw = self.hardware
        argv = [*self._board(), "-name", hw.name, "-smp", "1", "-nodefaults", "-display", "none",
                "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
                "-chardev", f"socket,id=qmp,path={self._folder / 'qmp'}", "-mon", "chardev=qmp,mode=control",
                "-device", "virtio-rng-pci,romfile=",
                "-smbios", f"type=1,manufacturer={hw.manufacturer},product={hw.product},version=1,serial={hw.serial},"
                           f"uuid={hw.uuid},sku=LAB-1,family=Lab",
                "-smbios", f"type=2,manufacturer={hw.manufacturer},product=Board,serial=B-{hw.serial}",
                "-smbios", f"type=3,manufacturer={hw.manufacturer},serial=C-{hw.serial}"]
        if hw.fw == "uefi":
            code = host.FIRMWARE_ARM64[0] if self.kind.arch == "arm64" else secure.CODE if self.kind.secure else host.FIRMWARE[0]
            argv += secure.arguments() if self.kind.secure else []
            argv += ["-drive", f"if=pflash,unit=0,readonly=on,format=raw,file={code}",
                     "-drive", f"if=pflash,unit=1,format=raw,file={self._folder / 'vars.fd'}",
                     "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]
            if self.kind.method == "http":
                argv += ["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]
        argv += ["-drive", f"if=none,id=disk,format=qcow2,discard=unmap,file={self.disk}", *_disk(hw, 1 if disk_first else 2)]
        return argv + (_nic(hw, 2 if disk_first else 1) if wire else []) + self.extra

    def _board(self):
        """Program, accelerator, processor, board and memory."""
        if self.kind.arch == "arm64":
            # A processor of before pointer authentication, which costs most of the time in software.
            return ["qemu-system-aarch64", "-accel", "tcg,tb-size=128", "-cpu", "cortex-a72", "-M", "virt", "-m", str(ARM_RAM_MIB)]
        kvm = self._accel == "kvm"
        return ["qemu-system-x86_64", "-accel", "kvm" if kvm else "tcg,tb-size=128", "-cpu", "host" if kvm else "max",
                "-M", f"q35,graphics=off,smm={'on' if self.kind.secure else 'off'}", "-m", str(RAM_MIB)]

    def _listen(self):
        """QEMU calls us, so there is no moment at which its socket is not there yet."""
        path = self._folder / "qmp"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(30)
        return listener

    def _read_serial(self, process):
        with open(self.log, "a", encoding="utf-8") as log:
            for raw in lines(process.stdout, milestones.PROMPT, pause=self.pause):
                # A form is a screen full of blanks in one line.
                text = milestones.clean(raw, 20000 if self.pause else 2000)
                if text:
                    at = time.monotonic()
                    log.write(f"{at - self.powered_at:8.2f} {text}\n")
                    log.flush()
                    self._events.put(Event("serial", self, at, text))
        code = process.wait()
        self._events.put(Event("exit", self, time.monotonic(), str(code)))

    def _read_qmp(self, listener, process):
        """RESET is of interest, the moment at which the guest restarts, and that an order was carried out."""
        try:
            with listener, listener.accept()[0] as link:
                self._qmp = link
                link.settimeout(None)
                link.sendall(b'{"execute":"qmp_capabilities","id":"hello"}\n')
                for raw in link.makefile("rb"):
                    message = json.loads(raw)
                    if message.get("event") == "RESET" and message["data"].get("guest"):
                        self._events.put(Event("reset", self, time.monotonic()))
                    if "return" in message and message.get("id") != "hello":
                        self._answers.put(message)
        except (OSError, ValueError) as err:
            if process.poll() is None:
                self._events.put(Event("serial", self, time.monotonic(), f"lab: QMP was lost: {err}"))


def _disk(hw, place):
    common = f"drive=disk,serial=D{hw.serial},bootindex={place}"
    return {
        "virtio": ["-device", f"virtio-blk-pci,{common}"],
        "ahci": ["-device", f"ide-hd,bus=ide.0,{common}"],
        "nvme": ["-device", f"nvme,{common}"],
        "usb": ["-device", "qemu-xhci", "-device", f"usb-storage,{common}"],
    }[hw.bus]


def _nic(hw, place):
    # OVMF brings its own virtio driver; for e1000 it needs the ROM's.
    rom = ",romfile=" if hw.fw == "uefi" and hw.nic == "virtio-net-pci" else ""
    return ["-netdev", f"tap,id=wire,ifname={network.tap(hw.index)},script=no,downscript=no",
            "-device", f"{hw.nic},netdev=wire,mac={hw.mac},bootindex={place}{rom}"]


def lines(stream, prompt=None, limit=65536, pause=None):
    """Lines of a byte stream as they come, without line ends; a prompt counts as one early,
    and after a `pause` (seconds) whatever stands there: a form that waits for a key."""
    buffer = b""
    while True:
        if pause and buffer and not select.select([stream], [], [], pause)[0]:
            yield buffer
            buffer = b""
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            break
        *whole, buffer = re.split(rb"[\r\n]+", buffer + chunk)
        yield from whole
        if len(buffer) > limit or (prompt and prompt.search(buffer)):
            yield buffer
            buffer = b""
    if buffer:
        yield buffer


def end(process, patience=10):
    """SIGTERM, then SIGKILL: by this child's own id, nothing else."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
