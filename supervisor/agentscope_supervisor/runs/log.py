"""The runs in memory and the bound on their total size, and runs that are restored from the store. Pure.

The total size of all runs is bounded. Runs that ended are dropped first, in the order of their ends. When
only running runs are left, the biggest ones lose their oldest events until they have the same size, so that
short runs lose nothing because of long ones.

Where to read next: `domain.run` has the run itself, `recorder` owns this log and the store.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import usage
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.run import LOST, Keeper, Run
from agentscope_supervisor.domain.wire_format import WireFormat

RUN_COST: Final = 1024
"""Bytes that an ended run counts besides its events: about the size of its objects. It bounds the number of
very short runs."""

HEADROOM: Final = 8
"""When running runs must lose events, one part in HEADROOM of the limit is freed, because each time all runs
are compared."""

MAX_RESULT: Final = 1024 * 1024
"""Maximum size in bytes of the events that are returned as one JSON array: a few milliseconds of the event
loop."""

_JSON: Final = StreamKind.WHOLE  # read once: see `agentscope_protocol.wire.values`


def messages(run: Run) -> bytes | None:
    """The JSON array of the App's messages: one for each event, or the joined ones of a run that is not
    streamed. None: some events are no longer kept, or they are over MAX_RESULT and must be read as events; or
    a run that is not streamed has not ended; or its dialect has a result instead."""
    if run.wire.result is not None:
        return None
    if run.kind is _JSON:
        return run.json_body if run.ended_at is not None else None
    if run.first or run.size > MAX_RESULT:
        return None
    ours = run.tail_length if run.ended_at is not None else 0
    piece = run.read(0, MAX_RESULT)
    assert piece is not None, "the first event is kept"
    return run.wire.messages(piece[0], run.next - ours)


class RunLog(Keeper):
    """Owner of the runs in memory.

    `max_bytes`: of all runs together. `ttl`: seconds for which an ended run is kept. `key_ttl`: seconds for
    which it keeps its Idempotency-Key.
    """

    __slots__ = ("_by_key", "_ended", "_key_ttl", "_max", "_runs", "_total", "_ttl")

    def __init__(self, max_bytes: int, ttl: float, key_ttl: float) -> None:
        self._max: Final = max_bytes
        self._ttl: Final = ttl
        self._key_ttl: Final = key_ttl
        self._runs: dict[str, Run] = {}
        self._by_key: dict[Key, Run] = {}
        self._ended: deque[Run] = deque()  # in the order of their ends
        self._total = 0

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def size(self) -> int:
        """Bytes of all runs together."""
        return self._total

    def get(self, run_id: str, now: float) -> Run | None:
        run = self._runs.get(run_id)
        return run if run is not None and _is_younger(run, self._ttl, now) else None

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._runs

    def all(self) -> list[Run]:
        """Every run in memory, also those that `is_kept` no longer."""
        return list(self._runs.values())

    def is_kept(self, run: Run, now: float) -> bool:
        """Whether clients may still ask for this run."""
        return _is_younger(run, self._ttl, now)

    def keyed(self, key: Key, now: float) -> Run | None:
        """The run that has this key."""
        run = self._by_key.get(key)
        return run if run is not None and _is_younger(run, self._key_ttl, now) else None

    def open(self, run: Run) -> None:
        """A turn was accepted: keep its run."""
        run.keeper = self
        self._runs[run.run_id] = run
        if run.key is not None:
            self._by_key[run.key] = run

    def grew(self, run: Run, size: int) -> None:
        """A run has `size` bytes more. Hot path: called once for each Data frame."""
        self._total += size
        if self._total > self._max:
            if self._max:
                self._make_room()
            else:  # configured to keep nothing
                self._total -= run.drop(run.size)

    def end(self, run: Run, now: float) -> None:
        """A run has ended, and its last events were added."""
        run.keeper = None
        if run.key is not None and run.frees_key and self._by_key.get(run.key) is run:
            del self._by_key[run.key]
        cost = RUN_COST + len(run.json_body)
        run.size += cost
        self._total += cost
        self._ended.append(run)
        self._expire(now)
        if self._total > self._max:
            self._make_room()

    def put_back(self, run: Run, now: float) -> Run:
        """Keep a run that was restored from the store. Returns it, or the run in memory with the same id."""
        present = self._runs.get(run.run_id)
        if present is None:
            self.open(run)
            self._total += run.size
            self.end(run, now)
        return present or run

    def forget(self, session_id: str) -> int:
        """Drop the runs of a session that have ended. Returns their number."""
        gone = [run for run in self._ended if run.session_id == session_id]
        if gone:
            self._ended = deque(run for run in self._ended if run.session_id != session_id)
            for run in gone:
                self._drop_ended(run)
        return len(gone)

    def forget_run(self, run: Run) -> None:
        """Drop a run that has ended, if it is kept."""
        if self._runs.get(run.run_id) is run:
            self._ended.remove(run)
            self._drop_ended(run)

    def expire(self, now: float) -> None:
        """Drop the expired runs. The caller must call this periodically; `end` does it too."""
        self._expire(now)

    # -- internal ---------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        while self._ended and not _is_younger(self._ended[0], self._ttl, now):
            self._forget_oldest()

    def _make_room(self) -> None:
        while self._ended and self._total > self._max:
            self._forget_oldest()
        if self._total > self._max:
            self._level(self._max - self._max // HEADROOM)

    def _forget_oldest(self) -> None:
        """Drop the run that ended first. Its present readers keep it; new readers do not find it."""
        self._drop_ended(self._ended.popleft())

    def _drop_ended(self, run: Run) -> None:
        del self._runs[run.run_id]
        if run.key is not None and self._by_key.get(run.key) is run:
            del self._by_key[run.key]
        self._total -= run.size

    def _level(self, target: int) -> None:
        """Cut the biggest running runs to the same size, so that `target` bytes are left in total."""
        running = sorted(self._runs.values(), key=lambda run: run.size, reverse=True)
        excess, count, together = self._total - target, 1, running[0].size
        while count < len(running) and (together - excess) // count < running[count].size:
            together += running[count].size
            count += 1
        for run in running[:count]:
            self._total -= run.drop(run.size - (together - excess) // count)


def _is_younger(run: Run, ttl: float, now: float) -> bool:
    return run.ended_at is None or now - run.ended_at < ttl


# -- restored runs ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as the store has it. `next`: None: its end was not written. `started`: microseconds since 1970;
    0: not known."""

    run_id: str
    session_id: str
    kind: StreamKind
    dialect: int  # number of its wire format
    key: Key | None
    worker: str | None
    failure: Failure | None
    json_body: bytes
    next: int | None
    pieces: Sequence[tuple[int, int, bytes]]  # first number, number after the last, bytes; in order
    started: int = 0
    usage: bytes | None = None  # as JSON


