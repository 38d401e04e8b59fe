"""A wire for virtual machines without any namespace, and DHCP clients and servers on it.

QEMU connects with `-netdev socket,connect=127.0.0.1:PORT`: each frame with its length before
it, as 32 bits. (Its multicast wire echoes every frame to who sent it: duplicate address
detection then finds a duplicate.) The clients answer ARP for the addresses they hold, as
machines do.
"""

import queue
import random
import socket
import struct
import threading
import time

BROADCAST = b"\xff" * 6
COOKIE = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5


class Hub:
    """Whatever one end sends, all others get."""

    def __init__(self):
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._ends, self._lock = [], threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def plug(self):
        """A wire for a program."""
        wire = Wire(self)
        with self._lock:
            self._ends.append(wire)
        return wire

    def unplug(self, end):
        with self._lock:
            if end in self._ends:
                self._ends.remove(end)

    def spread(self, frame, sender):
        with self._lock:
            ends = [end for end in self._ends if end is not sender]
        for end in ends:
            end.hear(frame)

    def _accept(self):
        while True:
            line, _ = self._door.accept()
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(_Machine(line),), daemon=True).start()

    def _serve(self, machine):
        with self._lock:
            self._ends.append(machine)
        while frame := machine.next():
            self.spread(frame, machine)
        self.unplug(machine)


class _Machine:
    """QEMU's end of a line."""

    def __init__(self, line):
        self._line, self._in = line, line.makefile("rb")
        self._lock = threading.Lock()

    def next(self):
        try:
            head = self._in.read(4)
            return self._in.read(struct.unpack("!I", head)[0]) if len(head) == 4 else None
        except OSError:
            return None

    def hear(self, frame):
        try:
            with self._lock:
                self._line.sendall(struct.pack("!I", len(frame)) + frame)
        except OSError:
            pass  # it was switched off


class Wire:
    """A program's end."""

    def __init__(self, hub):
        self._hub, self._heard = hub, queue.Queue()

    def hear(self, frame):
        self._heard.put(frame)

    def send(self, frame):
        self._hub.spread(frame.ljust(60, b"\0"), self)

    def receive(self, patience):
        """A frame, or None."""
        try:
            return self._heard.get(timeout=max(0.001, patience))
        except queue.Empty:
            return None

    def close(self):
        self._hub.unplug(self)


class Lessees(threading.Thread):
    """`count` clients that take addresses and then renew them, until stopped.

    `told(mac, ip, until)` is called the moment an ACK is in: the server has promised."""

    def __init__(self, hub, count, told):
        super().__init__(daemon=True)
        self._wire = hub.plug()
        self._macs = [bytes([0x02, 0x67, 0x63, 0x77, n >> 8, n & 255]) for n in range(count)]
        self._told = told
        self._held = {}  # ip -> mac
        self._over = threading.Event()
        self._random = random.Random(77)
        self.failed = None

    def run(self):
        try:
            waiting = list(self._macs)
            while not self._over.is_set():
                if waiting:
                    if self._take(waiting[0]):
                        waiting.pop(0)
                else:
                    ip = self._random.choice(sorted(self._held))
                    self._exchange(self._held[ip], REQUEST, ACK, ciaddr=ip)
        except Exception as why:  # noqa: BLE001 - told by whoever waits for this thread
            self.failed = why

    def stop(self):
        self._over.set()
        self.join(10)
        self._wire.close()

    def _take(self, mac):
        offer = self._exchange(mac, DISCOVER, OFFER)
        if offer is None:
            return False
        return self._exchange(mac, REQUEST, ACK, wanted=offer) is not None

    def _exchange(self, mac, kind, answer, wanted=None, ciaddr=None):
        """(ip, server) of the answer, or None when nobody answers."""
        xid = self._random.randbytes(4)
        self._wire.send(_frame(mac, xid, kind, wanted, ciaddr))
        deadline = time.monotonic() + 2
        while (left := deadline - time.monotonic()) > 0:
            frame = self._wire.receive(left)
            if frame is None:
                break
            self._answer_arp(frame)
            found = _parse(frame, xid)
            if found and found[0] == answer:
                _, ip, server, lease = found
                if answer == ACK:
                    self._told(mac, ip, time.time() + lease)
                    self._held[ip] = mac
                return ip, server
        return None

    def _answer_arp(self, frame):
        if frame[12:14] != b"\x08\x06" or frame[20:22] != b"\0\1":
            return
        mac = self._held.get(socket.inet_ntoa(frame[38:42]))
        if mac:
            reply = frame[6:12] + mac + b"\x08\x06" + frame[14:20] + b"\0\2" + mac + frame[38:42] + frame[22:32]
            self._wire.send(reply)


