"""A stick that is pulled at any write: what its file system and its registry are worth then.

QEMU's blklogwrites keeps every write and flush that the guest sent to the stick,
in the form of the kernel's dm-log-writes. A cut at write N is the image as it was
before the run and the first N writes. Between two flushes a medium may drop what
it likes: half of the cuts lose some of the writes since the last flush, and tear
the last one at a block of 4 KiB.

What the stick promised to somebody is written down with the log's length at that
moment: a lease with its DHCP ACK, an enrollment, an approval, a grant and a receipt
with the answer that the device or the technician saw. Every cut after it must have it.
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
from dataclasses import dataclass

from . import host
from .say import LabError

DATA = 99 << 20  # where a stick's data partition begins
ANCHOR = 98 << 20
SECTOR = 512
BLOCK = 8  # sectors that a medium writes whole, or not at all: ext4's superblock relies on it
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
CLOCK = 5  # seconds between the guest's clock and ours


@dataclass(frozen=True)
class Fact:
    """`at` is the length of the log when somebody was told."""

    at: int
    kind: str  # lease, waits, approved, granted, receipt
    subject: str  # an address, a device's id
    detail: object = None  # of a lease: (mac, until)


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


class Image:
    """A stick in two files: what lies before the data partition, and that partition.
    (e2fsck 1.47 replays no journal of a file system that does not begin where its file does.)"""

    def __init__(self, folder, name):
        self.head, self.data = folder / f"{name}.head", folder / f"{name}.data"

    @classmethod
    def split(cls, whole, folder, name):
        image = cls(folder, name)
        host.run(["dd", f"if={whole}", f"of={image.head}", "bs=1M", f"count={DATA >> 20}", "conv=sparse", "status=none"])
        host.run(["dd", f"if={whole}", f"of={image.data}", "bs=1M", f"skip={DATA >> 20}", "conv=sparse", "status=none"])
        os.truncate(image.head, DATA)
        os.truncate(image.data, os.path.getsize(whole) - DATA)
        return image

    def copied(self, folder, name):
        image = Image(folder, name)
        for old, new in ((self.head, image.head), (self.data, image.data)):
            host.run(["cp", "--sparse=always", old, new])
        return image

    def whole(self, path):
        host.run(["cp", "--sparse=always", self.head, path])
        host.run(["dd", f"if={self.data}", f"of={path}", "bs=1M", f"seek={DATA >> 20}", "conv=sparse,notrunc", "status=none"])
        os.truncate(path, DATA + os.path.getsize(self.data))

    def apply(self, log, changes):
        """Writes (sector, sectors, offset in the log) are carried out."""
        with open(self.head, "r+b") as head, open(self.data, "r+b") as data:
            for sector, sectors, offset in changes:
                place = sector * SECTOR
                out, place = (head, place) if place < DATA else (data, place - DATA)
                log.seek(offset)
                out.seek(place)
                out.write(log.read(sectors * SECTOR))


class Judge:
    def __init__(self, base, log, facts, site, call, folder):
        self._log, self._facts = log, facts
        self._site, self._call, self._folder = site, call, folder
        folder.mkdir()
        self._every = list(entries(log))
        self._base = Image.split(base, folder, "base")
        self._final = None  # the journal's lines after the whole run

    def run(self, count, say, kept):
        """Cuts spread over the whole run; raises at the first that loses anything. `kept` are so many
        cuts to be kept as images: (where, path)."""
        every, rng = self._every, random.Random(77)
        safe, now = self._base.copied(self._folder, "safe"), self._base.copied(self._folder, "now")
        with open(self._log, "rb") as log:
            self._final = self._journal(self._whole_run(log))
            first = min(fact.at for fact in self._facts)
            early = [n for n in range(1, len(every) + 1) if every[n - 1][0] < first]
            late = [n for n in range(1, len(every) + 1) if every[n - 1][0] >= first]
            # What was promised is asked of the cuts behind the first promise; a tenth are before it.
            some = min(count // 10, len(early))
            at = sorted(rng.sample(early, some) + rng.sample(late, min(count - some, len(late))))
            say(f"{len(every)} writes and flushes were logged, {len(self._facts)} promises were made; cutting at {len(at)} of them")
            done = flushed = lossy = 0
            asked, began = {}, time.monotonic()
            keep = set(at[len(at) // 3::max(1, len(at) // (2 * kept))][:kept]) if kept else set()
            for number, cut in enumerate(at):
                end = next((n for n in range(cut, done, -1) if every[n - 1][3] & (FLUSH | FUA)), None)
                if end:
                    safe.apply(log, writes(every[flushed:end]))
                    flushed = end
                now.apply(log, writes(every[done:cut]))
                done = cut
                pending = writes(every[flushed:cut])
                if number % 2 and pending:
                    survivors = [change for change in pending if rng.random() < 0.5]
                    if survivors and rng.random() < 0.5:
                        sector, sectors, offset = survivors[-1]
                        survivors[-1] = (sector, min(sectors, BLOCK * rng.randint(1, max(1, sectors // BLOCK))), offset)
                    image = safe.copied(self._folder, "cut")
                    image.apply(log, survivors)
                    lossy += 1
                else:
                    image = now.copied(self._folder, "cut")
                if cut in keep:
                    path = self._folder / f"kept-{cut}.img"
                    image.whole(path)
                    keep.discard(cut)
                    keep.add((cut, path))
                self._ask(image, cut, asked)
                if number % 50 == 49:
                    say(f"{number + 1} cuts, nothing lost")
        say(f"{len(at)} cuts, {lossy} of them with writes lost or torn since the last flush: nothing that was promised was lost")
        return {"writes": len(every), "cuts": len(at), "with lost or torn writes": lossy, "promises made": _counted(self._facts),
                "promises asked for": asked, "journal lines": len(self._final),
                "seconds a cut": round((time.monotonic() - began) / len(at), 2)}, [one for one in keep if isinstance(one, tuple)]

    def _whole_run(self, log):
        image = self._base.copied(self._folder, "end")
        image.apply(log, writes(self._every))
        return image

    def _ask(self, image, cut, asked):
        """Whether everything promised before this cut is there."""
        end = self._every[cut - 1][0]
        site = self._recovered(image, cut)
        with contextlib.closing(sqlite3.connect(site / "registry.db")) as db:
            lines = [line for line, in db.execute("SELECT line FROM journal ORDER BY seq")]
            leases = {ip: (mac, expires) for ip, mac, expires in db.execute("SELECT ip, mac, expires FROM lease")}
            tables = {name: {row[0] for row in db.execute(f"SELECT device FROM {name}")} for name in ("waiting", "grant_", "receipt")}
        if lines != self._final[:len(lines)]:
            raise LabError(f"cut at {cut}: the journal is not the beginning of what it became")
        events = {(entry["device"], entry["event"]["kind"]) for entry in map(json.loads, lines)}
        newest = {}
        for fact in self._facts:
            if fact.at <= end:
                newest[fact.kind, fact.subject] = fact
        for fact in newest.values():
            asked[fact.kind] = asked.get(fact.kind, 0) + 1
            if not _holds(fact, events, leases, tables):
                raise LabError(f"cut at {cut}: {fact} was promised and is not there: lease {leases.get(fact.subject)}, events {sorted(events)}")
        asked["journal lines"] = asked.get("journal lines", 0) + len(lines)
        self._anchor(image, lines, cut)
        # And the program itself goes on from there.
        self._call("journal", "verify", "--site", site)

    def _journal(self, image):
        site = self._recovered(image, len(self._every))
        with contextlib.closing(sqlite3.connect(site / "registry.db")) as db:
            return [line for line, in db.execute("SELECT line FROM journal ORDER BY seq")]

    def _recovered(self, image, cut):
        """The site's folder as it is on the stick, after its file system was mended."""
        mended(image, cut)
        site = self._folder / "site"
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(self._site, site, ignore=shutil.ignore_patterns("registry.db*", "boot", "blobs", "*.sock"))
        for name in ("boot", "blobs"):
            (site / name).mkdir()
        script = self._folder / "script"
        requests = [f"dump /site/{name} {site / name}" for name in ("registry.db", "registry.db-wal")]
        script.write_text("\n".join(requests) + "\n", encoding="utf-8")
        subprocess.run(["debugfs", "-f", script, image.data], capture_output=True, check=False)
        wal = site / "registry.db-wal"
        if wal.exists() and wal.stat().st_size == 0:
            wal.unlink()
        return site

    def _anchor(self, image, lines, cut):
        """It never runs ahead of the journal, or the stick would refuse its own state."""
        with open(image.head, "rb") as file:
            file.seek(ANCHOR)
            sectors = file.read(8192)
        copies = [sectors[at:at + 112] for at in (0, 4096)]
        whole = [c for c in copies if c[:8] == b"gcanchor" and zlib.crc32(c[:108]) == struct.unpack("<I", c[108:])[0]]
        if not whole:
            raise LabError(f"cut at {cut}: the anchor is gone")
        newest = max(whole, key=lambda c: struct.unpack("<Q", c[8:16]))
        count, head = struct.unpack("<Q", newest[24:32])[0], newest[32:64]
        if count and (count > len(lines) or hashlib.sha256(lines[count - 1].encode()).digest() != head):
            raise LabError(f"cut at {cut}: the anchor stands at entry {count}, which the journal does not have")


