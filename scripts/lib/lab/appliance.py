"""The appliance under test: the only place that calls the `groundcrew` command."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import machine, milestones, network
from .machine import Event
from .say import LabError

ROOT = Path(__file__).resolve().parents[3]

AGENT = {"amd64": "groundcrew-agent", "arm64": "groundcrew-agent-arm64"}


def build(say, arches):
    """Builds the binaries as a user would; returns their paths."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    steps = [("cargo build --release", ["cargo", "build", "--release", "--locked"])]
    for arch in arches:
        steps.append((f"scripts/build-agent --arch {arch}", [ROOT / "scripts/build-agent", "--arch", arch]))
    for name, argv in steps:
        say(f"waiting for {name} (minutes on a fresh clone, else seconds)")
        try:
            done = subprocess.run([str(a) for a in argv], cwd=ROOT, check=False, capture_output=True, text=True, errors="replace")
        except FileNotFoundError:
            raise LabError(f"`{argv[0]}` not found; scripts/setup says how to get the Rust toolchain") from None
        if done.returncode != 0:
            raise LabError(f"`{name}` failed:\n" + "\n".join((done.stdout + done.stderr).splitlines()[-30:]))
    return [target / "release/groundcrew", *(target / "agent" / AGENT[arch] for arch in arches)]


