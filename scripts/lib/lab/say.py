"""What the lab says: one line per event, each with the seconds since it began."""

import sys
import threading
import time


class LabError(Exception):
    """Something the user can act on; shown as one message without a traceback."""


class Voice:
    """Prints stamped lines; safe to call from the threads that read serial lines."""

    def __init__(self, quiet=False):
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._quiet = quiet

    def seconds(self):
        return time.monotonic() - self._start

    def __call__(self, text, who="lab"):
        if self._quiet:
            return
        with self._lock:
            for line in text.splitlines() or [""]:
                print(f"{self.seconds():7.1f}s {who:<9} {line}", flush=True)

    def plain(self, text=""):
        """A block without stamps: tables, the tail of a log."""
        with self._lock:
            print(text, flush=True)

    def error(self, text):
        with self._lock:
            print(f"lab: {text}", file=sys.stderr, flush=True)
