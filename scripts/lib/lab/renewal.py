"""A stick that is pulled while it is brought up to date: every file is the old one or the new one.

The stick is an image that QEMU's storage daemon shows as a file (FUSE), below which every
write and every flush of `stick sync` and `stick update` is logged, as in cuts.py.
"""

import hashlib
import os
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

from . import cuts, host
from .say import LabError

START, START_BYTES = 2 << 20, 96 << 20


class Logged:
    """An image as a file whose writes are logged: `with Logged(...) as path`."""

    def __init__(self, image, log, folder):
        self._image, self._log, self.path = image, log, folder / "logged"
        self._daemon = None

    def __enter__(self):
        self._log.write_bytes(b"")
        self.path.write_bytes(b"")
        self._daemon = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "qemu-storage-daemon",
             "--blockdev", f"driver=file,filename={self._image},node-name=image",
             "--blockdev", f"driver=file,filename={self._log},node-name=log",
             "--blockdev", "driver=blklogwrites,file=image,log=log,node-name=u0,log-append=off",
             "--export", f"type=fuse,id=e,node-name=u0,mountpoint={self.path},writable=on"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 20
        while self.path.stat().st_size == 0:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"qemu-storage-daemon shows no file (has the kernel FUSE?): {self._daemon.communicate()[0]}")
            time.sleep(0.05)
        return self.path

    def __exit__(self, *_):
        self._daemon.terminate()
        self._daemon.wait(30)


class Stick:
    """What lies on a stick: by name the digest of every file that starts it, and of every file of its data."""

    def __init__(self, image, folder):
        fat = folder / "start.img"
        host.run(["dd", f"if={image.head}", f"of={fat}", "bs=1M", f"skip={START >> 20}", f"count={START_BYTES >> 20}", "conv=sparse", "status=none"])
        tree = folder / "start"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        host.run(["mcopy", "-s", "-n", "-Q", "-i", fat, "::", tree])
        self.start = _digests(tree)
        with open(image.head, "rb") as head:
            (sector,) = struct.unpack("<Q", head.read(512)[0x5C:0x64])
            head.seek(sector * 512)
            core = head.read(512)
            (rest,) = struct.unpack("<H", core[0x1FC:0x1FE])
            # Beside where it lies: the first sector names the others.
            self.core = hashlib.sha256(core[:0x1F4] + head.read(rest * 512)).hexdigest()
        tree = folder / "data"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        host.run(["debugfs", "-R", f"rdump / {tree}", image.data])
        shutil.rmtree(tree / "lost+found", ignore_errors=True)
        self.data = _digests(tree)


def judge(before, log, marks, count, folder, say):
    """Cuts over everything that was written; `marks` are (length of the log, what was said to be done)."""
    every = list(cuts.entries(log))
    rng = random.Random(78)
    base = cuts.Image.split(before, folder, "renewal-base")
    now, safe = base.copied(folder, "renewal-now"), base.copied(folder, "renewal-safe")
    with open(log, "rb") as logged:
        states = [("before", Stick(base, folder))]
        image = base.copied(folder, "renewal-cut")
        done = 0
        for length, name in marks:
            end = sum(entry[0] <= length for entry in every)
            image.apply(logged, cuts.writes(every[done:end]))
            done = end
            states.append((name, Stick(image, folder)))
        at = sorted(rng.sample(range(1, len(every) + 1), min(count, len(every))))
        say(f"{len(every)} writes and flushes were logged; cutting at {len(at)} of them")
        found, kept = {}, {}
        done = flushed = recovered = 0
        for number, cut in enumerate(at):
            end = next((n for n in range(cut, done, -1) if every[n - 1][3] & (cuts.FLUSH | cuts.FUA)), None)
            if end:
                safe.apply(logged, cuts.writes(every[flushed:end]))
                flushed = end
            now.apply(logged, cuts.writes(every[done:cut]))
            done = cut
            pending = cuts.writes(every[flushed:cut])
            survivors = [one for one in pending if rng.random() < 0.5] if number % 2 else pending
            if survivors and number % 4 == 3:
                sector, sectors, offset = survivors[-1]
                survivors[-1] = (sector, min(sectors, cuts.BLOCK * rng.randint(1, max(1, sectors // cuts.BLOCK))), offset)
            image = safe.copied(folder, "renewal-cut")
            image.apply(logged, survivors)
            promised = sum(length <= every[cut - 1][0] for length, _ in marks)
            # What a stick does by itself when it is started again: its journal is replayed.
            replayed = cuts.mended(image, cut)
            kind = _kind(Stick(image, folder), states, promised, cut)
            found[kind] = found.get(kind, 0) + 1
            recovered += replayed
            if (kind, replayed) not in kept:
                path = folder / f"renewed-{len(kept)}.img"
                image = safe.copied(folder, "renewal-cut")
                image.apply(logged, survivors)
                image.whole(path)
                kept[kind, replayed] = (cut, path)
    say(f"{len(at)} cuts, {recovered} of them with a journal to be replayed: {found}")
    return {"writes": len(every), "cuts": len(at), "with a journal to be replayed": recovered, "found": found}, list(kept.values())


def _kind(stick, states, promised, cut):
    """Which state each part is in; raises where one is in none, or older than was promised."""
    words = []
    for part in ("start", "core", "data"):
        known = [getattr(state, part) for _, state in states]
        content = getattr(stick, part)
        if content not in known:
            raise LabError(f"cut at {cut}: {part} is of no state: {_difference(content, known[-1])}")
        last = max(n for n, one in enumerate(known) if one == content)
        if last < promised:
            raise LabError(f"cut at {cut}: {part} is as {states[last][0]}, but {states[promised][0]} was said to be done")
        words.append(f"{part} {states[min(n for n, one in enumerate(known) if one == content)][0]}")
    return ", ".join(words)


def _difference(one, other):
    if isinstance(one, str):
        return "another program"
    return sorted(set(one.items()) ^ set(other.items()))[:6]


def _digests(tree):
    found = {}
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                found[str(path.relative_to(tree))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
