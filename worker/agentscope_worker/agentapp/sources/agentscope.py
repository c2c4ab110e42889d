"""AgentScope of both majors: `(Msg, last)` of 1.x, whole Msgs, and the events of 2.x. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentscope_worker.agentapp.parts import Part
from agentscope_worker.agentapp.sources import unexpected
from agentscope_worker.agentapp.sources.agentscope_events import AgentScopeEvents
from agentscope_worker.agentapp.sources.agentscope_messages import AgentScopeMessages


class AgentScopeSource:
    def __init__(self) -> None:
        self._messages: Final = AgentScopeMessages()
        self._events: Final = AgentScopeEvents()

    def take(self, item: Any) -> Iterator[Part]:
        if isinstance(item, tuple) and len(item) == 2 and hasattr(item[0], "content"):
            yield from self._messages.take(*item)
        elif hasattr(item, "reply_id") or (hasattr(item, "type") and hasattr(item, "created_at")):
            yield from self._events.take(item)
        elif hasattr(item, "content") and hasattr(item, "role"):
            # `reply_stream(yield_final_msg=True)` repeats as a Msg what its events have said.
            if item.id not in self._events.replies:
                yield from self._messages.take(item, True)
        else:
            raise unexpected(
                item,
                "agentscope",
                "(Msg, last) of stream_printing_messages, an event of reply_stream, or a Msg",
            )
