"""Supervision support in a worker: exit with the supervisor, dump stacks, report liveness and lag.

Must not import anything heavy: the first functions run before the worker imports AgentScope.

Read next: `agentscope_protocol.wire.page`.
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
from agentscope_worker import task_stacks

PORTABLE: Final = (
    not sys.platform.startswith("linux") or os.environ.get("AGENTSCOPE_SUPERVISOR_PORTABLE") == "1"
)

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def die_with_supervisor(supervisor: int) -> None:
    """Make the kernel kill this process when the supervisor (`supervisor` is its pid) ends.

    On systems without this feature, the closed link ends the worker instead. Exits with status 1 if the
    supervisor is already gone.
    """
    if not PORTABLE:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # The supervisor may have died before the prctl call; in that case the parent has changed.
    if os.getppid() != supervisor:
        os._exit(1)


def ignore_interrupts() -> None:
    """Let SIGINT do nothing in this process: Ctrl-C is for the supervisor, which stops its workers in order.

    The action is a function, because SIG_IGN would apply to the programs that tools start as well.
    """
    signal.signal(signal.SIGINT, lambda *_: None)


def enable_stack_dumps() -> None:
    """Make SIGQUIT print the stacks of all threads and tasks, and a crash in C code print its stack.

    The stacks of threads are printed in C, also while the event loop is blocked. Those of tasks follow when
    the main thread runs Python code.
    """
    faulthandler.enable()
    faulthandler.unregister(signal.SIGQUIT)  # of the zygote; otherwise `register` would not install a handler
    signal.signal(signal.SIGQUIT, lambda *_: task_stacks.write())
    faulthandler.register(signal.SIGQUIT, all_threads=True, chain=True)


class LifeSigns:
    """Increments two counters on the page that the supervisor reads: one on the event loop, one in a thread.

    A blocked loop stops the first counter; C code that holds the GIL stops both.
    """

    def __init__(self, page: LifePage) -> None:
        self._page: Final = page
        self._loop: Final = asyncio.get_running_loop()
        self._worst = 0.0
        self._due = self._loop.time()
        self._tick()
        threading.Thread(target=self._tick_thread, name="life-signs", daemon=True).start()

    def begin(self, stream: int) -> None:
        """Record that the App receives this stream's turn from now on. Call before anything else."""
        self._page.begin(stream)

    def worst_lag_ms(self) -> int:
        """The largest delay of the loop since the last call, in milliseconds."""
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


def map_page(descriptor: int) -> mmap.mmap:
    """The memory of the page that the supervisor created for this process. Closes `descriptor`."""
    memory = mmap.mmap(descriptor, PAGE_SIZE)
    os.close(descriptor)
    return memory
