"""One run: everything that a turn sends, and the readers it is sent to. Pure.

A run is a turn as its readers see it:

    QUEUED -> RUNNING -> ENDED

Its events are kept as the bytes that were sent, in the pieces in which they came, so that keeping one more
event costs two list entries and no copy. Readers (`runs.client_stream`) are fed as events come; each holds
the number of the event that it wants next. How much of all runs is kept is decided in `runs.log`. When an
event that a reader wants is no longer kept, the reader gets GONE: no event is left out silently.

The worker may send as many bytes as it has credit. A reader that paces the run holds that credit back until
its client has taken the bytes; a run without such a reader acknowledges everything at once.
"""

from bisect import bisect_right
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from agentscope_protocol.wire.frames import StreamKind, Will
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.usage import Usage
from agentscope_supervisor.domain.wire_format import WireFormat

PIECE_COST: Final = 96
"""Bytes that a piece counts besides its content: the object that holds it, and its place in two lists."""

READ_SIZE: Final = 64 * 1024
"""Bytes, about, that a reader which is behind gets in one piece: a socket takes as much without waiting."""

LOST: Final = Failure(
    ErrorCode.WORKER_LOST, "the supervisor ended under this run; how far the App came is unknown"
)

Grant = Callable[[int], None]
"""Gives the worker credit for so many bytes."""


