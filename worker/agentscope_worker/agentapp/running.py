"""Runs: a stream in a task of its own, which a stop signal cancels from wherever it is sent.

Each run has a producer, which iterates over the handler's stream, a listener for the stop signal, and a
keeper, which ends both and records the final state. The keeper is never cancelled: the client's connection,
and with it the consumer of the stream, may be gone at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

from agentscope_worker.agentapp.interrupts import BaseInterruptBackend, InterruptSignal, TaskState

log = logging.getLogger(__name__)

LEASE: Final = 60
"""Seconds that the state RUNNING is valid without renewal: after the crash of a worker, its sessions are free
again."""

RENEW_AFTER: Final = 20.0  # seconds

ENDED_TTL: Final = 600  # seconds

GRACE: Final = 10.0
"""Seconds that a cancelled handler may take to end, as `sessions.cancel_grace`."""

SUBSCRIBES_WITHIN: Final = 5.0
"""Seconds that a handler waits until stop signals are heard; after that it runs all the same."""

MAX_LEFT: Final = 16
"""Items of a stopped stream that are dropped until its handler waits; one of the handler's makes fewer."""

_DONE: Final = object()


class Run:
    """One stream that can be stopped. Make it in the event loop, and iterate over `items` once."""

    def __init__(self, backend: BaseInterruptBackend, key: str, stream: AsyncGenerator[Any, None]) -> None:
        self.stopped = False  # by a signal, or by the end of its consumer
        self._backend: Final = backend
        self._key: Final = key
        self._stream: Final = stream
        self._items: Final[asyncio.Queue[Any]] = asyncio.Queue()  # at most one item, and the end
        self._taken: Final = asyncio.Event()
        self._given_up: Final = asyncio.get_running_loop().create_future()
        self._listens: Final = asyncio.Event()
        self._listener: Final = asyncio.create_task(self._listen())
        self.producer: Final = asyncio.create_task(self._produce())
        self.keeper: Final = asyncio.create_task(self._keep())

    async def items(self) -> AsyncIterator[Any]:
        """Raises: the exception of the stream."""
        try:
            while (item := await self._items.get()) is not _DONE:
                yield item
                self._taken.set()
        finally:
            self.stop()
        if not self.was_interrupted and (error := self.producer.exception()) is not None:
            raise error

    @property
    def was_interrupted(self) -> bool:
        return self.stopped or self.producer.cancelled()

    def stop(self) -> None:
        """Cancel the handler. Items that it still yields are dropped."""
        if self.producer.done() or self.stopped:
            return
        self.stopped = True
        self.producer.cancel()
        asyncio.get_running_loop().call_later(GRACE, self._give_up)

    def _give_up(self) -> None:
        if not self.producer.done() and not self._given_up.done():
            log.error("a stopped handler has not ended within %g s; its task is abandoned", GRACE)
            self.producer.cancel()
            self._given_up.set_result(None)

    async def _produce(self) -> None:
        left = 0  # items that may still come before the handler waits for something
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._listens.wait(), SUBSCRIBES_WITHIN)
            async for item in self._stream:
                if self.stopped:
                    if left > 0:
                        left -= 1
                        continue
                    await asyncio.sleep(0)  # the cancellation, if the handler has not seen it yet
                    break
                self._taken.clear()
                self._items.put_nowait(item)
                try:
                    await self._taken.wait()
                except asyncio.CancelledError:
                    # An agent writes its memory if it is cancelled while it waits, but not if its output is.
                    # So the cancellation is passed on to the next await of the handler.
                    left = MAX_LEFT
                    self.producer.cancel()
        except asyncio.CancelledError as cancelled:
            await throw_into(self._stream, cancelled)
            raise
        finally:
            await self._stream.aclose()

    async def _listen(self) -> None:
        subscribe: Callable[..., AsyncGenerator[str, None]] = self._backend.subscribe_listen
        options: dict[str, Any] = {}
        if "on_subscribed" in inspect.signature(subscribe).parameters:
            options["on_subscribed"] = self._listens.set
        else:
            self._listens.set()
        try:
            async for message in subscribe(f"chan:{self._key}", **options):
                if message == InterruptSignal.STOP.value:
                    self.stop()
                    return
        finally:
            self._listens.set()

    async def _keep(self) -> None:
        try:
            while not (self.producer.done() or self._given_up.done()):
                await asyncio.wait(
                    {self.producer, self._given_up}, timeout=RENEW_AFTER, return_when=asyncio.FIRST_COMPLETED
                )
                if not self.producer.done():
                    await self._backend.set_task_state(self._key, TaskState.RUNNING, ttl=LEASE)
            self._listener.cancel()
            (ended,) = await asyncio.gather(self._listener, return_exceptions=True)
            if isinstance(ended, Exception):
                log.error("stop signals could not be received", exc_info=ended)
            await self._backend.set_task_state(self._key, self._final_state(), ttl=ENDED_TTL)
        except Exception:  # of the backend; the client gets its answer all the same
            log.exception("the state of a run could not be recorded")
        finally:
            self._listener.cancel()
            self._items.put_nowait(_DONE)

    def _final_state(self) -> TaskState:
        if self.was_interrupted:
            return TaskState.STOPPED
        return TaskState.FINISHED if self.producer.exception() is None else TaskState.ERROR


