"""A stick that is pulled at any write: what its file system and its registry are worth then.

QEMU's blklogwrites keeps every write and flush that the guest sent to the stick,
in the form of the kernel's dm-log-writes. A cut at write N is the image as it was
before the run and the first N writes. Between two flushes a medium may drop what
it likes: half of the cuts lose some of the writes since the last flush, too.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import time
import zlib

from . import host
from .say import LabError

DATA = 99 << 20  # where a stick's data partition begins
ANCHOR = 98 << 20
SECTOR = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def entries(path):
    """(end in the log, first sector, sectors, flags, offset of the data) of every entry."""
    with open(path, "rb") as log:
        magic, version, count, size = struct.unpack("<QQQI", log.read(28))
        if (magic, version) != (MAGIC, 1):
            raise LabError("the log of writes is none: was QEMU built with blklogwrites?")
        at = size
        end = os.path.getsize(path)
        while at + 32 <= end:
            log.seek(at)
            sector, sectors, flags, length = struct.unpack("<QQQQ", log.read(32))
            if not (sectors or flags):
                break
            data = at + size
            at = data + (0 if flags & DISCARD else sectors * size)
            if at > end:
                break
            yield at, sector * size // SECTOR, sectors * size // SECTOR, flags, data


class Judge:
    def __init__(self, base, log, acknowledged, site, call, folder):
        self._base, self._log, self._acknowledged = base, log, acknowledged
        self._site, self._call, self._folder = site, call, folder
        folder.mkdir()

    def run(self, count, say):
        """Cuts spread over the whole run; raises at the first that loses anything."""
        every = list(entries(self._log))
        rng = random.Random(77)
        at = sorted(rng.sample(range(1, len(every) + 1), min(count, len(every))))
        say(f"{len(every)} writes and flushes were logged; cutting at {len(at)} of them")
        now = self._folder / "now.img"
        host.run(["cp", "--sparse=always", self._base, now])
        done, flushed, torn, seen = 0, 0, 0, {}
        began = time.monotonic()
        with open(now, "r+b") as image, open(self._log, "rb") as log:
            for number, cut in enumerate(at):
                while done < cut:
                    _apply(image, log, every[done])
                    done += 1
                    if every[done - 1][3] & (FLUSH | FUA):
                        flushed = done
                image.flush()
                lost = [] if number % 2 else [n for n in range(flushed, cut) if rng.random() < 0.5]
                torn += bool(lost)
                state = self._after(every, flushed, cut, lost, now)
                seen[state] = seen.get(state, 0) + 1
        say(f"{len(at)} cuts, {torn} of them with writes lost since the last flush: nothing acknowledged was lost")
        return {"writes": len(every), "cuts": len(at), "with lost writes": torn, "found": seen,
                "each": round((time.monotonic() - began) / len(at), 2)}

    def _after(self, every, flushed, cut, lost, now):
        """Repairs and reads the stick as it is after one cut; what its journal says last."""
        image = self._folder / "cut.img"
        image.unlink(missing_ok=True)
        if lost:
            # From the last flush on, only what was not lost.
            host.run(["cp", "--sparse=always", self._base, image])
            with open(image, "r+b") as file, open(self._log, "rb") as log:
                for n in range(cut):
                    if n not in lost:
                        _apply(file, log, every[n])
        else:
            host.run(["cp", "--sparse=always", now, image])
        # e2fsck 1.47 replays no journal of a file system that does not begin where its file does.
        name = self._folder / "data.img"
        name.unlink(missing_ok=True)
        host.run(["dd", f"if={image}", f"of={name}", "bs=1M", f"skip={DATA >> 20}", "conv=sparse", "status=none"])
        mended = subprocess.run(["e2fsck", "-f", "-p", name], capture_output=True, text=True, check=False)
        sound = subprocess.run(["e2fsck", "-f", "-n", name], capture_output=True, text=True, check=False)
        if mended.returncode > 1 or sound.returncode:
            raise LabError(f"cut at {cut}: the file system is damaged:\n{mended.stdout}{mended.stderr}{sound.stdout}")
        site = self._folder / "site"
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(self._site, site, ignore=shutil.ignore_patterns("registry.db*", "boot", "*.sock"))
        (site / "boot").mkdir()
        requests = [f"dump /site/{name} {site / name}" for name in ("registry.db", "registry.db-wal")]
        script = self._folder / "script"
        script.write_text("\n".join(requests) + "\n", encoding="utf-8")
        subprocess.run(["debugfs", "-f", script, name], capture_output=True, check=False)
        wal = site / "registry.db-wal"
        if wal.exists() and wal.stat().st_size == 0:
            wal.unlink()
        devices = json.loads(self._call("device", "list", "--json", "--site", site))
        state = devices[0]["state"] if devices else "none"
        order = ["none", "registered", "waiting", "requested", "approved", "granted", "provisioning", "provisioned"]
        demanded = [what for what, end in self._acknowledged if end <= every[cut - 1][0]]
        least = {"requested": "waiting", "granted": "provisioning", "provisioned": "provisioned"}[demanded[-1]] if demanded else "registered"
        if state not in order or order.index(state) < order.index(least):
            raise LabError(f"cut at {cut}: the registry says {state}, but {demanded[-1] if demanded else 'registered'} was acknowledged")
        self._anchor(image, site, cut)
        return state

    def _anchor(self, image, site, cut):
        """It never runs ahead of the journal, or the stick would refuse its own state."""
        with open(image, "rb") as file:
            file.seek(ANCHOR)
            sectors = file.read(8192)
        copies = [sectors[at:at + 112] for at in (0, 4096)]
        whole = [c for c in copies if c[:8] == b"gcanchor" and zlib.crc32(c[:108]) == struct.unpack("<I", c[108:])[0]]
        if not whole:
            raise LabError(f"cut at {cut}: the anchor is gone")
        newest = max(whole, key=lambda c: struct.unpack("<Q", c[8:16]))
        entries, head = struct.unpack("<Q", newest[24:32])[0], newest[32:64]
        with contextlib.closing(sqlite3.connect(site / "registry.db")) as db:
            line = db.execute("SELECT line FROM journal WHERE seq = ?", (entries,)).fetchone()
        if line is None or hashlib.sha256(line[0].encode()).digest() != head:
            raise LabError(f"cut at {cut}: the anchor stands at entry {entries}, which the journal does not have")


def _apply(image, log, entry):
    _, sector, sectors, flags, data = entry
    if flags & DISCARD or not sectors:
        return
    log.seek(data)
    image.seek(sector * SECTOR)
    image.write(log.read(sectors * SECTOR))
