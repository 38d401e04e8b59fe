"""Rogue appliances against the real agent in virtual machines: what its screen said, and its disk afterwards.

Every attack has a machine of its own. It starts kernel and initrd of the site's boot image at
once (no firmware's network boot: that is not what is attacked) and takes a man in the middle
(`rogue.py`, 10.77.0.2) for its appliance; the real one stands behind it.

    device --- br0 --- 10.77.0.2 rogue.py --- 10.77.0.1 groundcrew serve
"""

import json
import os
import queue
import re
import shutil
import stat
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from . import appliance, host, hwhash, machine, milestones, network, oem, verify
from .machine import Hardware, Machine
from .say import LabError

AT_ONCE = 2  # software emulation: more would only wait for each other
DAY = 86400
CHARTER_DAYS = 100  # HQ's other signatures last longer: the charter's end is what is met
# Where bundles write, and the one place that is the agent's after a grant.
LOOKED_AT = ("/boot", "/etc", "/home", "/opt", "/root", "/srv", "/usr/local", "/var")
ITS_OWN = "var/lib/groundcrew"


@dataclass(frozen=True)
class Attack:
    name: str
    what: str
    says: str  # pattern that the device's reason must have
    granted: bool = False  # refused after the grant: its log and metadata are kept on the disk
    tls: str = "site"  # whose TLS key the rogue has
    clock: int = 0  # days that the machine's clock is ahead
    after: str = ""  # an attack that has to have been played before
    twin: bool = False  # two machines that call themselves the same, and an honest way between


ATTACKS = [
    Attack("swapped-blob", "one bit of the bundle is another", r"the blob sha256:\w+ was changed", granted=True),
    Attack("truncated-blob", "the second half of the bundle never comes", r"the blob sha256:\w+ did not come whole, \d+ of \d+ bytes: the connection ended early", granted=True),
    Attack("endless-blob", "the bundle does not end", r"the blob sha256:\w+ was changed: .* more than \d+ bytes", granted=True),
    Attack("endless-metadata", "timestamp.json does not end", r"timestamp\.json .*longer than \d+ bytes"),
    Attack("rollback", "the metadata of before the last publication", r"older than version \d+ known from the image: refused as a rollback"),
    Attack("freeze", "nothing new for 20 days, by the device's clock", r"timestamp\.json version \d+ expired at", clock=20),
    Attack("mix-and-match", "an older snapshot under the current timestamp", r"snapshot\.json.*its length or hash differs"),
    Attack("root-mismatch", "another HQ's root as the next one", r"root\.json"),
    Attack("other-hq", "another HQ's timestamp", r"timestamp\.json.* 0 of its signatures are good"),
    Attack("charter-of-another-site", "another site's charter under this one's name", r"sites/\w+\.json"),
    Attack("charter-expired", "HQ has signed no new charter, by the device's clock", r"the charter of `\w+` expired at", clock=2 * CHARTER_DAYS),
    Attack("impersonated", "somebody else's TLS key", r"not the appliance of this site", tls="own"),
    Attack("grant-replayed", "a grant that another device got", r"the grant names another signing key", after="swapped-blob"),
    Attack("stale-grant", "a grant for another start of this machine", r"another nonce: it is for another start of this machine"),
    Attack("race", "two machines with the words of one registration, at once", r"^[0-9A-Z]{4}-[0-9A-Z]{4}", twin=True),
    Attack("foreign-grant", "a grant of another site, by its key", r"no signature on the envelope matches"),
]


def chosen(word):
    """The attacks of `--attack WORD`, those before them included; nothing if one is unknown."""
    known = {attack.name: attack for attack in ATTACKS}
    names = list(known) if word == "all" else word.split(",")
    if not all(name in known for name in names):
        return []
    wanted = {*names, *(known[name].after for name in names)}
    return [attack for attack in ATTACKS if attack.name in wanted]


