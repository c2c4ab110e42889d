"""The eye on a project's files, for `--reload`: says when its author has changed some, once for each burst.

The system tells of changes (inotify, FSEvents), by way of watchfiles, from a thread; what is in them is
decided by `watch_filter`. A project that cannot be watched is served all the same.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentscope_supervisor.project.watch_filter import WatchFilter

log = logging.getLogger(__name__)

QUIET_MS: Final = 100
"""Without a change, after which a burst is over: an editor replaces a file by several steps in a few ms, a
checkout writes hundreds."""

BURST_MS: Final = 1000  # the longest burst: who never stops writing is not waited for

Changed = Callable[[str], None]


class Watcher:
    """Watches a folder from `start` to `close`. `changed`: called on the loop, with the files in words."""

    def __init__(self, folder: Path, edits: WatchFilter, changed: Changed) -> None:
        self._folder: Final = folder
        self._edits: Final = edits
        self._changed: Final = changed
        self._over: Final = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells each change, ours or not
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="watcher")

    async def close(self) -> None:
        """Returns when its thread has ended: a tenth of a second."""
        self._over.set()
        if self._task is not None:
            await self._task

    async def _watch(self) -> None:
        from watchfiles import Change, awatch  # 30 ms, and anyio, for developers only

        def matters(_: Change, path: str) -> bool:
            return self._edits.matters(Path(path))

        try:
            log.info("watching the project: a change replaces its workers", extra={"folder": self._folder})
            async for changes in awatch(
                self._folder,
                watch_filter=matters,
                debounce=BURST_MS,
                step=QUIET_MS,
                stop_event=self._over,
                ignore_permission_denied=True,
            ):
                self._changed(self._edits.told([Path(path) for _, path in changes]))
        except Exception as error:  # whatever the system has against it, the instance goes on
            reason = str(error) or type(error).__name__
            log.error("the project is not watched; `reload` does the same", extra={"reason": reason})
