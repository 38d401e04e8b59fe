"""One device's milestones, folded into seconds per phase. Pure: times come in."""

from dataclasses import dataclass, field

# column -> milestones that end it, best first. A phase whose end was not seen is
# counted in the next one, so that the columns always add up to the total.
PHASES = [
    ("firmware", ["discover", "ipxe"]),
    ("dhcp", ["ack", "lease"]),
    ("loader", ["kernel"]),
    ("kernel", ["agent"]),
    ("enroll", ["granted"]),
    ("download", ["verified"]),
    ("apply", ["applied"]),
    ("receipt", ["receipt"]),
    ("reboot", ["own-disk"]),
]


@dataclass
class Seen:
    name: str
    seconds: float  # since this device's power-on
    boot: int  # 1 until the guest's first reset
    values: dict


@dataclass
class Timeline:
    seen: list = field(default_factory=list)
    boot: int = 1

    def note(self, name, seconds, values):
        """Records; true when it is the first of its name in this boot."""
        first = not any(s.name == name and s.boot == self.boot for s in self.seen)
        self.seen.append(Seen(name, seconds, self.boot, values))
        return first

    def reset(self, seconds):
        """False for the second half of one restart: a PC's reboot often resets twice in a row."""
        if any(s.name == "reset" and seconds - s.seconds < 1 for s in self.seen):
            return False
        self.seen.append(Seen("reset", seconds, self.boot, {}))
        self.boot += 1
        return True

    def first(self, *names):
        """The first sighting of the first of `names` that was seen at all."""
        for name in names:
            for seen in self.seen:
                if seen.name == name:
                    return seen
        return None

    def value(self, key):
        """The newest value of a group, such as the code."""
        return next((s.values[key] for s in reversed(self.seen) if key in s.values), None)

    def phases(self):
        """(column, seconds or None) and the total up to the last phase seen."""
        rows, last = [], 0.0
        for column, ends in PHASES:
            seen = self.first(*ends)
            if seen is None:
                rows.append((column, None))
                continue
            rows.append((column, max(0.0, seen.seconds - last)))
            last = max(last, seen.seconds)
        return rows, last
