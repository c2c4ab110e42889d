"""The runs: what each turn has sent, kept while it goes on and for a while after, to be read again. Pure.

A run is a turn as its readers see it:

    QUEUED -> RUNNING -> ENDED

Its events are kept as the very bytes that were sent, in the pieces in which they came, so that keeping one
more event costs two list entries and no copy. Any number of readers go over them, each with the number of
the event that it wants next; nothing here knows them. What is kept of all runs together is bounded: the runs
that ended first are forgotten first; when only running ones are left, the biggest lose their oldest events,
down to one level, so that a short run is not paid for by a long one. A reader that wants what is no longer
kept is told so (GONE), with what still is: no event is ever left out silently.

Where to read next: `client_stream` adds the events, `reader` reads them, `recorder` owns the runs and the
store.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import Key

RUN_COST: Final = 1024
"""Bytes that a kept run counts besides its events: about what its objects take. It bounds how many of the
shortest runs are kept."""

PIECE_COST: Final = 96
"""Bytes that a piece counts besides its content: the object that holds it, and its place in two lists."""

HEADROOM: Final = 8
"""When running runs must lose events, an eighth of the room is freed at once: each time costs a look at all
of them."""

AT_ONCE: Final = 64 * 1024
"""Bytes that a reader which is behind gets in one piece, about: a socket takes as much without waiting."""

MAX_RESULT: Final = 1024 * 1024
"""Bytes of events that are given as one JSON array: some milliseconds of the loop."""

_END_OF_EVENT: Final = b"\n\n"

LOST: Final = Failure(
    ErrorCode.WORKER_LOST, "the supervisor ended under this run; how far the App came is unknown"
)


class RunState(StrEnum):
    """Of a run, as clients see it."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(init=False, slots=True, eq=False)
class Run:
    """One run. Others read it; only `RunLog` and `restored` change it, but for `worker` and `stored`."""

    run_id: Final[str]
    session_id: Final[str]
    form: Final[StreamKind]
    key: Final[Key | None]
    worker: str | None  # "<slot>.<generation>" that was handed the turn
    failure: Failure | None
    whole: bytes  # StreamKind.WHOLE: the JSON array of messages
    first: int  # number of the first event that is kept
    next: int  # number of the event that would come next
    size: int  # bytes that it counts
    stored: int  # number of the first event that was not handed to the store
    ended_at: float | None  # monotonic
    _pieces: list[bytes]
    _ends: list[int]  # for each piece, the number after its last event

    def __init__(
        self,
        run_id: str,
        session_id: str,
        form: StreamKind,
        key: Key | None = None,
        worker: str | None = None,
    ) -> None:
        self.run_id, self.session_id, self.form, self.key = run_id, session_id, form, key
        self.worker, self.failure, self.whole, self.ended_at = worker, None, b"[]", None
        self.first = self.next = self.size = self.stored = 0
        self._pieces, self._ends = [], []

    @property
    def state(self) -> RunState:
        if self.ended_at is not None:
            return RunState.ENDED
        return RunState.QUEUED if self.worker is None else RunState.RUNNING

    @property
    def frees_key(self) -> bool:
        """Whether it ended before the App saw it, so that its Idempotency-Key may be tried again."""
        if self.failure is None or self.failure == LOST:
            return False
        return self.worker is None or self.failure.retryable

    @property
    def is_error(self) -> bool:
        """Whether it failed before the App said anything: who asks again gets a status, as the first did."""
        told = 2  # the error event and the done event
        return self.failure is not None and (self.form is StreamKind.WHOLE or self.next <= told)

    def resume(self, after: int) -> int | Failure | None:
        """Where a reader goes on that has seen event `after` (-1: none): the number of its next event; None:
        it has seen the end. GONE: that event is not kept any more."""
        wanted = after + 1
        if self.first <= wanted < self.next or (wanted == self.next and self.ended_at is None):
            return wanted
        if wanted < self.first:
            return Failure(ErrorCode.GONE, f"of this run the events before {self.first} are no longer kept")
        if wanted == self.next:
            return None
        return Failure(ErrorCode.INVALID_REQUEST, f"this run has no event {after} yet")

    def read(self, number: int, limit: int = AT_ONCE) -> tuple[bytes, int] | None:
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
        taken[0] = taken[0][_end_of(taken[0], before) :]
        return b"".join(taken), self._ends[at + len(taken) - 1]


def messages(run: Run) -> bytes | None:
    """The JSON array of what the App said: one Msg for each event, or the joined ones of an answer in one
    piece. None if not all of it is kept, or it is much: then it is to be read as events."""
    if run.form is StreamKind.WHOLE:
        return run.whole if run.state is RunState.ENDED else None
    if run.first or run.size > MAX_RESULT:
        return None
    ours = 0 if run.state is not RunState.ENDED else 1 if run.failure is None else 2  # error and done
    piece = run.read(0, MAX_RESULT)
    assert piece is not None, "its first event is kept"
    lines = piece[0].split(b"\n")[1::3]  # of each event: its id, its data, an empty line
    return b"[%b]" % b",".join(line.removeprefix(b"data: ") for line in lines[: run.next - ours])


