"""The firmware matrix: one lab after the other, each beside the same machine
started by dnsmasq, and one table of it all."""

import json
import statistics
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
    Row("sb-mok", ("--fw", "sb-mok")),
    Row("sb-http-mok", ("--fw", "sb-http-mok")),
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
        ours, peers = [], []
        for _ in range(options.runs):  # in turns: what slows the machine down slows both
            ours.append(_lab(row.options, options, say))
            if options.peers and row.peer:
                peers.append(_lab((*row.options, "--peer"), options, say))
        passed.append(_result(row, ours, peers))
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


def _result(row, ours, peers):
    """Of several runs the medians, and the range of the runs' own ratios."""
    agents, theirs = [slowest(lab) for lab in ours], [slowest(lab) for lab in peers]
    ratios = sorted(one / other for one, other in zip(agents, theirs) if one and other)
    totals = [max((device["total"] for device in lab["devices"] if device["total"]), default=None) for lab in ours if lab]
    outcomes = {device["outcome"] or "unfinished" for lab in ours if lab for device in lab["devices"]}
    return {
        "name": row.name,
        "ok": all(lab and lab["ok"] for lab in (*ours, *peers)),
        "outcome": ", ".join(sorted(outcomes)) or "failed",
        "runs": len(ours),
        "agent": _median(agents),
        "peer_agent": _median(theirs),
        "ratio": _median(ratios),
        "ratios": [round(one, 3) for one in ratios],
        "total": _median(totals),
    }


def _median(values):
    known = [value for value in values if value]
    return round(statistics.median(known), 3) if known else None


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
    cells = [["kind", "outcome", "agent s", "dnsmasq s", "ratio", "of the runs", "end s"]]
    number = lambda value, form: "-" if value is None else format(value, form)  # noqa: E731
    for row in rows:
        spread = f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}" if len(row["ratios"]) > 1 else "-"
        cells.append([row["name"], row["outcome"] if row["ok"] else f"FAILED ({row['outcome']})", number(row["agent"], ".1f"),
                      number(row["peer_agent"], ".1f"), number(row["ratio"], ".2f"), spread, number(row["total"], ".1f")])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in cells)