class Servers(threading.Thread):
    """Several DHCP servers on one wire: each offers an address of its own, the first one keeps its word."""

    def __init__(self, hub, addresses):
        super().__init__(daemon=True)
        self._wire = hub.plug()
        self._addresses = addresses
        self._over = threading.Event()

    def run(self):
        while not self._over.is_set():
            frame = self._wire.receive(0.2)
            if frame and frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[34:38] == b"\0\x44\0\x43":
                kind = frame[284]  # option 53 comes first in what our clients send
                answers = self._addresses if kind == DISCOVER else self._addresses[:1]
                for number, server in enumerate(answers):
                    self._wire.send(_reply(frame, server, number, OFFER if kind == DISCOVER else ACK))

    def stop(self):
        self._over.set()
        self.join(10)
        self._wire.close()


def _reply(frame, server, number, kind):
    """A DHCP answer to a client's frame: 10.99.0.(50 + number) for an hour."""
    own, given = socket.inet_aton(server), socket.inet_aton(f"10.99.0.{50 + number}")
    asked = frame[42:]
    options = bytes([53, 1, kind, 54, 4]) + own + b"\x33\x04\0\0\x0e\x10\x01\x04\xff\xff\xff\0\xff"
    bootp = b"\2\1\6\0" + asked[4:12] + b"\0" * 4 + given + own + b"\0" * 4 + asked[28:44] + b"\0" * 192 + COOKIE + options
    mac = b"\x02\x67\x63\x63\0" + bytes([number])
    return BROADCAST + mac + _datagram(own, 67, 68, bootp)


def _frame(mac, xid, kind, wanted, ciaddr):
    options = bytes([53, 1, kind])
    if wanted:
        options += b"\x32\x04" + socket.inet_aton(wanted[0]) + b"\x36\x04" + wanted[1]
    own = socket.inet_aton(ciaddr or "0.0.0.0")
    bootp = struct.pack("!BBBB4sHH4s4s4s4s", 1, 1, 6, 0, xid, 0, 0x8000 if not ciaddr else 0, own, b"\0" * 4, b"\0" * 4, b"\0" * 4)
    bootp += mac.ljust(16, b"\0") + b"\0" * 192 + COOKIE + options + b"\xff"
    # A renewal may be broadcast, too (rebinding, RFC 2131 section 4.3.2).
    return BROADCAST + mac + _datagram(own, 68, 67, bootp)


def _datagram(own, source, target, bootp):
    """EtherType, IPv4 and UDP heads, and the message; to everybody."""
    bootp = bootp.ljust(300, b"\0")
    udp = struct.pack("!HHHH", source, target, 8 + len(bootp), 0) + bootp
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, own, b"\xff" * 4)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]
    return b"\x08\x00" + head + udp


def _parse(frame, xid):
    """(kind, ip, server, lease) of a DHCP answer to `xid`."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return None
    bootp = frame[14 + (frame[14] & 15) * 4 + 8:]
    if len(bootp) < 240 or bootp[0] != 2 or bootp[4:8] != xid or bootp[236:240] != COOKIE:
        return None
    found, at = {}, 240
    while at + 1 < len(bootp) and bootp[at] != 255:
        if bootp[at] == 0:
            at += 1
            continue
        found[bootp[at]] = bootp[at + 2:at + 2 + bootp[at + 1]]
        at += 2 + bootp[at + 1]
    if 53 not in found or 54 not in found:
        return None
    lease = struct.unpack("!I", found[51])[0] if 51 in found else 0
    return found[53][0], socket.inet_ntoa(bootp[16:20]), found[54], lease