class RunLog:
    """Owner of the runs in memory. `max_bytes`: of all together. `ttl`: seconds that an ended one is kept;
    `key_ttl`: seconds that it has its key."""

    def __init__(self, max_bytes: int, ttl: float, key_ttl: float) -> None:
        self._max: Final = max_bytes
        self._ttl: Final = ttl
        self._key_ttl: Final = key_ttl
        self._runs: dict[str, Run] = {}
        self._by_key: dict[Key, Run] = {}
        self._ended: deque[Run] = deque()  # those that ended first come first
        self._total = 0

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._total

    def get(self, run_id: str, now: float) -> Run | None:
        run = self._runs.get(run_id)
        return run if run is not None and _is_younger(run, self._ttl, now) else None

    def keyed(self, key: Key, now: float) -> Run | None:
        """The run that has this key."""
        run = self._by_key.get(key)
        return run if run is not None and _is_younger(run, self._key_ttl, now) else None

    def open(self, run: Run) -> None:
        """A turn was accepted."""
        self._runs[run.run_id] = run
        if run.key is not None:
            self._by_key[run.key] = run

    def add(self, run: Run, count: int, payload: bytes) -> None:
        """`count` whole events came. The hot path: once for each Data frame."""
        run.next += count
        run._pieces.append(payload)
        run._ends.append(run.next)
        size = len(payload) + PIECE_COST
        run.size += size
        self._total += size
        if self._total > self._max:
            if self._max:
                self._make_room()
            else:  # nothing is to be kept
                self._total -= _drop(run, run.size)

    def end(self, run: Run, failure: Failure | None, now: float) -> None:
        """The turn is over, and its last events were added."""
        run.failure, run.ended_at = failure, now
        if run.key is not None and run.frees_key and self._by_key.get(run.key) is run:
            del self._by_key[run.key]
        cost = RUN_COST + len(run.whole)
        run.size += cost
        self._total += cost
        self._ended.append(run)
        self._expire(now)
        if self._total > self._max:
            self._make_room()

    def put_back(self, run: Run, now: float) -> Run:
        """A run that ended was read from the store. Returns it, or the same run if it is here already."""
        present = self._runs.get(run.run_id)
        if present is None:
            self.open(run)
            self._total += run.size
            self.end(run, run.failure, now)
        return present or run

    def forget(self, session_id: str) -> int:
        """Forget the runs of a session that have ended; returns how many."""
        gone = [run for run in self._ended if run.session_id == session_id]
        if gone:
            self._ended = deque(run for run in self._ended if run.session_id != session_id)
            for run in gone:
                self._drop_ended(run)
        return len(gone)

    def expire(self, now: float) -> None:
        """Forget what ended too long ago. To be called now and then while nothing else happens."""
        self._expire(now)

    # -- inside -----------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        while self._ended and not _is_younger(self._ended[0], self._ttl, now):
            self._forget_oldest()

    def _make_room(self) -> None:
        while self._ended and self._total > self._max:
            self._forget_oldest()
        if self._total > self._max:
            self._level(self._max - self._max // HEADROOM)

    def _forget_oldest(self) -> None:
        """Readers that have it go on with it; nobody new finds it."""
        self._drop_ended(self._ended.popleft())

    def _drop_ended(self, run: Run) -> None:
        del self._runs[run.run_id]
        if run.key is not None and self._by_key.get(run.key) is run:
            del self._by_key[run.key]
        self._total -= run.size

    def _level(self, target: int) -> None:
        """Cut the biggest running runs to one size, so that `target` bytes are left."""
        running = sorted(self._runs.values(), key=lambda run: run.size, reverse=True)
        excess, count, together = self._total - target, 1, running[0].size
        while count < len(running) and (together - excess) // count < running[count].size:
            together += running[count].size
            count += 1
        for run in running[:count]:
            self._total -= _drop(run, run.size - (together - excess) // count)


def _is_younger(run: Run, ttl: float, now: float) -> bool:
    return run.ended_at is None or now - run.ended_at < ttl


def _drop(run: Run, size: int) -> int:
    """Drop the oldest pieces of a run, `size` bytes or up to one piece more; returns how many it were."""
    dropped = pieces = 0
    while dropped < size and pieces < len(run._pieces):
        dropped += len(run._pieces[pieces]) + PIECE_COST
        pieces += 1
    run.first = run._ends[pieces - 1]
    run.size -= dropped
    del run._pieces[:pieces], run._ends[:pieces]
    return dropped


def _end_of(piece: bytes, count: int) -> int:
    """Where the first `count` events of a piece end."""
    at = 0
    for _ in range(count):
        at = piece.index(_END_OF_EVENT, at) + len(_END_OF_EVENT)
    return at


# -- what the store gives back ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as the store has it. `next`: None if the store was never told its end."""

    run_id: str
    session_id: str
    form: StreamKind
    key: Key | None
    worker: str | None
    failure: Failure | None
    whole: bytes
    next: int | None
    pieces: Sequence[tuple[int, int, bytes]]  # first number, number after the last, bytes; in order


def restored(stored: Stored, after: int, now: float) -> Run:
    """The run that the store has, ended.

    Of its events, those that lead to its end without a gap are there; the store may have been full. A run
    whose end is not known was lost with its supervisor: it ends here with LOST. Its reader, that has seen
    event `after`, may have seen more than the store: the end comes after both.
    """
    run = Run(stored.run_id, stored.session_id, stored.form, stored.key, stored.worker)
    run.failure, run.whole, run.ended_at = stored.failure, stored.whole, now
    for first, after_last, data in stored.pieces:
        if first != run.next:
            _restart(run, first)
        _append(run, after_last, data)
    if stored.next is not None:
        if run.next != stored.next:
            _restart(run, stored.next)
        return run
    run.failure = LOST
    if run.next <= after:
        _restart(run, after + 1)
    number = run.next
    _append(run, number + 2, sse.error(run.run_id, number, LOST) + sse.done(run.run_id, number + 1))
    return run


def _append(run: Run, after_last: int, data: bytes) -> None:
    run._pieces.append(data)
    run._ends.append(after_last)
    run.next = after_last
    run.size += len(data) + PIECE_COST


def _restart(run: Run, number: int) -> None:
    """What came before `number` does not lead up to it."""
    run._pieces.clear()
    run._ends.clear()
    run.first = run.next = number
    run.size = 0
