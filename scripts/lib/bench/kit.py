"""Namespaces, servers under measurement, medians and tables."""
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
SERVER, CLIENT = "10.66.0.1", "10.66.0.2"
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


class Missing(Exception):
    """A tool that is not installed, or a server that does not answer."""


def tool(name, package):
    found = shutil.which(name, path=PATH)
    if not found:
        raise Missing(f"{name} is missing: apt-get install --no-install-recommends {package}")
    return found


def run(*words, check=True, timeout=300):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout, env={**os.environ, "PATH": PATH})
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout + done.stderr


def say(*words):
    print(*words, file=sys.stderr, flush=True)


class Net:
    """A server's and a client's namespace with a cable `lan` between them, or a
    bridge in user space that loses and delays (kernels may lack netem)."""

    def __init__(self, loss=0.0, delay_ms=0.0):
        tag = f"gcb{os.getpid()}"
        self.server, self.client, self.middle = f"{tag}s", f"{tag}c", f"{tag}m"
        self.loss, self.delay_ms, self.bridge = loss, delay_ms, None

    def __enter__(self):
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self):
        cut = bool(self.loss or self.delay_ms)
        for name in [self.server, self.client] + [self.middle] * cut:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        if cut:
            for port, side in (("ps", self.server), ("pc", self.client)):
                run("ip", "-n", self.middle, "link", "add", port, "type", "veth", "peer", "name", "lan", "netns", side)
                run("ip", "-n", self.middle, "link", "set", port, "up")
        else:
            run("ip", "-n", self.server, "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", self.client)
        for name, address in ((self.server, SERVER), (self.client, CLIENT)):
            run("ip", "-n", name, "address", "add", f"{address}/16", "brd", "+", "dev", "lan")
            run("ip", "-n", name, "link", "set", "lan", "up")
            if cut:  # frames cross a packet socket: whole checksums, no super-frames
                run("ip", "netns", "exec", name, tool("ethtool", "ethtool"), "-K", "lan", "tx", "off", "gso", "off", "tso", "off", "gro", "off", check=False)
        if cut:
            script = pathlib.Path(__file__).with_name("impair.py")
            self.bridge = subprocess.Popen(["ip", "netns", "exec", self.middle, sys.executable, str(script), "ps", "pc", str(self.loss), str(self.delay_ms)], stdout=subprocess.PIPE)
            self.bridge.stdout.readline()  # it says when it forwards

    def __exit__(self, *_):
        if self.bridge:
            self.bridge.kill()
            self.bridge.wait()
        for name in (self.server, self.client, self.middle):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)

    def in_client(self, *words, check=True, timeout=300):
        return run("ip", "netns", "exec", self.client, *words, check=check, timeout=timeout)


def inside(namespace, work):
    """Calls `work()` in a child inside the namespace; its result, by JSON."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            with open(f"/run/netns/{namespace}") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            text = json.dumps(work())
            with os.fdopen(writer, "w") as out:
                out.write(text)
            code = 0
        except BaseException as error:  # noqa: B902: the child must end here
            say(f"  in {namespace}: {error!r}")
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as text:
        result = text.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the load in {namespace} failed")
    return json.loads(result)


class Server:
    """A server in the server's namespace; ended by its process group."""

    def __init__(self, net, name, words, log, env=None):
        self.name, self.log = name, log
        with open(log, "wb") as out:
            self.child = subprocess.Popen(["ip", "netns", "exec", net.server, *map(str, words)], stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "PATH": PATH, **(env or {})})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(patience)
                return

    def pids(self):
        """The processes of its session, workers included."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    if int(fields[3]) == self.child.pid:
                        found.append(int(entry.name))
        return found

    def cpu_seconds(self):
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_kib(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmRSS:"):
                        total += int(line.split()[1])
        return total

    def tail(self):
        return pathlib.Path(self.log).read_text(errors="replace")[-400:].strip()

    def wait_until(self, answers, seconds=15):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.child.poll() is not None:
                break
            with contextlib.suppress(Exception):
                if answers():
                    return
            time.sleep(0.1)
        raise Missing(f"{self.name} does not answer: {self.tail()}")


def ours(args, work, boot=None, dhcp=False):
    """Makes a site for the measurement; the command that serves it."""
    site = work / "gc"
    run(args.bin, "init", site, "--org", "Bench", "--address", f"{SERVER}/16", "--interface", "lan", "--mode", "authoritative")
    toml = site / "site/site.toml"
    text = toml.read_text().splitlines()
    text = ['pool = "10.66.1.0-10.66.255.250"\nconflict_probe = false' if dhcp and line.startswith("pool = ") else line for line in text]
    toml.write_text("\n".join(text) + "\n")
    if boot:
        tree = site / "site/boot"
        for file in boot.iterdir():
            shutil.copy(file, tree / file.name)
    return [args.bin, "serve", "--site", site / "site"], {"RUST_LOG": "warn"}


def installed(servers, *arguments):
    """Those whose command can be made; says what is left out."""
    kept = {}
    for name, make in servers.items():
        try:
            if name != "groundcrew":
                make(*arguments)
            kept[name] = make
        except Missing as why:
            say(f"  {name} is left out: {why}")
    return kept


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    return folder


class Table:
    """Runs collected by (test, server); printed with median, spread, ratio."""

    def __init__(self, title, unit, larger_is_better=True, target=None):
        self.title, self.unit, self.larger, self.target = title, unit, larger_is_better, target
        self.runs = {}

    def add(self, test, server, value, **more):
        self.runs.setdefault(test, {}).setdefault(server, []).append({"value": value, **more})
        say(f"  {test}, {server}: {shown(value)} {self.unit}" + "".join(f", {k} {shown(v)}" for k, v in more.items()))

    def rows(self):
        for test, servers in self.runs.items():
            median = {s: statistics.median(r["value"] for r in runs) for s, runs in servers.items()}
            peers = {s: m for s, m in median.items() if s != "groundcrew" and m}
            best = (max if self.larger else min)(peers.values(), default=None)
            for server, runs in servers.items():
                values = [r["value"] for r in runs]
                mine = median[server]
                ratio = None
                if best and mine:
                    ratio = mine / best if self.larger else best / mine
                more = {k: statistics.median(r[k] for r in runs) for k in runs[0] if k != "value"}
                yield {"test": test, "server": server, "median": mine, "min": min(values), "max": max(values), "runs": len(values), "ratio": ratio, **more}

    def print(self):
        rows = list(self.rows())
        if not rows:
            return
        more = [k for k in rows[0] if k not in ("test", "server", "median", "min", "max", "runs", "ratio")]
        head = ["test", "server", self.unit, "min..max", *more, "ratio"]
        lines = [head]
        for r in rows:
            ratio = "-" if r["ratio"] is None else f"{r['ratio']:.2f}x"
            lines.append([r["test"], r["server"], shown(r["median"]), f"{shown(r['min'])}..{shown(r['max'])}", *[shown(r.get(k, "-")) for k in more], ratio])
        width = [max(len(line[i]) for line in lines) for i in range(len(head))]
        print(f"\n{self.title}")
        for line in lines:
            print("  ".join(w.ljust(width[i]) if i < 2 else w.rjust(width[i]) for i, w in enumerate(line)).rstrip())
        print("ratio: this server's median by the best other server's; above 1 is better" + (f"; budget {self.target}" if self.target else ""))


def shown(value):
    if isinstance(value, str):
        return value
    if isinstance(value, float) and abs(value) < 100:
        return f"{value:.2f}"
    return f"{value:.0f}"
