"""The record of runs: every run in memory, and in the store those that a client can ask for after a restart.

`turns.service` reports when a turn begins and ends; `web.runs` and `web.invoke` ask for runs, and for the run
of an Idempotency-Key. A run keeps its own events (`domain.run`). The recorder writes them to the store in
batches, so that a single event causes no work there.

Where to read next: `store` explains which runs it gets, and why; `log` bounds the memory of all runs.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

import orjson

from agentscope_protocol.config.settings import SessionsSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import MISMATCH, Key
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.run import LOST, Run, RunState
from agentscope_supervisor.domain.wire_format import WireFormat, form_of
from agentscope_supervisor.runs.database import Database, StoreLimits
from agentscope_supervisor.runs.listing import Listed, Place, Wanted, merge, pick, place_of
from agentscope_supervisor.runs.log import RunLog, Stored, restored
from agentscope_supervisor.runs.store import Store

_UNREADABLE: Final = Failure(ErrorCode.GONE, "the run of this key was written by a newer version")
FLUSH_EVERY: Final = 0.1  # seconds of events that are lost when the supervisor is killed
IN_ONE_PIECE: Final = 256 * 1024  # approximate bytes of events in one row of the store
EXPIRE_EVERY: Final = 30.0  # seconds between two checks for expired runs, while no run ends


def limits(settings: SessionsSettings) -> StoreLimits:
    """The limits of the store, from the settings in agentapp.yaml."""
    return StoreLimits(_bytes(settings), settings.replay_ttl, settings.idempotency_ttl)


def _bytes(settings: SessionsSettings) -> int:
    return int(settings.replay_max_mb * 1024 * 1024)


class Recorder:
    """All runs of the instance. Must be created on the event loop; `close` is called once. `formats`: the
    wire formats of stored runs, by number."""

    def __init__(self, settings: SessionsSettings, store: Store, formats: Mapping[int, WireFormat]) -> None:
        self._formats: Final = formats
        self._store: Final = store
        self._runs: Final = RunLog(_bytes(settings), settings.replay_ttl, settings.idempotency_ttl)
        self._continues: Final = settings.on_disconnect == "continue"
        self._pending: Final[dict[Key, tuple[Key, asyncio.Event]]] = {}  # claims that are not decided yet
        self._durable: Final[dict[str, Run]] = {}  # open runs whose events go to the store
        self._loop: Final = asyncio.get_running_loop()
        self._epoch: Final = (
            time.time() - self._loop.time()
        )  # seconds from 1970 to the zero of the loop's time
        self._flushing: asyncio.TimerHandle | None = None
        self._expiring = self._loop.call_later(EXPIRE_EVERY, self._expire)

    def close(self) -> None:
        """Stop the timers. Every run has ended by then."""
        self._expiring.cancel()
        if self._flushing is not None:
            self._flushing.cancel()

    # -- reported by turns --------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """A client's turn was accepted."""
        self._runs.open(run)
        if run.key is not None or self._continues:
            self._durable[run.run_id] = run
            self._flush_soon()
        if run.key is not None:
            self._decided(run.key)
        elif self._continues:
            self._store.put(
                partial(
                    Database.open,
                    run_id=run.run_id,
                    session_id=run.session_id,
                    form=form_of(run.kind, run.wire),
                    key=None,
                    started=self.place(run)[0],
                )
            )

    def end(self, run: Run) -> None:
        """A run has ended, and has its last events."""
        self._runs.end(run, self._loop.time())
        if self._durable.pop(run.run_id, None) is not None:
            self._write(run)
            self._store.put(
                partial(
                    Database.end,
                    run_id=run.run_id,
                    after_last=run.next,
                    worker=run.worker,
                    failure=run.failure,
                    whole=run.json_body,
                    frees_key=run.frees_key,
                    now=time.time(),
                    used=orjson.dumps(run.usage.fields) if run.usage is not None else None,
                ),
                len(run.json_body),
                owed=True,
            )

    # -- requests -------------------------------------------------------------------------------

    async def claim(self, run_id: str, request: TurnRequest) -> Run | Failure | None:
        """The run that already has the key of this request. None: the key now belongs to `run_id`, and the
        caller must call `begin` or `release`. A failure: the key was used for a different request."""
        key = request.key
        assert key is not None
        while True:
            run = self._runs.keyed(key, self._loop.time())
            if run is not None:
                return _same(run, key)
            pending = self._pending.get(key)
            if pending is None:
                break
            if pending[0].fingerprint != key.fingerprint:
                return MISMATCH
            await pending[1].wait()
        self._pending[key] = key, asyncio.Event()
        form = form_of(request.kind, request.wire)
        claim = partial(Database.claim, run_id=run_id, session_id=request.session_id, form=form, key=key)
        try:
            stored = await self._store.ask(partial(claim, now=time.time()))
        except BaseException:
            self.release(run_id, key)
            raise
        if stored is None:
            return None
        self._decided(key)
        run = self._restored(stored, -1)
        return _same(run, key) if run is not None else _UNREADABLE

    def release(self, run_id: str, key: Key) -> None:
        """Release the key that `run_id` has claimed: its turn was not accepted."""
        self._decided(key)
        self._store.put(partial(Database.forget, run_id=run_id), owed=True)

    async def find(self, run_id: str, after: int) -> Run | None:
        """A run, for a reader that has seen event `after` (-1: none); None: it is not kept."""
        run = self._runs.get(run_id, self._loop.time())
        if run is not None:
            return run
        stored = await self._store.ask(partial(Database.load, run_id=run_id, now=time.time()))
        return self._restored(stored, after) if stored is not None else None

    def place(self, run: Run) -> Place:
        """Where a run is in the order of all runs."""
        return place_of(run, self._epoch)

    async def page(self, wanted: Wanted, limit: int) -> tuple[list[Listed], Place | None]:
        """At most `limit` of the wanted runs, and the value of `after` for the next page; None: this is the
        last one. If the store is degraded, only the runs in memory are listed."""
        now = self._loop.time()
        # With 65,000 runs this takes about 10 ms: too long for the event loop.
        in_memory = await asyncio.to_thread(
            pick, self._runs.all(), wanted, limit + 1, self._epoch, lambda run: self._runs.is_kept(run, now)
        )
        stored: list[Listed] = []
        if wanted.state is None or wanted.state is RunState.ENDED:
            ask = partial(Database.page, wanted=wanted, count=limit + 1, now=time.time())
            stored = await self._store.ask(ask) or []
        return merge(wanted, in_memory, stored, self._runs, limit)

    async def forget(self, session_id: str) -> bool:
        """Delete the runs of a session that have ended, with their events and keys. Returns whether there
        were any. If the store is degraded, it deletes its part when it works again."""
        in_memory = self._runs.forget(session_id)
        step = partial(Database.forget_session, session_id=session_id)
        in_store = await self._store.ask(step)
        if in_store is None:
            self._store.put(step, owed=True)
        return bool(in_memory or in_store)

    async def forget_run(self, run: Run) -> None:
        """Delete a run that has ended, with its events and its key."""
        self._runs.forget_run(run)
        step = partial(Database.forget, run_id=run.run_id)
        if run.key is not None or self._continues:
            self._store.put(step, owed=True)

    # -- internal ---------------------------------------------------------------------------

    def _decided(self, key: Key) -> None:
        pending = self._pending.pop(key, None)
        if pending is not None:
            pending[1].set()

    def _restored(self, stored: Stored, after: int) -> Run | None:
        if stored.dialect not in self._formats:  # written by a newer version
            return None
        now = self._loop.time()
        run = restored(stored, self._formats, after, now, self._epoch)
        # The end of a lost run depends on what its reader has seen, so that it is not shared by readers.
        return run if run.failure == LOST else self._runs.put_back(run, now)

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = self._loop.call_later(FLUSH_EVERY, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        for run in self._durable.values():
            self._write(run)
        if self._durable:
            self._flush_soon()

    def _write(self, run: Run) -> None:
        """Queue the events that the store does not have yet."""
        number = max(run.stored, run.first)
        while number < run.next:
            piece = run.read(number, IN_ONE_PIECE)
            assert piece is not None, "it is kept"
            data, after_last = piece
            add = partial(Database.add, run_id=run.run_id, first=number, after_last=after_last, data=data)
            self._store.put(add, len(data))
            number = after_last
        run.stored = number

    def _expire(self) -> None:
        self._runs.expire(self._loop.time())
        self._expiring = self._loop.call_later(EXPIRE_EVERY, self._expire)


def _same(run: Run, key: Key) -> Run | Failure:
    assert run.key is not None
    return run if run.key.fingerprint == key.fingerprint else MISMATCH
