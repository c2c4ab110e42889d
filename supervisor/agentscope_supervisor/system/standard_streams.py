"""Standard streams that the caller has closed, as with `2>&-` in a shell, or that take no more text.

The kernel gives the number of a closed stream to the next file that is opened. Log lines for stderr would go
into a socket or the database then, and Python sets `sys.stderr` to None, with which faulthandler does not
work.
"""

import contextlib
import os
import sys
from typing import Final, NoReturn

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def restore() -> None:
    """Open /dev/null for each standard stream that is closed. Call it before other files are opened."""
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so it is this one
            os.set_inheritable(opened, True)
            setattr(sys, name, os.fdopen(opened, mode, encoding="utf-8"))


def print_error(message: str) -> None:
    """Print a line to stderr, if that is possible.

    If not, because a disk is full for example, nothing more is printed: the exit of Python would try again,
    and replace the exit status by 120.
    """
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open until the exit


def leave(status: int) -> NoReturn:
    """Exit with this status, with what was printed, and at once.

    Python would first destroy each of its objects, which takes a supervisor 0.1 s of CPU.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # it takes no more text, or is closed
            stream.flush()
    os._exit(status)
