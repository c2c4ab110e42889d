"""One reader of a run beside the client that asked for it, at its own pace.

While it keeps up, it is given each event as it comes, the very bytes that the client and the other readers
get. When its socket is full it falls behind, and reads on from what the run has kept; when the run has
dropped what it wants next, its connection is cut, and asking again it is told so (GONE). It never slows the
run, nor another reader, and holds nothing itself. `client_stream` feeds it, `web.respond` runs it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from agentscope_supervisor.runs.client_stream import Outlet
from agentscope_supervisor.runs.log import Run, RunState


class RunReader:
    """Reads `run` from event `number` on. To be added to the followers of its answer, if it has not ended."""

    def __init__(self, run: Run, number: int, now: float) -> None:
        self.run: Final = run
        self.last_write = now
        self._since: Final = now
        self._number = number
        self._outlet: Outlet | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_new(self) -> bool:
        """Whether it was given nothing yet, not even a comment."""
        return self.last_write == self._since

    def fed(self, number: int, count: int, payload: bytes, now: float) -> None:
        """`count` events came, of which `number` is the first; the run has them already."""
        outlet = self._outlet
        if outlet is not None and number == self._number and not outlet.is_full():
            outlet.write(payload)
            self._number += count
            self.last_write = now
        else:
            self.wake()

    def wake(self) -> None:
        """Something has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def say(self, comment: bytes, now: float) -> None:
        """Send a comment, if the stream has begun and the reader is not behind."""
        if self._outlet is not None and self._number == self.run.next and not self._outlet.is_full():
            self._outlet.write(comment)
            self.last_write = now

    def cut(self) -> None:
        """The reader has stopped reading for good."""
        if self._outlet is not None:
            self._outlet.cut()

    async def ended(self) -> None:
        """Wait for the end of the run."""
        while self.run.state is not RunState.ENDED:
            await self._changed()

    async def begun(self) -> None:
        """Wait until the run has said something, or has ended."""
        while self.run.next == 0 and self.run.state is not RunState.ENDED:
            await self._changed()

    async def read(
        self, outlet: Outlet, drain: Callable[[], Awaitable[None]], clock: Callable[[], float]
    ) -> bool:
        """Send all to `outlet`, to the end; false if the run lost what came next. `drain`: waits for room."""
        self._outlet = outlet
        while True:
            piece = self.run.read(self._number)
            if piece is None:
                outlet.cut()
                return False
            data, self._number = piece
            if data:
                outlet.write(data)
                self.last_write = clock()
                await asyncio.sleep(0)  # a socket that takes everything must not hold up the others
            if outlet.is_full():
                await drain()
            elif self._number == self.run.next:
                if self.run.state is RunState.ENDED:
                    return True
                await self._changed()

    async def _changed(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
