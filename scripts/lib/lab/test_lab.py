"""Tests of the lab's pure parts: python3 -m unittest discover -s scripts/lib -t scripts/lib"""

import base64
import hashlib
import struct
import tempfile
import unittest

from lab import hwhash, kinds, matrix, milestones, oem
from lab.device import Device
from lab.machine import Hardware, lines
from lab.timeline import PHASES, Timeline


class FakeMachine:
    """What `Device` reads of a machine."""

    def __init__(self, hardware):
        self.hardware = hardware
        self.powered_at = 100.0


def device(mode="known"):
    return Device(FakeMachine(Hardware.make(0, 1, "bios")), mode, lambda *_: None)


GOOD = ["groundcrew: [   0.010] agent 0.1.0 started", "groundcrew: [   1.100] enrolled id=hq-7k2m9qx4",
        "groundcrew: [   1.100] code K7QF-2M9X waiting for approval (not registered)", "groundcrew: [   1.300] granted profile=default",
        "groundcrew: [   2.000] bundle welcome 1.0.0 verified", "groundcrew: [   2.100] applied 5 steps (5 changed)",
        "groundcrew: [  12.100] receipt stored"]


class HardwareHash(unittest.TestCase):
    def test_container(self):
        hardware = Hardware.make(3, 2, "uefi")
        raw = hwhash.build(hardware)
        self.assertEqual(len(raw), 3000)
        (total,) = struct.unpack_from("<H", raw, 2)
        self.assertEqual(raw[total:total + 4], b"CS\x24\0")
        self.assertEqual(raw[total + 4:total + 36], hashlib.sha256(raw[:total]).digest())
        self.assertFalse(any(raw[total + 36:]))
        found, at = {}, 4
        while at < total:
            kind, length = struct.unpack_from("<HH", raw, at)
            found[kind] = raw[at + 4:at + length]
            at += length
        self.assertEqual(at, total)
        self.assertEqual(found[14], b"GCLABU0002\0")
        self.assertEqual(found[12], hardware.uuid.bytes_le)
        self.assertEqual(found[8], bytes.fromhex("0e000000525400770003" "08000000") + "PCI\0".encode("utf-16-le"))

    def test_csv_is_what_intune_takes(self):
        text = hwhash.csv([Hardware.make(0, 1, "bios")])
        header, row, rest = text.split("\r\n")
        self.assertEqual((header, rest), (hwhash.CSV_HEADER, ""))
        serial, product, blob = row.split(",")
        self.assertEqual((serial, product, len(blob)), ("GCLABB0001", "", 4000))
        self.assertEqual(base64.b64decode(blob)[:2], b"OA")


class SerialLine(unittest.TestCase):
    def read(self, *chunks):
        with tempfile.TemporaryFile() as stream:
            stream.write(b"".join(chunks))
            stream.seek(0)
            return [milestones.clean(line) for line in lines(stream, milestones.PROMPT)]

    def test_escapes_and_line_ends(self):
        self.assertEqual(self.read(b"\x1b[0m\x1b[37m\x1b[40miPXE initialising devices...ok\r\n\x1bcSeaBIOS (version 1)\n"),
                         ["iPXE initialising devices...ok", "SeaBIOS (version 1)"])

    def test_prompt_has_no_newline(self):
        self.assertIn("oem login:", self.read(b"Debian\r\noem login: "))

    def test_rubbish_stays_small(self):
        self.assertTrue(all(len(line) <= 2000 for line in self.read(b"\xff" * 300000)))


