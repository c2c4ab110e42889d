"""The terminal of a developer: one block when the app is ready, the console in the browser, and keys.

Without a terminal, or in the background of one, there is only the block. `launch` uses it for a project that
is reloaded.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from agentscope_supervisor.system import log_setup

KEYS: Final = "o open the console   r replace the worker   c clear   q quit"
CLEAR: Final = "\x1b[2J\x1b[3J\x1b[H"
BROWSER_WITHIN: Final = 20.0  # seconds to start a browser; the command that starts it ends at once


class Instance(Protocol):
    """The operations that the keys need. `daemon` implements them."""

    @property
    def console_link(self) -> str | None: ...

    def reload_soon(self) -> None: ...

    def stop(self, *, at_once: bool) -> None: ...


def block(url: str, seconds: float, link: str | None, *, has_keys: bool, bold: bool) -> str:
    """Return the lines that say that the app is ready."""
    begin, end = ("\x1b[1m", "\x1b[0m") if bold else ("", "")
    console = f"{link} · " if link is not None else ""
    keys = f"  {KEYS}\n" if has_keys else ""
    return f"\n  {begin}Ready in {seconds:.1f} s{end} · {console}API {url}/invoke\n{keys}\n"


def can_open_browser(env: Mapping[str, str], platform: str) -> bool:
    """Whether this machine has a screen; otherwise a text browser would take over the terminal."""
    return platform == "darwin" or any(env.get(each) for each in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


class Interactive:
    """The terminal of one instance. `url`: of the instance. `began`: monotonic time of the start."""

    def __init__(self, url: str, began: float) -> None:
        self._url: Final = url
        self._began: Final = began
        self._instance: Instance | None = None
        self._opens = False
        self._has_keys = False
        self._seconds: float | None = None  # from the start until the app was ready

    def ready(self) -> None:
        """Say that the app is ready, and open the console."""
        self._seconds = time.monotonic() - self._began
        self._say()
        if self._opens and sys.stdout.isatty():
            self._open()

    @contextlib.contextmanager
    def keys(self, instance: Instance, *, opens: bool) -> Iterator[None]:
        """React to keys while the instance runs. `opens`: whether `ready` opens the console."""
        self._instance, self._opens = instance, opens
        terminal = sys.stdin.fileno()
        if not (sys.stdin.isatty() and os.tcgetpgrp(terminal) == os.getpgrp()):
            yield  # in the background, a change of the terminal would stop the process
            return
        before = termios.tcgetattr(terminal)
        tty.setcbreak(terminal)
        loop = asyncio.get_running_loop()
        loop.add_reader(terminal, self._read, terminal)
        self._has_keys = True
        try:
            yield
        finally:
            loop.remove_reader(terminal)
            with contextlib.suppress(termios.error):  # the terminal was closed
                termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    def _read(self, terminal: int) -> None:
        try:
            pressed = os.read(terminal, 64)
        except OSError:
            pressed = b""
        if not pressed:  # the terminal was closed
            asyncio.get_running_loop().remove_reader(terminal)
        for key in pressed.decode("latin-1").lower():
            self._press(key)

    def _press(self, key: str) -> None:
        assert self._instance is not None, "keys are read while the instance runs"
        match key:
            case "o":
                self._open()
            case "r":
                self._instance.reload_soon()
            case "c":
                log_setup.say(CLEAR)
                self._say()
            case "q":
                self._instance.stop(at_once=False)

    def _say(self) -> None:
        if self._seconds is not None and self._instance is not None:
            link, has_colours = (
                self._instance.console_link,
                sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
            )
            log_setup.say(block(self._url, self._seconds, link, has_keys=self._has_keys, bold=has_colours))

    def _open(self) -> None:
        link = self._instance.console_link if self._instance is not None else None
        if link is None or not can_open_browser(os.environ, sys.platform):
            return
        # In a process and a thread of its own: the browser may print, and takes a moment.
        command = [sys.executable, "-m", "webbrowser", link]

        def start() -> None:
            with contextlib.suppress(subprocess.SubprocessError, OSError):
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    timeout=BROWSER_WITHIN,
                    check=False,
                )

        asyncio.get_running_loop().run_in_executor(None, start)
