"""The live view of an instance: what `status` shows, and its open sessions, until the person has seen enough.

One thread: it asks, draws, and waits for a key until it asks again. Whatever ends it, a key, a signal or the
end of the instance, the terminal is as it was before. Programs, and terminals that are none, get JSON lines
or one picture instead.
"""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from agentscope_supervisor.cli import render as overview
from agentscope_supervisor.control.client import ControlClient

ESCAPE: Final = "\x1b"
QUIT: Final = ("q", "Q", ESCAPE, "\x04")  # the last: Ctrl-D

SORTED_BY: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "time": lambda session: -session["seconds"],
    "events": lambda session: -session["events"],
    "worker": lambda session: (session["worker"] or "", -session["seconds"]),
    "session": lambda session: session["session_id"],
}
"""Orders of the sessions; `s` takes the next one."""


def run(client: ControlClient, every: float) -> None:
    """Show the instance until a key or a signal ends it. `every`: seconds.

    Raises: Unanswered when the instance goes away; the terminal is as it was then.
    """
    orders, order = list(SORTED_BY), 0
    before: tuple[float, int] | None = None
    with _keys() as keys, Live(console=overview.screen(), screen=True, auto_refresh=False) as live:
        while True:
            told, sessions = client.get("/status"), client.get("/sessions")
            now, accepted = time.monotonic(), told["turns"]["accepted"]
            rate = (accepted - before[1]) / (now - before[0]) if before is not None else None
            before = now, accepted
            due = now + every
            while True:
                live.update(_Picture(told, sessions, orders[order], rate, every), refresh=True)
                key = keys(max(0.0, due - time.monotonic()))
                if key in QUIT:
                    return
                if key in ("s", "S"):
                    order = (order + 1) % len(orders)
                elif not key:
                    break


class _Picture:
    """One picture, cut to the height of the terminal."""

    def __init__(
        self,
        told: dict[str, Any],
        sessions: Sequence[dict[str, Any]],
        order: str,
        rate: float | None,
        every: float,
    ) -> None:
        self._told: Final = told
        self._sessions: Final = sorted(sessions, key=SORTED_BY[order])
        pace = f"{rate:.1f} turns/s   " if rate is not None else ""
        self._foot: Final = (
            f"{pace}{len(sessions)} open sessions by {order}   q quit  s sort   every {every:g} s"
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.height
        lines = console.render_lines(overview.status(self._told, width), options)
        # The last line is the foot's; an empty one and a heading come before the first session.
        room = height - 1 - len(lines) - 2
        if self._sessions and room > 0:
            shown = Group(Text(""), overview.sessions(self._sessions[:room], width))
            lines += console.render_lines(shown, options)
        for at in range(height - 1):
            yield from lines[at] if at < len(lines) else ()
            yield Segment.line()
        yield Text(self._foot, "dim", no_wrap=True, overflow="ellipsis")


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Read single keys while it lasts; yields what waits so many seconds for one, and returns it, or ""."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    handlers = {each: signal.signal(each, _leave) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(terminal)
        attributes = termios.tcgetattr(terminal)
        # Stopped by Ctrl-Z, it would leave the shell a screen and a terminal that are not its own.
        attributes[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
        yield lambda wait: _key(terminal, wait)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        for each, handler in handlers.items():
            signal.signal(each, handler)


def _key(terminal: int, wait: float) -> str:
    if not select.select([terminal], [], [], wait)[0]:
        return ""
    key = os.read(terminal, 1).decode("latin-1")
    if key == ESCAPE and select.select([terminal], [], [], 0)[0]:
        # An arrow or the like: what ends it, a letter, has come with it.
        while select.select([terminal], [], [], 0)[0] and not os.read(terminal, 1).isalpha():
            pass
        return "?"
    return key or QUIT[0]


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)