class Story(unittest.TestCase):
    def play(self, dev, *said):
        actions, at = [], 100.0
        for line in said:
            at += 2.0
            actions.append(dev.on_reset(at) if line == "RESET" else dev.on_serial(at, line))
        return actions[-1]

    def test_provisioned(self):
        dev = device()
        self.assertEqual(self.play(dev, *GOOD, "RESET", "lab-1 login:"), "done")
        self.assertEqual((dev.outcome, dev.hostname), ("provisioned", "lab-1"))

    def test_hostname_not_configured(self):
        dev = device()
        self.play(dev, *GOOD, "RESET", f"{oem.HOSTNAME} login:")
        self.assertEqual(dev.outcome, "failed")

    def test_own_disk_without_provisioning(self):
        dev = device()
        self.play(dev, "iPXE initialising devices...", f"{oem.HOSTNAME} login:")
        self.assertEqual(dev.outcome, "failed")
        self.assertIn("before it was provisioned", dev.reason)

    def test_prompt_without_restart(self):
        dev = device()
        self.play(dev, *GOOD, "lab-1 login:")
        self.assertEqual(dev.outcome, "failed")

    def test_refusal_fails_a_good_bundle(self):
        dev = device()
        self.play(dev, *GOOD[:4], "groundcrew: refused: digest mismatch")
        self.assertEqual(dev.outcome, "failed")

    def test_tampered_bundle_taken(self):
        dev = device("tamper")
        self.play(dev, *GOOD, "RESET", "lab-1 login:")
        self.assertEqual((dev.outcome, dev.reason), ("failed", "took the changed bundle"))

    def test_tampered_bundle_refused(self):
        dev = device("tamper")
        self.play(dev, *GOOD[:4], "groundcrew: refused: blob sha256:00: digest mismatch")
        self.assertIsNone(dev.outcome, "only its own disk proves that nothing was changed")
        self.assertEqual(self.play(dev, "RESET", f"{oem.HOSTNAME} login:"), "done")
        self.assertEqual(dev.outcome, "refused")

    def test_refused_but_changed(self):
        dev = device("tamper")
        self.play(dev, *GOOD[:4], "groundcrew: refused: blob sha256:00: digest mismatch", "RESET", "lab-1 login:")
        self.assertEqual(dev.outcome, "failed")

    def test_refused_for_another_reason(self):
        dev = device("tamper")
        self.play(dev, *GOOD[:4], "groundcrew: refused: timestamp has expired")
        self.assertEqual(dev.outcome, "failed")

    def test_code_is_approved_only_when_unknown(self):
        self.assertEqual(self.play(device("unknown"), *GOOD[:3]), "approve")
        self.assertIsNone(self.play(device(), *GOOD[:3]))

    def test_events_of_before_the_power_on_are_stale(self):
        dev = device()
        self.assertTrue(dev.stale(99.0))
        self.assertFalse(dev.stale(101.0))


class ApplianceLog(unittest.TestCase):
    def test_mac_then_address(self):
        dev = device()
        dev.on_log(101, "INFO DHCPDISCOVER mac=52:54:00:77:00:09")
        dev.on_log(102, "INFO DHCP DISCOVER -> OFFER to x mac=52:54:00:77:00:00 ip=10.77.0.12")
        dev.on_log(103, "INFO DHCP REQUEST -> ACK to x mac=52:54:00:77:00:00 ip=10.77.0.12")
        dev.on_log(104, "INFO TFTP sent peer=10.77.0.13:2070 file=undionly.kpxe")
        dev.on_log(105, "INFO TFTP sent peer=10.77.0.12:2070 file=undionly.kpxe")
        self.assertEqual([(s.name, s.seconds) for s in dev.timeline.seen], [("discover", 2), ("ack", 3), ("tftp", 5)])


class Phases(unittest.TestCase):
    def test_columns_add_up_when_one_is_missing(self):
        timeline = Timeline()
        for seconds, name in ((3.0, "discover"), (4.0, "ack"), (9.0, "agent"), (10.0, "granted"), (30.0, "own-disk")):
            timeline.note(name, seconds, {})
        rows, total = timeline.phases()
        self.assertEqual(total, 30.0)
        self.assertEqual(sum(s for _, s in rows if s is not None), total)
        self.assertEqual(dict(rows)["loader"], None)
        self.assertEqual(len(rows), len(PHASES))

    def test_two_resets_in_a_row_are_one_restart(self):
        timeline = Timeline()
        self.assertEqual([timeline.reset(s) for s in (10.0, 10.1, 20.0)], [True, False, True])
        self.assertEqual(timeline.boot, 3)


