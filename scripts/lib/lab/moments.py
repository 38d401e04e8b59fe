"""What befalls a stick in use: clocks that are wrong, a medium that is taken out, a network that comes late."""

import datetime
import time

from . import lessee
from .say import LabError

MAC = "52:54:00:77:01:01"
ENTER = "\r"
# A page of the appliance, from its first line to the line for typing.
PAGE = r"(?s)groundcrew: site (?:(?!groundcrew: site ).)*?{}(?:(?!groundcrew: site ).)*?then Enter: "


def clock(lab):
    """A machine that is three days ahead is asked about; the technician's wrong yes holds no later machine
    for good; a dead battery's clock is asked about, too."""
    stick, said = lab._stick("clock"), {}
    now = datetime.datetime.now(datetime.timezone.utc)
    days = lambda count: (now + datetime.timedelta(days=count)).strftime("%Y-%m-%dT%H:%M:%S")
    cases = (("ahead", days(3), "STICK0001", r"IS THIS MACHINE'S CLOCK RIGHT.*?yes, or date and time: ", "yes" + ENTER),
             ("behind", days(0), "STICK0002", r"THIS MACHINE'S CLOCK IS BEHIND.*?Enter, or date and time: ", ENTER),
             ("dead battery", "1999-12-31T23:00:00", "STICK0003", r"THIS MACHINE'S CLOCK IS BEHIND.*?Enter, or date and time: ", ENTER))
    for name, base, serial, pattern, answer in cases:
        guest = lab._guest(f"clock-{name.replace(' ', '-')}", "bios")
        guest.start(lab._usb(stick) + lab._disk(guest), serial=serial, more=["-rtc", f"base={base}"])
        guest.choose(0)
        guest.unlock()
        said[name] = fits(guest.expect(f"(?s){pattern}", 120)[0])
        guest.type(answer)
        guest.expect("receipt stored", 240)
        guest.expect("Pull the stick out", 60)
        guest.pull()
    return said


def unplug(lab):
    """The stick is taken out while it is the appliance."""
    guest = lab._guest("unplug", "uefi")  # whose screen QEMU draws
    guest.start(lab._usb(lab._stick("unplug")), lab._wire(lessee.Hub(), MAC), serial="VAN0001", screen=True)
    guest.choose(1)
    guest.unlock()
    guest.expect(r"ready: site", 90, "ready")
    page = fits(guest.expect(PAGE.format("may let in"), 30)[0])
    guest.picture("appliance")
    guest.type("q7qf2m9q" + ENTER)  # typed without an `a`, and its first letter is a q
    guest.expect(r"No device waits with the code Q7QF-2M9Q", 30)
    guest.type("q" + ENTER)
    guest.expect(r"End and switch off\? Type yes", 30)
    guest.type("no" + ENTER)
    guest.expect(r"Not ended", 30)
    pulled = time.monotonic()
    guest.monitor("device_del", id="stick")
    said = guest.expect(r"(?s)THE STICK WAS PULLED.*?Enter starts[^\n]*", 60)[0]
    noticed = round(time.monotonic() - pulled, 1)
    time.sleep(5)  # it stays: before, the machine restarted after a second
    guest.picture("pulled")
    if guest.ended():
        raise LabError("the machine restarted before anybody had read why")
    guest.type(ENTER)
    guest.end()
    return {"noticed after": noticed, "page": page, "said": said}


def late_server(lab):
    """No cable first, then nobody who gives addresses, then a server: the stick serves on what it was given."""
    hub = lessee.Hub()
    guest = lab._guest("late-server", "bios")
    guest.start(lab._usb(lab._stick("late-server")), lab._wire(hub, MAC), serial="VAN0001", screen=True)
    guest.expect("Provision this machine", 120)  # before, there may be nobody to tell
    guest.monitor("set_link", name="w", up=False)
    guest.choose(1)
    guest.unlock()
    no_cable = fits(guest.expect(r"(?s)groundcrew: bringing the wired network up(?:(?!groundcrew: bringing).)*?NOT YET.*?q: switch off", 120)[0])
    guest.monitor("set_link", name="w", up=True)
    guest.expect(r"ready: site", 60, "ready")
    guest.expect(r"serving 10\.77\.0\.1/24", 30)
    server = lessee.Servers(hub, ("10.99.0.1",))
    server.start()
    try:
        guest.expect(r"serving 10\.99\.0\.50/24", 90, "moved over")
        page = fits(guest.expect(r"(?s)\(given by the network.*?then Enter: ", 30)[0])
        guest.type("q" + ENTER)
        guest.expect(r"Type yes", 30)
        guest.type("yes" + ENTER)
        guest.end()
    finally:
        server.stop()
    return dict(guest.marks, said=no_cable, page=page)


def fits(page):
    """The page, if an 80 x 24 screen shows all of it."""
    rows = page.replace("\r", "").split("\n")
    if max(map(len, rows)) > 80 or len(rows) > 24:
        raise LabError(f"a page is larger than 80 x 24:\n{page}")
    return page
