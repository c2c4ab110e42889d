"""What the service manager is told: sd_notify(3), with its watchdog. Nothing at all where there is none.

Every message is one datagram. A manager that is missing, gone or slow costs messages and never service. Says
what `daemon` says; decides only when a beat of the watchdog is due.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0  # seconds between two looks at the status, which counts turns

ON_TIME: Final = 1.0
"""Seconds by which a look may be late and the loop be called alive. After a late one the next look decides,
so that a supervisor that was stopped for less than its watchdog's time is not killed for it."""

RETRY_AFTER: Final = 0.1  # seconds; the manager reads its socket when it has booted something else

MAX_WAITING: Final = 16  # messages: the states of one start, reload and stop, and a few beats

MAX_STATUS: Final = 400  # characters; `systemctl status` shows one line


class Notifier:
    """Speaks to the manager named in `environ`. `describe`: the instance in one line, for people."""

    def __init__(self, environ: Mapping[str, str], pid: int, describe: Callable[[], str]) -> None:
        self._describe: Final = describe
        self._loop: Final = asyncio.get_running_loop()
        self._address: Final = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._waiting: Final[deque[bytes]] = deque(maxlen=MAX_WAITING)
        self._status = ""
        self._ready = self._reloading = self._lost = False
        self._beat_every: Final = _watchdog(environ, pid)
        self._beat_at = self._due = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._look()

    def close(self) -> None:
        """Say nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """The instance takes turns, or is done with what `reloading` told."""
        self._ready, self._reloading = True, False
        self._send("READY=1", self._changed())

    def reloading(self) -> None:
        """It takes its configuration over; `reloaded` is to follow. Not told before it was ready."""
        if self._ready:
            self._reloading = True
            # One datagram: a manager that waits for a reload ignores one without its time.
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """What `reloading` told is over, well or not: `describe` says."""
        if self._reloading:
            self.ready()

    def stopping(self, within: float) -> None:
        """The instance ends, which may take so many seconds."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={within * 1e6:.0f}", self._changed())

    def update(self) -> None:
        """Tell the status if it is another than before."""
        status = self._changed()
        if status:
            self._send(status)

    # -- inside -----------------------------------------------------------------------------

    def _look(self) -> None:
        now = self._loop.time()
        late = now - self._due
        self._due = now + min(LOOK_EVERY, self._beat_every or LOOK_EVERY)
        self._timer = self._loop.call_at(self._due, self._look)
        if self._beat_every and late <= ON_TIME and now >= self._beat_at:
            self._beat_at = now + self._beat_every
            self._send("WATCHDOG=1")
        self.update()

    def _changed(self) -> str:
        """The status as an assignment; empty if it is the one that was told last."""
        status = "STATUS=" + " ".join(self._describe().split())[:MAX_STATUS]
        before, self._status = self._status, status
        return status if status != before else ""

    def _send(self, *assignments: str) -> None:
        if self._socket is not None:
            self._waiting.append("\n".join(filter(None, assignments)).encode())
            if len(self._waiting) == 1:
                self._flush()

    def _flush(self) -> None:
        while self._waiting and self._socket is not None:
            try:
                self._socket.sendto(self._waiting[0], self._address)
                self._lost = False
            except BlockingIOError:
                self._loop.call_later(RETRY_AFTER, self._flush)
                return
            except OSError as error:
                if not self._lost:
                    log.warning("the service manager cannot be told", extra={"reason": str(error)})
                self._lost = True
            self._waiting.popleft()


def _address(text: str) -> str:
    """The address of the manager's socket, in the file system or abstract; empty if there is none."""
    if text.startswith("@"):
        return "\0" + text[1:]
    if text and not text.startswith("/"):
        log.warning("NOTIFY_SOCKET names no socket that is known here", extra={"value": text})
        return ""
    return text


def _watchdog(environ: Mapping[str, str], pid: int) -> float:
    """Seconds between two beats, a third of what the manager waits; 0 if it does not wait for us."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0, int(environ.get("WATCHDOG_USEC", ""))) / 1e6 / 3
    return 0.0
