"""Notifies the service manager with the sd_notify(3) protocol, including its watchdog.

Without a service manager, every method does nothing. Each notification is one datagram. If the manager is
missing or slow, notifications are lost, but the instance keeps serving. `daemon` decides which notifications
are sent; this module only decides when a watchdog message is due.
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

CHECK_EVERY: Final = 1.0  # seconds between two checks of the status, which includes the number of turns

ON_TIME: Final = 1.0
"""Seconds by which a check may be late while the loop still counts as healthy.

After a late check no watchdog message is sent, and the next check decides. A supervisor that was suspended
for less than the watchdog timeout is therefore not killed."""

RETRY_AFTER: Final = 0.1  # seconds; during boot the manager may read its socket late

MAX_QUEUED: Final = 16  # messages: the states of one start, reload and stop, and a few watchdog messages

MAX_STATUS: Final = 400  # characters; `systemctl status` shows one line


class Notifier:
    """Sends notifications to the manager named in `environ`.

    `describe` returns a description of the instance in one line, for the STATUS field.
    """

    def __init__(self, environ: Mapping[str, str], pid: int, describe: Callable[[], str]) -> None:
        self._describe: Final = describe
        self._loop: Final = asyncio.get_running_loop()
        self._address: Final = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._waiting: Final[deque[bytes]] = deque(maxlen=MAX_QUEUED)
        self._status = ""
        self._ready = self._reloading = self._lost = False
        self._watchdog_every: Final = _watchdog(environ, pid)
        self._watchdog_at = self._due = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._check()

    def close(self) -> None:
        """Send no further notification."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """Report that the instance accepts turns, or that the reload has ended."""
        self._ready, self._reloading = True, False
        self._send("READY=1", self._changed())

    def reloading(self) -> None:
        """Report that a reload has started; `reloaded` must follow. Does nothing before `ready`."""
        if self._ready:
            self._reloading = True
            # Both in one datagram: systemd ignores RELOADING=1 without MONOTONIC_USEC.
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Report that the reload has ended. `describe` says whether it succeeded."""
        if self._reloading:
            self.ready()

    def stopping(self, within: float) -> None:
        """Report that the instance is stopping, which may take `within` seconds."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={within * 1e6:.0f}", self._changed())

    def update(self) -> None:
        """Send the status if it has changed."""
        status = self._changed()
        if status:
            self._send(status)

    # -- inside -----------------------------------------------------------------------------

    def _check(self) -> None:
        now = self._loop.time()
        late = now - self._due
        self._due = now + min(CHECK_EVERY, self._watchdog_every or CHECK_EVERY)
        self._timer = self._loop.call_at(self._due, self._check)
        if self._watchdog_every and late <= ON_TIME and now >= self._watchdog_at:
            self._watchdog_at = now + self._watchdog_every
            self._send("WATCHDOG=1")
        self.update()

    def _changed(self) -> str:
        """Return the status as an assignment, or an empty string if it has not changed."""
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
                    log.warning("service manager cannot be notified", extra={"reason": str(error)})
                self._lost = True
            self._waiting.popleft()


def _address(text: str) -> str:
    """Return the address of the manager's socket, a path or an abstract name; empty if there is none."""
    if text.startswith("@"):
        return "\0" + text[1:]
    if text and not text.startswith("/"):
        log.warning("NOTIFY_SOCKET has an unsupported address", extra={"value": text})
        return ""
    return text


def _watchdog(environ: Mapping[str, str], pid: int) -> float:
    """Return the seconds between two watchdog messages, a third of the timeout; 0 without a watchdog."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0, int(environ.get("WATCHDOG_USEC", ""))) / 1e6 / 3
    return 0.0
