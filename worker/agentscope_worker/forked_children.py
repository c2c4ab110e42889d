"""A clean state for processes that the App forks from the worker, with multiprocessing or `os.fork`.

Such a process does not execute a program, so it inherits everything: the worker's signal handlers, the
descriptor that wakes its event loop for a signal, its link to the supervisor, and its liveness page. Without
the corrections here, SIGTERM for the child would stop the worker, and an action of the child on the inherited
event loop would remove connections of the worker from its epoll set. The App's own files, pipes, sockets and
signal handlers stay as they are, as does the output.

Threads and POSIX record locks are not inherited. A lock of flock(2) is: code that holds one must unlock it,
because closing the descriptor does not release the copy of the child. `zygote` forks workers, which need
their channels, before a worker calls this module.
"""

import asyncio
import contextlib
import faulthandler
import mmap
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final


def keep_apart(loop: asyncio.AbstractEventLoop, link: int, page: mmap.mmap) -> None:
    """Give the children that this process forks from now on a clean state. Call it once, in a worker.

    `link`: the descriptor of the link. `page`: the mapping of the liveness page.
    """
    cleanup = Cleanup(loop, link, page)
    os.register_at_fork(
        before=cleanup.block_signals,
        after_in_parent=cleanup.restore_signals,
        after_in_child=cleanup.in_child,
    )


class Cleanup:
    """Corrects the state of a forked child, in the child and before any other code runs in it.

    Signals are blocked from before the fork, because the inherited handler would pass on to the worker one
    that the child gets before its handlers are reset.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, link: int, page: mmap.mmap) -> None:
        self._loop: Final = loop
        self._page: Final = page
        backend: Callable[[], int] | None = getattr(loop, "_get_backend_id", None)  # uvloop has it for tests
        self._descriptors: Final = (link,) if backend is None else (link, backend())
        # Opened in advance: the child may be out of descriptors.
        self._null: Final = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._forking: Final = threading.local()  # several threads may fork at the same time

    def block_signals(self) -> None:
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def restore_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def in_child(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if self._is_of_worker(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.unregister(signal.SIGQUIT)
        # Not closed: the loop and its transports know these numbers, and would act on the next file that gets
        # one of them.
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):  # the worker has closed its link, and is exiting
                os.dup2(self._null, descriptor, inheritable=False)
        with contextlib.suppress(BufferError):
            self._page.close()
        self.restore_signals()

    def _is_of_worker(self, handler: Any) -> bool:
        """Whether a signal handler only notifies the event loop of the worker."""
        return getattr(handler, "__self__", None) is self._loop
