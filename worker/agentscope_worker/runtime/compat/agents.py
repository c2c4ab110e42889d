"""How an agent's reply is run and handed on: one at a time per agent, in a task of its own.

It owns what AgentScope leaves to its caller: two replies of one agent object never overlap (their
texts would cross on 1.x and their memories on both), and whoever stops listening, by cancellation
or by leaving the loop, stops the reply and waits until AgentScope has written its memory. It knows
nothing of messages; `agentscope1` and `agentscope2` turn what their library says into them.
"""

import asyncio
import contextlib
import contextvars
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

Put = Callable[[Any], Awaitable[None]]

# What an agent may be ahead of its reader; AgentScope 1.x bounds its own message queue so.
_AHEAD = 100  # items

_locks: weakref.WeakKeyDictionary[Any, asyncio.Lock] = weakref.WeakKeyDictionary()
_relays: dict[asyncio.Task[None], Any] = {}  # a reply that runs -> its agent
_stopping: set[asyncio.Task[None]] = set()  # those of them whose reader has left
# Agents whose author has interrupted a reply that runs and is not relayed; until that ends.
_interrupted: weakref.WeakSet[Any] = weakref.WeakSet()
# The agents whose reply runs in this context: a reply that calls its own agent must not wait for
# itself.
_replying: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar(
    "agentscope_runtime_replying", default=frozenset()
)


@contextlib.asynccontextmanager
async def turn_of(agent: Any) -> AsyncIterator[None]:
    """Wait until no other reply of `agent` runs, and keep others waiting inside the block.

    To be used in a coroutine, never around a `yield`: it marks the current context.
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
    """Run `work` when it is `agent`'s turn, in a task of its own, and yield what it puts.

    Its exception is raised here. When the reader is cancelled or closes the iterator, `work` is
    cancelled, and this returns only when it has ended; so the iterator has to be closed, not dropped.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue(_AHEAD)
    listening = True

    async def put(item: Any) -> None:
        if not listening:
            return
        try:
            await queue.put(item)
        except asyncio.CancelledError:
            # AgentScope writes its memory when it is cancelled at an await of its own, not when
            # its output is; so the cancellation is passed on to the next one.
            cancelled = asyncio.current_task()
            assert cancelled is not None
            cancelled.cancel()

    async def run() -> None:
        async with turn_of(agent):
            await work(put)

    def wake(_: object) -> None:
        if not queue.full():  # a full queue wakes the reader by itself
            queue.put_nowait(_END)

    task = asyncio.create_task(run())
    task.add_done_callback(wake)
    _relays[task] = agent
    try:
        while not (task.done() and queue.empty()):
            item = await queue.get()
            if item is _END:
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


def interrupted(agent: Any) -> None:
    """The author has asked for the end of the reply that runs, and does not wait for it.

    Who reads a relayed one goes on reading, so that nothing may wait for its end.
    """
    if not any(each is agent for each in _relays.values()):
        _interrupted.add(agent)


async def settled(objects: Iterable[object]) -> None:
    """Wait for the agents that are being stopped, if `objects` are some of them or parts of them.

    An App that leaves the loop over `agent.stream(...)` without closing it, as an exception in the
    loop's body does, goes on while the agent still writes its memory; so does one that has
    interrupted an agent.
    """
    looked_for = {id(each) for each in objects}
    for agent in [agent for agent in _interrupted if looked_for & _parts(agent)]:
        if id(agent) not in _replying.get():
            async with _locks[agent]:  # held by the reply
                pass
    concerned = [task for task, agent in _relays.items() if looked_for & _parts(agent)]
    if concerned:
        # The iterator that was left is closed by a task that the event loop has just been given.
        await asyncio.sleep(0)
        stopping = _stopping.intersection(concerned)
        if stopping:
            await asyncio.wait(stopping)


def _parts(agent: Any) -> set[int]:
    return {id(agent), *(id(each) for each in vars(agent).values())}


_END = object()


async def _stop(task: asyncio.Task[None]) -> None:
    """Cancel `task` and wait for its end, however often the waiting itself is cancelled."""
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interruption = error
    if not task.cancelled():
        task.exception()  # seen: what it raised while it was stopped concerns nobody
    if interruption is not None:
        raise interruption
