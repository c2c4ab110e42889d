"""The editions of the settings, and how the rollout of each one ended; who asked for one may wait for it.

Keeps the snapshot that the processes of an edition are started with, for as long as one may be started or
the fleet may go back to it. When a rollout ends is decided by `fleet` and told by `controller`.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rolling:
    """Workers are being replaced by ones of this edition. `note`: what that cannot change; may be empty."""

    edition: int
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
    """The end of a rollout. `failure`: why the old workers go on; empty: all are of this edition."""

    edition: int
    failure: str
    at: float  # wall clock, seconds since 1970; for people only
    cut: bool = False  # it came to no end of its own: the instance is stopping


class Revisions:
    """All editions of one instance. The first is in service from the start."""

    def __init__(self, snapshot: bytes) -> None:
        self._snapshots: Final = {1: snapshot}
        self._images: Final = {1: 1}
        self._latest = snapshot, 1  # of the newest edition, with its image
        self._waiting: Final[dict[asyncio.Future[Outcome], int]] = {}
        self.newest = 1
        self.last: Outcome | None = None

    def begin(self, snapshot: bytes, *, code_only: bool = False) -> int:
        """A new edition, of these settings; its number. `code_only`: nothing was installed since the last."""
        before, image = self._latest
        self.newest += 1
        if not code_only or snapshot != before:
            image = self.newest
        self._snapshots[self.newest], self._images[self.newest] = self._latest = snapshot, image
        return self.newest

    def snapshot(self, edition: int) -> bytes:
        return self._snapshots[edition]

    def image(self, edition: int) -> int:
        """The first edition of those that have the same settings and packages as this one: what is loaded
        before a worker's own code is the same for them all."""
        return self._images[edition]

    def ended(self, edition: int, failure: str, wanted: int) -> None:
        """The rollout of an edition has ended. `wanted`: the edition of processes that start from now on."""
        self.last = Outcome(edition, failure, time.time())
        if not failure:
            for older in [each for each in self._snapshots if each < edition]:
                del self._snapshots[older], self._images[older]
        else:
            for tried in [each for each in self._snapshots if each <= edition and each != wanted]:
                del self._snapshots[tried], self._images[tried]
        self._answer(self.last)

    def stopped(self) -> None:
        """The instance stops: no rollout ends any more."""
        self._answer(Outcome(self.newest, "the instance is stopping", time.time(), cut=True))

    async def outcome(self, edition: int) -> Outcome:
        """Wait for the end of the rollout that brings this edition, or a newer one in its place."""
        if self.last is not None and self.last.edition >= edition:
            return self.last
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = edition
        try:
            return await waiter
        finally:
            self._waiting.pop(waiter, None)

    def _answer(self, outcome: Outcome) -> None:
        for waiter, edition in self._waiting.items():
            if edition <= outcome.edition and not waiter.done():
                waiter.set_result(outcome)
