"""A stick in machines with real firmware: no network at all, as the appliance, pulled, and put back.

Each story makes its own copy of one stick image, plugs it in by USB and talks to
its screens over the serial line.
"""

import codecs
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

from . import appliance, cuts, host, hwhash, lessee, machine, media, milestones, moments, oem, renewal, verify
from .say import LabError

PIN = "lab-stick-77"
STICK_BYTES = 1 << 30  # larger than the image: it has to grow
SECURE = (Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"))
TARGET = "x86_64-unknown-linux-gnu"
NEXT, ENTER = "\x0e", "\r"  # Ctrl-N: one byte, where GRUB reads the bytes of an arrow by time
ENTRIES = ("Provision this", "Be the", "Check this")
MENU = "Check this machine"


def binaries(say, bin_dir):
    """A static groundcrew and the agent."""
    if bin_dir:
        return bin_dir / "groundcrew", bin_dir / "groundcrew-agent"
    target = Path(os.environ.get("CARGO_TARGET_DIR", appliance.ROOT / "target"))
    say("waiting for the static groundcrew (minutes on a fresh clone)")
    static = dict(os.environ, RUSTFLAGS="-C target-feature=+crt-static")
    host.run(["cargo", "build", "--release", "--locked", "--bin", "groundcrew", "--target", TARGET],
             cwd=appliance.ROOT, env=static)
    say("waiting for scripts/build-agent")
    host.run([appliance.ROOT / "scripts/build-agent"], cwd=appliance.ROOT)
    return target / TARGET / "release/groundcrew", target / "agent/groundcrew-agent"


class Guest:
    """One QEMU machine with a stick in it, its serial line as text."""

    def __init__(self, name, fw, folder, accel):
        self.name, self.fw = name, fw
        self.folder = folder / name
        self.folder.mkdir()
        self.started = None
        self.marks = {}
        self._accel = accel
        self._process = None
        self._text = ""  # since the last expected thing
        self._ended = False
        self._heard = threading.Condition()

    def start(self, drives, wire=None, ram=512, serial="STICK0001", screen=False, more=()):
        """`screen`: with a graphics card, of which `picture` takes what it shows."""
        secure = self.fw == "secure"
        argv = ["qemu-system-x86_64", "-name", self.name, "-accel", "kvm" if self._accel == "kvm" else "tcg,tb-size=128",
                "-cpu", "host" if self._accel == "kvm" else "max", "-M", f"q35,graphics={'on' if screen else 'off'},smm={'on' if secure else 'off'}",
                "-m", str(ram), "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
                "-device", "virtio-rng-pci,romfile=", "-smbios", _smbios(serial)]
        if self.fw != "bios":
            code, variables = SECURE if secure else host.FIRMWARE
            shutil.copy(variables, self.folder / "vars.fd")
            argv += ["-drive", f"if=pflash,unit=0,readonly=on,format=raw,file={code}",
                     "-drive", f"if=pflash,unit=1,format=raw,file={self.folder / 'vars.fd'}"]
            if secure:
                argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        if screen:
            argv += ["-vga", "std", "-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"]
        argv += drives + (wire or ["-nic", "none"]) + list(more)
        self.started = time.monotonic()
        self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL"] + [str(a) for a in argv],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def expect(self, pattern, patience, mark=None):
        """The match of `pattern` in what the serial line says from now on."""
        deadline = time.monotonic() + patience
        with self._heard:
            while True:
                found = re.search(pattern, self._text)
                if found:
                    self._text = self._text[found.end():]
                    if mark:
                        self.marks[mark] = round(time.monotonic() - self.started, 1)
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "its machine ended" if self._ended else f"within {patience} s"
                    raise LabError(f"{self.name}: `{pattern}` did not come ({why}); its serial line ends with:\n{self._text[-1500:]}")
                self._heard.wait(left)

    def _read(self, out):
        """Takes whatever comes, or the machine would stop at a full pipe."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with open(self.folder / "serial.log", "wb") as log:
            while chunk := os.read(out.fileno(), 65536):
                log.write(chunk)
                log.flush()
                with self._heard:
                    self._text += milestones.clean_stream(decoder.decode(chunk))
                    self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()

    def type(self, text):
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def picture(self, name):
        """What the screen shows, as a PNG beside the serial log."""
        path = self.folder / f"{name}.png"
        self.monitor("screendump", filename=str(path), format="png")
        return path

    def monitor(self, command, **arguments):
        """A command to QEMU, of a machine that was started with a screen."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(str(self.folder / "qmp"))
            answers = line.makefile("rw")
            answers.readline()  # the greeting
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                answers.write(json.dumps(request) + "\n")
                answers.flush()
                while "return" not in (said := json.loads(answers.readline())):
                    if "error" in said:
                        raise LabError(f"{self.name}: QEMU does not do `{command}`: {said}")

    def choose(self, downs):
        """An entry of the menu, by the keyboard. A BIOS on the serial line reads the keys, too, and may swallow one."""
        self.expect(MENU, 120, "menu")
        for entry in ENTRIES[1:downs + 1]:
            self._press(NEXT, rf"\*{entry}")
        self.type(ENTER)
        self.expect(r"agent \S+ started", 180, "kernel")

    def _press(self, key, seen, tries=5):
        for left in reversed(range(tries)):
            self.type(key)
            try:
                return self.expect(seen, 3)
            except LabError:
                if self.ended() or not left:
                    raise

    def unlock(self, pin=PIN):
        self.expect(r"PIN: ", 120, "pin asked")
        self.type(pin + ENTER)

    def end(self, patience=60):
        """Waits until the machine has switched itself off, or restarted (-no-reboot)."""
        try:
            self._process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end within {patience} s") from None

    def ended(self):
        return self._process.poll() is not None

    def pull(self):
        """Power off without a word."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _smbios(serial):
    hw = _hardware(serial)
    return (f"type=1,manufacturer={hw.manufacturer},product={hw.product},version=1,serial={serial},"
            f"uuid={hw.uuid},sku=LAB-1,family=Lab")


def _hardware(serial):
    made = machine.Hardware.make(int(serial[-4:]), 1, "bios")
    return machine.Hardware(made.name, made.index, "bios", serial, uuid.uuid5(uuid.NAMESPACE_OID, serial), made.mac)


def _wire(hub, mac, more=""):
    return ["-netdev", f"socket,id=w,connect=127.0.0.1:{hub.port}", "-device", f"virtio-net-pci,netdev=w,mac={mac},{more or 'romfile='}"]


class StickLab:
    def __init__(self, options, say):
        self.options, self.say = options, say
        self.results = {}
        self._folder = None
        self._guests = []
        self._accel = host.accelerator(options.kvm)

    def run(self):
        host.require(host.TOOLS)
        host.require_firmware({"uefi"})
        self._folder = Path(tempfile.mkdtemp(prefix="groundcrew-stick-"))
        (self._folder / "logs").mkdir()
        good = False
        try:
            self._build()
            for name in self.options.story:
                began = time.monotonic()
                self.say(f"story: {name}")
                getattr(self, name.replace("-", "_"))()
                self.results.setdefault(name, {})["seconds"] = round(time.monotonic() - began, 1)
            good = True
        finally:
            for guest in self._guests:
                guest.pull()
            self._tell(good)
        return good

    # -- stories -------------------------------------------------------------------

    def bios(self):
        self._provision("bios")

    def uefi(self):
        self._provision("uefi")

    def secure(self):
        self._provision("secure")

    def check(self):
        """The third entry: pages on a small screen, and nothing else."""
        guest = self._guest("check", "uefi")  # QEMU draws no text mode where nobody looks
        hub = lessee.Hub()
        guest.start(self._usb(self._stick("check")) + self._disk(guest), _wire(hub, "52:54:00:77:01:02"), screen=True)
        answering = lessee.Servers(hub, ("10.99.0.1", "10.99.0.2"))
        answering.start()
        guest.choose(2)
        pages = []
        wanted_on = (("STICK0001", "Boot ", "Memory", "Disk"), ("10.99.0.1", "10.99.0.2"), ("STICK0001",))
        for number, wanted in enumerate(wanted_on, 1):
            # A page follows another one without its keys while the network is asked.
            one = rf"(?s)groundcrew: check this machine \({number} of 3(?:(?!groundcrew: check).)*?q: switch off"
            page = guest.expect(one, 120, f"page {number}")[0]
            for word in wanted:
                if word not in page:
                    raise LabError(f"page {number} of the check lacks {word!r}:\n{page}")
            rows = page.replace("\r", "").split("\n")
            if max(len(row) for row in rows) > 80 or len(rows) > 24:
                raise LabError(f"a page is larger than 80 x 24:\n{page}")
            guest.picture(f"page-{number}")
            pages.append(page)
            guest.type(ENTER)
        answering.stop()
        guest.type("q")
        guest.end()
        self.results["check"] = dict(guest.marks, page="\n".join(pages))

    def put_back(self):
        """The registry of a new stick is put back onto a used one: it goes on with neither."""
        stick = self._stick("put-back")
        guest = self._guest("put-back-1", "bios")
        guest.start(self._usb(stick) + self._disk(guest))
        guest.choose(0)
        guest.unlock()
        guest.expect("receipt stored", 180)
        guest.expect("Pull the stick out", 60)
        guest.pull()
        old = self._folder / "old.db"
        self._debugfs(self._image, f"dump /site/registry.db {old}")
        self._debugfs(stick, "rm /site/registry.db", f"write {old} /site/registry.db", write=True)
        guest = self._guest("put-back-2", "bios")
        guest.start(self._usb(stick) + self._disk(guest))
        guest.choose(0)
        guest.unlock()
        said = guest.expect(r"put back to an earlier state[^\n]*", 120)[0]
        guest.pull()
        self.results["put-back"] = {"said": said}

    def appliance(self):
        """The second entry, and another machine that starts from the network it serves."""
        hub = lessee.Hub()
        stick = self._stick("appliance")
        served = self._guest("appliance", "uefi")
        served.start(self._usb(stick), _wire(hub, "52:54:00:77:01:01"), serial="VAN0001", screen=True)
        served.choose(1)
        served.unlock()
        served.expect(r"ready: site", 60, "ready")
        served.expect(r"registered +STICK0001", 30)
        served.expect(r"this appliance gives addresses", 120, "gives addresses")
        device = self._guest("device", "bios")
        device.start(self._disk(device), _wire(hub, _hardware("STICK0001").mac, "bootindex=1"))
        device.expect("receipt stored", 300, "receipt")
        served.expect(r"provisioned +STICK0001", 30, "seen")
        served.picture("appliance")
        device.pull()
        served.type("q" + ENTER)
        served.expect("Type yes", 30)
        served.type("yes" + ENTER)
        served.end()
        self._judge_disk(device)
        marks = served.marks
        ready = round(marks["ready"] - marks["kernel"], 1)  # typing the PIN takes the lab no time
        self.results["appliance"] = dict(marks, ready_after_kernel=ready, device=device.marks)

    def cuts(self):
        """The second entry; clients, devices and a technician are promised things; then it is pulled
        at hundreds of writes. See cuts.py."""
        stick, base = self._stick("cuts"), self._stick("cuts-base")
        log = self._folder / "writes.log"
        log.write_bytes(b"")
        hub, facts = lessee.Hub(), []
        promised = lambda kind, subject, detail=None: facts.append(cuts.Fact(log.stat().st_size, kind, subject, detail))
        served = self._guest("cuts", "bios")
        drives = ["-blockdev", f"driver=file,filename={stick},node-name=image",
                  "-blockdev", f"driver=file,filename={log},node-name=log",
                  "-blockdev", "driver=blklogwrites,file=image,log=log,node-name=u0,log-append=off",
                  "-device", "qemu-xhci", "-device", "usb-storage,drive=u0,removable=on,bootindex=1"]
        served.start(drives, _wire(hub, "52:54:00:77:01:01"), serial="VAN0001")
        served.choose(1)
        served.unlock()
        served.expect(r"this appliance gives addresses", 180, "gives addresses")
        clients = lessee.Lessees(hub, 96, lambda mac, ip, until: promised("lease", ip, (mac.hex(":"), until)))
        clients.start()
        try:
            for serial, known in (("STICK0001", True), ("STICK0002", False), ("STICK0003", False)):
                self._serve_one(hub, served, serial, known, promised)
        finally:
            clients.stop()
        if clients.failed:
            raise LabError(f"the DHCP clients: {clients.failed!r}")
        served.pull()
        judge = cuts.Judge(base, log, facts, self._site, self._call, self._folder / "cut")
        found, kept = judge.run(self.options.cuts, self.say, kept=3)
        for cut, path in kept:
            self._goes_on(cut, path)
        self.results["cuts"] = dict(found, **{"started again on a machine": len(kept)})

    def update(self):
        """`stick sync` and `stick update`, pulled at hundreds of writes; what is left starts on both firmwares."""
        stick, before = self._stick("update"), self._stick("update-base")
        log, marks, moved = self._folder / "renewal.log", [], {}
        site = self._folder / "newer"
        shutil.copytree(self._site, site, ignore=shutil.ignore_patterns("*.sock"))
        text = (site / "sources/welcome/bundle.toml").read_text(encoding="utf-8")
        (site / "sources/welcome/bundle.toml").write_text(re.sub(r'(?m)^version = .*$', 'version = "9.9.9"', text, count=1), encoding="utf-8")
        (site / "sources/welcome/files").mkdir(exist_ok=True)
        (site / "sources/welcome/files/large.bin").write_bytes(os.urandom(6 << 20))
        self._call("bundle", "build", site / "sources/welcome", "--out", self._folder / "newer-bundle")
        self._call("bundle", "publish", self._folder / "newer-bundle", "--hq", site.parent / "top/hq", "--site", site)
        program = self._folder / "newer-groundcrew"
        program.write_bytes(self._groundcrew.read_bytes() + b"newer")  # behind the ELF: it runs as before
        settings = site / "site.toml"
        with renewal.Logged(stick, log, self._folder) as path:
            done = json.loads(self._call("stick", "sync", "--json", "--site", site, "--stick", path))
            moved["sync"] = done
            marks.append((log.stat().st_size, "synced"))
            settings.write_text(settings.read_text(encoding="utf-8").replace("seconds = 60", "seconds = 61"), encoding="utf-8")
            self._call("stick", "update", "--site", site, "--stick", path, "--binary", program)
            marks.append((log.stat().st_size, "updated"))
        found, kept = renewal.judge(before, log, marks, self.options.cuts, self._folder, self.say)
        for number, (cut, path) in enumerate(kept):
            self._goes_on(cut, path, ("bios", "uefi")[number % 2])
        self.results["update"] = dict(found, sync=moved["sync"], **{"started again on a machine": len(kept)})

    def _serve_one(self, hub, served, serial, known, promised):
        """Another machine that starts from the stick's network, up to its receipt."""
        device = self._guest(serial.lower(), "bios")
        device.start(self._disk(device), _wire(hub, _hardware(serial).mac, "bootindex=1"), serial=serial)
        name = device.expect(r"enrolled id=(\S+)\s", 300)[1]
        if not known:
            code = device.expect(r"code (\S+) waiting", 60)[1]
            promised("waits", name)
            served.type(code + ENTER)
            served.expect(f"{name} is let in", 60)
            promised("approved", name)
        device.expect(r"granted profile=", 120)
        promised("granted", name)
        device.expect("receipt stored", 120)
        promised("receipt", name)
        device.pull()
        self.say(f"{name} ({serial}) is provisioned", "cuts")

    def _goes_on(self, cut, image, fw="bios"):
        """A stick that was pulled starts, takes its PIN and serves: it refuses no state of its own."""
        guest = self._guest(f"after-cut-{cut}", fw)
        guest.start(self._usb(image), _wire(lessee.Hub(), "52:54:00:77:01:01"), serial="VAN0001")
        guest.choose(1)
        guest.unlock()
        guest.expect(r"ready: site", 120)
        guest.type("q" + ENTER)
        guest.expect("Type yes", 30)
        guest.type("yes" + ENTER)
        guest.end()
        self.say(f"pulled at write {cut}, started again: it serves", guest.name)

    def media(self):
        """Write-protected, full, worn: what a technician reads."""
        self.results["media"] = media.broken(self)

    def clock(self):
        """Machines whose clocks are wrong."""
        self.results["clock"] = moments.clock(self)

    def unplug(self):
        """The stick is taken out while it is the appliance."""
        self.results["unplug"] = moments.unplug(self)

    def late_server(self):
        """No cable, then no server, then one."""
        self.results["late-server"] = moments.late_server(self)

    def device(self):
        """`stick build --device` on loop devices."""
        self.results["device"] = media.device(self)

    # -- inside --------------------------------------------------------------------

    def _build(self):
        cache = host.cache_dir()
        program, agent = binaries(self.say, self.options.bin_dir)
        self._groundcrew = self._folder / "groundcrew"
        shutil.copy2(program, self._groundcrew)
        self._oem = oem.ensure(cache, self.say, "cloud")
        deb = self.options.kernel_deb or host.kernel_deb(cache, self.say)
        top = self._folder / "top"
        self._site = top / "site"
        self._call("init", top, "--org", "Lab", "--name", "van", "--address", "10.77.0.1/24", "--interface", "gc0")
        csv = self._folder / "devices.csv"
        csv.write_bytes(hwhash.csv([_hardware("STICK0001")]).encode("ascii"))
        self._call("device", "import", csv, "--site", self._site)
        self._call("image", "build", "--site", self._site, "--kernel-deb", deb, "--agent", agent)
        self._call("bundle", "build", self._site / "sources/welcome", "--out", self._folder / "bundle")
        self._call("bundle", "publish", self._folder / "bundle", "--hq", top / "hq", "--site", self._site)
        settings = self._site / "site.toml"
        settings.write_text(settings.read_text(encoding="utf-8").replace("seconds = 10", "seconds = 60"), encoding="utf-8")
        pin = self._folder / "pin"
        pin.write_text(PIN + "\n", encoding="ascii")
        self._image = self._folder / "stick.img"
        began = time.monotonic()
        said = self._call("stick", "build", "--site", self._site, "--out", self._image, "--pin-file", pin)
        self.results["build"] = {"seconds": round(time.monotonic() - began, 1), "said": said}
        self.say(f"stick built in {self.results['build']['seconds']} s")

    def _provision(self, fw):
        """No network card at all; a wrong PIN first; the disk is read afterwards."""
        stick = self._stick(fw)
        guest = self._guest(fw, fw)
        guest.start(self._usb(stick) + self._disk(guest))
        guest.choose(0)
        guest.unlock("not-the-pin")
        guest.expect("This is not the PIN", 60)
        guest.unlock()
        guest.expect("receipt stored", 180, "receipt")
        guest.expect("Pull the stick out", 60)
        guest.pull()
        self._judge_disk(guest)
        self._judge_stick(stick)
        self.results[fw] = guest.marks

    def _judge_disk(self, guest):
        name = verify.hostname(guest.folder / "disk.qcow2", guest.folder)
        if not name.startswith("van-"):
            raise LabError(f"/etc/hostname on the provisioned disk is {name!r}")
        self.say(f"its disk, read offline: /etc/hostname is {name}", guest.name)

    def _judge_stick(self, stick):
        """Grown, whole, and with the receipt in its journal."""
        said = host.run(["sgdisk", "-v", stick])
        if "No problems found" not in said:
            raise LabError(f"sgdisk -v: {said}")
        backup = self._folder / f"{stick.stem}.backup"
        self._call("stick", "backup", "--stick", stick, backup)
        restored = self._folder / f"{stick.stem}-restored"
        self._call("restore", backup, "--site", restored)
        states = [d["state"] for d in json.loads(self._call("journal-devices", restored))]
        if states != ["provisioned"]:
            raise LabError(f"the stick's registry says {states}")

    def _guest(self, name, fw):
        guest = Guest(name, fw, self._folder, self._accel)
        self._guests.append(guest)
        return guest

    def _stick(self, name):
        path = self._folder / f"stick-{name}.img"
        host.run(["cp", "--sparse=always", self._image, path])
        os.truncate(path, STICK_BYTES)
        return path

    def _usb(self, stick):
        return ["-drive", f"if=none,id=u0,format=raw,file={stick}", "-device", "qemu-xhci",
                "-device", "usb-storage,id=stick,drive=u0,removable=on,bootindex=1"]

    _wire = staticmethod(_wire)

    def _disk(self, guest):
        disk = guest.folder / "disk.qcow2"
        host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self._oem, disk])
        return ["-drive", f"if=none,id=disk,format=qcow2,file={disk}", "-device", "virtio-blk-pci,drive=disk,bootindex=2"]

    def _debugfs(self, image, *requests, write=False):
        script = self._folder / "debugfs"
        script.write_text("\n".join(requests) + "\n", encoding="utf-8")
        name = f"{image}?offset={cuts.DATA}"
        if write:
            subprocess.run(["e2fsck", "-p", name], capture_output=True, check=False)
        host.run(["debugfs", *(["-w"] if write else []), "-f", script, name])

    def _call(self, *words):
        if words[0] == "journal-devices":
            # `device list` opens the folder, which needs keys: the site's own.
            shutil.copytree(self._site / "keys", words[1] / "keys", dirs_exist_ok=True)
            words = ("device", "list", "--json", "--site", words[1])
        argv = [str(self._groundcrew), *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise LabError(f"`{' '.join(argv)}` failed ({done.returncode}):\n{(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _tell(self, good):
        if self.options.json:
            self.options.json.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        for name, found in self.results.items():
            pages = {k: v for k, v in found.items() if k in ("said", "page") or "\n" in str(v)}
            self.say.plain(f"{name}: {json.dumps({k: v for k, v in found.items() if k not in pages})}")
            for key, text in pages.items():
                self.say.plain(f"-- {key}\n{str(text).rstrip()}")
        if good and not self.options.keep:
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            self.say(f"kept: {self._folder}")
