"""What lies on a device's disk after it was switched off, read without starting it."""

import shutil
import subprocess

from . import host, oem
from .say import LabError


class OfflineRoot:
    """The root file system of a device, copied out of its overlay."""

    def __init__(self, disk, folder):
        raw = folder / "disk.raw"
        self._image = folder / "root.img"
        host.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw])
        host.run(["dd", f"if={raw}", f"of={self._image}", "bs=1M", f"skip={oem.ROOT[0]}", f"count={oem.ROOT[1]}", "conv=sparse", "status=none"])
        raw.unlink()
        self._replay()

    def _replay(self):
        """The machine was switched off while it ran: replay the journal, then nothing may be wrong."""
        done = subprocess.run(["e2fsck", "-E", "journal_only", "-p", str(self._image)], capture_output=True, text=True, check=False)
        if done.returncode > 1:  # 1 = the journal was replayed
            raise LabError(f"the root file system's journal cannot be replayed: {done.stdout}{done.stderr}")
        done = subprocess.run(["e2fsck", "-f", "-n", str(self._image)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"the root file system is damaged:\n{done.stdout}{done.stderr}")

    def read(self, path):
        """Text of a file, or None where there is none."""
        done = subprocess.run(["debugfs", "-R", f"cat {path}", str(self._image)], capture_output=True, text=True,
                              errors="replace", check=False)
        return None if "File not found" in done.stderr else done.stdout

    def dump(self, path, target):
        """Copies a folder out, with its links as links."""
        subprocess.run(["debugfs", "-R", f"rdump {path} {target}", str(self._image)], capture_output=True, check=True)

    def close(self):
        self._image.unlink(missing_ok=True)


def hostname(disk, folder):
    """/etc/hostname on a device's disk; also proves that the file system is sound."""
    part = folder / "offline"
    part.mkdir()
    try:
        root = OfflineRoot(disk, part)
        return (root.read("/etc/hostname") or "").strip()
    finally:
        shutil.rmtree(part, ignore_errors=True)
