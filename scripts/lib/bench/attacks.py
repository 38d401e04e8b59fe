"""What peers can do to us: each attack on a fresh appliance, with its memory
before, at most, and after, and whether others were served meanwhile."""
import contextlib
import os
import random
import socket
import threading
import time

from . import dhcp, kit

ATTACKERS = [f"10.66.8.{host}" for host in range(1, 65)]
WITNESS = "10.66.9.1"


def http_get(name, source=WITNESS, timeout=10):
    with socket.create_connection((kit.SERVER, 80), timeout, (source, 0)) as peer:
        peer.sendall(f"GET /boot/{name} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        total = 0
        while data := peer.recv(65536):
            total += len(data)
        return total


def tftp_get(name, source=WITNESS):
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind((source, 0))
    peer.settimeout(1)
    last, to, expected, total = b"\0\1" + name.encode() + b"\0octet\0", (kit.SERVER, 69), 1, 0
    for _ in range(2000):
        peer.sendto(last, to)
        try:
            packet, sender = peer.recvfrom(2048)
        except TimeoutError:
            continue
        if packet[:2] != b"\0\3" or int.from_bytes(packet[2:4], "big") != expected:
            continue
        total, to, last, expected = total + len(packet) - 4, sender, b"\0\4" + packet[2:4], expected + 1
        if len(packet) < 516:
            peer.sendto(last, to)
            return total
    return total


def hold_http(seconds, request, each):
    """Connections that send `request` and then do nothing. How many stood at once."""
    held = []
    for address in ATTACKERS:
        for _ in range(each):
            with contextlib.suppress(OSError):
                peer = socket.create_connection((kit.SERVER, 80), 2, (address, 0))
                peer.sendall(request)
                held.append(peer)
    time.sleep(seconds)
    for peer in held:
        peer.close()
    return {"connections": len(held)}


def slow_readers(seconds):
    return hold_http(seconds, b"GET /boot/large HTTP/1.1\r\n\r\n", 60)


def slow_writers(seconds):
    return hold_http(seconds, b"GET /boot/lar", 60)


def half_open_tftp(seconds):
    """Read requests that are never acknowledged."""
    held, end = [], time.monotonic() + seconds
    for address in ATTACKERS:
        for _ in range(64):
            peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            peer.bind((address, 0))
            held.append(peer)
    while time.monotonic() < end:
        for peer in held:
            with contextlib.suppress(OSError):
                peer.sendto(b"\0\1large\0octet\0blksize\x001428\0windowsize\x0064\0", (kit.SERVER, 69))
        time.sleep(1)
    return {"transfers": len(held)}


def noise(seconds):
    """10,000 packets a second of random bytes and near-requests to the UDP
    ports, and connections with garbage to the TCP ports."""
    chance, end, sent = random.Random(7), time.monotonic() + seconds, 0
    heads = [b"", b"\0\1", b"\0\1../", b"\0\4\0\1", b"\1\1\6\0", b"\1\1\6\0" + bytes(232) + b"c\x82Sc"]
    peers = []
    for address in ATTACKERS[:16]:
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.bind((address, 0))
        peers.append(peer)

    def connections():
        while time.monotonic() < end:
            for port in (80, 443):
                with contextlib.suppress(OSError):
                    with socket.create_connection((kit.SERVER, port), 1, (chance.choice(ATTACKERS), 0)) as peer:
                        peer.sendall(chance.randbytes(200))
    thread = threading.Thread(target=connections, daemon=True)
    thread.start()
    began = time.monotonic()
    while time.monotonic() < end:
        for _ in range(100):
            packet = chance.choice(heads) + chance.randbytes(chance.randrange(400))
            with contextlib.suppress(OSError):
                chance.choice(peers).sendto(packet, (kit.SERVER, chance.choice((67, 69, 4011))))
                sent += 1
        time.sleep(max(0.0, began + sent / 10_000 - time.monotonic()))
    thread.join()
    return {"packets_per_s": round(sent / seconds)}


def random_macs(seconds):
    """DISCOVERs of machines that do not exist, 2,000 a second, broadcast."""
    chance, end, sent = random.Random(7), time.monotonic() + seconds, 0
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    peer.bind(("0.0.0.0", 68))
    began = time.monotonic()
    while time.monotonic() < end:
        mac = b"\x02" + chance.randbytes(5)
        packet = b"\1\1\6\0" + mac[2:] + bytes(2) + b"\x80\0" + bytes(16) + mac + bytes(202) + b"c\x82Sc5\1\1\xff"
        with contextlib.suppress(OSError):
            peer.sendto(packet.ljust(300, b"\0"), ("255.255.255.255", 67))
            sent += 1
        time.sleep(max(0.0, began + sent / 2000 - time.monotonic()))
    return {"packets_per_s": round(sent / seconds)}


ATTACKS = {
    "slow HTTP readers": slow_readers,
    "slow HTTP requests": slow_writers,
    "half-open TFTP": half_open_tftp,
    "noise on 67, 69, 4011, 80, 443": noise,
    "DHCP starvation": random_macs,
}


def witness(net):
    """Whether somebody else is served: HTTP, TFTP, and a renewed look at DHCP."""
    def files():
        began = time.monotonic()
        good = {}
        for name, get in (("http", http_get), ("tftp", tftp_get)):
            with contextlib.suppress(OSError):
                good[name] = get("small") > 0
        good["ms"] = (time.monotonic() - began) * 1000
        return good
    return kit.inside(net.client, files)


def bench(args):
    rows = []
    boot = kit.fresh(args.dir / "attack-boot")
    (boot / "large").write_bytes(os.urandom(1 << 20) * 64)
    (boot / "small").write_bytes(b"x" * 2000)
    seconds = args.seconds * 2
    for name, attack in ATTACKS.items():
        work = kit.fresh(args.dir / "attack")
        with kit.Net() as net:
            for address in [*ATTACKERS, WITNESS]:
                kit.run("ip", "-n", net.client, "address", "add", f"{address}/16", "dev", "lan")
            words, env = kit.ours(args, work, boot, dhcp=True)
            with kit.Server(net, name, words, work / "log", env) as server:
                server.wait_until(lambda: witness(net).get("http"))
                witness(net)
                before, peak, served, asked, slowest = server.rss_kib(), 0, 0, 0, 0.0
                result = {}
                thread = threading.Thread(target=lambda: result.update(kit.inside(net.client, lambda: attack(seconds))))
                thread.start()
                while thread.is_alive():
                    peak = max(peak, server.rss_kib())
                    seen = witness(net)
                    asked += 2
                    served += bool(seen.get("http")) + bool(seen.get("tftp"))
                    slowest = max(slowest, seen["ms"])
                    time.sleep(0.2)
                thread.join()
                leased, _, _, _ = dhcp.perfdhcp(net, 1, 10, 1)
                time.sleep(1)
                peak = max(peak, server.rss_kib())
                row = {"attack": name, **result, "rss_before_MiB": before / 1024, "rss_peak_MiB": peak / 1024, "rss_after_MiB": server.rss_kib() / 1024,
                       "others_served": f"{served}/{asked}", "slowest_ms": slowest, "dhcp_after": leased > 0, "alive": server.child.poll() is None}
                rows.append(row)
                kit.say("  " + ", ".join(f"{k} {kit.shown(v) if not isinstance(v, bool) else v}" for k, v in row.items()))
    return [Report(rows)]


class Report:
    """Prints like a [`kit.Table`], without peers."""

    title = f"Attacks, from {len(ATTACKERS)} addresses of one host; a witness fetches a file by HTTP and TFTP all the while"

    def __init__(self, rows):
        self._rows = rows

    def rows(self):
        return iter(self._rows)

    def print(self):
        print(f"\n{self.title}")
        for r in self._rows:
            size = ", ".join(f"{r[k]} {k.replace('_per_s', '/s')}" for k in ("connections", "transfers", "packets_per_s") if k in r)
            print(f"{r['attack']:32} {size:22} RSS {r['rss_before_MiB']:.1f} -> {r['rss_peak_MiB']:.1f} (peak) -> {r['rss_after_MiB']:.1f} MiB, "
                  f"others served {r['others_served']}, slowest {r['slowest_ms']:.0f} ms, DHCP after it {'yes' if r['dhcp_after'] else 'NO'}")
