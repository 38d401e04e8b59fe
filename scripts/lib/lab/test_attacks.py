"""Tests of the attacks' pure parts: what the rogue changes, and what counts as refused."""

import tempfile
import unittest
from pathlib import Path

from lab import attacks, rogue


def reply(body, kind="application/octet-stream"):
    return rogue.Reply(200, kind, body)


class Rogue(unittest.TestCase):
    def changed(self, attack, path, body, **spec):
        one = reply(body)
        rogue.Rogue({"attack": attack, **spec}).change(path, one)
        return one

    def test_every_attack_has_a_rogue_or_needs_none(self):
        for attack in attacks.ATTACKS:
            if not (attack.clock or attack.twin or attack.tls != "site"):
                self.assertTrue(hasattr(rogue.Rogue, "_" + attack.name.replace("-", "_")), attack.name)

    def test_a_swapped_blob_has_its_length_and_one_other_bit(self):
        one = self.changed("swapped-blob", "/blobs/sha256/x", bytes(9))
        self.assertEqual((len(one.body), one.promised, sum(one.body)), (9, 9, 1))
        self.assertEqual(self.changed("swapped-blob", "/tuf/metadata/timestamp.json", b"x").body, b"x")

    def test_a_truncated_blob_stays_truncated_when_it_is_resumed(self):
        one = self.changed("truncated-blob", "/blobs/sha256/x", bytes(10))
        self.assertEqual((len(one.body), one.promised), (5, 10))
        again = rogue.Reply(206, "application/octet-stream", bytes(5))
        again.range = (5, 10)
        rogue.Rogue({"attack": "truncated-blob"}).change("/blobs/sha256/x", again)
        self.assertEqual((len(again.body), again.promised), (0, 5))

    def test_endless_data_promises_nothing(self):
        one = self.changed("endless-metadata", "/tuf/metadata/timestamp.json", b"{}")
        self.assertIsNone(one.promised)
        self.assertEqual(len(one.body), rogue.LIMIT + 2)

    def test_a_grant_is_remembered_and_given_to_somebody_else(self):
        with tempfile.TemporaryDirectory() as grants:
            first = reply(b'{"state": "granted", "grant": {"payload": "one"}}', "application/json")
            rogue.Rogue({"attack": "swapped-blob", "grants": grants}).change("/v1/enroll/decision", first)
            other = reply(b'{"device": "d", "decision": {"state": "granted", "grant": {"payload": "two"}}}', "application/json")
            rogue.Rogue({"attack": "grant-replayed", "grants": grants}).change("/v1/enroll/request", other)
            self.assertIn(b'"one"', other.body)
            self.assertNotIn(b'"two"', other.body)
            self.assertEqual(other.promised, len(other.body))


class Verdict(unittest.TestCase):
    def test_choosing_takes_along_what_is_needed(self):
        self.assertEqual([one.name for one in attacks.chosen("grant-replayed")], ["swapped-blob", "grant-replayed"])
        self.assertEqual(attacks.chosen("all"), attacks.ATTACKS)
        self.assertEqual(attacks.chosen("rollback,nonsense"), [])

    def test_trees_are_compared_by_content_and_links_by_target(self):
        with tempfile.TemporaryDirectory() as folder:
            now, then = Path(folder, "now"), Path(folder, "then")
            for tree, motd, target in ((now, "hello", "a"), (then, "hallo", "b")):
                (tree / "etc").mkdir(parents=True)
                (tree / "etc/motd").write_text(motd)
                (tree / "etc/same").write_text("same")
                (tree / "etc/link").symlink_to(target)
            (now / "etc/new").write_text("")
            self.assertEqual(attacks.unlike(now, then), ["etc/link", "etc/motd", "etc/new"])


if __name__ == "__main__":
    unittest.main()
