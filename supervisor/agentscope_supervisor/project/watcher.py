"""Watches the files of a project for `--reload`, and reports changes once per burst.

Changes come from the system (inotify, FSEvents) through watchfiles, in a thread; `watch_filter` decides which
of them matter. Workers append the files that they open for writing to a record, before they do so. If the
project cannot be watched, it is served without the watch.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentscope_supervisor.project.watch_filter import WatchFilter

log = logging.getLogger(__name__)

QUIET_MS: Final = 100
"""Milliseconds without a change that end a burst.

An editor replaces a file in several steps within a few ms; a checkout writes hundreds of files.
"""

BURST_MS: Final = 1000  # the longest burst: continuous writing must not delay the report forever

Changed = Callable[[str], None]


class Watcher:
    """Watches a folder from `start` to `close`.

    `filter` may be replaced at any time. `writes`: the descriptor of the record that workers append to.
    `changed`: called on the event loop with a list of files as text.
    """

    def __init__(self, folder: Path, watch_filter: WatchFilter, writes: int, changed: Changed) -> None:
        self.filter = watch_filter
        self._folder: Final = folder
        self._writes: Final = writes
        self._logged: Final[set[Path]] = set()
        self._changed: Final = changed
        self._closed: Final = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs every change at INFO
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="watcher")

    async def close(self) -> None:
        """Stop the watch; returns when its thread has ended, after about 0.1 s."""
        self._closed.set()
        if self._task is not None:
            await self._task

    async def _watch(self) -> None:
        from watchfiles import Change, awatch  # takes 30 ms and imports anyio: only with --reload

        def matters(_: Change, path: str) -> bool:
            return self.filter.matters(Path(path))

        try:
            log.info("watching the project for changes", extra={"folder": self._folder})
            async for changes in awatch(
                self._folder,
                watch_filter=matters,
                debounce=BURST_MS,
                step=QUIET_MS,
                stop_event=self._closed,
                ignore_permission_denied=True,
            ):
                written = await asyncio.to_thread(_written, self._writes)
                paths = {Path(path) for _, path in changes}
                edited = {path for path in paths if self.filter.matters(path, written)}
                self._log_ignored(paths - edited)
                if edited:
                    self._changed(self.filter.summary(edited))
        except Exception as error:  # the instance must go on, whatever prevents the watch
            reason = str(error) or type(error).__name__
            log.error("cannot watch the project; use `reload` after a change", extra={"reason": reason})

    def _log_ignored(self, paths: set[Path]) -> None:
        for path in sorted(paths - self._logged):
            self._logged.add(path)
            log.info(
                "changes of a file that the app writes are ignored; reload.include includes it",
                extra={"file": self.filter.summary([path])},
            )


def _written(writes: int) -> frozenset[Path]:
    """Return the files that workers have opened for writing since the start of the instance."""
    record = os.pread(writes, os.fstat(writes).st_size, 0)
    return frozenset(Path(os.fsdecode(each)) for each in record.split(b"\0")[:-1])
