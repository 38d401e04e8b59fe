#!/usr/bin/env python3
"""A bridge between two ports that loses and delays frames: what `tc netem` does,
for kernels without it. ARP is delayed but never lost.

usage: impair.py PORT PORT LOSS_PERCENT DELAY_MS [SEED]
"""
import collections
import random
import select
import socket
import sys
import time


class Way:
    """One direction: frames wait in order until they are due."""

    def __init__(self, source, target, loss, delay, chance):
        self.source, self.target, self.loss, self.delay, self.chance = source, target, loss, delay, chance
        self.queue = collections.deque()

    def receive(self, now):
        for _ in range(64):
            try:
                frame, address = self.source.recvfrom(65535)
            except BlockingIOError:
                return
            if address[2] == socket.PACKET_OUTGOING:
                continue
            arp = frame[12:14] == b"\x08\x06"
            if (arp or self.chance.random() >= self.loss) and len(self.queue) < 10_000:
                self.queue.append((now + self.delay, frame))

    def send(self, now):
        while self.queue and self.queue[0][0] <= now:
            _, frame = self.queue.popleft()
            try:
                self.target.send(frame)
            except OSError:
                pass  # a full buffer or a frame too long: lost, as on a wire

    def due(self, now):
        return max(0.0, self.queue[0][0] - now) if self.queue else None


def port(name):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    raw.bind((name, 0))
    raw.setblocking(False)
    return raw


def main(first, second, loss, delay_ms, seed="1"):
    a, b = port(first), port(second)
    chance = random.Random(int(seed))
    ways = [Way(s, t, float(loss) / 100, float(delay_ms) / 1000, chance) for s, t in ((a, b), (b, a))]
    print("forwarding", flush=True)
    while True:
        now = time.monotonic()
        waits = [w for w in (way.due(now) for way in ways) if w is not None]
        select.select([a, b], [], [], min(waits, default=1.0))
        now = time.monotonic()
        for way in ways:
            way.receive(now)
            way.send(now)


if __name__ == "__main__":
    main(*sys.argv[1:])
