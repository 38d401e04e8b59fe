"""Stages: one machine each, and something done to it or at it that is no plain
provisioning: a menu on its screen, an order for one boot, firmware that will not.

A stage ends with what `groundcrew boot explain` says of the machine.

    Stage    a row: machine, site, the story
    Bench    what a story can do: switch on, wait for words, type, order, ask
"""

import argparse
import json
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from . import host, initrd, milestones, oem, scenario
from .say import LabError

MENU = r"Provision this device"
SHELL = r"iPXE> ?$"
AGENT = milestones.AGENT + r"agent \S+ started"
KERNEL = r"Linux version \d"
OWN_DISK = r"^oem login:"
REFUSED = r"(?i)failed to (?:load|start) Boot|Verification failed|Security Violation|Access Denied"
HELD = r"HELD: this device failed the same way"
FORM = 0.6  # seconds after which a form on the screen is taken to be complete; countdowns change it each second
DOWN, ENTER, ESCAPE = "\x1b[B", "\r", "\x1b"
MEMTEST = {"memtest.bin": "/boot/memtest86+x64.bin", "memtest.efi": "/boot/memtest86+x64.efi"}


@dataclass(frozen=True)
class Stage:
    name: str
    what: str
    kind: str
    play: Callable
    boot: dict = field(default_factory=dict)  # lines of [boot] in site.toml
    prepare: Callable = lambda boot: None  # changes the site's boot folder before it serves
    disk: Callable = lambda image, folder: image  # the installed disk, changed
    vga: bool = False
    signed: str = ""  # by a fresh key: "strange" or "known" to the machine


def _menu_choice(bench):
    bench.power_on()
    bench.until(MENU, "the menu")
    bench.type(DOWN + ENTER)
    bench.until(OWN_DISK, "its own disk", never=AGENT)
    bench.until_explained("somebody at the device decides")


def _menu_alone(bench):
    bench.power_on()
    shown = bench.until(MENU, "the menu")
    loaded = bench.until(KERNEL, "the kernel, by itself")
    if not loaded - shown >= 7.5:
        raise LabError(f"the menu of 8 s was there for {loaded - shown:.1f} s, loading included")
    bench.until(AGENT, "the agent")
    bench.says(f"menu to kernel in {loaded - shown:.1f} s, 8 of them the menu's")


def _once_shell(bench):
    bench.once("shell")
    bench.power_on()
    bench.until(SHELL, "iPXE's shell", never=AGENT)
    bench.explains("once")
    bench.again()


def _once_disk(bench):
    bench.once("disk")
    bench.power_on()
    bench.until(OWN_DISK, "its own disk", never=AGENT)
    bench.explains("told for once: own disk")
    bench.again()


def _once_menu(bench):
    bench.once("menu")
    bench.power_on()
    bench.until(MENU, "the menu")
    bench.type(DOWN + DOWN + ENTER)
    bench.until(SHELL, "iPXE's shell, chosen", never=AGENT)
    bench.again()


def _once_menu_grub(bench):
    """GRUB looks whether its text is there, then reads it: the order must be in both."""
    bench.once("menu")
    bench.power_on()
    bench.until(MENU, "GRUB's menu", never=AGENT)
    bench.type(DOWN + ENTER)
    bench.until(OWN_DISK, "its own disk, chosen", never=AGENT)
    bench.again()


def _once_menu_pxelinux(bench):
    bench.once("menu")
    bench.power_on()
    bench.until(r"type one of these words", "pxelinux's prompt", never=AGENT)
    bench.type("disk" + ENTER)
    bench.until(OWN_DISK, "its own disk, chosen", never=AGENT)
    bench.again()


def _once_memtest(bench):
    bench.once("memtest")
    bench.power_on()
    bench.until(r"loading the memory test", "iPXE's word")
    bench.until_screen(r"Memtest86\+ v[\d.]+", "the memory test's screen")
    bench.again()


def _sb_refused(bench):
    bench.power_on()
    bench.until(r"(?i)Access Denied|Security Violation", "firmware's refusal", never=r"iPXE initialising|" + AGENT)
    bench.until(OWN_DISK, "its own disk")
    bench.explains("Secure Boot")


