"""The boot image's initrd, as far as a stage changes it: the module index loses a
driver, and a further archive with the poorer index is put behind the others.

Layout (src/appliance/image/initrd.rs): a plain newc archive with modules, then a
zstd frame with the index, then more. A later file of the same name counts.
"""

import subprocess

from .say import LabError

HEADER = 110


def without_alias(image, module):
    """`image` for a kernel that knows no device for `module`."""
    name, text = _alias_index(image)
    kept = [line for line in text.splitlines() if not line.endswith(f" {module}")]
    if len(kept) == len(text.splitlines()):
        raise LabError(f"{name} has no line for {module}")
    return image + bytes(-len(image) % 4) + _newc(name, ("\n".join(kept) + "\n").encode())


def _alias_index(image):
    """Name and text of modules.alias, which is in the first compressed archive."""
    entries, end = _entries(image, 0)
    done = subprocess.run(["zstd", "--decompress", "--stdout", "--quiet"], input=image[end:], capture_output=True, check=False)
    entries, _ = _entries(done.stdout, 0)  # zstd's exit code tells of what follows the frame
    for name, content in entries:
        if name.endswith("/modules.alias"):
            return name, content.decode("ascii")
    raise LabError("the initrd has no modules.alias where it was")


def _entries(data, at):
    """[(name, content)] of one newc archive, and where it ends."""
    entries = []
    while True:
        header = data[at:at + HEADER]
        if header[:6] != b"070701":
            raise LabError("the initrd is not laid out as expected")
        size, length = int(header[54:62], 16), int(header[94:102], 16)
        name = data[at + HEADER:at + HEADER + length - 1].decode()
        start = at + -(-(HEADER + length) // 4) * 4
        at = start + -(-size // 4) * 4
        if name == "TRAILER!!!":
            return entries, at + (len(data[at:]) - len(data[at:].lstrip(b"\0")))
        entries.append((name, data[start:start + size]))


def _newc(name, content):
    """An archive of one file; the folders above it are there already."""
    out = b""
    for path, mode, data in ((name, 0o100644, content), ("TRAILER!!!", 0, b"")):
        fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path) + 1, 0)
        entry = b"070701" + b"".join(b"%08x" % value for value in fields) + path.encode() + b"\0"
        out += entry + bytes(-len(entry) % 4) + data + bytes(-len(data) % 4)
    return out
