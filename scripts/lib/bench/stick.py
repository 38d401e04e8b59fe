"""How fast a stick's image is built, beside a plain copy of the same bytes to the same disk, both synced.
A build reads everything back from the disk and digests it, which a copy does not."""
import hashlib
import json
import os
import time

from . import kit

SIZES = (64, 512)  # MiB of blobs


def bench(args):
    for size in SIZES[:1] if args.quick else SIZES:
        folder = args.dir / f"stick-{size}"
        site = make(args, folder, size)
        ratios, builds, copies = [], [], []
        for number in range(args.runs):
            image, copy = folder / "stick.img", folder / "copy.img"
            builds.append(timed(lambda: kit.run(args.bin, "stick", "build", "--site", site, "--out", image, "--pin-file", folder / "pin", "--binary", folder / "program")))
            copies.append(timed(lambda: kit.run("dd", f"if={image}", f"of={copy}", "bs=4M", "conv=fsync", "status=none")))
            ratios.append(copies[-1] / builds[-1])
            image.unlink()
            copy.unlink()
        row = {"what": f"stick with {size} MiB of blobs", "build s": sorted(builds)[len(builds) // 2], "copy s": sorted(copies)[len(copies) // 2], "ratio": sorted(ratios)[len(ratios) // 2]}
        kit.say(f"{row['what']:<32} build {row['build s']:6.2f} s   copy {row['copy s']:6.2f} s   {row['ratio']:.2f} x the speed of copying")
    return []


def timed(work):
    os.sync()
    began = time.monotonic()
    work()
    return time.monotonic() - began


def make(args, folder, size):
    """A site whose boot image is small, so that what is measured is writing."""
    folder.mkdir(parents=True)
    kit.run(args.bin, "init", folder / "top", "--org", "Bench", "--address", "10.77.0.1/24", "--interface", "gc0")
    site = folder / "top/site"
    (site / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    for number in range(size // 16):
        content = os.urandom(16 << 20)
        (site / "blobs/sha256" / hashlib.sha256(content).hexdigest()).write_bytes(content)
    files = [("vmlinuz", os.urandom(8 << 20)), ("initrd.img", os.urandom(10 << 20))]
    for name, content in files:
        (site / "boot" / name).write_bytes(content)
    stored = lambda content: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"format": 1, "kernel": {"version": "6.1", "package": "linux", "package_version": "1", "deb_sha256": "", "recipe_sha256": "", "modules": 0, "left_out": []},
                "agent": {"version": "0", **stored(b"")}, "trust_sha256": "", "files": [{"name": name, **stored(content)} for name, content in files], "boot_bytes": 0}
    (site / "boot/image.json").write_text(json.dumps(manifest))
    elf = bytearray(120)  # the least static program
    elf[:8], elf[16], elf[18], elf[32], elf[54], elf[56], elf[64] = b"\x7fELF\x02\x01\x01\x00", 2, 62, 64, 56, 1, 1
    (folder / "program").write_bytes(elf)
    (folder / "pin").write_text("bench-pin-1\n")
    return site
