"""Boots the OEM disk alone and says how long it takes: the cost of the last phase, and a proof of the disk."""

import queue
import tempfile
import time
from pathlib import Path

from . import host, milestones, oem
from .machine import Hardware, Machine
from .say import LabError


def boot(options, say):
    host.require(host.TOOLS)
    kinds = ("bios", "uefi") if options.fw == "both" else (options.fw,)
    host.require_firmware(kinds)
    image = oem.ensure(host.cache_dir(), say, options.oem_kernel)
    with tempfile.TemporaryDirectory(prefix="groundcrew-lab-") as folder:
        for index, fw in enumerate(kinds):
            hardware = Hardware.make(index, 1, fw, options.disk, options.nic)
            _boot_one(hardware, Path(folder) / fw, image, host.accelerator(options.kvm), options.timeout, say)
    return True


def _boot_one(hardware, folder, image, accel, timeout, say):
    events = queue.Queue()
    machine = Machine(hardware, folder, accel, None, events)
    machine.insert_disk(image)
    say(f"waiting for the login prompt ({accel.upper()}, disk {hardware.bus}, no network)", hardware.name)
    try:
        machine.power_on(wire=False)
        deadline = machine.powered_at + timeout
        while True:
            event = events.get(timeout=max(0.0, deadline - time.monotonic()))
            if event.kind == "exit":
                raise LabError(f"QEMU ended with exit code {event.text}:\n{machine.log.read_text(encoding='utf-8')[-2000:]}")
            for milestone, values in milestones.recognise(milestones.SERIAL, event.text if event.kind == "serial" else ""):
                say(f"{event.at - machine.powered_at:6.1f}s {milestone.name} {values.get('hostname', '')}", hardware.name)
                if milestone.name == "login" and values["hostname"] == oem.HOSTNAME:
                    return
    except queue.Empty:
        raise LabError(f"{hardware.name}: no login prompt within {timeout} s:\n"
                       f"{machine.log.read_text(encoding='utf-8')[-2000:]}") from None
    finally:
        machine.power_off()
