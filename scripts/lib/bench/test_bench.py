"""What can be tested of the benchmark without measuring."""
import random
import unittest

from bench import impair, kit


class FakeSocket:
    """Gives frames, takes frames."""

    def __init__(self, frames=()):
        self.frames, self.sent = list(frames), []

    def recvfrom(self, _):
        if not self.frames:
            raise BlockingIOError
        return self.frames.pop(0), ("lan", 3, 0, 1, b"")

    def send(self, frame):
        self.sent.append(frame)


class Impair(unittest.TestCase):
    def test_loses_its_share_and_keeps_order_and_arp(self):
        arp = bytes(12) + b"\x08\x06" + bytes(46)
        frames = [bytes(12) + b"\x08\x00" + number.to_bytes(4, "big") for number in range(1000)]
        source, target = FakeSocket(frames + [arp] * 50), FakeSocket()
        way = impair.Way(source, target, 0.1, 0.005, random.Random(1))
        while source.frames:
            way.receive(10.0)
        way.send(10.0049)
        self.assertEqual(target.sent, [], "not before its time")
        self.assertAlmostEqual(way.due(10.0), 0.005)
        way.send(10.005)
        kept = [frame for frame in target.sent if frame != arp]
        self.assertEqual(kept, sorted(kept))
        self.assertTrue(850 < len(kept) < 950, len(kept))
        self.assertEqual(target.sent.count(arp), 50)


class Tables(unittest.TestCase):
    def test_the_ratio_is_against_the_best_other(self):
        for larger, mine, best, ratio in ((True, 30, 20, 1.5), (False, 2, 3, 1.5)):
            table = kit.Table("t", "u", larger_is_better=larger)
            for value in (mine - 1, mine, mine + 1):
                table.add("x", "groundcrew", value)
            table.add("x", "good", best)
            table.add("x", "bad", 10 if larger else 9)
            rows = {row["server"]: row for row in table.rows()}
            self.assertEqual(rows["groundcrew"]["median"], mine)
            self.assertEqual((rows["groundcrew"]["min"], rows["groundcrew"]["max"]), (mine - 1, mine + 1))
            self.assertAlmostEqual(rows["groundcrew"]["ratio"], ratio)
            self.assertAlmostEqual(rows["good"]["ratio"], 1.0)


if __name__ == "__main__":
    unittest.main()
