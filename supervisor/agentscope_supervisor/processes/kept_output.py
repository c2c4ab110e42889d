"""Limits for the output that is kept of an exited process, and detection of stack dump lines. Pure."""

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

KEPT_LINES: Final = 50  # last lines of output: enough for a traceback and the lines before it
KEPT_STACK_LINES: Final = 200  # lines of a stack dump: main thread, a thread pool, threads of libraries
KEPT_WIDTH: Final = 160  # characters of a kept line; the log contains the complete lines

# Lines that faulthandler writes, and the heading of a task. A normal Python traceback differs: it has a comma
# before "in".
_STACK_LINE: Final = re.compile(
    r"(Current thread|Thread) 0x\w+ .*\(most recent call first\):$|Stack \(most recent call first\):$"
    r"|Task .* \(most recent call first\):$"
    r"|Fatal Python error: |  File \".*\", line (\d+|\?\?\?) in |  <no Python frame>$|  \.\.\.$"
)


def kept(lines: Iterable[str], most: int) -> tuple[str, ...]:
    """Return the last `most` lines, each cut to KEPT_WIDTH characters."""
    return tuple(line[:KEPT_WIDTH] for line in deque(lines, most))


def is_stack_line(line: str) -> bool:
    """Return whether this line of output belongs to a stack dump."""
    return _STACK_LINE.match(line) is not None
