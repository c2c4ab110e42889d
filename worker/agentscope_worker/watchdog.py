"""What a worker does for those who watch it: it dies with its supervisor, tells its stacks, knows its lag.

Must be usable before anything heavy is imported: only the standard library here.
"""

import asyncio
import ctypes
import faulthandler
import os
import signal
import sys
from typing import Final

PORTABLE: Final = (
    not sys.platform.startswith("linux") or os.environ.get("AGENTSCOPE_SUPERVISOR_PORTABLE") == "1"
)

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)

SAMPLE_EVERY: Final = 0.25  # seconds between two looks at the loop's lateness


def die_with(supervisor: int) -> None:
    """Have the kernel end this process when the supervisor, whose pid this is, ends.

    Where the kernel cannot, the closed link ends the worker instead. Exits if it is too late already.
    """
    if not PORTABLE:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # The supervisor may have died before the line above; then the parent is another process by now.
    if os.getppid() != supervisor:
        os._exit(1)


def tell_stacks() -> None:
    """From now on SIGQUIT prints the stacks of all threads, and a crash in C prints its own."""
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True)


class LoopLag:
    """How late the event loop gets to what is due."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst = 0.0
        self._due = self._loop.time() + SAMPLE_EVERY
        self._loop.call_at(self._due, self._sample)

    def worst_ms(self) -> int:
        """The worst lateness since the last call, in milliseconds."""
        worst, self._worst = self._worst, 0.0
        return int(worst * 1000)

    def _sample(self) -> None:
        now = self._loop.time()
        self._worst = max(self._worst, now - self._due)
        self._due = now + SAMPLE_EVERY
        self._loop.call_at(self._due, self._sample)