class Attacks:
    def __init__(self, options, say):
        self._options = options
        self._say = say
        self._attacks = chosen(options.attack)
        self._hardware = [Hardware.make(index, index + 1, "bios") for index in range(len(self._attacks))]
        # The twin's tap and MAC come after everybody else's.
        self._twin = Hardware.make(len(self._attacks), len(self._attacks) + 1, "bios")
        self._accel = host.accelerator(options.kvm)

    def run(self):
        """True when every device refused, said why, and its disk is as it was."""
        host.require({**host.TOOLS, "openssl": "gives the rogue its certificates"})
        host.require_network()
        cache = host.cache_dir()
        binaries = (self._options.bin_dir / "groundcrew", self._options.bin_dir / "groundcrew-agent") if self._options.bin_dir else appliance.build(self._say, ("amd64",))
        oem_image = oem.ensure(cache, self._say, self._options.oem_kernel)
        kernel_deb = self._options.kernel_deb or host.kernel_deb(cache, self._say)
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="groundcrew-attacks-"))
            stack.callback(self._tidy)
            for name in ("logs", "grants"):
                (self._folder / name).mkdir()
            self._network = network.Network()
            stack.callback(self._network.down)
            self._network.up(len(self._attacks) + 1)
            self._network.join_other()
            self._make_site(binaries, kernel_deb)
            self._serve(stack)
            rows = self._play(oem_image)
        self._say.plain("\n" + table(rows))
        if self._options.json:
            self._options.json.write_text(json.dumps({"attacks": rows}, indent=2) + "\n", encoding="utf-8")
        return all(row["ok"] for row in rows)

    def _tidy(self):
        if self._options.keep:
            self._say(f"kept: {self._folder} (site, disks, logs)")
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- the true site, and what the attacker has of it ------------------------------

    def _make_site(self, binaries, kernel_deb):
        site = self._site = appliance.Appliance(self._folder, binaries, self._network.appliance, queue.Queue())
        self._say("waiting for a site, another HQ's site, a boot image and a bundle")
        site.init()
        site.init_other(self._folder / "other", "elsewhere")
        site.import_devices(hwhash.csv(self._hardware))
        shutil.copytree(site.site / "trust/metadata", self._folder / "old")
        site.new_charter(CHARTER_DAYS)
        site.publish(self._options.bundle)
        site.build_image("amd64", kernel_deb)  # knows the versions of after the publication
        for owner, key in (("site", site.site / "keys/tls.pem"), ("own", self._folder / "other/site/keys/tls.pem")):
            host.run(["openssl", "req", "-x509", "-new", "-key", key, "-subj", "/CN=groundcrew", "-days", "30", "-out", self._folder / f"{owner}.crt"])
            shutil.copy(key, self._folder / f"{owner}.key")

    def _serve(self, stack):
        stack.callback(self._site.stop)
        self._site.serve()
        deadline = time.monotonic() + 60
        while True:
            try:
                event = self._site.events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise LabError("groundcrew serve was not ready within 60 s") from None
            if event.kind == "exit":
                raise LabError(f"groundcrew serve ended with exit code {event.text} before it was ready")
            if event.kind == "ready":
                return

    def _spec(self, attack, index):
        other = self._folder / "other/site"
        return {
            "address": network.OTHER, "upstream": network.ADDRESS.split("/")[0], "attack": attack.name,
            "http": 8000 + index, "https": 9000 + index, "grants": str(self._folder / "grants"),
            "cert": str(self._folder / f"{attack.tls}.crt"), "key": str(self._folder / f"{attack.tls}.key"),
            "old": str(self._folder / "old"), "other": str(other / "trust/metadata"),
            "charter": str(next((other / "trust/targets/sites").iterdir())),
            "grant_key": str((other if attack.name == "foreign-grant" else self._site.site) / "keys/grant.pem"),
        }

    # -- playing -------------------------------------------------------------------

    def _play(self, oem_image):
        rows = {}
        pairs = list(zip(self._attacks, self._hardware))
        needed = {attack.after for attack in self._attacks}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            # What others need comes first, and is over before they begin.
            one = lambda pair: (self._race if pair[0].twin else self._one)(*pair, oem_image)  # noqa: E731
            for batch in ([p for p in pairs if p[0].name in needed], [p for p in pairs if p[0].name not in needed]):
                for row in pool.map(one, batch):
                    rows[row["name"]] = row
        return [rows[attack.name] for attack in self._attacks]

    def _machine(self, name, attack, hw, port, events, oem_image):
        device = Machine(hw, self._folder / "devices" / name, self._accel, self._network.switch, events)
        device.log = self._folder / "logs" / f"{name}.serial.log"
        device.insert_disk(oem_image)
        device.extra = self._direct(attack, hw, port)
        return device

    def _one(self, attack, hw, oem_image):
        """One machine, one rogue, one verdict."""
        folder = self._folder / "devices" / attack.name
        events = queue.Queue()
        device = self._machine(attack.name, attack, hw, hw.index, events, oem_image)
        with self._rogue(attack, hw.index):
            device.power_on()
            try:
                reason, kind, seconds = self._watch(device, events)
            finally:
                device.power_off()
        disk = self._disk(device, oem_image, folder, attack.granted)
        return self._judged(attack, reason, kind, seconds, disk)

    def _judged(self, attack, reason, kind, seconds, disk):
        said = bool(kind and re.search(attack.says, reason))
        ok = said and disk in ("byte for byte", "its log and its trust only")
        self._say(f"{'' if ok else 'FAILED: '}{kind or 'nothing'}: {reason}; disk: {disk}", attack.name)
        return {"name": attack.name, "what": attack.what, "ok": ok, "kind": kind, "reason": reason, "seconds": seconds, "disk": disk}

    def _race(self, attack, hw, oem_image):
        """Two that say the same of themselves: one gets the registration, the other shows a code."""
        events = queue.Queue()
        twin = replace(hw, index=self._twin.index, mac=self._twin.mac)
        machines = [self._machine(f"{attack.name}-{n}", attack, one, hw.index, events, oem_image) for n, one in enumerate((hw, twin), 1)]
        with self._rogue(attack, hw.index), ExitStack() as stack:
            for one in machines:
                stack.callback(one.power_off)
                one.power_on()
            seen = self._watch_race(events, machines)
        winners = [one for one in machines if "receipt" in seen[one]]
        losers = [one for one in machines if "code" in seen[one]]
        if len(winners) != 1 or len(losers) != 1 or winners == losers:
            said = "; ".join(", ".join(seen[one]) for one in machines)
            return self._judged(attack, f"not one winner and one that waits: {said}", None, None, "not looked at")
        (loser,) = losers
        at, code = seen[loser]["code"]
        disk = self._disk(loser, oem_image, self._folder / "devices" / attack.name, False)
        return self._judged(attack, f"{code}, a technician decides; the other was provisioned", "waits", at, disk)

    def _watch_race(self, events, machines):
        """What each of them came to, once there is nothing more to come."""
        seen = {one: {} for one in machines}
        deadline = time.monotonic() + self._options.timeout
        ends = lambda met: met.keys() & {"receipt", "code", "refused", "failed", "panic", "exit"}  # noqa: E731
        while not all(map(ends, seen.values())) and time.monotonic() < deadline:
            try:
                event = events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if event.kind == "exit":
                seen[event.who]["exit"] = (None, event.text)
            for milestone, values in milestones.recognise(milestones.SERIAL, event.text):
                told = values.get("code") or values.get("reason") or ""
                seen[event.who].setdefault(milestone.name, (round(event.at - event.who.powered_at, 1), told))
        return seen

    def _direct(self, attack, hw, port):
        boot = self._site.site / "boot"
        words = (f"gc.mac={hw.mac} gc.ip=10.77.0.{20 + hw.index} gc.mask=255.255.255.0 gc.server={network.OTHER} "
                 f"gc.http={8000 + port} gc.https={9000 + port} console=ttyS0,115200 loglevel=4")
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + attack.clock * DAY))
        return ["-kernel", str(boot / "vmlinuz"), "-initrd", str(boot / "initrd.img"), "-append", words, "-rtc", f"base={clock}", "-no-reboot"]

    def _rogue(self, attack, index):
        spec = self._folder / f"rogue-{attack.name}.json"
        spec.write_text(json.dumps(self._spec(attack, index)), encoding="utf-8")
        return Program(network.inside(self._network.other, ["python3", Path(__file__).with_name("rogue.py"), spec]),
                       self._folder / f"logs/rogue-{attack.name}.log")

    def _watch(self, device, events):
        """(reason, refused or failed, seconds), once the machine wants to restart."""
        reason, kind, seconds = "it said nothing", None, None
        deadline = device.powered_at + self._options.timeout
        while True:
            try:
                event = events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return f"no end within {self._options.timeout} s; last: {reason}", None, None
            if event.kind == "exit":  # -no-reboot: it restarts
                return reason, kind, seconds
            for milestone, values in milestones.recognise(milestones.SERIAL, event.text):
                if milestone.name == "applied":
                    return "it applied what it was given", None, None
                if milestone.name in ("refused", "failed", "panic") and kind is None:
                    kind, reason, seconds = milestone.name, values["reason"], round(event.at - device.powered_at, 1)

    def _disk(self, device, oem_image, folder, granted):
        """In words, what became of the disk."""
        same = subprocess.run(["qemu-img", "compare", "-q", "-F", "raw", "-f", "qcow2", str(device.disk), str(oem_image)], check=False)
        if same.returncode == 0:
            return "byte for byte"
        if not granted:
            return "CHANGED, though nothing was granted"
        return differences(device.disk, oem_image, folder)


