"""The two classes that an author meets: the base of `App` and the context of one turn.

It owns their shape only; who calls an App is `agentscope_worker.host`, who loads it is `loading`.
It must not import agentscope at run time: author tests import it for the base class alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentscope.message import Msg


@dataclass
class SessionContext:
    """What an App is told about the turn that it answers, beside the message.

    Attributes:
        session_id: The conversation, 1 to 256 characters.
        metadata: What the caller sent beside the message, such as a user id.
        run_id: This turn; empty in an author's own tests.
        trace: W3C trace headers (`traceparent`, `tracestate`), to be sent on to what the App asks: of this
            turn where tracing is on, else the caller's, as far as it sent any.
    """

    session_id: str
    metadata: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    trace: dict[str, str] = field(default_factory=dict)


class AgentApp(ABC):
    """Base of the class `App` in a project's `app.py`; one object serves all sessions of a worker.

    Turns of one session come one at a time, those of different sessions at the same time.
    """

    @abstractmethod
    def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        """Answer `msg`; written as `async def` with `yield`, each Msg is sent as it is yielded.

        A turn that is stopped sees `asyncio.CancelledError` at its current `await` or `yield`.
        A coroutine that returns one Msg, or an async iterator of them, is accepted too.
        """

    async def on_startup(self) -> None:  # noqa: B027 - optional, not abstract
        """Called once before the first turn, with models, tools and sessions ready."""

    async def on_shutdown(self) -> None:  # noqa: B027 - optional, not abstract
        """Called once after the last turn."""

    async def on_session_idle(self, ctx: SessionContext) -> None:  # noqa: B027 - optional
        """Called when a session had no turn for `sessions.idle_after` seconds, and before it moves to another
        process or is deleted: free its memory, after saving what is to be kept.

        `ctx.metadata` is that of the session's last turn. No turn of the session runs meanwhile; a message
        that comes waits. After 15 s it is cancelled. What it raises is logged.
        """
