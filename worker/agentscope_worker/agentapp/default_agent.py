"""`AgentApp(agent=…)`: one agent of AgentScope answers all sessions, without a query handler.

The agent answers one request at a time. Each session has a state of its own: it is in the session store of
the project in a worker, and in memory elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from agentscope_worker.runtime import runtime
from agentscope_worker.runtime.compat.majors import seam
from agentscope_worker.runtime.sessions import state

MAX_STATES: Final = 1000
"""Sessions whose states are kept in memory, outside of a worker; the oldest goes first."""


def handler(agent: Any) -> Callable[..., AsyncGenerator[Any, None]]:
    """The query handler that passes requests to `agent`."""
    prepare()
    states = _States(agent)
    turn = asyncio.Lock()

    async def query(self: Any, msgs: Any, request: Any = None, **_: Any) -> AsyncGenerator[Any, None]:
        async with turn:
            await states.load(request.session_id, request.user_id)
            try:
                async with aclosing(_snapshots(agent, msgs)) as snapshots:
                    async for each in snapshots:
                        yield each
            finally:
                await states.save(request.session_id, request.user_id)

    return query


def prepare() -> None:
    """Add to AgentScope's classes what a worker adds, unless this is a worker."""
    from agentscope import agent

    if not hasattr(getattr(agent, "Agent", None) or agent.AgentBase, "stream"):
        seam().adapt("bypass")


async def _snapshots(agent: Any, msgs: Any) -> AsyncGenerator[tuple[Any, bool], None]:
    """`(Msg, last)`, where each Msg has the whole of its message so far."""
    previous: Any = None
    async with aclosing(agent.stream(msgs, cumulative=True)) as chunks:
        async for msg in chunks:
            if previous is not None and previous.id != msg.id:
                yield previous, True
            yield msg, False
            previous = msg
    if previous is not None:
        yield previous, True


class _States:
    """The states of one agent, by session."""

    def __init__(self, agent: Any) -> None:
        self._agent: Final = agent
        self._new: Final = state.extract("agent", agent)
        self._kept: Final[dict[tuple[str, str], Any]] = {}

    async def load(self, session_id: str, user_id: str) -> None:
        state.restore("agent", self._agent, self._kept.get((session_id, user_id), self._new))
        if runtime.is_initialized:
            await runtime.session.load_session_state(session_id, user_id, agent=self._agent)

    async def save(self, session_id: str, user_id: str) -> None:
        if runtime.is_initialized:
            await runtime.session.save_session_state(session_id, user_id, agent=self._agent)
            return
        self._kept.pop((session_id, user_id), None)
        self._kept[session_id, user_id] = state.extract("agent", self._agent)
        if len(self._kept) > MAX_STATES:
            del self._kept[next(iter(self._kept))]