def differences(disk, oem_image, folder):
    """What differs where a bundle may write; both file systems are read offline."""
    base = folder / "base.qcow2"
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", oem_image, base])
    trees = []
    for name, image in (("now", disk), ("then", base)):
        part = folder / name
        part.mkdir()
        root = verify.OfflineRoot(image, part)
        for path in LOOKED_AT:
            target = (part / "tree" / path.strip("/")).parent  # below it, by its name
            target.mkdir(parents=True, exist_ok=True)
            root.dump(path, target)
        root.close()
        trees.append(part / "tree")
    found = [path for path in unlike(*trees) if path != ITS_OWN and not path.startswith(f"{ITS_OWN}/")]
    for tree in trees:
        shutil.rmtree(tree.parent)
    return "CHANGED: " + ", ".join(found[:5]) if found else "its log and its trust only"


def unlike(now, then):
    """Paths below two folders that differ in kind, owner, mode or content, or are in one only."""
    now, then = contents(now), contents(then)
    return sorted(path for path in now.keys() | then.keys() if now.get(path) != then.get(path))


def contents(root):
    """Path -> what is there; links are not followed."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            status = path.lstat()
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, what)
    return found


class Program:
    """A child that is ready once it says so, and is ended with the block."""

    def __init__(self, argv, log):
        self._argv, self._log = argv, log

    def __enter__(self):
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        first = self._process.stdout.readline()
        if first.strip() != b"ready":
            rest = first + self._process.stdout.read()
            raise LabError("the rogue did not start:\n" + rest.decode("utf-8", "replace"))
        self._copy = subprocess.Popen(["cat"], stdin=self._process.stdout, stdout=open(self._log, "wb"))
        return self

    def __exit__(self, *_):
        machine.end(self._process)
        self._process.stdout.close()
        self._copy.wait()


def table(rows):
    """Attack, what the device said, how its disk is."""
    lines = []
    for row in rows:
        verdict = "refused" if row["ok"] else "FAILED"
        lines.append(f"{row['name']:<24}{verdict}, {row['seconds']} s after power-on; disk: {row['disk']}")
        lines.append(f"{'':<24}{row['kind']}: {row['reason']}")
    return "\n".join(lines)
