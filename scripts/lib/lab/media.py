"""Media as they come: write-protected, full, worn, too small, in use. Each is said early, in words
that say what to do."""

import os
import pty
import subprocess
import time
from pathlib import Path

from . import cuts, host
from .say import LabError

MIB = 1 << 20


def broken(lab):
    """Media that a machine was started from. What the screen said, by kind."""
    said = {}
    usb = ["-device", "qemu-xhci", "-device", "usb-storage,drive=u0,removable=on,bootindex=1"]
    raw = lambda stick, more="": ["-drive", f"if=none,id=u0,format=raw,file={stick}{more}", *usb]
    # It can be read, and every write fails.
    worn = lambda stick: ["-blockdev", f"driver=file,filename={stick},node-name=file",
                          "-blockdev", "driver=blkdebug,image=file,node-name=u0,inject-error.0.event=none,"
                          "inject-error.0.iotype=write,inject-error.0.errno=5,inject-error.0.once=off", *usb]
    kinds = {
        "write-protected": (lambda stick: raw(stick, ",readonly=on"), r"(?s)(write-protected: slide.*?)Enter starts"),
        "full": (lambda stick: raw(_filled(lab, stick, 1)), r"(?s)(the stick is full.*?)Enter starts"),
        "worn, at every write": (worn, r"(?s)(failed: .*?worn out.*?)Enter starts"),
    }
    for name, (drives, pattern) in kinds.items():
        guest = lab._guest(name.replace(" ", "-").replace(",", ""), "uefi")  # whose screen QEMU draws
        guest.start(drives(lab._stick(guest.name)) + lab._disk(guest), screen=True)
        guest.choose(0)
        said[name] = " ".join(guest.expect(pattern, 120)[1].split())
        guest.picture("screen")
        guest.pull()
        lab.say(f"{name}: {said[name]}")
    said.update(_while_it_runs(lab, usb))
    return said


def _while_it_runs(lab, usb):
    """Nearly full: told before the PIN. And a medium that takes no more writes in the middle of the work:
    the device is not told that its receipt is stored, and what came before is there."""
    said = {}
    guest = lab._guest("nearly-full", "bios")
    stick = _filled(lab, lab._stick("nearly-full"), 20)
    guest.start(["-drive", f"if=none,id=u0,format=raw,file={stick}", *usb] + lab._disk(guest))
    guest.choose(0)
    guest.unlock()
    said["nearly full"] = guest.expect(r"the stick is nearly full[^\n]*\n", 120)[0].strip()
    guest.expect("receipt stored", 180)
    guest.pull()
    guest = lab._guest("worn-later", "bios")
    stick = lab._stick("worn-later")
    # Another way to the same file lies ready, on which every write fails.
    drives = ["-blockdev", f"driver=file,filename={stick},node-name=file",
              "-blockdev", "driver=raw,file=file,node-name=u0",
              "-blockdev", "driver=blkdebug,image=file,node-name=dead,inject-error.0.event=none,"
              "inject-error.0.iotype=write,inject-error.0.errno=5,inject-error.0.once=off", *usb]
    guest.start(drives + lab._disk(guest), screen=True)
    guest.choose(0)
    guest.unlock()
    guest.expect(r"enrolled id=", 120)
    guest.monitor("blockdev-reopen", options=[{"driver": "raw", "file": "dead", "node-name": "u0"}])
    found = guest.expect(r"receipt stored|failed: [^\n]*\n", 180)[0]
    if "receipt stored" in found:
        raise LabError("a receipt was acknowledged by a stick that takes no writes")
    said["worn, while it works"] = found.strip()
    guest.pull()
    return said


