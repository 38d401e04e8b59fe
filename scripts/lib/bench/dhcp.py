"""DHCP beside Kea and dnsmasq, by Kea's own perfdhcp, as a relay on the wire."""
import json
import re

from . import kit

POOL = ("10.66.1.0", "10.66.255.250")
LEASE_SECONDS = 3600


def kea(work):
    """Multi-threaded, leases in a file (memfile)."""
    config = {"Dhcp4": {
        "interfaces-config": {"interfaces": ["lan"]},
        "lease-database": {"type": "memfile", "persist": True, "name": f"{work}/leases.csv", "lfc-interval": 3600},
        "valid-lifetime": LEASE_SECONDS,
        "multi-threading": {"enable-multi-threading": True, "thread-pool-size": 4, "packet-queue-size": 64},
        "subnet4": [{"subnet": "10.66.0.0/16", "id": 1, "pools": [{"pool": " - ".join(POOL)}]}],
        "loggers": [{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{"output": "stderr"}]}]}}
    (work / "kea.json").write_text(json.dumps(config))
    words = [kit.tool("kea-dhcp4", "kea-dhcp4-server"), "-c", work / "kea.json"]
    return words, {"KEA_PIDFILE_DIR": str(work), "KEA_LOCKFILE_DIR": str(work)}


def dnsmasq(work):
    """Without its ping before an offer, which the others do not do either."""
    return [kit.tool("dnsmasq", "dnsmasq-base"), "-k", "-p0", "-C", "/dev/null", "-u", "root", "--pid-file=", "--interface=lan", "--bind-interfaces",
            f"--dhcp-range={POOL[0]},{POOL[1]},255.255.0.0,{LEASE_SECONDS}", "--dhcp-lease-max=100000", "--dhcp-authoritative", "--quiet-dhcp",
            "--no-ping", f"--dhcp-leasefile={work}/leases"], {}


def perfdhcp(net, clients, rate, seconds):
    """Four-way exchanges a second that were completed; mean and longest wait in ms."""
    words = [kit.tool("perfdhcp", "kea-admin"), "-4", "-r", rate, "-R", clients, "-p", seconds, "-l", kit.CLIENT, kit.SERVER]
    text = net.in_client(*words, check=False, timeout=seconds + 60)
    rate_found = re.search(r"Rate: ([\d.]+) 4-way", text)
    if not rate_found:
        raise RuntimeError(f"perfdhcp: {text.strip()[-300:]}")
    mean = [float(x) for x in re.findall(r"avg delay: ([\d.]+) ms", text)]
    longest = [float(x) for x in re.findall(r"max delay: ([\d.]+) ms", text)]
    drops = [int(x) for x in re.findall(r"drops: (\d+)", text)]
    return float(rate_found.group(1)), sum(mean), max(longest, default=0.0), sum(drops)


def bench(args):
    flood = kit.Table("DHCP: exchanges a second under flood, leases on disk before the answer", "DORA/s", target=">= 1.0x")
    calm = kit.Table("DHCP: mean wait for a whole exchange at 200 new clients a second", "ms", larger_is_better=False)
    servers = {"groundcrew": lambda work: kit.ours(args, work, dhcp=True), "kea": kea, "dnsmasq": dnsmasq}
    servers = kit.installed(args.pick(servers), kit.fresh(args.dir / "dhcp-try"))
    for _ in range(args.runs):
        for name, make in servers.items():
            for clients in args.clients:
                work = kit.fresh(args.dir / f"dhcp-{name}")
                with kit.Net() as net:
                    words, env = make(work)
                    with kit.Server(net, name, words, work / "log", env) as server:
                        server.wait_until(lambda: perfdhcp(net, 1, 10, 1)[0] > 0)
                        cpu = server.cpu_seconds()
                        rate, mean, longest, _ = perfdhcp(net, clients, args.rate, args.seconds)
                        used = (server.cpu_seconds() - cpu) * 1e6 / max(1.0, rate * args.seconds)
                        flood.add(f"{clients} clients", name, rate, cpu_us=used, rss_MiB=server.rss_kib() / 1024)
                work = kit.fresh(args.dir / f"dhcp-{name}")
            with kit.Net() as net:
                words, env = make(work)
                with kit.Server(net, name, words, work / "log", env) as server:
                    server.wait_until(lambda: perfdhcp(net, 1, 10, 1)[0] > 0)
                    _, mean, longest, drops = perfdhcp(net, 1000, 200, args.seconds)
                    calm.add("200/s", name, mean, longest_ms=longest, drops=drops)
    return [flood, calm]
