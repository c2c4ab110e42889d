"""Signals of the supervisor. The handlers run on the event loop and only tell the daemon.

TERM, INT: stop, a second one at once. HUP: reload. TTIN, TTOU: one slot more or fewer. QUIT: the stacks of
the supervisor, here, and of the workers, which `daemon` asks. USR1, USR2: nothing, but told.
"""

import asyncio
import faulthandler
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

log = logging.getLogger(__name__)

Handlers = Mapping[signal.Signals, Callable[[], object]]

WITHOUT_MEANING: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""Sent by those who take us for another program, of which they reopen logs, say. Their default is the end."""

IGNORED_AT_START: Final = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, *WITHOUT_MEANING)
"""Signals whose default action would end or stop a supervisor that has not installed its handlers yet."""


def prepare() -> None:
    """What signals mean until `install`; to be called first thing in the process, on its main thread."""
    for number in IGNORED_AT_START:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):  # there is nothing to stop yet
        signal.signal(number, lambda *_: sys.exit(0))
    faulthandler.enable()  # the watchdog of systemd ends us with SIGABRT


def install(handlers: Handlers) -> None:
    """Call each handler on the running loop when its signal comes."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    for number in WITHOUT_MEANING:
        told = {"signal": number.name}
        loop.add_signal_handler(number, partial(log.warning, "signal without a meaning here", extra=told))
    # In C and chained before the handler above: it works while the loop is stuck, which is when one asks.
    faulthandler.register(signal.SIGQUIT, all_threads=True, chain=True)
