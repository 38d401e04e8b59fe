"""Looks at the status page with a real browser: python3 page_browser.py CODE [WAITING FAILED] SHOTS

Without devices: at a site that has none.

Drives Chromium by WebDriver (W3C), of which it needs a dozen calls. Prints `ask` when a further
device is to ask, and reads its id.
"""

import base64
import json
import pathlib
import subprocess
import sys
import time
import urllib.request

URL = "https://10.77.0.1/"
KEY = "element-6066-11e4-a52e-4f735466cecf"

# Contrast of every visible text with what lies behind it (WCAG 2.1, 1.4.3).
CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const behind = node => { for (; node; node = node.parentElement) { const c = rgb(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
const bad = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !node.checkVisibility() || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
  const style = getComputedStyle(node);
  const [a, b] = [light(rgb(style.color).slice(0, 3)), light(behind(node))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) bad.push(node.tagName + " " + node.textContent.trim().slice(0, 30) + " " + ratio.toFixed(2));
}
return bad;
"""

# Every field has a name, every button a size for a thumb, nothing is wider than the screen.
SHAPE = """
const bad = [];
if (document.documentElement.scrollWidth > innerWidth) bad.push("the page is " + document.documentElement.scrollWidth + " wide on " + innerWidth);
for (const field of document.querySelectorAll("input:not([type=hidden])"))
  if (!field.labels.length && !field.getAttribute("aria-label")) bad.push("a field without a name: " + field.outerHTML);
for (const button of document.querySelectorAll("button, summary")) {
  const box = button.getBoundingClientRect();
  if (button.checkVisibility() && (box.height < 44 || box.width < 44)) bad.push("too small: " + button.textContent + " " + box.width + "x" + box.height);
}
const ids = [...document.querySelectorAll("[id]")].map(n => n.id);
if (new Set(ids).size !== ids.length) bad.push("an id twice");
for (const entry of performance.getEntriesByType("resource"))
  if (!entry.name.startsWith(location.origin)) bad.push("loaded from elsewhere: " + entry.name);
return bad;
"""


class Browser:
    """One session of a chromedriver that this starts."""

    def __init__(self, port, scripts=True, dark=False, width=1280, height=900):
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        if dark:
            arguments.append("--blink-settings=preferredColorScheme=0")
        options = {"args": arguments, "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0, "touch": width < 600, "mobile": width < 600}}}
        if not scripts:
            options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
        wanted = {"acceptInsecureCerts": True, "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        if not scripts:
            wanted["pageLoadStrategy"] = "none"  # the driver would wait for a script's word
        deadline = time.monotonic() + 30
        while True:
            try:
                answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except (ConnectionError, urllib.error.URLError):
                if time.monotonic() > deadline or self.driver.poll() is not None:
                    raise
        self.base += "/session/" + answer["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:600]) from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[KEY]

    def text(self, css):
        return self.call("GET", f"/element/{self.find(css)}/text")

    def click(self, css):
        self.call("POST", f"/element/{self.find(css)}/click", {})

    def type(self, css, text):
        self.call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def until(self, what, check):
        deadline = time.monotonic() + 25
        while time.monotonic() < deadline:
            try:
                if check():
                    return
            except AssertionError:
                pass  # replaced at this moment
        raise AssertionError("never: " + what + "\n" + self.text("body"))

    def shot(self, path):
        full = self.call("POST", "/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": True}})
        path.write_bytes(base64.b64decode(full["data"]))
        print("shot", path.name)

    def cdp(self, what, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": what, "params": parameters})

    def html(self):
        root = self.cdp("DOM.getDocument", depth=0)["root"]["nodeId"]
        return self.cdp("DOM.getOuterHTML", nodeId=root)["outerHTML"]

    def log_in(self, code):
        self.open(URL)
        self.until("the log-in", lambda: self.find("#name"))
        self.type("#name", "front desk")
        self.type("#code", code)
        self.click(".login button")
        self.until("logged in", lambda: self.find("#live"))

    def bring(self, cookie):
        """Somebody who logged in before: the appliance lets one address try five times at once."""
        self.cdp("Network.setCookie", name="__Host-groundcrew", value=cookie, url=URL, path="/", secure=True, httpOnly=True)

    def check(self, where):
        problems = self.run(CONTRAST) + self.run(SHAPE)
        complaints = [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")]
        assert not problems + complaints, (where, problems, complaints)

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()


def empty(code, shots):
    """A site that knows no device yet."""
    for name, width, height in [("desk-1280", 1280, 900), ("phone-390", 390, 844)]:
        browser = Browser(9514, width=width, height=height)
        try:
            browser.log_in(code)
            browser.check("empty " + name)
            assert "No device is known yet" in browser.text("#live")
            browser.shot(shots / f"empty-{name}.png")
        finally:
            browser.close()


def others(browser, device, shots, name):
    """One device, and one that does not exist."""
    browser.open(URL + "device/" + device)
    browser.until("one device", lambda: browser.find("dl"))
    browser.check("one device " + name)
    assert "How it is known" in browser.text("#live")
    browser.shot(shots / f"device-{name}.png")
    browser.open(URL + "device/hq-00000000")
    browser.until("an error", lambda: browser.find(".news.bad"))
    # The browser itself complains of the 404.
    browser.call("POST", "/se/log", {"type": "browser"})
    browser.check("error " + name)
    browser.shot(shots / f"error-{name}.png")


def main(code, device, failed, shots):
    desk = Browser(9515)
    try:
        desk.open(URL)
        desk.check("log-in")
        desk.shot(shots / "login-1280.png")
        desk.type("#name", "front desk")
        desk.type("#code", "AAAA-AAAA")
        desk.click(".login button")
        desk.until("refused", lambda: desk.find(".news.bad"))
        desk.call("POST", "/se/log", {"type": "browser"})
        desk.check("wrong code")
        desk.shot(shots / "wrong-code-1280.png")
        desk.log_in(code)
        assert desk.text("#status") == "11 devices. 2 wait for you.", desk.text("#status")
        desk.check("devices")
        desk.shot(shots / "devices-1280.png")
        # A device that asks appears without a reload, and somebody who writes keeps their place.
        desk.until("live", lambda: desk.run("return document.documentElement.dataset.live") == "yes")
        desk.run("window.same = true; document.getElementById('q').focus(); document.getElementById('q').value = 'synth'")
        print("ask", flush=True)
        live = sys.stdin.readline().strip()
        desk.until("the new device is shown", lambda: desk.find(f"#a-{live}"))
        assert desk.run("return window.same && document.activeElement.id === 'q' && document.getElementById('q').value") == "synth"
        assert desk.text("#status") == "12 devices. 3 wait for you.", desk.text("#status")
        # By keyboard alone: focus, Enter.
        desk.run(f"document.getElementById('a-{device}').focus()")
        desk.type(f"#a-{device}", "\ue007")
        desk.until("approved", lambda: device in desk.text(".news"))
        assert desk.text("#status") == "12 devices. 2 wait for you.", desk.text("#status")
        desk.click(f"#s-{live}")
        desk.type(f"#r-{live}", "not ours")
        desk.shot(shots / "reject-1280.png")
        desk.click(f"#r-{live} ~ .do button")
        desk.until("rejected", lambda: "1 waits for you" in desk.text("#status"))
        others(desk, failed, shots, "desk-1280")
        desk.open(URL)
        desk.until("back", lambda: desk.find("#q"))
        desk.run("document.getElementById('q').value = 'model two'; document.getElementById('find').click()")
        desk.until("found", lambda: "q=model+two" in desk.call("GET", "/url"))
        desk.check("found")
        desk.click("#out")
        desk.until("logged out", lambda: desk.find(".login"))
    finally:
        desk.close()
    cookie = None
    for name, dark in [("phone-390", False), ("phone-dark-390", True)]:
        phone = Browser(9516, dark=dark, width=390, height=844)
        try:
            if cookie:
                phone.bring(cookie)
                phone.open(URL)
                phone.until("logged in", lambda: phone.find("#live"))
            else:
                phone.log_in(code)
            phone.check(name)
            phone.shot(shots / f"{name}.png")
            others(phone, failed, shots, name)
            cookie = phone.call("GET", "/cookie/__Host-groundcrew")["value"]
        finally:
            phone.close()
    # Without scripts the driver can neither type nor click; the page loads itself, and says what is new.
    plain = Browser(9517, scripts=False, width=390, height=844)
    try:
        plain.bring(cookie)
        plain.cdp("Page.navigate", url=URL)
        plain.until("the page", lambda: 'id="live"' in plain.html() or None)
        print("ask", flush=True)
        live = sys.stdin.readline().strip()
        plain.until("the page loaded itself anew", lambda: f"a-{live}" in plain.html())
    finally:
        plain.close()
    print("the page holds in Chromium")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        empty(sys.argv[1], pathlib.Path(sys.argv[2]))
    else:
        main(*sys.argv[1:4], pathlib.Path(sys.argv[4]))
