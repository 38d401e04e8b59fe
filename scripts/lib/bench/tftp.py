"""TFTP beside tftpd-hpa, atftpd and dnsmasq: one fast client, many clients, a
line that loses. The client is ours (tests/load/tftp.rs): stock ones have no
windowsize, and it compares every byte."""
import json
import os
import pathlib
import re

from . import kit


def hpa(work, boot):
    program = os.environ.get("TFTPD_HPA") or hpa_program(work.parent)
    return [program, "-L", "-a", f"{kit.SERVER}:69", "-u", "root", "-s", boot], {}


def hpa_program(folder):
    """tftpd-hpa's server. Debian lets only one of it and atftpd be installed, as
    both are called in.tftpd; so its package is unpacked beside."""
    for program in (folder / "hpa/usr/sbin/in.tftpd", pathlib.Path("/usr/sbin/in.tftpd")):
        if program.exists() and "tftp-hpa" in kit.run(program, "-V", check=False):
            return program
    try:
        target = kit.fresh(folder / "hpa")
        kit.run("sh", "-c", f"cd {target} && apt-get -q download tftpd-hpa && dpkg -x tftpd-hpa*.deb .")
        return target / "usr/sbin/in.tftpd"
    except RuntimeError as why:
        raise kit.Missing(f"tftpd-hpa cannot be had ({why}); set TFTPD_HPA to its in.tftpd") from why


def atftpd(work, boot):
    return [kit.tool("atftpd", "atftpd"), "--daemon", "--no-fork", "--bind-address", kit.SERVER, "--port", "69", "--user", "root.root", "--no-multicast", "--maxthread", "1000", "--verbose=3", boot], {}


def dnsmasq(work, boot):
    return [kit.tool("dnsmasq", "dnsmasq-base"), "-k", "-p0", "-C", "/dev/null", "-u", "root", "--pid-file=", "--interface=lan", "--bind-interfaces", "--enable-tftp", f"--tftp-root={boot}", "--tftp-max=1000", "--quiet-tftp"], {}


def loader(args):
    """Compiles the client: one file that needs the standard library only."""
    program = args.dir / "tftp-load"
    kit.run("rustc", "--edition", "2024", "-O", "-o", program, kit.ROOT / "tests/load/tftp.rs")
    return program


def get(net, load, boot, name, window, clients=1, timeout_ms=1000):
    text = net.in_client(load, f"{kit.SERVER}:69", boot / name, name, 1428, window, clients, timeout_ms, timeout=900)
    return json.loads(re.search(r"\{.*\}", text).group(0))


def bench(args):
    load = loader(args)
    boot = kit.fresh(args.dir / "tftp-boot")
    for name, mib in (("large", 64), ("one", 1)):
        (boot / name).write_bytes(os.urandom(1 << 20) * mib)
        (boot / name).chmod(0o644)
    fast = kit.Table("TFTP: one client, 64 MiB, blksize 1428, by windowsize (used: what was granted)", "MB/s", target="window 16 >= 2x")
    many = kit.Table("TFTP: many clients of 1 MiB each", "MB/s")
    lossy = kit.Table(f"TFTP: one client, 1 MiB, {args.loss:g} % lost and {args.delay:g} ms more each way", "s", larger_is_better=False)
    crowd = kit.Table(f"TFTP: many clients of 1 MiB each, {args.loss:g} % lost each way", "MB/s")
    servers = args.pick({"groundcrew": lambda work, boot: kit.ours(args, work, boot), "tftpd-hpa": hpa, "atftpd": atftpd, "dnsmasq": dnsmasq})
    for _ in range(args.runs):
        for name, make in servers.items():
            try:
                with up(args, name, make, boot, load) as (net, server):
                    for window in (1, 4, 16, 64):
                        cpu = server.cpu_seconds()
                        r = get(net, load, boot, "large", window)
                        if not r["failed"]:
                            fast.add(f"window {window}", name, r["mb_s"], used=r["window"], cpu_us_per_MB=(server.cpu_seconds() - cpu) * 1e6 / 67)
                    for clients in args.crowd:
                        for window in (1, 16):
                            r = get(net, load, boot, "one", window, clients)
                            many.add(f"{clients} clients, window {window}", name, r["mb_s"], failed=r["failed"], rss_MiB=server.rss_kib() / 1024)
                with up(args, name, make, boot, load, args.loss, args.delay) as (net, server):
                    for window in (1, 16):
                        r = get(net, load, boot, "one", window)
                        lossy.add(f"window {window}", name, r["seconds"], failed=r["failed"], timeouts=r["timeouts"])
                with up(args, name, make, boot, load, args.loss) as (net, server):
                    for clients in args.crowd:
                        r = get(net, load, boot, "one", 16, clients)
                        crowd.add(f"{clients} clients, window 16", name, r["mb_s"], failed=r["failed"], timeouts=r["timeouts"])
            except kit.Missing as why:
                kit.say(f"  {name} is left out: {why}")
    return [fast, many, lossy, crowd]


class up:
    """A server that answers, on a line of its own."""

    def __init__(self, args, name, make, boot, load, loss=0.0, delay=0.0):
        self.args, self.name, self.make, self.boot, self.load = args, name, make, boot, load
        self.net = kit.Net(loss, delay)

    def __enter__(self):
        work = kit.fresh(self.args.dir / "tftp")
        words, env = self.make(work, self.boot)
        self.net.__enter__()
        try:
            self.server = kit.Server(self.net, self.name, words, work / "log", env)
            self.server.wait_until(lambda: get(self.net, self.load, self.boot, "one", 4, timeout_ms=300)["failed"] == 0)
        except BaseException:
            self.__exit__()
            raise
        return self.net, self.server

    def __exit__(self, *_):
        if hasattr(self, "server"):
            self.server.__exit__()
        self.net.__exit__()
