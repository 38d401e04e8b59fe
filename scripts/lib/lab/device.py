"""One device of a run: its machine, what was seen of it, and how it ended.

`on_serial`, `on_log` and `on_reset` take what happened and answer with what the
scenario has to do (`"approve"`, `"done"`) or None; they touch nothing outside.
"""

import re

from . import milestones, oem
from .timeline import Timeline

DIGEST = re.compile(r"(?i)digest|sha-?256|hash")
_ADDRESS = re.compile(r"\b10\.(?:77|88)\.0\.(?!1\b)\d{1,3}\b")
_MAC = re.compile(r"(?i)\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b")


class Device:
    def __init__(self, machine, mode, say):
        self.machine = machine
        self.name = machine.hardware.name
        self.timeline = Timeline()
        self.outcome = None  # provisioned | refused | failed
        self.reason = None
        self.hostname = None
        self.waits_for = "its firmware"
        self.refused = False
        self._mode = mode
        self._say = say
        self._address = None

    def fail(self, reason):
        if self.outcome is None:
            self.outcome, self.reason = "failed", reason
            self._say(f"FAILED: {reason}", self.name)
        return "done"

    def finish(self, outcome):
        self.outcome = outcome
        return "done"

    def stale(self, at):
        """An event of before the last power-on, or of a device that is done."""
        return self.outcome is not None or at < self.machine.powered_at

    def on_serial(self, at, line):
        action = None
        for milestone, values in milestones.recognise(milestones.SERIAL, line):
            if self._note(milestone, at, values):
                action = self._met(milestone.name, values, at) or action
        return action

    def on_log(self, at, line):
        if self.outcome or not self._mine(line):
            return
        for milestone, values in milestones.recognise(milestones.LOG, line):
            self._note(milestone, at, values)

    def on_reset(self, at):
        if self.outcome:
            return None
        if not self.timeline.reset(at - self.machine.powered_at):
            return None
        self._told(at, "restarts")
        self.waits_for = "the login prompt from its own disk" if self.refused or self.timeline.first("receipt") else "its firmware"
        return None

    def _note(self, milestone, at, values):
        first = self.timeline.note(milestone.name, at - self.machine.powered_at, values)
        if first:
            if not (self.refused or self.timeline.first("receipt")):
                self.waits_for = milestone.waits or self.waits_for
            if milestone.says:
                self._told(at, milestone.says.format_map(values))
        return first

    def _met(self, name, values, at):
        if name == "disk-refused" and self._mode == "refuse-disk" and self.timeline.first("receipt"):
            self.reason = "firmware: the disk's loader is not signed"
            return self.finish("refused")
        if name == "agent" and self._mode == "peer":
            return self.finish("started")
        if name == "code" and self._mode == "unknown":
            return "approve"
        if name == "refused":
            return self._on_refused(values["reason"])
        if name in ("failed", "panic", "nothing-to-boot"):
            return self.fail(f"{name}: {values.get('reason', 'see its serial log')}")
        if name == "login":
            return self._on_login(values["hostname"], at)
        return None

    def _on_refused(self, reason):
        self.reason = reason
        if self._mode != "tamper":
            return self.fail(f"refused: {reason}")
        if not DIGEST.search(reason):
            return self.fail(f"refused, but not for the changed digest: {reason}")
        self.refused = True
        self.waits_for = "its restart"
        return None

    def _on_login(self, hostname, at):
        self.hostname = hostname
        if self._mode == "refuse-disk":
            return self.fail("an unsigned loader on its disk was started, although firmware should have refused it")
        if self._mode == "refuse":
            return self._on_refused_image(hostname, at)
        if self.refused:
            if not self.timeline.first("reset"):
                return self.fail("a login prompt without a restart")
            if hostname != oem.HOSTNAME:
                return self.fail(f"its own disk calls itself {hostname}: the refused bundle changed it")
            self.timeline.note("own-disk", at - self.machine.powered_at, {})
            return self.finish("refused")
        if not self.timeline.first("receipt"):
            return self.fail(f"came up from its own disk as {hostname} before it was provisioned")
        if not self.timeline.first("reset"):
            return self.fail("a login prompt without a restart")
        if hostname == oem.HOSTNAME:
            return self.fail(f"came up from its own disk, but still calls itself {hostname}")
        if self._mode == "tamper":
            return self.fail("took the changed bundle")
        self.timeline.note("own-disk", at - self.machine.powered_at, {})
        return self.finish("provisioned")

    def _on_refused_image(self, hostname, at):
        """Firmware would not start the image: it was fetched, nothing of it ran, the disk did."""
        if self.timeline.first("agent", "requested"):
            return self.fail("the image ran, although firmware should have refused it")
        if not self.timeline.first("refused-image"):
            return self.fail(f"its own disk came up as {hostname}, but firmware refused nothing before")
        if not self.timeline.first("sent"):
            return self.fail("the appliance sent no loader: nothing was refused")
        self.reason = "firmware: " + self.timeline.value("verdict")
        self.timeline.note("own-disk", at - self.machine.powered_at, {})
        return self.finish("refused")

    def _mine(self, line):
        """The line's MAC decides; without one its serial, UUID or the address DHCP gave it."""
        hw, folded = self.machine.hardware, line.lower()
        macs = [mac.lower() for mac in _MAC.findall(line)]
        if macs:
            if hw.mac not in macs:
                return False
            self._address = next(iter(_ADDRESS.findall(line)), self._address)
            return True
        if hw.serial.lower() in folded or str(hw.uuid) in folded:
            return True
        return self._address is not None and self._address in _ADDRESS.findall(line)

    def _told(self, at, text):
        self._say(f"{at - self.machine.powered_at:6.1f}s {text}", self.name)