def _filled(lab, stick, left):
    """A stick of the image's own size, with `left` MiB free on its data partition."""
    os.truncate(stick, os.path.getsize(lab._image))
    name = f"{stick}?offset={cuts.DATA}"
    stats = host.run(["debugfs", "-R", "stats -h", name])
    free = next(int(line.split(":")[1]) for line in stats.splitlines() if line.startswith("Free blocks:"))
    filler = lab._folder / "filler"
    with open(filler, "wb") as out:
        for _ in range(max(0, free * 4096 // MIB - left)):
            out.write(os.urandom(MIB))
    lab._debugfs(stick, f"write {filler} /filler", write=True)
    filler.unlink()
    return stick


class Loop:
    """A file as a block device: `with Loop(path) as node`."""

    def __init__(self, path, *options):
        self._path, self._options = path, options
        self._node = None

    def __enter__(self):
        self._node = host.run(["losetup", "--find", "--show", *self._options, self._path]).strip()
        return self._node

    def __exit__(self, *_):
        subprocess.run(["losetup", "--detach", self._node], check=False)


def device(lab):
    """`stick build --device` on block devices of the kernel: what is refused, what is asked, what comes out."""
    pin, medium = lab._folder / "pin", lab._folder / "medium"
    build = lambda node, *more: _says(lab, "stick", "build", "--site", lab._site, "--device", node, "--pin-file", pin, *more)
    found = {}

    def refused(name, node, *words):
        code, text = build(node, "--yes")
        if code == 0 or not all(word in text for word in words):
            raise LabError(f"{name}: exit {code}, and not {words}:\n{text}")
        found[name] = text.strip().splitlines()[-1]

    size = os.path.getsize(lab._image)
    medium.write_bytes(b"")
    os.truncate(medium, size // 2)
    with Loop(medium) as node:
        refused("too small", node, "MiB", "needs")
    os.truncate(medium, size + 300 * MIB)
    with Loop(medium, "--read-only") as node:
        refused("write-protected", node, "write-protected")
    with Loop(medium, "--sector-size", "4096") as node:
        refused("blocks of 4 KiB", node, "blocks of 4096 bytes")
    with Loop(medium) as node:
        holder = os.open(node, os.O_RDWR | os.O_EXCL)
        try:
            refused("held by another program", node, "in use by another program")
        finally:
            os.close(holder)
        code, text = _says(lab, "stick", "build", "--site", lab._site, "--out", node, "--pin-file", pin)
        if code == 0 or "--device" not in text or not Path(node).is_block_device():
            raise LabError(f"--out with a block device: exit {code}:\n{text}")
        found["--out with a block device"] = text.strip().splitlines()[-1]
    own = host.run(["findmnt", "--noheadings", "--output", "SOURCE", "--target", "/"]).strip()
    if own.startswith("/dev/"):
        refused("this machine's own disk", own)
    with Loop(medium, "--partscan") as node:
        before = _digest(medium)
        code, text = _asked(lab, pin, node, "no\n")
        if code == 0 or "will be lost" not in text or "nothing was written" not in text or _digest(medium) != before:
            raise LabError(f"asked and answered `no`: exit {code}:\n{text}")
        short = lab._folder / "short-pin"
        short.write_text("12345\n", encoding="ascii")
        code, text = _asked(lab, short, node, "yes\n")
        if code == 0 or "at least 6" not in text or "will be lost" in text:
            raise LabError(f"a PIN that is too short, before the question: exit {code}:\n{text}")
        code, text = _asked(lab, pin, node, "yes\n")
        if code or text.count("will be lost") != 1:
            raise LabError(f"asked and answered `yes`: exit {code}:\n{text}")
        found["asked"] = next(line for line in text.splitlines() if "will be lost" in line).strip()
        # All but the table, which is the medium's: from the first partition to the image's own copy.
        host.run(["cmp", "-n", str(size - 2 * MIB), "-i", str(MIB), lab._image, node])
        host.run(["cmp", "-n", "440", lab._image, node])
        subprocess.run(["partx", "--update", node], check=False, capture_output=True)
        at = lab._folder / "mounted"
        at.mkdir()
        host.run(["mount", f"{node}p4", at])
        try:
            refused("mounted", node, "is in use", "umount")
        finally:
            host.run(["umount", at])
        found["synced"] = lab._call("stick", "sync", "--site", lab._site, "--stick", node).strip()
        found["updated"] = lab._call("stick", "update", "--site", lab._site, "--stick", node, "--binary", lab._groundcrew).strip()
        found["backed up"] = lab._call("stick", "backup", "--stick", node, lab._folder / "loop.backup").strip()
        host.run(["mount", "-o", "ro", f"{node}p4", at])
        try:
            if not Path(at, "vault.json").exists():
                raise LabError("the kernel mounts the data partition without its vault")
        finally:
            host.run(["umount", at])
        verified = subprocess.run(["sgdisk", "-v", node], capture_output=True, text=True, check=False)
        if "No problems found" not in verified.stdout:
            raise LabError(f"sgdisk -v: {verified.stdout}{verified.stderr}")
        found["sgdisk -v"] = next(line for line in verified.stdout.splitlines() if "No problems" in line)
    # The rescue of a medium that takes no writes any more, one that was pulled.
    host.run(["debugfs", "-w", "-R", "feature needs_recovery", f"{medium}?offset={cuts.DATA}"])
    before = _digest(medium)
    with Loop(medium, "--read-only") as node:
        found["backed up, write-protected and pulled"] = lab._call("stick", "backup", "--stick", node, lab._folder / "rescued.backup").strip()
        code, text = _says(lab, "stick", "sync", "--site", lab._site, "--stick", node)
        if code == 0 or "write-protected" not in text:
            raise LabError(f"a sync of a write-protected stick: exit {code}:\n{text}")
    if _digest(medium) != before:
        raise LabError("a backup wrote to the stick")
    for name, text in found.items():
        lab.say(f"{name}: {text}")
    return found


def _says(lab, *words):
    done = subprocess.run([str(lab._groundcrew), *map(str, words)], capture_output=True, text=True, errors="replace", check=False,
                          stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def _asked(lab, pin, node, answer):
    """The same on a terminal, with an answer typed."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(lab._groundcrew, [str(word) for word in (
            lab._groundcrew, "stick", "build", "--site", lab._site, "--device", node, "--pin-file", pin)])
    text, typed, deadline = "", False, time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # the child closed its side
            break
        if not chunk:
            break
        text += chunk.decode(errors="replace")
        if not typed and "go on:" in text:
            os.write(terminal, answer.encode())
            typed = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def _digest(path):
    return host.run(["sha256sum", path]).split()[0]
