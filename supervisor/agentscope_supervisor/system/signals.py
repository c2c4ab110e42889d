"""Signal handling of the supervisor. The handlers run on the event loop and only call `daemon`.

TERM and INT stop the instance; a second one stops it at once. HUP reloads; when the terminal of `agentscope
run` is closed, it stops the instance. TTIN and TTOU add or remove one slot. QUIT prints the stacks of the
supervisor, here, and of the workers, in `daemon`. USR1 and USR2 are logged and have no effect.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

log = logging.getLogger(__name__)

Handlers = Mapping[signal.Signals, Callable[[], object]]

UNUSED: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals without an effect. Other servers use them, for example to reopen log files, so operators may send
them. Their default action would end the process."""

IGNORED_AT_START: Final = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, *UNUSED)
"""Signals whose default action would end or stop the process before its handlers are installed."""


class Terminal:
    """The controlling terminal of this process. Create it before `prepare`.

    When a user closes a terminal, the kernel takes it away from the processes of its session, and they get
    HUP. A HUP that an operator sends leaves the terminal as it is.
    """

    def __init__(self) -> None:
        # nohup ignores HUP: that process is meant to outlive its terminal.
        self._is_followed: Final = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    @property
    def is_closed(self) -> bool:
        """Whether there was a terminal when the process started, and now there is none."""
        return self._is_followed and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def prepare(terminal: Terminal | None = None) -> None:
    """Set the signal actions that apply until `install`. Call it first in the process, on the main thread.

    `terminal`: the process exits when it is closed.
    """
    for number in IGNORED_AT_START:
        signal.signal(number, signal.SIG_IGN)
    if terminal is not None:
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(0) if terminal.is_closed else None)
    for number in (signal.SIGTERM, signal.SIGINT):  # nothing has been started yet
        signal.signal(number, lambda *_: sys.exit(0))
    faulthandler.enable()  # systemd's watchdog ends the process with SIGABRT


def install(handlers: Handlers) -> None:
    """Call each handler on the running loop when its signal arrives."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    for number in UNUSED:
        fields = {"signal": number.name}
        loop.add_signal_handler(number, partial(log.warning, "signal ignored", extra=fields))
    # faulthandler is written in C and runs before the handler above: it works while the loop is blocked.
    faulthandler.register(signal.SIGQUIT, all_threads=True, chain=True)
