"""The end of a worker process, after its App has shut down: what an exit of Python does, within a bound.

Runs the functions of `atexit`, among which are the flush of logging and of exporters and the removal of
temporary folders; joins or ends the children of multiprocessing; and writes the buffers of files that are
still open. It waits for no thread: neither an executor's threads nor those of libraries may delay the exit.
"""

import atexit
import contextlib
import fcntl
import gc
import io
import logging
import multiprocessing.util  # registers its own function of `atexit`
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from typing import Final, NoReturn

log = logging.getLogger(__name__)

EXIT_TIMEOUT: Final = 3.0
"""Seconds for everything here. An exporter sends its last batch in less, or its server does not answer."""

JOIN_TIMEOUT: Final = 1.0
"""Seconds for which children of multiprocessing may finish, and again for their end after SIGTERM. A pool of
processes that its App has not shut down waits for work and never finishes."""

_FILES: Final = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def prepare() -> None:
    """Call once, before the App is loaded: functions of `atexit` run in the reverse order of registration.

    So the children of multiprocessing are ended after the App's own functions, which may stop them in order,
    and before the function of multiprocessing, which joins them without a bound.
    """
    atexit.register(_end_children)
    os.register_at_fork(after_in_child=_disown_children)


def leave(status: int, within: float = EXIT_TIMEOUT) -> NoReturn:
    """Exit with `status`, at the latest after `within` seconds.

    Call it on the main thread. A status below 0 is minus the number of a signal, which then ends the process.
    """
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
    bound = threading.Timer(within, _give_up, [status, within])
    bound.daemon = True
    bound.start()
    try:
        atexit._run_exitfuncs()
        _flush_files()
    except Exception:  # such as one of an object that the App has put in the place of stdout
        log.exception("not everything was written at the end of the process")
    _exit(status)


def _disown_children() -> None:
    """Forget the children of the worker, in a child of `os.fork`.

    If it leaves with `sys.exit`, it runs the functions of `atexit`. These, and also Python itself, would
    terminate the worker's daemonic children, and would fail to join them.
    """
    vars(multiprocessing.process)["_children"].clear()


def _end_children() -> None:
    """Let the children of multiprocessing finish, and end those that do not; daemonic ones at once."""
    children = multiprocessing.active_children()
    for child in children:
        if child.daemon:
            child.terminate()
    left = _joined(children)
    for child in left:
        log.warning("a child process of the App has not ended and is terminated: %s", child.name)
        child.terminate()
    for child in _joined(left):
        child.kill()


def _joined(children: Iterable[BaseProcess]) -> list[BaseProcess]:
    """Wait for processes; returns those that are still alive after JOIN_TIMEOUT."""
    until = time.monotonic() + JOIN_TIMEOUT
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
    return [child for child in children if child.is_alive()]


def _flush_files() -> None:
    """Write the buffers of open files, as Python does when it destroys the objects."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # the App has closed or replaced it
            stream.flush()
    # The search reads every object, and so copies the memory that a forked worker shares with its zygote.
    if _has_files_to_write():
        gc.unfreeze()
        for each in gc.get_objects():
            if type(each) in _FILES:
                with contextlib.suppress(OSError, ValueError):  # a full disk, or a closed or detached file
                    each.flush()


def _has_files_to_write() -> bool:
    """Whether a regular file is open for writing, besides the standard streams."""
    for descriptor in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # the descriptor of this very listing
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if descriptor > 2 and is_file and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE:
                return True
    return False


def _give_up(status: int, within: float) -> None:
    log.error("functions of atexit, and child processes, did not end within %g s", within)
    _exit(status)


def _exit(status: int) -> NoReturn:
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)
