"""What a worker does for those who watch it: it dies with its supervisor, tells its stacks, knows its lag.

Must be usable before anything heavy is imported.
"""

import asyncio
import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import threading
import time
from typing import Final

from agentscope_protocol.wire.page import PAGE_SIZE, TICK_EVERY, LifePage

PORTABLE: Final = (
    not sys.platform.startswith("linux") or os.environ.get("AGENTSCOPE_SUPERVISOR_PORTABLE") == "1"
)

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


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


class LifeSigns:
    """Ticks on the page that the supervisor watches: the event loop's, and a thread's beside it.

    A loop that is blocked stops the first; C code that holds the interpreter's lock stops both.
    """

    def __init__(self, page: LifePage) -> None:
        self._page: Final = page
        self._loop: Final = asyncio.get_running_loop()
        self._worst = 0.0
        self._due = self._loop.time()
        self._tick()
        threading.Thread(target=self._tick_thread, name="life-signs", daemon=True).start()

    def begin(self, stream: int) -> None:
        """Note, before anything else, that the App sees this stream's turn from now on."""
        self._page.begin(stream)

    def worst_lag_ms(self) -> int:
        """The worst lateness of the loop since the last call, in milliseconds."""
        worst, self._worst = self._worst, 0.0
        return int(worst * 1000)

    def _tick(self) -> None:
        now = self._loop.time()
        self._worst = max(self._worst, now - self._due)
        self._page.tick_loop()
        self._due = now + TICK_EVERY
        self._loop.call_at(self._due, self._tick)

    def _tick_thread(self) -> None:
        while True:
            self._page.tick_thread()
            time.sleep(TICK_EVERY)


def map_page(descriptor: int) -> LifePage:
    """The page that the supervisor made for this process."""
    return LifePage(mmap.mmap(descriptor, PAGE_SIZE))
