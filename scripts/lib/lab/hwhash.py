"""Autopilot's 4K hardware hash, written for the SMBIOS values a lab machine gets.

Layout: 'OA', u16 total, records (u16 type, u16 length including these four bytes,
data), then 'CS', u16 36, SHA-256 over everything before 'CS', zeros up to 3000
bytes; base64 makes 4000 characters of it.
"""

import base64
import hashlib
import struct

SIZE = 3000
SYSTEM_SERIAL, MANUFACTURER, PRODUCT, SMBIOS_UUID, NIC = 14, 16, 17, 12, 8
ETHERNET = 14  # NDIS medium 802.3
CSV_HEADER = "Device Serial Number,Windows Product ID,Hardware Hash"


def build(hardware):
    """The 3000 bytes for one `machine.Hardware`."""
    records = b"".join([
        _record(SYSTEM_SERIAL, _text(hardware.serial)),
        _record(MANUFACTURER, _text(hardware.manufacturer)),
        _record(PRODUCT, _text(hardware.product)),
        _record(SMBIOS_UUID, hardware.uuid.bytes_le),  # as in the SMBIOS table
        _record(NIC, _nic(hardware.mac)),
    ])
    body = struct.pack("<2sH", b"OA", 4 + len(records)) + records
    trailer = struct.pack("<2sH", b"CS", 36) + hashlib.sha256(body).digest()
    if len(body) + len(trailer) > SIZE:
        raise ValueError("SMBIOS values too long for a 4K hash")
    return (body + trailer).ljust(SIZE, b"\0")


def csv(machines):
    """The registration file for `machines`, as Intune wants it: ASCII, CRLF, no quotes."""
    rows = [CSV_HEADER]
    for hardware in machines:
        rows.append(f"{hardware.serial},,{base64.b64encode(build(hardware)).decode('ascii')}")
    return "".join(row + "\r\n" for row in rows)


def _record(kind, data):
    return struct.pack("<HH", kind, 4 + len(data)) + data


def _text(value):
    return value.encode("ascii") + b"\0"


def _nic(mac):
    bus = "PCI\0".encode("utf-16-le")
    return struct.pack("<I6sI", ETHERNET, bytes.fromhex(mac.replace(":", "")), len(bus)) + bus
