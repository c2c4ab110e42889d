"""A command in a terminal of its own: a test sends keys and reads the screen.

Understands only as much of terminals as it takes to find the last screen of a program that redraws
everything, and to see whether the terminal was restored.
"""

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from tests.harness.instance import environment
from tests.harness.waiting import wait_until

_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HOME: Final = "\x1b[H"  # the start of each redraw
_ENTERED, _LEFT = "\x1b[?1049h", "\x1b[?1049l"  # enter and leave the alternate screen


class Terminal:
    """One command on a new terminal; it is killed at the end if it still runs."""

    def __init__(
        self, command: Sequence[str | Path], *, rows: int = 24, columns: int = 80, **variables: str
    ) -> None:
        self._ours, self._theirs = os.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._modes: Final = termios.tcgetattr(self._theirs)
        self._said = b""
        self._process: Final = subprocess.Popen(
            command,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            # A terminal with colours, whatever terminal the tests run in.
            env=environment(TERM="xterm-256color", **variables),
            start_new_session=True,
            preexec_fn=_take_the_terminal,
        )
        self._reader: Final = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._theirs)  # when the last descriptor is closed, the read ends
        self._reader.join()
        os.close(self._ours)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def said(self) -> str:
        """The complete output, including control sequences."""
        return self._said.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """The complete output without control sequences."""
        return _CONTROL.sub("", self.said)

    @property
    def screen(self) -> list[str]:
        """The lines of the last redraw."""
        return [line.rstrip() for line in _CONTROL.sub("", self.said.rsplit(_HOME, 1)[-1]).splitlines()]

    def wait_for(self, words: str, within: float = 30.0) -> None:
        """Wait until these words are on the screen."""
        wait_until(lambda: any(words in line for line in self.screen), within, f"{words!r} is on the screen")

    def wait_exit(self, within: float = 30.0) -> int:
        """Wait for the exit; return the status."""
        wait_until(lambda: self._process.poll() is not None, within, "the command ends")
        return self._process.returncode

    def check_restored(self) -> None:
        """Check that the terminal echoes and shows its cursor and the main screen again."""
        assert termios.tcgetattr(self._theirs) == self._modes
        wait_until(lambda: self.said.count(_ENTERED) == self.said.count(_LEFT), 10, "the screen is left")
        assert self.said.rfind("\x1b[?25h") >= self.said.rfind("\x1b[?25l"), "the cursor is shown"

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # no process has the terminal open
                return
            self._said += data


def _take_the_terminal() -> None:
    """Runs in the child: make this terminal its controlling terminal, so that Ctrl-C reaches it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
