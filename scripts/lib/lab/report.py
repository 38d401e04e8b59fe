"""The end of a run: one table, the tails of the logs after a failure, JSON."""

import json
from collections import deque

from .timeline import PHASES


def table(devices):
    """Seconds per phase and device; `-` where a phase was not seen."""
    header = ["device", "outcome", *(column for column, _ in PHASES), "total", "hostname"]
    rows = [header]
    for device in devices:
        phases, total = device.timeline.phases()
        cells = ["-" if seconds is None else f"{seconds:.1f}" for _, seconds in phases]
        rows.append([device.name, device.outcome or "unfinished", *cells, f"{total:.1f}", device.hostname or "-"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    left = {0, 1, len(header) - 1}
    return "\n".join(
        "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    )


def tail(path, title, count=25):
    try:
        with open(path, encoding="utf-8") as file:
            lines = deque(file, maxlen=count)
    except FileNotFoundError:
        return f"--- {title}: nothing was written"
    return f"--- last lines of {title}\n{''.join(lines).rstrip()}"


def as_json(options, accel, ok, marks, devices):
    """One object: how it was run, seconds of the lab's own stages, one entry per device."""
    return json.dumps({
        "ok": ok,
        "mode": options.mode,
        "accelerator": accel,
        "seconds": marks,
        "devices": [_device(device) for device in devices],
    }, indent=2) + "\n"


def _device(device):
    phases, total = device.timeline.phases()
    hw = device.machine.hardware
    return {
        "name": device.name, "firmware": hw.fw, "serial": hw.serial, "uuid": str(hw.uuid), "mac": hw.mac,
        "disk": hw.bus, "nic": hw.nic, "outcome": device.outcome, "reason": device.reason, "hostname": device.hostname,
        "phases": {name: seconds if seconds is None else round(seconds, 2) for name, seconds in phases},
        "total": round(total, 2),
        "milestones": [
            {"name": s.name, "seconds": round(s.seconds, 2), "boot": s.boot, **({"values": s.values} if s.values else {})}
            for s in device.timeline.seen
        ],
    }
