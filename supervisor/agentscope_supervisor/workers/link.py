"""The supervisor's end of the link to one worker: which stream is which turn, and whose answer.

It carries: turns out, bytes of answers in. It decides nothing; what happened goes to `pool` through the
callbacks of `LinkListener`. Data is the hot path: from the socket to the client's answer in one call.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from agentscope_protocol.wire.connection import Event, Requester
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import CancelReason, Data, End, Fail, Notice
from agentscope_protocol.wire.link import BROKE_THE_RULES, Link
from agentscope_protocol.wire.page import LifePage
from agentscope_supervisor.domain.request import TurnRequest
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.runs.client_stream import Answer

FRAME_LOOKS: Final = 20
"""Looks, half a second apart, in which the rest of a frame comes that has begun, while the worker's loop
turns: what one turn of it writes is on its way at once. Looks and no clock: a supervisor that was suspended
finds the rest in its socket."""


AT_ONCE: Final = 8
"""Turns that leave for the worker in one write, at most. Requests that come together are read one after the
other; meanwhile the worker is to begin with the first of them, on another core. With 64 clients in a closed
loop on two cores this is what keeps the supervisor busy (0.95 of a core, where it had 0.8 with one write for
all); smaller pieces cost more writes than they gain."""


class LinkListener(Protocol):
    """Who is told what happened on a link. Nothing here may raise."""

    def noticed(self, process: int, word: str, detail: str) -> None: ...

    def ended(self, turn: Turn, whole: bytes) -> None: ...

    def failed(self, turn: Turn, code: Code, message: str) -> None: ...

    def link_lost(self, process: int, reason: str, lost: int) -> None: ...


class WorkerLink:
    """The link to `process`. `label`: what clients see of it, "<slot>.<generation>"."""

    def __init__(
        self,
        process: int,
        label: str,
        greeting: Mapping[str, str | int | bytes],
        page: LifePage,
        listener: LinkListener,
    ) -> None:
        self._process: Final = process
        self._label: Final = label
        self._page: Final = page
        self._listener: Final = listener
        self._requester: Final = Requester(greeting)
        self._link: Final[Link[Requester]] = Link(self._requester, self._on_event, self._on_lost)
        self._loop: Final = asyncio.get_running_loop()
        self._streams: dict[int, tuple[Turn, Answer]] = {}
        self._stream_of: dict[int, int] = {}  # by number of the turn
        # Of a frame that has come in part, and how often the worker's loop had turned by then.
        self._part: tuple[tuple[int, int] | None, int] = (None, 0)
        self._part_looks = 0

    async def connect(self, sock: socket.socket) -> None:
        """Take over a connected socket; to be called once, first."""
        await self._loop.create_connection(lambda: self._link, sock=sock)

    def dispatch(self, turn: Turn, invocation: TurnRequest, answer: Answer) -> None:
        """Send a turn to the worker. Raises: LocalProtocolError if the link is closed."""
        stream = self._requester.open(
            turn.session_id, turn.run_id, invocation.body, invocation.form, invocation.headers
        )
        self._streams[stream] = turn, answer
        self._stream_of[turn.number] = stream
        answer.take(self._label, partial(self._consumed, stream), self._loop.time())
        if self._requester.unwritten < AT_ONCE:
            self._link.flush_soon()
        else:
            self._link.flush()

    def cancel(self, turn: Turn, reason: CancelReason) -> None:
        """Ask for the end of a turn; nothing happens if it is over."""
        stream = self._stream_of.get(turn.number)
        if stream is not None:
            self._requester.cancel(stream, reason)
            self._link.flush_soon()

    @property
    def closed(self) -> bool:
        return self._requester.closed

    @property
    def violated(self) -> bool:
        """The link was closed because the worker broke its rules, and not by the worker."""
        return self.closed and not self._link.peer_gone

    def look(self) -> None:
        """Drop the link of a worker that sends half a frame and no more, though its loop turns. To be called
        twice a second."""
        part, (before, turns) = self._requester.part, self._part
        if part is None or part != before:
            self._part, self._part_looks = (part, self._page.loop), 0
            return
        self._part_looks += 1
        if self._part_looks >= FRAME_LOOKS and self._page.loop != turns:
            self._link.close(f"{BROKE_THE_RULES}{part[0]} bytes of a frame, and then nothing")

    def worker_ended(self) -> None:
        """The process is gone: drop the link; what is open on it fails."""
        self._link.peer_gone = True
        self._link.close("the worker has ended")

    def _consumed(self, stream: int, size: int) -> None:
        self._requester.consumed(stream, size)
        self._link.flush_soon()

    def _on_event(self, event: Event) -> None:
        if type(event) is Data:
            payload = event.payload
            if self._streams[event.stream][1].data(event.count, payload, self._loop.time()):
                self._requester.consumed(event.stream, len(payload))
            return
        match event:
            case End(stream, payload):
                self._listener.ended(self._over(stream), payload)
            case Fail(stream, code, message):
                self._listener.failed(self._over(stream), code, message)
            case Notice(word, detail):
                self._listener.noticed(self._process, word, detail)

    def _on_lost(self, reason: str, unfinished: Sequence[Event]) -> None:
        events = [self._unsent(event) for event in unfinished]
        lost = sum(isinstance(event, Fail) and event.code is Code.LINK_LOST for event in events)
        # First, so that a turn that never left is not handed to this process again.
        self._listener.link_lost(self._process, reason, lost)
        for event in events:
            self._on_event(event)

    def _unsent(self, event: Event) -> Event:
        """A turn that waited unread in the socket of a worker that reads no more was never begun: it is as
        if it had not been sent. The page outlives the worker, so this is certain."""
        if isinstance(event, Fail) and self._link.peer_gone and event.stream > self._page.begun:
            return Fail(event.stream, Code.UNSENT, event.message)
        return event

    def _over(self, stream: int) -> Turn:
        turn, _ = self._streams.pop(stream)
        del self._stream_of[turn.number]
        return turn
