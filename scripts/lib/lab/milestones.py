"""What the lab recognises: one table for the serial line, one for the appliance's log.

A change of wording in the agent or in the appliance is followed here and nowhere else.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Milestone:
    name: str
    pattern: re.Pattern
    says: str = ""  # told on the terminal; "" = recorded only
    waits: str = ""  # what the device is busy with from here on


def _row(name, pattern, says="", waits=""):
    return Milestone(name, re.compile(pattern), says, waits)


# How every line of the agent begins: "groundcrew: [   2.345] ".
AGENT = r"groundcrew: (?:\[ *[\d.]+\] )?"

# The device's own words. The groups id, code, bundle, version, steps, reason and hostname are kept.
SERIAL = [
    _row("firmware-text", r"SeaBIOS \(version|BdsDxe: ", "", "its firmware"),
    _row("ipxe", r"iPXE initialising devices", "iPXE runs", "iPXE"),
    _row("lease", r"Configuring \(net\d+ [^)]*\)[. ]*ok", "iPXE has an address", "kernel and initrd"),
    _row("sent", r"NBP file downloaded successfully|Downloading\.\.\.100%", "firmware has its loader"),
    _row("refused-image", r"BdsDxe: failed to (?:load|start) .*: (?P<verdict>Access Denied|Security Violation)", "firmware refuses the image: {verdict}", "the login prompt from its own disk"),
    _row("disk-refused", r"^error: cannot load image", "firmware refuses the own disk's loader"),
    _row("nothing-to-boot", r"No bootable (?:device|option)", "firmware found nothing to boot", "any boot device"),
    _row("kernel", r"Linux version \d", "kernel starts", "the kernel"),
    _row("agent", AGENT + r"agent (?P<version>\S+) started", "agent {version} started", "enrollment"),
    _row("enrolled", AGENT + r"enrolled id=(?P<id>\S+)", "enrolled as {id}", "the decision"),
    _row("code", AGENT + r"code (?P<code>[0-9A-Z]{4}-[0-9A-Z]{4})", "shows the code {code}", "a technician's approval"),
    _row("granted", AGENT + r"granted\b", "granted", "its bundle"),
    _row("verified", AGENT + r"bundle (?P<bundle>\S+(?: \S+)?) verified", "bundle {bundle} verified", "the steps to be applied"),
    _row("applied", AGENT + r"applied (?P<steps>\d+) steps?", "applied {steps} steps", "the receipt"),
    _row("receipt", AGENT + r"receipt stored", "receipt stored", "the restart from its own disk"),
    _row("refused", AGENT + r"refused: (?P<reason>.+)", "REFUSED: {reason}", "the end of the refusal"),
    _row("failed", AGENT + r"failed: (?P<reason>.+)", "FAILED: {reason}", "the end of the failure"),
    _row("panic", r"Kernel panic - not syncing: (?P<reason>.+)", "KERNEL PANIC: {reason}"),
    _row("login", r"^(?P<hostname>[A-Za-z0-9][A-Za-z0-9.-]*) login:", "login prompt of {hostname}"),
]

# The appliance's log; a line counts for the device whose MAC, serial, UUID or address it carries.
LOG = [
    _row("discover", r"(?i)discover\b", "first DHCP DISCOVER heard", "an address"),
    _row("ack", r"(?i)(?:\b|dhcp)ack\b", "address acknowledged", "its loader"),
    _row("tftp", r"(?i)\btftp\b"),
    _row("requested", r"\brequested\b"),
    _row("ipxe-text", r"boot text: "),
]

# A partial line is given out early when it ends like this: a prompt has no newline.
PROMPT = re.compile(rb"login: ?$|for experts|iPXE> ?$")
READY = re.compile(r"(?i)\bready\b")

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?=]*[ -/]*[@-~]|[()][0-9A-B]|[ -~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def clean(raw, most=2000):
    """A serial line as text: no escape sequences, no control characters, at most so many characters."""
    text = raw[:4 * most].decode("utf-8", "replace")
    return _CONTROL.sub("", _ESCAPES.sub("", text)).rstrip()[:most]


def clean_stream(text):
    """A piece of a serial line without escape sequences, line ends kept."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", _ESCAPES.sub("", text))


def recognise(table, line):
    """Every milestone that `line` is, with the groups it carries."""
    for milestone in table:
        found = milestone.pattern.search(line)
        if found:
            yield milestone, {key: value for key, value in found.groupdict().items() if value}
