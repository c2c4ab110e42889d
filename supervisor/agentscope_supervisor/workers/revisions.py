"""The revisions of the settings, and how the rollout of each one ended; who asked for one may wait for it.

Keeps the snapshot that the processes of a revision are started with, for as long as one may be started or
the fleet may go back to it. When a rollout ends is decided by `fleet` and told by `controller`.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rolling:
    """Workers are being replaced by ones of this revision. `note`: what that cannot change; may be empty."""

    revision: int
    note: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """What was asked for serves already."""


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """Nothing was done."""

    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a rollout. `failure`: why the old workers go on; empty: all are of this revision."""

    revision: int
    failure: str
    at: float  # wall clock, seconds since 1970; for people only
    cut: bool = False  # it came to no end of its own: the instance is stopping


class Revisions:
    """All revisions of one instance. The first is in service from the start."""

    def __init__(self, snapshot: bytes) -> None:
        self._snapshots: Final = {1: snapshot}
        self._preload_revisions: Final = {1: 1}
        self._latest = snapshot, 1  # of the newest revision, with its preload_revision
        self._waiting: Final[dict[asyncio.Future[Outcome], int]] = {}
        self.newest = 1
        self.last: Outcome | None = None

    def begin(self, snapshot: bytes, *, code_only: bool = False) -> int:
        """A new revision, of these settings; its number. `code_only`: nothing was installed since the
        last."""
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
        return self._snapshots[revision]

    def preload_revision(self, revision: int) -> int:
        """The first revision of those that have the same settings and packages as this one: what is loaded
        before a worker's own code is the same for them all."""
        return self._preload_revisions[revision]

    def ended(self, revision: int, failure: str, wanted: int) -> None:
        """The rollout of a revision has ended. `wanted`: the revision of processes that start from now on."""
        self.last = Outcome(revision, failure, time.time())
        if not failure:
            for older in [each for each in self._snapshots if each < revision]:
                del self._snapshots[older], self._preload_revisions[older]
        else:
            for tried in [each for each in self._snapshots if each <= revision and each != wanted]:
                del self._snapshots[tried], self._preload_revisions[tried]
        self._answer(self.last)

    def stopped(self) -> None:
        """The instance stops: no rollout ends any more."""
        self._answer(Outcome(self.newest, "the instance is stopping", time.time(), cut=True))

    async def outcome(self, revision: int) -> Outcome:
        """Wait for the end of the rollout that brings this revision, or a newer one in its place."""
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
