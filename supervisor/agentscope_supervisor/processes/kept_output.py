"""How much of a process's output is kept after it has ended, and which lines are a stack dump. Pure."""

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

KEPT_LINES: Final = 50  # last lines of output: a traceback and what led to it
KEPT_STACK_LINES: Final = 200  # of a stack dump: main thread, a pool, and the threads of libraries
KEPT_WIDTH: Final = 160  # characters of a kept line; whole lines are in the log

# The lines that faulthandler writes. A traceback of Python's own has a comma before "in".
_STACK_LINE: Final = re.compile(
    r"(Current thread|Thread) 0x\w+ .*\(most recent call first\):$|Stack \(most recent call first\):$"
    r"|Fatal Python error: |  File \".*\", line (\d+|\?\?\?) in |  <no Python frame>$|  \.\.\.$"
)


def kept(lines: Iterable[str], most: int) -> tuple[str, ...]:
    """The last `most` lines, each cut to KEPT_WIDTH characters."""
    return tuple(line[:KEPT_WIDTH] for line in deque(lines, most))


def is_stack_line(line: str) -> bool:
    """Whether this line of output belongs to a stack dump by faulthandler."""
    return _STACK_LINE.match(line) is not None