def restored(
    stored: Stored, formats: Mapping[int, WireFormat], after: int, now: float, epoch: float = 0.0
) -> Run:
    """An ended run, restored from the store. `epoch`: seconds from 1970 to the zero of the clock of `now`.

    It has the longest gapless sequence of events that leads to its end; earlier events may be missing,
    because the store was full. A run without an end was lost with its supervisor, and ends here with LOST.
    Its reader has seen event `after`, which may be more than the store has: the end is numbered after both.
    """
    wire = formats[stored.dialect]
    started_at = stored.started / 1e6 - epoch
    run = Run(stored.run_id, stored.session_id, stored.kind, wire, started_at, stored.key)
    run.worker, run.failure, run.json_body = stored.worker, stored.failure, stored.json_body
    run.usage = usage.read(stored.usage) if stored.usage is not None else None
    for first, after_last, data in stored.pieces:
        if first != run.next:
            run.restart(first)
        run.append(data, after_last)
    if stored.next is not None:
        if run.next != stored.next:
            run.restart(stored.next)
    else:
        run.failure = LOST
        if wire.result is not None:
            run.json_body = wire.result(run.run_id, run.session_id, LOST, None)
        if run.next <= after:
            run.restart(after + 1)
        tail, count = wire.tail(run.run_id, run.next, LOST)
        run.append(tail, run.next + count)
    run.ended_at = now
    return run
