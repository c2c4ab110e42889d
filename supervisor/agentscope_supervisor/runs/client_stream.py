"""The answer to one turn on its way to one client: from the link's bytes to the client's socket.

The link writes straight to the client's transport: no task and no queue for an event. What the client's
socket does not take is not given back to the worker as credit, so a client that reads slowly stops its own
stream, and this holds at most the credit of one stream. `web.invoke` makes it, `web.respond` waits on it and
sends it; `workers.link` feeds it; `turns.service` settles it, once. What it sends is kept in its run (`log`)
as it is, and given to those who follow the run beside the client; neither can hold the worker back.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.runs.log import Run, RunLog

_EVENTS: Final = StreamKind.EVENTS  # read once: see `agentscope_protocol.wire.values`

Grant = Callable[[int], None]
"""Tells the worker's link that so many bytes left for the client."""


class Outlet(Protocol):
    """The client's side of a stream, as the front door provides it."""

    def write(self, data: bytes) -> None:
        """Send; never raises, whatever became of the client."""

    def write_last(self, data: bytes) -> None:
        """Send what the stream ends with; as `write`."""

    def is_full(self) -> bool:
        """Whether the client's socket takes less than is sent."""

    def cut(self) -> None:
        """Drop the connection, and what the client has not read."""


class Follower(Protocol):
    """Another reader of the run. Nothing here may raise."""

    def fed(self, number: int, count: int, payload: bytes, now: float) -> None:
        """`count` events came, of which `number` is the first."""

    def wake(self) -> None:
        """The run has ended."""


class Answer:
    """One turn's answer. All methods run on the event loop; none blocks or raises."""

    __slots__ = (  # there may be thousands of them
        "_abandoned",
        "_early",
        "_grant",
        "_outlet",
        "_owed",
        "_runs",
        "_waiter",
        "bytes",
        "events",
        "failure",
        "first_at",
        "followers",
        "form",
        "last_write",
        "on_change",
        "run",
        "run_id",
        "settled",
        "started_at",
        "taken_at",
        "whole",
        "worker",
    )

    def __init__(self, run_id: str, form: StreamKind, now: float) -> None:
        self.run_id: Final = run_id
        self.form: Final = form
        self.started_at: Final = now
        self.worker: str | None = None  # "<slot>.<generation>" that has taken the turn
        self.taken_at: float | None = None  # when it did
        self.settled = False
        self.failure: Failure | None = None
        self.whole = b"[]"  # StreamKind.WHOLE: the JSON array of messages
        self.events = 0  # that came from the worker
        self.bytes = 0  # of these
        self.first_at: float | None = None  # when the first came
        self.last_write = now
        self.run: Run | None = None  # where what is sent is kept
        self.followers: list[Follower] = []
        self._runs: RunLog | None = None
        self._early: list[bytes] = []  # came before the outlet was there
        self._outlet: Outlet | None = None
        self._abandoned = False
        self._owed = 0  # bytes written that the client's socket has not taken
        self._grant: Grant | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.on_change: Callable[[], None] | None = None  # as `changed`, for who has no task to wait with

    # -- the worker's side ------------------------------------------------------------------

    def take(self, worker: str, grant: Grant, now: float) -> None:
        """A worker has been handed the turn."""
        self.worker, self._grant, self.taken_at = worker, grant, now
        if self.run is not None:
            self.run.worker = worker

    def give_back(self) -> None:
        """The turn provably never reached that worker, and waits again."""
        self.worker = self.taken_at = self._grant = None
        if self.run is not None:
            self.run.worker = None

    def keep(self, runs: RunLog, run: Run) -> None:
        """Keep in `run` what is sent from now on."""
        self._runs, self.run = runs, run

    def data(self, count: int, payload: bytes, now: float) -> bool:
        """Events came; returns whether the client has taken them. If not, `grant` is called later."""
        if self.settled:  # the end is out: an App that ignored its cancellation goes on
            return True
        self._record(count, payload, now)
        self.events += count
        self.bytes += len(payload)
        if self.first_at is None:
            self.first_at = now
        outlet = self._outlet
        if outlet is not None:
            self.last_write = now
            outlet.write(payload)
            if not outlet.is_full():
                return True
        elif self._abandoned:
            return True
        else:
            self._write(payload, now)
        self._owed += len(payload)
        self._wake()
        return False

    def settle(self, failure: Failure | None, now: float) -> None:
        """The turn is over. Called once, last."""
        assert not self.settled, "a turn is settled once"
        self.settled, self.failure, self._grant = True, failure, None
        if self.form is _EVENTS:
            tail, number = b"", self.events
            if failure is not None:
                tail, number = sse.error(self.run_id, number, failure), number + 1
            tail += sse.done(self.run_id, number)
            self._record(number + 1 - self.events, tail, now)
            if self._outlet is not None:
                self.last_write = now
                self._outlet.write_last(tail)
            elif failure is None or self._early:
                self._write(tail, now)
        self._wake()

    # -- the client's side ------------------------------------------------------------------

    @property
    def streaming(self) -> bool:
        """Whether the client has been given a status, so that errors must be events."""
        return self._outlet is not None

    @property
    def is_heard(self) -> bool:
        """Whether anybody still reads it: the client, or one who follows the run."""
        return not self._abandoned or bool(self.followers)

    @property
    def is_error(self) -> bool:
        """Settled with a failure before there was anything to send: the client gets a status."""
        return self.failure is not None and not self.streaming and not self._early

    def buffered(self) -> bytes:
        """What has come while there was no outlet."""
        return b"".join(self._early)

    def begin(self, outlet: Outlet, now: float) -> None:
        """The status is out: what has come goes to the client, and from now on directly."""
        early, self._early = self._early, []
        self._outlet = outlet
        if early:
            self._write(b"".join(early), now)

    def say(self, comment: bytes, now: float) -> None:
        """Send a comment, unless the client is behind already. If nothing was sent yet, the stream begins."""
        if self._outlet is None or not self._outlet.is_full():
            self._write(comment, now)
            self._wake()

    def cut(self) -> None:
        """The client has stopped reading for good."""
        if self._outlet is not None:
            self._outlet.cut()

    def abandon(self) -> None:
        """The client has left: what still comes is dropped, and the worker is not held back."""
        self._abandoned = True
        self._outlet = None
        self._early.clear()
        self.repay()

    def repay(self) -> None:
        """The client's socket has taken everything: give the worker its credit."""
        owed, self._owed = self._owed, 0
        if owed and self._grant is not None:
            self._grant(owed)

    @property
    def owes(self) -> bool:
        """Whether `repay` is due once the client's socket has room."""
        return self._owed > 0

    async def changed(self) -> None:
        """Wait until something came, or the turn was settled."""
        if not self.settled:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _record(self, count: int, payload: bytes, now: float) -> None:
        if self._runs is not None and self.run is not None:
            self._runs.add(self.run, count, payload)
            for follower in self.followers:
                follower.fed(self.events, count, payload, now)

    def _wake(self) -> None:
        if self.on_change is not None:
            self.on_change()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _write(self, data: bytes, now: float) -> None:
        self.last_write = now
        if self._outlet is not None:
            self._outlet.write(data)
        elif not self._abandoned:
            self._early.append(data)
