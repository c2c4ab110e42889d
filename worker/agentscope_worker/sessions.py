"""What a worker does for a session between its turns: tells the App that it leaves, deletes what is stored.

The supervisor says when, and sees to it that no turn of the session runs beside it. Here is remembered what
an App that wants to be told may need for it: the metadata of the session's last turn.
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
"""Sessions whose metadata is remembered, as many as the supervisor knows; above it the oldest has none."""


class Sessions:
    """The sessions in the memory of this worker."""

    def __init__(self, app: AgentApp, store: SessionStore) -> None:
        self._app: Final = app
        self._store: Final = store
        self._wants_to_know: Final = type(app).on_session_idle is not AgentApp.on_session_idle
        self._metadata: OrderedDict[str, dict[str, Any]] = OrderedDict()

    @property
    def forms(self) -> list[int]:
        """Forms of streams that can be answered here."""
        return [StreamKind.IDLE, StreamKind.FORGET] if self._wants_to_know else [StreamKind.FORGET]

    def begins(self, context: SessionContext) -> None:
        """A turn begins."""
        if self._wants_to_know:
            self._metadata[context.session_id] = context.metadata
            self._metadata.move_to_end(context.session_id)
            if len(self._metadata) > MAX_REMEMBERED:
                self._metadata.popitem(last=False)

    async def leaves(self, session_id: str, run_id: str) -> bytes:
        """The session leaves this process: tell the App. What it raises is logged, and changes nothing."""
        context = SessionContext(session_id, self._metadata.pop(session_id, {}), run_id=run_id)
        try:
            await self._app.on_session_idle(context)
        except Exception:
            log.exception("App.on_session_idle raised")
        return b""

    async def forget(self, session_id: str, body: bytes) -> bytes:
        """Delete the stored state of a session. Raises: OSError."""
        deleted = await self._store.delete_session_state(session_id, orjson.loads(body)["user_id"])
        return b"true" if deleted else b"false"
