"""The two classes that an author uses directly: the base class of `App` and the context of one turn.

Owns only their interface; `agentscope_worker.host` calls an App, and `loading` loads it. It must not import
agentscope at run time, because authors' tests import this module for the base class alone.
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
    """The context of one turn: its session, its run, and the metadata of the request.

    Attributes:
        session_id: The conversation, 1 to 256 characters.
        metadata: The `metadata` object of the request, such as a user id. Empty if the request has none.
        run_id: The run of this turn, 32 hexadecimal digits. Empty in tests that build the context themselves.
        trace: The W3C trace headers `traceparent` and `tracestate`, for requests that the App makes. With
            tracing they belong to this turn, otherwise to the client; empty if the client sent none.
    """

    session_id: str
    metadata: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    trace: dict[str, str] = field(default_factory=dict)


class AgentApp(ABC):
    """Base class of `App` in a project's `app.py`. One object serves all sessions of a worker.

    Turns of one session run one at a time, in order of arrival. Turns of different sessions run concurrently
    on one event loop, so code that blocks the loop delays them all.
    """

    @abstractmethod
    def __call__(self, msg: Msg, ctx: SessionContext) -> AsyncIterator[Msg]:
        """Answer one message. Written as `async def` with `yield`; each Msg is sent as soon as it is yielded.

        A coroutine that returns a Msg or an async iterator of Msg is accepted as well. When a turn is
        cancelled, `asyncio.CancelledError` is raised at the current `await` or `yield`; the turn must end
        within `sessions.cancel_grace` seconds.

        Args:
            msg: The message of the request, as an AgentScope Msg.
            ctx: The context of the turn.

        Yields:
            The messages of the answer. A chunk of a longer message contains only the new text. The events of
            `agent.reply_stream` (AgentScope 2.x), the pairs of `stream_printing_messages` (1.x), content
            blocks and strings are accepted as well.

        Raises:
            Exception: Any exception ends the turn with APP_ERROR; the client receives its text.
        """

    async def on_startup(self) -> None:  # noqa: B027 - optional, not abstract
        """Called once before the first turn. Models, tools and the session store are ready.

        The worker must be ready within `supervisor.start_timeout` seconds. An exception fails the start of
        the worker, which is retried.
        """

    async def on_shutdown(self) -> None:  # noqa: B027 - optional, not abstract
        """Called once after the last turn, for at most `supervisor.stop_timeout` seconds.

        Not called when the worker dies.
        """

    async def on_session_idle(self, ctx: SessionContext) -> None:  # noqa: B027 - optional
        """Called when a session is idle: save its state here, and free its memory.

        A session is idle when it had no turn for `sessions.idle_after` seconds. The hook is also called
        before a session moves to another process and before it is deleted. New turns of the session wait
        until the hook returns; after 15 s it is cancelled. An exception is logged and fails no turn.

        Args:
            ctx: The context of the session; `metadata` is that of its last turn.
        """

    async def on_session_stale(self, ctx: SessionContext) -> None:  # noqa: B027 - optional
        """Called when another process has saved a newer state of a session: drop the session from memory.

        This happens when several instances share a store and a session moves between them. A save of this
        process was rejected, and raises SessionStateError in the turn after the hook has returned; the next
        turn must load the state. The hook may take 15 s. Without this hook, or if it fails, the worker is
        replaced as in a rollout.

        Args:
            ctx: The context of the session; `metadata` is that of its last turn, `run_id` that of the
                rejected save.
        """
