"""A worker's work for a session between its turns: notify the App when it becomes idle, delete its state.

The supervisor decides when, and runs no turn of the session at the same time. This module keeps the data that
`on_session_idle` may need: the metadata of the session's last turn.
"""

import logging
from collections import OrderedDict
from typing import Any, Final

import orjson

from agentscope_protocol.wire.frames import StreamKind
from agentscope_worker.runtime import AgentApp, SessionContext
from agentscope_worker.runtime.sessions.store import SessionStore

log = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 100_000
"""Sessions whose metadata is kept, the same number that the supervisor tracks; the oldest are dropped."""


class Sessions:
    """The sessions in this worker's memory."""

    def __init__(self, app: AgentApp, store: SessionStore) -> None:
        self._app: Final = app
        self._store: Final = store
        self._overrides_idle: Final = type(app).on_session_idle is not AgentApp.on_session_idle
        self._metadata: OrderedDict[str, dict[str, Any]] = OrderedDict()

    @property
    def stream_kinds(self) -> list[int]:
        """The stream kinds, beside those of turns, that this worker accepts."""
        return [StreamKind.IDLE, StreamKind.FORGET] if self._overrides_idle else [StreamKind.FORGET]

    def begins(self, context: SessionContext) -> None:
        """Record the metadata of a session whose turn begins."""
        if self._overrides_idle:
            self._metadata[context.session_id] = context.metadata
            self._metadata.move_to_end(context.session_id)
            if len(self._metadata) > MAX_REMEMBERED:
                self._metadata.popitem(last=False)

    async def leaves(self, session_id: str, run_id: str) -> bytes:
        """Call `on_session_idle`, because the session leaves this process. An exception is only logged."""
        context = SessionContext(session_id, self._metadata.pop(session_id, {}), run_id=run_id)
        try:
            await self._app.on_session_idle(context)
        except Exception:
            log.exception("App.on_session_idle raised")
        return b""

    async def forget(self, session_id: str, body: bytes) -> bytes:
        """Delete the stored state of a session; returns b"true" if there was any. Raises: OSError."""
        deleted = await self._store.delete_session_state(session_id, orjson.loads(body)["user_id"])
        return b"true" if deleted else b"false"
