"""HTTP boot files beside nginx with sendfile: large ones by curl, because wrk
reads 8 KiB at a time and is the limit itself; small ones by wrk."""
import os
import re
import time

from . import kit

LARGE = 64 << 20


def nginx(workers):
    def make(work, boot):
        (work / "t").mkdir()
        temporary = " ".join(f"{kind}_temp_path {work}/t/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (work / "nginx.conf").write_text(f"""daemon off; user root; worker_processes {workers}; pid {work}/pid; error_log {work}/error.log crit;
worker_rlimit_nofile 65536; events {{ worker_connections 8192; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; {temporary}
 server {{ listen {kit.SERVER}:80 {"reuseport" if workers > 1 else ""} backlog=4096; location /boot/ {{ alias {boot}/; }} }} }}
""")
        return [kit.tool("nginx", "nginx-light"), "-e", work / "error.log", "-c", work / "nginx.conf"], {}
    return make


def curl(net, connections, seconds):
    """MB/s of whole downloads, so many at once, for about so long."""
    def fetch(count):
        url = f"http://{kit.SERVER}/boot/large?[1-{count}]"
        words = [kit.tool("curl", "curl"), "--silent", "--show-error", "--fail", "--parallel", "--parallel-immediate", "--parallel-max", connections,
                 "--output", "/dev/null", "--write-out", " got-%{size_download} ", url]
        began = time.monotonic()
        text = net.in_client(*words)
        took = time.monotonic() - began
        whole = text.split().count(f"got-{LARGE}")
        if whole != count:
            raise RuntimeError(f"curl: {whole} of {count} files came whole")
        return count * LARGE / 1e6 / took
    rough = fetch(connections)
    return fetch(max(connections, round(rough * 1e6 * seconds / LARGE)))


def wrk(net, connections, seconds, name):
    """Answers a second, slowest answer of a hundred in ms."""
    words = [kit.tool("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://{kit.SERVER}/boot/{name}"]
    text = net.in_client(*words)
    if re.search(r"Non-2xx|Socket errors: connect [1-9]", text):
        raise RuntimeError(f"wrk: {text.strip()[-300:]}")
    answers = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    late, scale = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", text).groups()
    return answers, float(late) * {"us": 1e-3, "ms": 1, "s": 1000, "m": 60_000}[scale]


def bench(args):
    large = kit.Table("HTTP: a 64 MiB boot file, keep-alive, from the page cache", "MB/s", target=">= 0.5x and >= 1000 MB/s")
    small = kit.Table("HTTP: a file of 100 bytes", "answers/s")
    boot = kit.fresh(args.dir / "http-boot")
    (boot / "large").write_bytes(os.urandom(1 << 20) * (LARGE >> 20))
    (boot / "small").write_bytes(b"x" * 100)
    servers = {"groundcrew": lambda work, boot: kit.ours(args, work, boot), "nginx, 1 worker": nginx(1), "nginx, 2 workers": nginx(2)}
    servers = args.pick(servers)
    servers = {name: make for name, make in servers.items() if kit.installed({name: make}, kit.fresh(args.dir / "http-try"), boot)}
    for _ in range(args.runs):
        for name, make in servers.items():
            work = kit.fresh(args.dir / "http")
            with kit.Net() as net:
                words, env = make(work, boot)
                with kit.Server(net, name, words, work / "log", env) as server:
                    server.wait_until(lambda: wrk(net, 1, 1, "small"))
                    for connections in (1, 16, 64):
                        cpu, began = server.cpu_seconds(), time.monotonic()
                        rate = curl(net, connections, args.seconds)
                        share = (server.cpu_seconds() - cpu) / (time.monotonic() - began) * 100
                        large.add(f"{connections} at once", name, rate, cpu_percent=share, rss_MiB=server.rss_kib() / 1024)
                    answers, late = wrk(net, 32, args.seconds, "small")
                    small.add("32 at once", name, answers, p99_ms=late)
    return [large, small]
