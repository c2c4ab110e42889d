"""The revisions of the settings, and the outcomes of their rollouts. Callers can wait for an outcome.

Keeps the settings snapshot of a revision as long as a process of this revision may be started, or the fleet
may roll back to it. `fleet` decides when a rollout ends; `controller` reports it here.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rolling:
    """Workers are being replaced by workers of this revision. `note` names changes that need a restart."""

    revision: int
    note: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The requested settings are in service already."""


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """The reload was refused; nothing has changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a rollout."""

    revision: int
    failure: str  # why the old workers keep running; empty: all workers are of this revision
    at: float  # wall clock, seconds since 1970; for display only
    cut: bool = False  # the rollout did not end, because the instance is stopping


class Revisions:
    """All revisions of one instance. Revision 1 is in service from the start."""

    def __init__(self, snapshot: bytes) -> None:
        self._snapshots: Final = {1: snapshot}
        self._preload_revisions: Final = {1: 1}
        self._latest = snapshot, 1  # snapshot and preload revision of the newest revision
        self._waiting: Final[dict[asyncio.Future[Outcome], int]] = {}
        self.newest = 1
        self.last: Outcome | None = None

    def begin(self, snapshot: bytes, *, code_only: bool = False) -> int:
        """Create a revision with these settings and return its number.

        `code_only`: no package was installed since the previous revision.
        """
        before, preload_revision = self._latest
        self.newest += 1
        if not code_only or snapshot != before:
            preload_revision = self.newest
        self._snapshots[self.newest], self._preload_revisions[self.newest] = self._latest = (
            snapshot,
            preload_revision,
        )
        return self.newest

    def snapshot(self, revision: int) -> bytes:
        """Return the settings of a revision. Raises: KeyError if it is not kept any more."""
        return self._snapshots[revision]

    def preload_revision(self, revision: int) -> int:
        """Return the first revision with the same settings and packages as this one.

        A zygote can be shared by these revisions: everything but the code of the App is the same.
        """
        return self._preload_revisions[revision]

    def ended(self, revision: int, failure: str, wanted: int) -> None:
        """Record the end of a rollout. `wanted` is the revision of processes that start from now on."""
        self.last = Outcome(revision, failure, time.time())
        if not failure:
            for older in [each for each in self._snapshots if each < revision]:
                del self._snapshots[older], self._preload_revisions[older]
        else:
            for tried in [each for each in self._snapshots if each <= revision and each != wanted]:
                del self._snapshots[tried], self._preload_revisions[tried]
        self._answer(self.last)

    def stopped(self) -> None:
        """Answer all waiting callers: the instance is stopping, and no rollout ends any more."""
        self._answer(Outcome(self.newest, "the instance is stopping", time.time(), cut=True))

    async def outcome(self, revision: int) -> Outcome:
        """Wait for the end of the rollout of this revision, or of a newer one, and return its outcome."""
        if self.last is not None and self.last.revision >= revision:
            return self.last
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = revision
        try:
            return await waiter
        finally:
            self._waiting.pop(waiter, None)

    def _answer(self, outcome: Outcome) -> None:
        for waiter, revision in self._waiting.items():
            if revision <= outcome.revision and not waiter.done():
                waiter.set_result(outcome)
