"""The order of requests in one session: one at a time, in order of arrival.

`SessionOrder` keeps it inside one process. A host that orders the turns of sessions itself sets
`AgentApp.turns` to an object with the same methods.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final


class SessionOrder:
    def __init__(self) -> None:
        # The waiting requests of each session that has a turn.
        self._waiting: Final[dict[str, deque[asyncio.Future[None]]]] = {}

    async def begin(self, key: str) -> None:
        """Wait until no other request of the session has its turn. `end` must follow."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = deque()
            return
        place = asyncio.get_running_loop().create_future()
        waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # its turn came at the same moment
                self.end(key)
            raise

    def end(self, key: str) -> None:
        waiting = self._waiting[key]
        while waiting:
            place = waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        del self._waiting[key]