class Refusal(unittest.TestCase):
    DENIED = 'BdsDxe: failed to load Boot0002 "UEFI PXEv4 (MAC:525400770000)" from PciRoot(0x0)/IPv4(0.0.0.0): Access Denied'

    def test_fetched_refused_own_disk(self):
        dev = device("refuse")
        dev.on_serial(105, "  NBP file downloaded successfully.")
        dev.on_serial(106, self.DENIED)
        self.assertEqual(dev.on_serial(140, "oem login:"), "done")
        self.assertEqual((dev.outcome, dev.reason), ("refused", "firmware: Access Denied"))

    def test_own_disk_alone_is_no_refusal(self):
        dev = device("refuse")
        dev.on_serial(140, "oem login:")
        self.assertEqual(dev.outcome, "failed")

    def test_the_own_disk_refused_after_the_receipt(self):
        dev = device("refuse-disk")
        self.assertIsNone(dev.on_serial(101, "error: cannot load image."))
        for at, line in enumerate(GOOD, 110):
            dev.on_serial(at, line)
        dev.on_reset(130)
        self.assertEqual(dev.on_serial(140, "error: cannot load image."), "done")
        self.assertEqual(dev.outcome, "refused")
        other = device("refuse-disk")
        other.on_serial(140, "hq-1 login:")
        self.assertEqual(other.outcome, "failed")

    def test_an_image_that_ran_was_not_refused(self):
        dev = device("refuse")
        for at, line in ((105, "NBP file downloaded successfully."), (106, self.DENIED), (120, GOOD[0])):
            dev.on_serial(at, line)
        dev.on_serial(140, "oem login:")
        self.assertEqual(dev.outcome, "failed")


class Matrix(unittest.TestCase):
    def lab(self, *seconds, ok=True):
        devices = [{"outcome": "provisioned", "total": s + 50, "milestones": [{"name": "agent", "seconds": s}]} for s in seconds]
        return {"ok": ok, "devices": devices}

    def test_the_slowest_of_several_counts(self):
        self.assertEqual(matrix.slowest(self.lab(20.0, 30.0)), 30.0)
        self.assertIsNone(matrix.slowest({"ok": True, "devices": [{"milestones": []}]}))
        row = matrix._result(matrix.ROWS[0], [self.lab(21.0)], [self.lab(20.0)])
        self.assertEqual((row["ratio"], row["ok"], row["total"]), (1.05, True, 71.0))
        self.assertFalse(matrix._result(matrix.ROWS[0], [self.lab(21.0)], [self.lab(20.0, ok=False)])["ok"])
        self.assertIn("1.05", matrix.table([row]))

    def test_of_several_runs_the_medians(self):
        ours, peers = [self.lab(seconds) for seconds in (21.0, 30.0, 19.0)], [self.lab(20.0)] * 3
        row = matrix._result(matrix.ROWS[0], ours, peers)
        self.assertEqual((row["ratio"], row["agent"], row["ratios"]), (1.05, 21.0, [0.95, 1.05, 1.5]))
        self.assertIn("0.95 to 1.50", matrix.table([row]))
        self.assertFalse(matrix._result(matrix.ROWS[0], [*ours, None], peers)["ok"])

    def test_rows_name_kinds_that_exist(self):
        for row in matrix.ROWS:
            self.assertTrue(kinds.chosen(row.options[1]))
        self.assertEqual([row.name for row in matrix.chosen("few")], list(matrix.FEW))
        self.assertEqual(matrix.chosen("uefi,nonsense"), [])


if __name__ == "__main__":
    unittest.main()