async def throw_into(stream: AsyncGenerator[Any, Any], error: BaseException) -> None:
    """Raise `error` where `stream` is suspended, unless it has ended; a handler then sees why it is ended."""
    with contextlib.suppress(StopAsyncIteration, type(error)):
        await stream.athrow(error)


class InterruptMixin:
    """`run_and_stream` and `stop_chat`, as agentscope-runtime has them."""

    _interrupt_backend: BaseInterruptBackend
    _local_tasks: dict[str, asyncio.Task[Any]]

    def _init_interrupt_service(self, backend: BaseInterruptBackend) -> None:
        self._interrupt_backend = backend
        self._local_tasks = {}
        self._keepers: set[asyncio.Task[None]] = set()

    def _get_interrupt_key(self, user_id: str | None, session_id: str | None) -> str:
        return f"{user_id}:{session_id}"

    async def run_and_stream(
        self,
        user_id: str | None,
        session_id: str | None,
        generator_func: Callable[..., AsyncGenerator[Any, None]],
        *args: Any,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Run a stream that `stop_chat` with the same ids stops.

        Raises: RuntimeError if a stream with these ids runs already; and the exception of the stream.
        """
        run = await self._start_run(
            self._get_interrupt_key(user_id, session_id), generator_func(*args, **kwargs)
        )
        async with contextlib.aclosing(run.items()) as items:  # type: ignore[type-var]
            async for item in items:
                yield item

    async def stop_chat(self, user_id: str | None, session_id: str | None) -> None:
        """Stop the stream with these ids, wherever it runs; it need not run."""
        channel = f"chan:{self._get_interrupt_key(user_id, session_id)}"
        await self._interrupt_backend.publish_event(channel, InterruptSignal.STOP.value)

    async def close_interrupt_service(self) -> None:
        await self._interrupt_backend.aclose()

    async def _start_run(self, key: str, stream: AsyncGenerator[Any, None]) -> Run:
        free = await self._interrupt_backend.compare_and_set_state(
            key=key,
            new_state=TaskState.RUNNING,
            expected_state=TaskState.RUNNING,
            negate=True,
            ttl=LEASE,
        )
        if not free:
            raise RuntimeError(f"Task {key} is already in RUNNING state.")
        run = Run(self._interrupt_backend, key, stream)
        self._local_tasks[key] = run.producer
        self._keepers.add(run.keeper)
        run.keeper.add_done_callback(lambda keeper: self._ended(key, keeper))
        return run

    def _ended(self, key: str, keeper: asyncio.Task[None]) -> None:
        self._keepers.discard(keeper)
        self._local_tasks.pop(key, None)