class RunState(StrEnum):
    """The state of a run, as clients see it."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


_ENDED: Final = RunState.ENDED  # read once: see `agentscope_protocol.wire.values`
_QUEUED: Final = RunState.QUEUED
_RUNNING: Final = RunState.RUNNING
_JSON: Final = StreamKind.WHOLE
_EVENTS: Final = StreamKind.EVENTS


class Reader:
    """A place in a run. No method may raise."""

    __slots__ = ()

    def fed(self, number: int, count: int, payload: bytes, now: float) -> bool:
        """`count` events came, of which `number` is the first. Returns false to hold back the worker's credit
        for them until `Run.ack`."""
        raise NotImplementedError

    def ended(self) -> None:
        """The run has ended; its last events, if it has any, came before."""
        raise NotImplementedError


class EndWatch(Reader):
    """Calls `on_end` when `run` ends; reads nothing."""

    __slots__ = ("_on_end",)

    def __init__(self, run: "Run", on_end: Callable[[], None]) -> None:
        self._on_end: Final = on_end
        run.readers.append(self)

    def fed(self, number: int, count: int, payload: bytes, now: float) -> bool:
        return True

    def ended(self) -> None:
        self._on_end()


class Keeper:
    """The limits of the memory of all runs."""

    __slots__ = ()

    def grew(self, run: "Run", size: int) -> None:
        """`run` keeps `size` bytes more."""
        raise NotImplementedError


class Run:
    """One run. The worker's link (`data`, `take`), `turns.service` (`give_back`, `json_body`, `end`), the
    recorder (`stored`) and the keeper change it. No method blocks or raises."""

    __slots__ = (
        "_ends",
        "_grant",
        "_pieces",
        "_unacked",
        "bytes",
        "ended_at",
        "events",
        "failure",
        "first",
        "first_at",
        "json_body",
        "keeper",
        "key",
        "kind",
        "next",
        "readers",
        "run_id",
        "session_id",
        "size",
        "started_at",
        "stored",
        "taken_at",
        "usage",
        "will",
        "wire",
        "worker",
    )

    def __init__(
        self,
        run_id: str,
        session_id: str,
        kind: StreamKind,
        wire: WireFormat,
        started_at: float,
        key: Key | None = None,
    ) -> None:
        self.run_id: Final = run_id
        self.session_id: Final = session_id
        self.kind: Final = kind
        self.wire: Final = wire
        self.key: Final = key
        self.started_at: Final = started_at  # monotonic, as the other times here
        self.worker: str | None = None  # "<slot>.<generation>" that has taken the turn
        self.taken_at: float | None = None  # when it did
        self.first_at: float | None = None  # when its first event came
        self.ended_at: float | None = None
        self.failure: Failure | None = None
        self.json_body = b"[]"  # what the worker sent with the end; see StreamKind
        self.will: Will | None = None  # how the run ends if the worker does not end it
        self.usage: Usage | None = None  # of its model calls, once they are known
        self.events = 0  # that came from the worker
        self.bytes = 0  # of these
        self.first = 0  # number of the first event that is kept
        self.next = 0  # number of the event that would come next
        self.size = 0  # bytes that it counts
        self.stored = 0  # number of the first event that was not passed to the store
        self.readers: list[Reader] = []
        self.keeper: Keeper | None = None  # None: nothing is kept
        self._grant: Grant | None = None
        self._unacked = 0  # bytes of the worker's credit that are held back
        self._pieces: list[bytes] = []
        self._ends: list[int] = []  # for each piece, the number after its last event

    @property
    def state(self) -> RunState:
        if self.ended_at is not None:
            return _ENDED
        return _QUEUED if self.worker is None else _RUNNING

    @property
    def frees_key(self) -> bool:
        """Whether it ended before the App saw it, so that its Idempotency-Key may be tried again."""
        if self.failure is None or self.failure == LOST:
            return False
        return (
            self.worker is None
            or self.failure.retryable
            or self.failure.code is ErrorCode.INVALID_REQUEST  # a worker refused the message
        )

    @property
    def is_error(self) -> bool:
        """Whether it failed before the App sent anything, so that a client that asks for all of it gets an
        HTTP error status."""
        return self.failure is not None and (self.kind is _JSON or self.next <= self.tail_length)

    @property
    def tail_length(self) -> int:
        """How many of the events are the supervisor's, at the end of a run that has ended."""
        return self.wire.tail("", 0, self.failure, b"", self.will)[1]

    # -- the worker's side ------------------------------------------------------------------

    def take(self, worker: str, grant: Grant, now: float) -> None:
        """A worker was sent the turn."""
        self.worker, self._grant, self.taken_at = worker, grant, now

    def give_back(self) -> None:
        """The turn provably never reached that worker, and waits again."""
        self.worker = self.taken_at = self._grant = None

    def data(self, count: int, payload: bytes, now: float) -> bool:
        """Events came from the worker. Returns whether they are acknowledged; if not, `Grant` is called
        later.

        The hot path: once for each Data frame.
        """
        if self.ended_at is not None:  # the end was sent: an App that ignored its cancellation goes on
            return True
        self.events += count
        self.bytes += len(payload)
        if self.first_at is None:
            self.first_at = now
        if self._feed(count, payload, now):
            return True
        self._unacked += len(payload)
        return False

    def inherit(self, will: Will) -> None:
        """The worker sent its will."""
        if self.ended_at is None and self.will is None:
            self.will = will
            size = len(will.end) + len(will.result) + len(will.request)
            self.size += size
            if self.keeper is not None:
                self.keeper.grew(self, size)

    def end(self, failure: Failure | None, now: float) -> None:
        """The turn is over. Called once, last."""
        assert self.ended_at is None, "a run ends once"
        self.failure, self.ended_at, self._grant = failure, now, None
        result = self.wire.result
        if failure is not None and result is not None:
            self.json_body = result(self.run_id, self.session_id, failure, self.will)
        if self.kind is _EVENTS:
            metadata = self.json_body
            if failure is not None:
                metadata = self.usage.metadata if self.usage is not None else b""
            tail, count = self.wire.tail(self.run_id, self.next, failure, metadata, self.will)
            self._feed(count, tail, now)
        for reader in self.readers:
            reader.ended()

    def _feed(self, count: int, payload: bytes, now: float) -> bool:
        number = self.next
        self.append(payload, number + count)
        keeper = self.keeper
        if keeper is not None:
            keeper.grew(self, len(payload) + PIECE_COST)
        else:
            self.drop(self.size)
        taken = True
        for reader in self.readers:
            if not reader.fed(number, count, payload, now):
                taken = False
        return taken

    # -- the readers' side ------------------------------------------------------------------

    def ack(self) -> None:
        """The client of the reader that paces the run has taken everything: give the worker its credit."""
        size, self._unacked = self._unacked, 0
        if size and self._grant is not None:
            self._grant(size)

    def leave(self, reader: Reader) -> None:
        """A reader goes."""
        if reader in self.readers:
            self.readers.remove(reader)

    def resume(self, after: int) -> int | Failure | None:
        """Where a reader goes on that has seen event `after` (-1: none): the number of its next event. None:
        it has seen the end. GONE: that event is not kept any more."""
        wanted = after + 1
        if self.first <= wanted < self.next or (wanted == self.next and self.ended_at is None):
            return wanted
        if wanted < self.first:
            return Failure(ErrorCode.GONE, f"the events of this run before {self.first} are no longer kept")
        if wanted == self.next:
            return None
        return Failure(ErrorCode.INVALID_REQUEST, f"this run has no event {after} yet")

    def read(self, number: int, limit: int = READ_SIZE) -> tuple[bytes, int] | None:
        """The bytes from event `number` on, and the number after them; nothing if it is the next to come.

        At least one piece if there is one, and not much over `limit` bytes otherwise; always whole events.
        None: the event is no longer kept.
        """
        if number < self.first:
            return None
        at = bisect_right(self._ends, number)
        taken: list[bytes] = []
        size = 0
        for index in range(at, len(self._pieces)):
            piece = self._pieces[index]
            if taken and size + len(piece) > limit:
                break
            taken.append(piece)
            size += len(piece)
        if not taken:
            return b"", number
        before = number - (self._ends[at - 1] if at else self.first)
        taken[0] = taken[0][self.wire.end_of(taken[0], before) :]
        return b"".join(taken), self._ends[at + len(taken) - 1]

    # -- what is kept -----------------------------------------------------------------------

    def append(self, payload: bytes, after_last: int) -> None:
        """Keep whole events; `after_last`: the number after the last of them."""
        self.next = after_last
        self._pieces.append(payload)
        self._ends.append(after_last)
        self.size += len(payload) + PIECE_COST

    def restart(self, number: int) -> None:
        """Forget all events: those before `number` do not lead up to it."""
        self._pieces.clear()
        self._ends.clear()
        self.first = self.next = number
        self.size = 0

    def drop(self, size: int) -> int:
        """Drop the oldest pieces, `size` bytes or up to one piece more. Returns how many bytes it were."""
        dropped = pieces = 0
        while dropped < size and pieces < len(self._pieces):
            dropped += len(self._pieces[pieces]) + PIECE_COST
            pieces += 1
        if pieces:
            self.first = self._ends[pieces - 1]
            self.size -= dropped
            del self._pieces[:pieces], self._ends[:pieces]
        return dropped