class Appliance:
    """One site in `folder`, made and served by the binaries given (they are copied side by side)."""

    def __init__(self, folder, binaries, namespace, events):
        self._folder = folder
        self._namespace = namespace
        self.events = self._events = events
        self._process = None
        self._threads = []
        self.site = folder / "site/site"
        self.log = folder / "logs/appliance.log"
        self._top = folder / "site"
        self._bin = folder / "bin"
        self._bin.mkdir()
        for path in binaries:
            if not path.exists():
                raise LabError(f"{path} is missing")
            shutil.copy2(path, self._bin / path.name)

    # -- the command line, one method per command ---------------------------------

    def init(self):
        self._call("init", self._top, "--org", "Lab", "--address", network.ADDRESS, "--interface", network.INTERFACE,
                   "--mode", "authoritative")

    def init_other(self, folder, name):
        """Another HQ with a site of its own, which this one has nothing to do with."""
        self._call("init", folder, "--org", "Other", "--name", name, "--address", network.ADDRESS, "--interface", network.INTERFACE)

    def new_charter(self, days):
        """What HQ lets this site do, for so many days; a courier brings it."""
        hq, courier = self._top / "hq", self._folder / "hq.courier"
        self._call("hq", "site", "charter", "hq", "--days", str(days), "--hq", hq)
        self._call("trust", "export", courier, "--hq", hq, "--name", "hq")
        self._call("trust", "import", courier, "--site", self.site)

    def import_devices(self, csv_text):
        path = self._folder / "devices.csv"
        path.write_bytes(csv_text.encode("ascii"))
        self._call("device", "import", path, "--site", self.site)

    def build_image(self, arch, kernel_deb, loader_debs=(), key=None):
        """`key`: folder of `new_key`; without it nothing is signed."""
        debs = [word for deb in loader_debs for word in ("--loader-deb", deb)]
        signing = ["--sign-key", key / "boot-key.pem", "--sign-cert", key / "boot-cert.pem"] if key else []
        self._call("image", "build", "--site", self.site, "--arch", arch, "--kernel-deb", kernel_deb, *debs, *signing)

    def new_key(self, name):
        """A fresh key for boot images; the folder it lies in."""
        folder = self._folder / name
        self._call("image", "new-key", "--out", folder, "--name", f"lab {name}")
        return folder

    def enroll_keys(self, key):
        """What a technician is given; its folder."""
        out = self._folder / f"enroll-{key.name}"
        self._call("image", "enroll-keys", "--sign-key", key / "boot-key.pem", "--sign-cert", key / "boot-cert.pem", "--out", out)
        return out

    def set_boot(self, lines):
        """`[boot]` in site.toml, as a technician edits it."""
        path = self.site / "site.toml"
        text = path.read_text(encoding="utf-8")
        table = "[boot]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
        text = text.replace("[boot]\n", table, 1) if "[boot]\n" in text else f"{text}\n{table}"
        path.write_text(text, encoding="utf-8")

    def publish(self, source=None):
        out = self._folder / "bundle"
        self._call("bundle", "build", source or self.site / "sources/welcome", "--out", out)
        self._call("bundle", "publish", out, "--hq", self._top / "hq", "--site", self.site)

    def set_mode(self, mode):
        """`mode` of the `[[network]]` in site.toml, as a technician edits it."""
        path = self.site / "site.toml"
        text = path.read_text(encoding="utf-8")
        if 'mode = "authoritative"' not in text:
            raise LabError(f"{path} has no `mode = \"authoritative\"` to change")
        path.write_text(text.replace('mode = "authoritative"', f'mode = "{mode}"', 1), encoding="utf-8")

    def add_subnet(self, relay):
        """A network behind a relay in site.toml, as its sample shows it."""
        path = self.site / "site.toml"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("[boot]\n", f'[[network.subnet]]\nrelay = "{relay}"\n\n[boot]\n', 1), encoding="utf-8")

    def leases(self):
        return json.loads(self._call("lease", "list", "--json", "--site", self.site))

    def devices(self):
        return json.loads(self._call("device", "list", "--json", "--site", self.site))

    def approve(self, device_id, code):
        self._call("device", "approve", device_id, code, "--site", self.site)

    def serve(self):
        """Starts `groundcrew serve`; a `ready` event follows once its sockets are bound."""
        notify = self._notify_socket()
        environment = dict(os.environ, NO_COLOR="1", NOTIFY_SOCKET=notify.getsockname())
        self._process = subprocess.Popen(
            network.inside(self._namespace, [self._groundcrew(), "serve", "--site", self.site]),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_log, args=(self._process,), daemon=True),
            threading.Thread(target=self._read_notify, args=(notify,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self):
        process, self._process = self._process, None
        if process is not None:
            machine.end(process)
            self._threads[0].join(timeout=5)

    # -- what the scenario asks ----------------------------------------------------

    def lobby_entry(self, serial):
        """(id, code) of the device with this serial, wherever the listing keeps it."""
        for entry in _objects(self.devices()):
            if serial in _strings(entry) and "id" in entry and "code" in entry:
                return str(entry["id"]), str(entry["code"])
        raise LabError(f"`groundcrew device list --json` has no entry with serial {serial} and a code")

    def tamper(self):
        """Flips one bit in the middle of the largest published blob; returns its digest."""
        blobs = [path for path in self.site.rglob("blobs/sha256/*") if path.is_file()]
        if not blobs:
            raise LabError(f"no blobs/sha256 below {self.site}: was a bundle published?")
        blob = max(blobs, key=lambda path: path.stat().st_size)
        with open(blob, "r+b") as file:
            middle = blob.stat().st_size // 2
            file.seek(middle)
            byte = file.read(1)[0]
            file.seek(middle)
            file.write(bytes([byte ^ 0x01]))
        return blob.name

    def memory_kib(self):
        """(resident now, highest so far) of the serving process."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii", errors="replace")
            values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            return tuple(int(values[key].split()[0]) for key in ("VmRSS", "VmHWM"))
        except (FileNotFoundError, KeyError):
            raise LabError("groundcrew serve is no longer running") from None

    # -- inside --------------------------------------------------------------------

    def _groundcrew(self):
        return self._bin / "groundcrew"

    def explain(self, mac):
        """What `groundcrew boot explain` says of a device; its exit code 1 says that the boot failed."""
        return self._call("boot", "explain", mac, "--site", self.site, good=(0, 1))

    def boot_once(self, mac, what):
        self._call("boot", "once", mac, what, "--site", self.site)

    def boot_release(self, name):
        self._call("boot", "release", name, "--site", self.site)

    def _call(self, *words, good=(0,)):
        argv = [str(self._groundcrew()), *map(str, words)]
        done = subprocess.run(network.inside(self._namespace, argv), capture_output=True, text=True, errors="replace", check=False)
        with open(self._folder / "logs/commands.log", "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(argv)}\n{done.stderr}{done.stdout}(exit {done.returncode})\n")
        if done.returncode not in good:
            raise LabError(f"`{' '.join(['groundcrew', *argv[1:]])}` failed ({done.returncode}):\n{(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _notify_socket(self):
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(self._folder / "notify"))
        return notify

    def _read_notify(self, notify):
        while True:
            message = notify.recv(4096)
            if b"READY=1" in message.split(b"\n"):
                self._events.put(Event("ready", self, time.monotonic()))
                return

    def _read_log(self, process):
        started = time.monotonic()
        with open(self.log, "a", encoding="utf-8") as log:
            for raw in machine.lines(process.stdout):
                text = milestones.clean(raw)
                at = time.monotonic()
                log.write(f"{at - started:8.2f} {text}\n")
                log.flush()
                self._events.put(Event("log", self, at, text))
        self._events.put(Event("exit", self, time.monotonic(), str(process.wait())))


def _objects(value):
    """Every JSON object, inner ones last."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _objects(inner)


def _strings(entry):
    """The strings of an object, one level of nested objects included."""
    for value in entry.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (inner for inner in value.values() if isinstance(inner, str))
