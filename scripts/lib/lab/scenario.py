"""The lab's story: build, make a site, switch devices on, watch, judge, clean up."""

import queue
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from . import appliance, foreign, host, hwhash, kinds, network, oem, oem_arm, oem_signed, peer, report, secure, verify
from .device import Device
from .machine import Hardware, Machine
from .say import LabError

READY_PATIENCE = 30
HEARTBEAT = 10


class Interrupted(Exception):
    """SIGINT or SIGTERM; the argument is the signal's number."""


class Lab:
    def __init__(self, options, say):
        self.options = options
        if options.proxy or options.mode == "peer":
            host.TOOLS["dnsmasq"] = "gives the addresses in the appliance's place"
        self.say = say
        self.marks = {}  # stage -> seconds it took
        self._events = queue.Queue()
        self._devices = []
        self._appliance = None
        self._folder = None
        self._accel = host.accelerator(options.kvm)
        self._memory = None
        self._interrupted = False
        self._kinds = kinds.chosen(options.fw)
        self._arches = sorted({kind.arch for kind in self._kinds})
        if "arm64" in self._arches:
            host.TOOLS["qemu-system-aarch64"] = "runs the arm64 devices"
        if any(kind.relay for kind in self._kinds):
            host.TOOLS["dhcrelay"] = "relays DHCP"
        self._enrolled = None  # certificate that the machines trust, beside Microsoft's

    def run(self):
        """True when every device ended as it should. Cleans up in every case."""
        ok = False
        with ExitStack() as stack:
            stack.callback(lambda: self._tidy(ok))
            try:
                ok = self._story(stack)
            except Interrupted:
                self._interrupted = True
                raise
            finally:
                ignore_signals()  # a second Ctrl-C must not break the cleaning up
        return ok

    def _story(self, stack):
        oem_images, debs, binaries = self._prepare()
        self._folder = Path(tempfile.mkdtemp(prefix="groundcrew-lab-"))
        (self._folder / "logs").mkdir()
        self._wire(stack)
        self._make_site(binaries, debs)
        self._serve(stack)
        self._switch_on(stack, oem_images)
        self._watch()
        self._read_disks()
        return self._verdict()

    def prepare(self):
        """Only what is made once: OEM disk, kernel package, binaries."""
        host.require({**host.TOOLS, **host.BUILD_TOOLS})
        self._prepare()

    # -- stages --------------------------------------------------------------------

    def _prepare(self):
        host.require(host.TOOLS)
        host.require_network()
        host.require_firmware({hw.fw for hw in self._hardware()}, self._arches)
        if any(kind.secure for kind in self._kinds):
            secure.require()
        self.say(f"{len(self._hardware())} device(s), {self._accel.upper()}"
                 + (" (no kvm_intel or kvm_amd here: software emulation)" if self._accel == "tcg" else ""))
        cache = host.cache_dir()
        binaries = self._timed("build", self._binaries)
        images, debs = {}, {}
        for arch in self._arches:
            images[arch] = self._timed("oem_disk", lambda: self._oem_disk(arch, cache))
            debs[arch] = self._timed("kernel_deb", lambda: self._kernel_deb(arch, cache))
        return images, debs, binaries

    def _oem_disk(self, arch, cache):
        if arch == "arm64":
            return oem_arm.ensure(cache, self.say)
        image = oem.ensure(cache, self.say, self.options.oem_kernel)
        if any(kind.secure for kind in self._kinds) and self.options.refuse != "disk":
            return oem_signed.ensure(image, self.say)
        return image

    def _kernel_deb(self, arch, cache):
        """The kernel's package, and those of loaders that this machine has not installed."""
        if arch == "arm64":
            debs = foreign.ensure(cache, self.say)
            return debs[foreign.KERNEL], [debs[name] for name in foreign.LOADERS]
        return self.options.kernel_deb or host.kernel_deb(cache, self.say), []

    def _binaries(self):
        if self.options.bin_dir:
            return [self.options.bin_dir / name for name in ("groundcrew", *(appliance.AGENT[arch] for arch in self._arches))]
        return appliance.build(self.say, self._arches)

    def _wire(self, stack):
        self._network = network.Network()
        stack.callback(self._network.down)
        self._network.up(len(self._hardware()))
        self.say(f"network {network.ADDRESS} on {network.INTERFACE} in namespace {self._network.appliance}")
        if any(kind.relay for kind in self._kinds):
            self._network.route(self._folder / "logs/dhcrelay.log")
            self.say(f"a router at {network.RELAY} relays DHCP to the appliance")
        if self.options.proxy:
            self._network.serve_dhcp(self._folder / "logs/dnsmasq.log")
            self.say(f"dnsmasq gives the addresses, from {network.OTHER}; the appliance plays ProxyDHCP")

    def _make_site(self, binaries, debs):
        site = self._appliance = appliance.Appliance(self._folder, binaries, self._network.appliance, self._events)
        self._step("site", "groundcrew init", site.init)
        if self.options.proxy:
            site.set_mode("proxy")
        if self.options.mode != "unknown":
            csv = hwhash.csv(self._hardware())
            self._step("import", f"groundcrew device import ({len(self._hardware())} hardware hashes)", lambda: site.import_devices(csv))
        for kind in self._kinds:
            site.set_boot(kind.boot)
        if any(kind.relay for kind in self._kinds):
            site.add_subnet(network.RELAY)
        key = self._signing_key()
        for arch, (kernel, loaders) in debs.items():
            self._step("image", f"groundcrew image build --arch {arch}", lambda: site.build_image(arch, kernel, loaders, key))
        self._change_site()
        self._step("publish", "groundcrew bundle build and publish", lambda: site.publish(self.options.bundle))

    def _change_site(self):
        """For a stage: the site and its boot image are there, nothing is published or served yet."""

    def _signing_key(self):
        """A fresh key where the kind wants one; its certificate is what firmware is given."""
        if not any(kind.own_key for kind in self._kinds):
            return None
        key = self._appliance.new_key("boot-key")
        self._enrolled = self._appliance.enroll_keys(key) / "db.cer"
        if self.options.refuse == "other-key":
            return self._appliance.new_key("other-key")
        return None if self.options.refuse == "unsigned" else key

    def _serve(self, stack):
        if self.options.mode == "peer":
            other = peer.Peer(self._folder, self._appliance.site / "boot", self._network.appliance, self._kinds[0])
            stack.callback(other.stop)
            other.serve()
            self.say("dnsmasq serves the same files in the appliance's place")
            return
        started = time.monotonic()
        self.say("waiting for groundcrew serve to be ready")
        stack.callback(self._appliance.stop)
        self._appliance.serve()
        deadline = started + READY_PATIENCE
        while True:
            event = self._next(deadline)
            if event is None and time.monotonic() >= deadline:
                raise LabError(f"groundcrew serve was not ready within {READY_PATIENCE} s")
            if event and event.kind == "exit":
                raise LabError(f"groundcrew serve ended with exit code {event.text} before it was ready")
            if event and event.kind == "ready":
                break
        self.marks["ready"] = round(time.monotonic() - started, 2)
        self._memory = self._appliance.memory_kib()
        self.say(f"appliance is ready after {self.marks['ready']:.2f} s, {self._memory[0] / 1024:.1f} MiB resident")
        if self.options.mode == "tamper":
            self._tampered = self._appliance.tamper()
            self.say(f"changed one bit in the published blob sha256:{self._tampered}")

    def _switch_on(self, stack, oem_images):
        self._insert(stack, oem_images)
        for device in self._devices:
            hw = device.machine.hardware
            device.machine.power_on()
            self.say(f"switched on: {hw.fw.upper()}, serial {hw.serial}, {hw.mac}, disk {hw.bus}", device.name)

    def _insert(self, stack, oem_images):
        for hw in self._hardware():
            folder = self._folder / "devices" / hw.name
            machine = Machine(hw, folder, self._accel, self._network.switch, self._events)
            machine.log = self._folder / "logs" / f"{hw.name}.serial.log"
            machine.insert_disk(oem_images[machine.kind.arch], self._enrolled)
            self._devices.append(Device(machine, self.options.mode, self.say))
            stack.callback(machine.power_off)

    def _read_disks(self):
        """The word of the disk itself, after the login prompt's."""
        for device in self._devices:
            if device.outcome not in ("provisioned", "refused") or self.options.refuse == "disk":
                continue
            found = verify.hostname(device.machine.disk, self._folder / "devices" / device.name)
            if found != device.hostname:
                device.outcome, device.reason = "failed", f"/etc/hostname on its disk is {found!r}, its prompt said {device.hostname!r}"
            else:
                self.say(f"its disk, read offline: file system sound, /etc/hostname is {found}", device.name)

    def _verdict(self):
        wanted = "started" if self.options.mode == "peer" else "refused" if self.options.mode in ("tamper", "refuse", "refuse-disk") else "provisioned"
        ok = all(device.outcome == wanted for device in self._devices)
        self.marks["total"] = round(self.say.seconds(), 1)
        self.say.plain("\n" + report.table(self._devices))
        if self._memory:
            peak = self._appliance.memory_kib()[1]
            self.say.plain(f"appliance: {self._memory[0] / 1024:.1f} MiB resident when ready, {peak / 1024:.1f} MiB at most")
        if ok and self.options.mode == "refuse":
            self.say.plain("the image was fetched and refused by firmware; nothing of it ran, and the own disk came up")
            for device in self._devices:
                story = self._appliance.explain(device.machine.hardware.mac)
                self.say.plain(f"groundcrew boot explain {device.machine.hardware.mac}:\n{story}")
                ok = ok and "Secure Boot" in " ".join(story.split())
            if not ok:
                self.say.plain("the appliance did not name Secure Boot as the cause")
        elif ok and self.options.refuse == "disk":
            self.say.plain("the signed way to the own disk started nothing that firmware does not trust")
        elif ok and wanted == "refused":
            named = all(self._tampered[:12] in device.reason for device in self._devices)
            self.say.plain("the changed bundle was refused" + (", its blob named," if named else "") + " and the installed systems are untouched")
        if self.options.proxy:
            given = self._appliance.leases()
            ok = ok and not given
            self.say.plain(f"addresses the appliance gave beside dnsmasq: {len(given)}")
        if self.options.json:
            self.options.json.write_text(report.as_json(self.options, self._accel, ok, self.marks, self._devices), encoding="utf-8")
        return ok

    # -- watching ------------------------------------------------------------------

    def _open_devices(self):
        return [d for d in self._devices if d.outcome is None]

    def _watch(self):
        """Until nothing is open or the time is over; every device is switched off as it ends."""
        deadline = time.monotonic() + self.options.timeout
        quiet_since = time.monotonic()
        while self._open_devices():
            event = self._next(min(deadline, quiet_since + HEARTBEAT))
            now = time.monotonic()
            if event:
                if self._handle(event):
                    quiet_since = now
            if now >= deadline:
                for device in self._open_devices():
                    self._end(device, device.fail(f"timeout of {self.options.timeout} s while waiting for {device.waits_for}"))
            elif now >= quiet_since + HEARTBEAT:
                quiet_since = now
                self.say("waiting: " + ", ".join(f"{d.name} for {d.waits_for}" for d in self._open_devices()))

    def _handle(self, event):
        """True when a device got on."""
        if event.who is self._appliance:
            if event.kind == "exit":
                raise LabError(f"groundcrew serve ended with exit code {event.text} while devices were being provisioned")
            for device in self._devices:
                device.on_log(event.at, event.text)
            return False
        device = next(d for d in self._devices if d.machine is event.who)
        if device.stale(event.at):
            return False
        before = len(device.timeline.seen)
        if event.kind == "serial":
            action = device.on_serial(event.at, event.text)
        elif event.kind == "reset":
            action = device.on_reset(event.at)
        else:
            action = device.fail(f"QEMU ended with exit code {event.text}")
        self._end(device, action)
        return len(device.timeline.seen) > before

    def _end(self, device, action):
        if action == "approve":
            self._approve(device)
        elif action == "done":
            device.machine.power_off()

    def _approve(self, device):
        """What a technician does: compares the two codes, then approves."""
        shown = device.timeline.value("code")
        device_id, listed = self._appliance.lobby_entry(device.machine.hardware.serial)
        if listed != shown:
            device.fail(f"its screen shows the code {shown}, the appliance lists {listed}")
            device.machine.power_off()
            return
        self._appliance.approve(device_id, shown)
        self.say(f"both codes are {shown}: groundcrew device approve {device_id} {shown}", device.name)

    def _next(self, until):
        try:
            return self._events.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None

    # -- small things --------------------------------------------------------------

    def _hardware(self):
        pairs = [(kind, number) for kind in self._kinds for number in range(1, self.options.devices + 1)]
        return [
            Hardware.make(index, number, kind.fw, self.options.disk, self.options.nic or kind.nic, kind.name)
            for index, (kind, number) in enumerate(pairs)
        ]

    def _step(self, name, text, action):
        self.say(f"waiting for {text}")
        self._timed(name, action)

    def _timed(self, name, action):
        started = time.monotonic()
        result = action()
        self.marks[name] = round(time.monotonic() - started, 2)
        return result

    def _tidy(self, ok):
        if self._folder is None:
            return
        if not ok and not self._interrupted:
            for device in self._devices:
                if device.outcome not in ("provisioned", "refused"):
                    self.say.plain(report.tail(device.machine.log, f"{device.name}'s serial line"))
            if self._appliance:
                self.say.plain(report.tail(self._appliance.log, "the appliance's log"))
        if self.options.keep:
            self.say(f"kept: {self._folder} (site, disks, logs)")
        elif ok or self._interrupted:
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            for entry in self._folder.iterdir():
                if entry.name != "logs":
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
            self.say(f"logs: {self._folder / 'logs'} (--keep keeps the site and the disks, too)")


def catch_signals():
    """Both ways of being stopped become an exception, so that every `finally` runs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def ignore_signals():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number, _frame):
    raise Interrupted(number)
