"""The firmware matrix: one lab after the other, each beside the same machine
started by dnsmasq, and one table of it all."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

LAB = Path(__file__).resolve().parents[2] / "lab"


@dataclass(frozen=True)
class Row:
    name: str
    options: tuple  # of scripts/lab
    peer: bool = True  # dnsmasq can do the same


ROWS = [
    Row("bios", ("--fw", "bios")),
    Row("bios-e1000", ("--fw", "bios-e1000")),
    Row("bios-pxelinux", ("--fw", "bios-pxelinux")),
    Row("uefi", ("--fw", "uefi")),
    Row("uefi-uki", ("--fw", "uefi-uki")),
    Row("uefi-grub", ("--fw", "uefi-grub")),
    Row("uefi-http", ("--fw", "uefi-http")),
    Row("uefi-http-uki", ("--fw", "uefi-http-uki")),
    Row("sb-shim", ("--fw", "sb-shim")),
    Row("sb-uki", ("--fw", "sb-uki")),
    Row("sb-http-uki", ("--fw", "sb-http-uki")),
    Row("sb-uki-unsigned", ("--fw", "sb-uki", "--refuse", "unsigned"), peer=False),
    Row("sb-http-uki-other-key", ("--fw", "sb-http-uki", "--refuse", "other-key"), peer=False),
    Row("sb-uki-unsigned-disk", ("--fw", "sb-uki", "--refuse", "disk"), peer=False),
    Row("proxy-bios", ("--fw", "proxy-bios")),
    Row("proxy-uefi", ("--fw", "proxy-uefi")),
    Row("relay-bios", ("--fw", "relay-bios")),
    Row("relay-uefi", ("--fw", "relay-uefi")),
    Row("relay-shim", ("--fw", "relay-shim")),
    Row("arm64", ("--fw", "arm64")),
    Row("arm64-http", ("--fw", "arm64-http")),
    Row("arm64-shim", ("--fw", "arm64-shim")),
    Row("arm64-uki", ("--fw", "arm64-uki")),
    Row("uefi-and-arm64", ("--fw", "mixed"), peer=False),
    Row("bios-8-at-once", ("--fw", "bios", "--devices", "8")),
]
# Beside plain BIOS and UEFI, which scripts/test runs anyway.
FEW = ("sb-uki",)


def chosen(word):
    """The rows of `--matrix WORD`; nothing if one of them is unknown."""
    names = {"all": [row.name for row in ROWS], "few": FEW}.get(word) or word.split(",")
    known = {row.name: row for row in ROWS}
    return [known[name] for name in names] if all(name in known for name in names) else []


def run(options, say):
    """True when every row ended as it should."""
    rows = chosen(options.matrix)
    passed = []
    for number, row in enumerate(rows, 1):
        say(f"{number} of {len(rows)}: {row.name}")
        ours = _lab(row.options, options, say)
        peer = _lab((*row.options, "--peer"), options, say) if options.peers and row.peer else None
        passed.append(_result(row, ours, peer))
        say(table(passed[-1:]).splitlines()[1])
        if options.json:  # an hour's work is not lost with its last minute
            options.json.write_text(json.dumps({"rows": passed}, indent=2) + "\n", encoding="utf-8")
    say.plain("\n" + table(passed))
    return all(row["ok"] for row in passed)


def _lab(words, options, say):
    """One lab's JSON, or None; what it said is shown only if it failed."""
    with tempfile.TemporaryDirectory(prefix="groundcrew-matrix-") as folder:
        out = Path(folder) / "out.json"
        argv = [sys.executable, str(LAB), *words, "--json", str(out), "--kvm", options.kvm]
        for name in ("bin_dir", "kernel_deb"):
            if getattr(options, name):
                argv += [f"--{name.replace('_', '-')}", str(getattr(options, name).resolve())]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            say.plain(f"--- scripts/lab {' '.join(words)} failed:\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
        if done.returncode == 130:
            raise KeyboardInterrupt
        return json.loads(out.read_text(encoding="utf-8")) if out.exists() else None


def _result(row, ours, peer):
    agent, theirs = slowest(ours), slowest(peer)
    return {
        "name": row.name,
        "ok": bool(ours and ours["ok"]) and (peer is None or peer["ok"]),
        "outcome": ", ".join(sorted({device["outcome"] or "unfinished" for device in ours["devices"]})) if ours else "failed",
        "agent": agent,
        "peer_agent": theirs,
        "ratio": round(agent / theirs, 3) if agent and theirs else None,
        "total": max((device["total"] for device in ours["devices"]), default=None) if ours else None,
    }


def slowest(lab):
    """Power-on to the agent's first line, in seconds, of the slowest device; None if one never got there."""
    if not lab:
        return None
    firsts = [
        next((m["seconds"] for m in device["milestones"] if m["name"] == "agent"), None)
        for device in lab["devices"]
    ]
    return None if not firsts or None in firsts else max(firsts)


def table(rows):
    """Seconds from power-on to the agent, ours and dnsmasq's, and to the end."""
    cells = [["kind", "outcome", "agent s", "dnsmasq s", "ratio", "end s"]]
    for row in rows:
        number = lambda value, form: "-" if value is None else format(value, form)  # noqa: E731
        cells.append([row["name"], row["outcome"] if row["ok"] else f"FAILED ({row['outcome']})", number(row["agent"], ".1f"),
                      number(row["peer_agent"], ".1f"), number(row["ratio"], ".2f"), number(row["total"], ".1f")])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in cells)
