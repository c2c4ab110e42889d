"""A worker's work for a session beside its turns: notify the App when it is idle or stale, delete its state.

The supervisor decides when a session is idle or deleted, and runs no turn of the session at the same time.
The store reports a session that is stale: the App has it in memory, and another process has saved a newer
state. This module keeps the data that the hooks may need: the metadata of the session's last turn.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import orjson

from agentscope_protocol.wire.frames import StreamKind
from agentscope_worker.runtime import AgentApp, SessionContext
from agentscope_worker.runtime.sessions.store import SessionStore

log = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 100_000
"""Sessions whose metadata is kept, the same number that the supervisor tracks; the oldest are dropped."""


STALE_TIMEOUT: Final = 15.0
"""Seconds for `on_session_stale`, as many as the supervisor allows for `on_session_idle`: a turn waits."""


class Sessions:
    """The sessions in this worker's memory."""

    def __init__(self, app: AgentApp, store: SessionStore, replace: Callable[[str], None]) -> None:
        """`replace`: requests a new process in the place of this one, for the given reason."""
        self._app: Final = app
        self._store: Final = store
        self._replace: Final = replace
        self._overrides_idle: Final = type(app).on_session_idle is not AgentApp.on_session_idle
        self._overrides_stale: Final = type(app).on_session_stale is not AgentApp.on_session_stale
        self._metadata: OrderedDict[str, dict[str, Any]] = OrderedDict()

    @property
    def stream_kinds(self) -> list[int]:
        """The stream kinds, beside those of turns, that this worker accepts."""
        return [StreamKind.IDLE, StreamKind.FORGET] if self._overrides_idle else [StreamKind.FORGET]

    def begins(self, context: SessionContext) -> None:
        """Record the metadata of a session whose turn begins."""
        if self._overrides_idle or self._overrides_stale:
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

    async def is_stale(self, session_id: str, run_id: str) -> None:
        """Call `on_session_stale`. Without it, or after an exception, the process is replaced."""
        log.warning("another process has saved a session that this process has in memory")
        if not self._overrides_stale:
            self._replace("its memory of a session is outdated, and the App has no on_session_stale")
            return
        context = SessionContext(session_id, self._metadata.get(session_id, {}), run_id=run_id)
        try:
            async with asyncio.timeout(STALE_TIMEOUT):
                await self._app.on_session_stale(context)
        except Exception:
            log.exception("App.on_session_stale raised")
            self._replace("its memory of a session is outdated, and on_session_stale failed")

    async def forget(self, session_id: str, body: bytes) -> bytes:
        """Delete the stored state of a session; returns b"true" if there was any. Raises: OSError."""
        deleted = await self._store.delete_session_state(session_id, orjson.loads(body)["user_id"])
        return b"true" if deleted else b"false"