def mended(image, cut):
    """Replays the journal; raises where more than that is to be done by hand. Whether anything was done."""
    first = subprocess.run(["e2fsck", "-f", "-p", image.data], capture_output=True, text=True, check=False)
    sound = subprocess.run(["e2fsck", "-f", "-n", image.data], capture_output=True, text=True, check=False)
    if first.returncode > 1 or sound.returncode:
        raise LabError(f"cut at {cut}: the file system is damaged:\n{first.stdout}{first.stderr}{sound.stdout}")
    return first.returncode == 1 or "recovering journal" in first.stdout


def _holds(fact, events, leases, tables):
    device = fact.subject
    match fact.kind:
        case "lease":
            mac, until = fact.detail
            kept = leases.get(fact.subject)
            return kept is not None and kept[0].lower() == mac and kept[1] >= until - CLOCK
        case "waits":
            return device in tables["waiting"] or (device, "requested") in events
        case "approved":
            return (device, "approved") in events
        case "granted":
            return (device, "granted") in events and (device in tables["grant_"] or device in tables["receipt"])
        case "receipt":
            return (device, "provisioned") in events and device in tables["receipt"]
    raise LabError(f"a fact of no kind: {fact}")


def _counted(facts):
    kinds = [fact.kind for fact in facts]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def writes(some):
    return [(sector, sectors, data) for _, sector, sectors, flags, data in some if sectors and not flags & DISCARD]
