"""Records the files of a project that a worker opens for writing, for `--reload`.

Without this, a file that an App writes would look like an edit and replace the worker. An audit hook sees
every open of this process, in any thread, before it happens. The supervisor does not see files that other
programs write, such as the commands of a tool.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Final

MAX_RECORDED: Final = 10_000  # files of one worker; an App with more writes to a folder that can be excluded

_WRITES: Final = os.O_WRONLY | os.O_RDWR


class WriteWatch:
    """The audit hook of a project. `record`: the descriptor to which it appends paths, in one write each."""

    def __init__(self, project: Path, record: int) -> None:
        self._folder: Final = f"{project}/"
        self._record: Final = record
        self._seen: Final[set[str]] = set()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename"):  # the hook is called for every event of Python
            return
        match event, arguments:
            case "open", (path, _, int(flags)) if flags & _WRITES:
                pass
            case "os.rename", (_, path, *_):
                pass
            case _:
                return
        # An exception would fail the call of the App. TypeError: a descriptor in place of a path.
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._write(os.path.abspath(os.fsdecode(path)))

    def _write(self, path: str) -> None:
        if not path.startswith(self._folder) or path in self._seen or len(self._seen) >= MAX_RECORDED:
            return
        if _is_loaded(path):  # an agent that edits its own code
            return
        self._seen.add(path)
        os.write(self._record, os.fsencode(path) + b"\0")


def _is_loaded(path: str) -> bool:
    if not path.endswith(".py"):
        return False
    return any(
        getattr(module, "__dict__", {}).get("__file__") == path for module in list(sys.modules.values())
    )
