"""The live view of an instance: the output of `status` and its open sessions, updated until a key is pressed.

One thread: it asks the instance, draws, and waits for a key until the next update is due. The terminal is
restored whatever ends the view: a key, a signal, or the exit of the instance. Without a terminal,
`instance_commands` prints JSON lines or a single view instead.
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

from agentscope_supervisor.cli import render
from agentscope_supervisor.control.client import ControlClient

ESCAPE: Final = "\x1b"
QUIT: Final = ("q", "Q", ESCAPE, "\x04")  # \x04 is Ctrl-D

SORTED_BY: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "time": lambda session: -session["seconds"],
    "events": lambda session: -session["events"],
    "worker": lambda session: (session["worker"] or "", -session["seconds"]),
    "session": lambda session: session["session_id"],
}
"""Sort orders of the sessions; the key `s` selects the next one."""


def run(client: ControlClient, every: float) -> None:
    """Show the instance until a key or a signal ends the view. `every`: seconds between two updates.

    Raises: ControlError when the instance does not answer; the terminal has been restored by then.
    """
    orders, order = list(SORTED_BY), 0
    before: tuple[float, int] | None = None
    with _keys() as keys, Live(console=render.screen(), screen=True, auto_refresh=False) as live:
        while True:
            instance, sessions = client.get("/status"), client.get("/sessions")
            now, accepted = time.monotonic(), instance["turns"]["accepted"]
            rate = (accepted - before[1]) / (now - before[0]) if before is not None else None
            before = now, accepted
            due = now + every
            while True:
                live.update(_View(instance, sessions, orders[order], rate, every), refresh=True)
                key = keys(max(0.0, due - time.monotonic()))
                if key in QUIT:
                    return
                if key in ("s", "S"):
                    order = (order + 1) % len(orders)
                elif not key:
                    break


class _View:
    """One update of the view, cut to the height of the terminal."""

    def __init__(
        self,
        instance: dict[str, Any],
        sessions: Sequence[dict[str, Any]],
        order: str,
        rate: float | None,
        every: float,
    ) -> None:
        self._instance: Final = instance
        self._sessions: Final = sorted(sessions, key=SORTED_BY[order])
        pace = f"{rate:.1f} turns/s   " if rate is not None else ""
        self._foot: Final = (
            f"{pace}{len(sessions)} open sessions by {order}   q quit  s sort   every {every:g} s"
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.height
        lines = console.render_lines(render.status(self._instance, width), options)
        # The last line is for the footer; a blank line and a heading come before the first session.
        room = height - 1 - len(lines) - 2
        if self._sessions and room > 0:
            shown = Group(Text(""), render.sessions(self._sessions[:room], width))
            lines += console.render_lines(shown, options)
        for at in range(height - 1):
            yield from lines[at] if at < len(lines) else ()
            yield Segment.line()
        yield Text(self._foot, "dim", no_wrap=True, overflow="ellipsis")


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Read single keys; yields a function that waits some seconds for a key, and returns it or ""."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    handlers = {each: signal.signal(each, _leave) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(terminal)
        attributes = termios.tcgetattr(terminal)
        # Ctrl-Z would return to the shell with the alternate screen and cbreak mode still on.
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
        # An escape sequence, such as an arrow key: read up to the letter that ends it.
        while select.select([terminal], [], [], 0)[0] and not os.read(terminal, 1).isalpha():
            pass
        return "?"
    return key or QUIT[0]


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)