def _no_driver(bench):
    bench.power_on()
    bench.until(AGENT, "the agent")
    bench.until(r"(?i)no network card|has no driver|driver .*(?:missing|needed)", "the agent's word on its card")
    bench.power_off()
    bench.until_explained("agent never heard")
    bench.explains("no driver for this network card")


def _own_disk(bench):
    bench.power_on()
    bench.until(milestones.AGENT + r"receipt stored", "the receipt")
    bench.until(r"has welcome \S+ since", "the appliance's word at the next start")
    bench.until(r"^hq-\S+ login:", "its own disk")
    bench.explains("starts its own disk, as it was told")


def _disk_first(bench):
    bench.power_on(disk_first=True)
    bench.until(OWN_DISK, "its own disk, first in the boot order", never=AGENT)
    bench.until_explained("asked nobody")


def _mok(bench):
    """What image/enroll-keys.txt tells a technician, key by key."""
    bench.power_on()
    bench.until(r"Verification failed|Security Violation", "shim refuses the site's image", never=AGENT)
    bench.type(ENTER)
    _enroll(bench)
    bench.until(AGENT, "the agent, in the site's image that shim trusts now")


def _enroll(bench):
    for pattern, form, keys in (
        (r"Booting in", "MokManager", ENTER),
        (r"Enroll key from disk", "its menu: enroll key from disk", DOWN + ENTER),
        (r"ESP", "the disk with db.cer", ENTER),
        (r"db\.cer", "db.cer is chosen", DOWN + ENTER),
        (r"View key 0", "the key is read", DOWN + ENTER),
        (r"Yes", "the key is enrolled", DOWN + ENTER),
        (r"Reboot", "restart", ENTER),
    ):
        bench.until(pattern, form, never=AGENT)
        bench.type(keys)


def _fails_three_times(bench, what):
    for _ in range(3):
        bench.power_on()
        bench.until(REFUSED, what, never=HELD + "|" + AGENT)
        bench.power_off()
    bench.power_on()


def _held(bench):
    """Where the loader asks nobody, DHCP gives one that tells it on the screen."""
    _fails_three_times(bench, "the broken image does not start")
    bench.until(HELD, "its screen says that it is held", never=AGENT)
    bench.until(r"groundcrew boot release ID", "how it is released")
    bench.until(f"UUID {bench.uuid}", "its UUID")
    bench.until(f"serial number {bench.serial}", "its serial number")
    bench.until(r"in 60 s, or at Escape", "what comes next")
    _goes_on(bench)
    bench.until(REFUSED, "released, it tries the image again", never=HELD)


def _held_strange(bench):
    """Held because its owner enrolled no key: shim offers that there, too, and the screen can speak."""
    _fails_three_times(bench, "shim refuses the site's image")
    bench.until(r"mok-held/grubx64\.efi", "it is sent to the held screen", never=AGENT)
    bench.until(REFUSED, "shim refuses that as well")
    bench.type(ENTER)
    _enroll(bench)
    bench.until(HELD, "with the key its screen says that it is held", never=AGENT)
    _goes_on(bench)
    bench.until(AGENT, "released, the agent starts")


def _goes_on(bench):
    bench.type(ESCAPE)
    bench.until(OWN_DISK, "its own disk, at Escape")
    bench.explains("held: failed the same way 3 times")
    bench.power_off()
    bench.release()
    bench.power_on()


def _with_certificate(image, folder):
    """A copy of the installed disk with db.cer on its ESP."""
    copy = _copy(image, folder)
    host.run(["mcopy", "-i", f"{copy}@@{oem.ESP[0]}M", folder / "enroll-boot-key/db.cer", "::"])
    return copy


def _with_memtest(boot):
    missing = [path for path in MEMTEST.values() if not Path(path).exists()]
    if missing:
        raise LabError(f"missing: {', '.join(missing)}; run scripts/setup")
    for name, path in MEMTEST.items():
        shutil.copy(path, boot / name)


