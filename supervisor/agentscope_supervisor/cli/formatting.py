"""How numbers, times and texts of an instance are written for people.

What comes from an App, the reason of its end above all, may hold anything; a terminal gets it without what
it would act on. `instance_commands`, `render` and `top` show what is written here.
"""

import calendar
import time
from collections.abc import Mapping
from typing import Any, Final

# What a terminal would act on; a line feed and a tab it may.
_ESCAPED: Final = {
    code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in (9, 10)
}


def printable(text: str) -> str:
    """The text without control characters but for line feeds and tabs."""
    return text.translate(_ESCAPED)


def duration(seconds: float) -> str:
    """A length of time in at most two units."""
    whole = int(seconds)
    for size, unit, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part_size} {part}"
    return f"{whole} s"


def clock(utc: str) -> str:
    """A time of the API, in the clock of the one who reads it."""
    at = time.strptime(utc, "%Y-%m-%dT%H:%M:%SZ")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(calendar.timegm(at)))


def latency(seconds: float | None) -> str:
    """A short time, with about two digits; `-` if none is known."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def megabytes(process: Mapping[str, Any]) -> str:
    """The memory of a process that an instance tells of; `-` while it is not known."""
    return "-" if process["memory_mb"] is None else f"{process['memory_mb']:.0f}"


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name, the largest first: `3 signal, 1 oom`."""
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered)
