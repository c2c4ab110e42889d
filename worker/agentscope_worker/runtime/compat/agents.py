"""Runs the replies of agents: one at a time per agent, each in a task of its own.

Owns what AgentScope leaves to its caller. Two replies of one agent object never overlap (on 1.x their texts
would mix, on both majors their memories). A reader that stops, by cancellation or by leaving the loop, stops
the reply and waits until AgentScope has written its memory. It must not know messages; `agentscope1` and
`agentscope2` convert their library's events to messages.
"""

import asyncio
import contextlib
import contextvars
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

Put = Callable[[Any], Awaitable[None]]

# Items that a reply may be ahead of its reader; the size of AgentScope 1.x's own message queue.
_QUEUE_SIZE = 100

_locks: weakref.WeakKeyDictionary[Any, asyncio.Lock] = weakref.WeakKeyDictionary()
_relays: dict[asyncio.Task[None], Any] = {}  # task of a running reply -> its agent
_stopping: set[asyncio.Task[None]] = set()  # the tasks in `_relays` whose reader is gone
# Agents whose author has interrupted a running reply that is not relayed, until that reply ends.
_interrupted: weakref.WeakSet[Any] = weakref.WeakSet()
# The ids of the agents that reply in this context: a reply that calls its own agent must not wait for itself.
_replying: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar(
    "agentscope_runtime_replying", default=frozenset()
)


@contextlib.asynccontextmanager
async def exclusive(agent: Any) -> AsyncIterator[None]:
    """Wait until no other reply of `agent` runs, and make others wait while the block runs.

    Use it in a coroutine, never around a `yield`: it marks the current context.
    """
    if id(agent) in _replying.get():
        yield
        return
    lock = _locks.get(agent)
    if lock is None:
        lock = _locks[agent] = asyncio.Lock()
    async with lock:
        token = _replying.set(_replying.get() | {id(agent)})
        try:
            yield
        finally:
            _replying.reset(token)
            _interrupted.discard(agent)


async def relay(agent: Any, work: Callable[[Put], Awaitable[Any]]) -> AsyncGenerator[Any, None]:
    """Run `work` in a task of its own, once no other reply of `agent` runs, and yield the items it puts.

    Raises any exception of `work`. When the reader is cancelled or closes the iterator, `work` is cancelled,
    and this returns only after `work` has ended. The reader therefore has to close the iterator.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue(_QUEUE_SIZE)
    listening = True

    async def put(item: Any) -> None:
        if not listening:
            return
        try:
            await queue.put(item)
        except asyncio.CancelledError:
            # AgentScope writes its memory if it is cancelled at one of its own awaits, but not if its output
            # is. So pass the cancellation on to its next await.
            current = asyncio.current_task()
            assert current is not None
            current.cancel()

    async def run() -> None:
        async with exclusive(agent):
            await work(put)

    def wake(_: object) -> None:
        if not queue.full():  # a full queue wakes the reader anyway
            queue.put_nowait(_DONE)

    task = asyncio.create_task(run())
    task.add_done_callback(wake)
    _relays[task] = agent
    try:
        while not (task.done() and queue.empty()):
            item = await queue.get()
            if item is _DONE:
                break
            yield item
        await task
    finally:
        listening = False
        _stopping.add(task)
        try:
            await _stop(task)
        finally:
            _stopping.discard(task)
            del _relays[task]


def mark_interrupted(agent: Any) -> None:
    """Record that the author has interrupted the running reply of `agent` without waiting for its end.

    A relayed reply is skipped: its reader goes on reading, so that `wait_until_stopped` must not wait for it.
    """
    if not any(each is agent for each in _relays.values()):
        _interrupted.add(agent)


async def wait_until_stopped(objects: Iterable[object]) -> None:
    """Wait for each agent that is being stopped, if `objects` contains it or one of its attributes.

    An App that leaves the loop over `agent.stream(...)` without closing it, as an exception in the loop's
    body does, continues while the agent still writes its memory; so does an App that has interrupted an
    agent.
    """
    looked_for = {id(each) for each in objects}
    for agent in [agent for agent in _interrupted if looked_for & _parts(agent)]:
        if id(agent) not in _replying.get():
            async with _locks[agent]:  # the running reply holds it
                pass
    concerned = [task for task, agent in _relays.items() if looked_for & _parts(agent)]
    if concerned:
        # An abandoned iterator is closed by a task that the event loop has only just created.
        await asyncio.sleep(0)
        stopping = _stopping.intersection(concerned)
        if stopping:
            await asyncio.wait(stopping)


def _parts(agent: Any) -> set[int]:
    return {id(agent), *(id(each) for each in vars(agent).values())}


_DONE = object()


async def _stop(task: asyncio.Task[None]) -> None:
    """Cancel `task` and wait until it has ended, even if the wait itself is cancelled repeatedly."""
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interruption = error
    if not task.cancelled():
        task.exception()  # retrieved so that asyncio does not log it: it happened after the stop
    if interruption is not None:
        raise interruption