def _broken_image(boot):
    """As a copy that broke off in the middle leaves it."""
    for image in (boot / "groundcrew.efi", boot / "mok/grubx64.efi"):
        if image.exists():
            image.write_bytes(image.read_bytes()[:image.stat().st_size // 2])


def _without_driver(boot):
    image = boot / "initrd.img"
    image.write_bytes(initrd.without_alias(image.read_bytes(), "virtio_net"))


def _with_networkd(image, folder):
    """A copy of the installed disk whose system asks for an address itself, as office machines do."""
    copy = _copy(image, folder)
    config = folder / "lan.network"
    config.write_text("[Match]\nType=ether\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n", encoding="ascii")
    wants = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    root = f"{copy}?offset={oem.ROOT[0] * oem.MIB}"
    for order in (f"write {config} /etc/systemd/network/lan.network", f"symlink {wants} /lib/systemd/system/systemd-networkd.service"):
        host.run(["debugfs", "-w", "-R", order, root])
    return copy


def _copy(image, folder):
    copy = folder / "oem.img"
    host.run(["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", image, copy])
    return copy


STAGES = [
    Stage("menu-choice", "the site's menu on the screen, an entry chosen", "bios", _menu_choice, {"menu": True}),
    Stage("menu-alone", "the site's menu goes on by itself after 8 s", "uefi", _menu_alone, {"menu": True}),
    Stage("once-shell", "boot once shell", "bios", _once_shell),
    Stage("once-disk", "boot once disk", "uefi", _once_disk),
    Stage("once-disk-uki", "boot once disk, carried out by DHCP: the site's image asks nobody", "sb-uki", _once_disk, signed="known"),
    Stage("once-menu", "boot once menu, the shell chosen", "uefi", _once_menu),
    Stage("once-menu-grub", "boot once menu under shim and GRUB, the own disk chosen", "sb-shim", _once_menu_grub),
    Stage("once-menu-pxelinux", "boot once menu under pxelinux, the own disk chosen", "bios-pxelinux", _once_menu_pxelinux),
    Stage("once-memtest", "boot once memtest", "bios", _once_memtest, prepare=_with_memtest, vga=True),
    Stage("sb-refused", "Secure Boot refuses a loader that nobody signed", "sb-ipxe", _sb_refused),
    Stage("mok", "db.cer enrolled at MokManager makes shim start the site's image", "sb-mok", _mok, disk=_with_certificate, signed="strange"),
    Stage("no-driver", "the boot image has no driver for the card", "bios", _no_driver, prepare=_without_driver),
    Stage("held-uki", "a whole image fails three times: its screen says that it is held", "uefi-uki", _held, prepare=_broken_image),
    Stage("held-sb-http-uki", "the same by HTTP Boot under Secure Boot", "sb-http-uki", _held, prepare=_broken_image, signed="known"),
    Stage("held-mok", "the same behind shim", "sb-mok", _held, prepare=_broken_image, signed="known"),
    Stage("held-mok-strange", "shim refuses the image for want of a key: enrolled while it is held", "sb-mok", _held_strange, disk=_with_certificate, signed="strange"),
    Stage("own-disk-by-word", "provisioned: its next start is sent to its own disk", "bios", _own_disk),
    Stage("own-disk-by-firmware", "its firmware starts the disk first", "bios", _disk_first, disk=_with_networkd),
]


def chosen(word):
    """The stages of `--stage WORD`; nothing if one is unknown."""
    known = {stage.name: stage for stage in STAGES}
    names = list(known) if word == "all" else word.split(",")
    return [known[name] for name in names] if all(name in known for name in names) else []


def run(options, say):
    """True when every stage ended as it should."""
    rows = []
    stages = chosen(options.stage)
    for number, stage in enumerate(stages, 1):
        say(f"{number} of {len(stages)}: {stage.name}, {stage.what}")
        bench = Bench(stage, options, say)
        started = time.monotonic()
        try:
            ok = bench.run()
        except LabError as err:
            say.error(f"{stage.name}: {err}")
            ok = False
        rows.append({"name": stage.name, "what": stage.what, "ok": ok, "seen": bench.seen, "seconds": round(time.monotonic() - started, 1)})
    width = max(len(row["name"]) for row in rows)
    say.plain("\n" + "\n".join(f"{row['name'].ljust(width)}  {'ok' if row['ok'] else 'FAILED'}  {'; '.join(row['seen'])}" for row in rows))
    if options.json:
        options.json.write_text(json.dumps({"stages": rows}, indent=2) + "\n", encoding="utf-8")
    return all(row["ok"] for row in rows)


class Bench(scenario.Lab):
    """A lab with one machine, whose story is the stage's."""

    def __init__(self, stage, options, say):
        words = {**vars(options), "fw": stage.kind, "devices": 1, "mode": "known", "refuse": None, "proxy": False, "json": None}
        super().__init__(argparse.Namespace(**words), say)
        self.stage = stage
        self.seen = []
        self._story_text = ""

    # -- what a story does -----------------------------------------------------------

    def power_on(self, disk_first=False):
        self._machine.power_on(disk_first=disk_first)
        self.says("switched on" + (", disk first" if disk_first else ""), note=False)

    def power_off(self):
        self._machine.power_off()

    def type(self, keys):
        self._machine.type(keys)

    def once(self, what):
        self._appliance.boot_once(self._mac, what)
        self.says(f"groundcrew boot once {self._mac} {what}")

    def release(self):
        """By the serial number, as a technician reads it there."""
        self._appliance.boot_release(self.serial)
        self.says(f"groundcrew boot release {self.serial}")

    def again(self):
        """Switched off and on: the order is used up, the agent starts."""
        self.power_off()
        self.power_on()
        self.until(AGENT, "the agent at the next start", never=MENU + "|" + SHELL)

    def until(self, pattern, what, never=None):
        """Seconds on the machine's clock at which its serial line said this."""
        deadline = time.monotonic() + self.options.timeout
        while True:
            event = self._next(deadline)
            if event is None:
                raise LabError(f"timeout of {self.options.timeout} s while waiting for {what}")
            if event.who is not self._machine or event.at < self._machine.powered_at:
                continue
            if event.kind == "exit":
                raise LabError(f"QEMU ended with exit code {event.text} before {what}")
            if never and re.search(never, event.text):
                raise LabError(f"instead of {what}: {event.text[-200:]}")
            if re.search(pattern, event.text):
                at = event.at - self._machine.powered_at
                self.says(f"{what} ({at:.1f} s)")
                return at

    def until_screen(self, pattern, what):
        deadline = time.monotonic() + self.options.timeout
        while True:
            screen = self._machine.screen()
            found = next((found[0] for line in screen if (found := re.search(pattern, line))), None)
            if found:
                return self.says(f"{what}: {found}")
            if time.monotonic() > deadline:
                raise LabError(f"the screen never showed {what}:\n" + "\n".join(filter(None, screen)))
            self._next(time.monotonic() + 1)

    def explains(self, words):
        """`boot explain` has these words."""
        story = self._appliance.explain(self._mac)
        if words not in " ".join(story.split()):
            raise LabError(f"`boot explain` does not say `{words}`:\n{story}")
        self.says(f"boot explain: {words}")
        self._story_text = story

    def until_explained(self, words):
        """Once the machine's own system has asked for its address."""
        deadline = time.monotonic() + 150
        while words not in self._appliance.explain(self._mac) and time.monotonic() < deadline:
            self._next(time.monotonic() + 1)
        self.explains(words)

    def says(self, words, note=True):
        if note:
            self.seen.append(words)
        self.say(words, self.stage.name)

    # -- the lab's stages, as this one has them ---------------------------------------

    def _signing_key(self):
        if not self.stage.signed:
            return None
        if self.stage.signed == "known":
            return super()._signing_key()
        key = self._appliance.new_key("boot-key")
        self._appliance.enroll_keys(key)
        return key

    def _change_site(self):
        self._appliance.set_boot(self.stage.boot)
        self.stage.prepare(self._appliance.site / "boot")

    def _switch_on(self, stack, oem_images):
        self._insert(stack, {arch: self.stage.disk(image, self._folder) for arch, image in oem_images.items()})
        (device,) = self._devices
        self._machine, self._mac = device.machine, device.machine.hardware.mac
        self._machine.pause = FORM
        self.serial, self.uuid = device.machine.hardware.serial, device.machine.hardware.uuid
        if self.stage.vga:
            self._machine.extra += ["-vga", "std"]

    def _watch(self):
        self.stage.play(self)

    def _read_disks(self):
        pass

    def _verdict(self):
        self.say.plain(self._story_text)
        return True
