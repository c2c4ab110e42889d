"""The supervisor's end of the link to one worker: maps streams to turns.

Sends turns and receives the bytes of their runs. Makes no decisions: `pool` receives all events through
`LinkListener`. Data frames are the hot path: they go from the socket to the run and its readers in one call.
The protocol is in `agentscope_protocol.wire`.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from agentscope_protocol.wire.endpoint import Event, Writable
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import CancelReason, Data, End, Fail, Head, Notice, Usage, Will
from agentscope_protocol.wire.link import PROTOCOL_ERROR, Link
from agentscope_protocol.wire.page import LifePage
from agentscope_protocol.wire.requester import Requester
from agentscope_supervisor.domain import usage
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.exchanges.open_exchange import ExchangeListener, OpenExchange

FRAME_CHECKS: Final = 20
"""Checks, 0.5 s apart, within which the rest of an incomplete frame must arrive while the worker's loop runs.

The loop writes a frame at once, so the rest is normally in the socket already. Checks are counted instead of
seconds, because a supervisor that was suspended finds the rest in its socket."""


AT_ONCE: Final = 8
"""Maximum number of turns in one write to the worker.

Requests that arrive together are parsed one after the other. Meanwhile the worker should start the first of
them on another core. With 64 clients in a closed loop on two cores, this limit keeps the supervisor busy
(0.95 of a core instead of 0.8 with one write for all turns). Smaller batches cost more in writes than they
gain."""


class LinkListener(Protocol):
    """Receives the events of a link. Only `noticed` may raise."""

    def noticed(self, process: int, word: str, detail: str) -> None:
        """The worker sent a notice. Raises: RemoteProtocolError, which closes the link."""

    def turn_ended(self, turn: Turn, json_body: bytes) -> None:
        """A turn ended successfully. `json_body`: what the worker sent with the end; see StreamKind."""

    def turn_failed(self, turn: Turn, code: Code, message: str) -> None:
        """A turn failed, or was lost with the link."""

    def link_lost(self, process: int, reason: str, lost: int) -> None:
        """The link was closed. `lost` turns had begun; `turn_failed` follows for each of them."""


class WorkerLink:
    """The link to the process with the number `process`. `label` is "<slot>.<generation>", which clients
    see."""

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
        self._streams: dict[int, Turn] = {}
        self._exchanges: dict[int, OpenExchange] = {}
        # The incomplete frame of the last check, and the worker's loop counter at its first check.
        self._part: tuple[tuple[int, int] | None, int] = (None, 0)
        self._part_checks = 0

    async def connect(self, sock: socket.socket) -> None:
        """Take over a connected socket. Call it once, before any other method."""
        await self._loop.create_connection(lambda: self._link, sock=sock)

    def dispatch(self, turn: Turn) -> None:
        """Send a turn to the worker. Raises: LocalProtocolError if the link is closed."""
        request = turn.request
        stream = self._requester.open(
            request.session_id, turn.run_id, request.body, request.kind, request.headers, request.wire.number
        )
        self._streams[stream] = turn
        turn.stream = stream
        turn.run.take(self._label, partial(self._consumed, stream), self._loop.time())
        if self._requester.unwritten < AT_ONCE:
            self._link.flush_soon()
        else:
            self._link.flush()

    def open_exchange(
        self,
        kind: int,
        session: str,
        request_id: str,
        head: bytes,
        headers: Mapping[str, str],
        listener: ExchangeListener,
    ) -> OpenExchange:
        """Send the head of an exchange to the worker. Raises: LocalProtocolError if the link is closed."""
        exchange = OpenExchange(self._process, int(self._label.partition(".")[0]), self._label, listener)
        stream = self._requester.open_exchange(kind, session, request_id, head, headers)
        self._exchanges[stream] = exchange
        exchange.opened(self._requester, stream, self._link.flush_soon)
        self._link.flush_soon()
        return exchange

    def cancel(self, turn: Turn, reason: CancelReason) -> None:
        """Request the cancellation of a turn. Does nothing if the turn has ended."""
        if self._streams.get(turn.stream) is turn:
            self._requester.cancel(turn.stream, reason)
            self._link.flush_soon()

    @property
    def greeted(self) -> bool:
        """Whether the worker has sent its greeting. Its signal handlers are installed by then."""
        return self._requester.greeted

    @property
    def closed(self) -> bool:
        """Whether the link is closed, by either end."""
        return self._requester.closed

    @property
    def violated(self) -> bool:
        """Whether the supervisor closed the link because the worker broke the protocol."""
        return self.closed and not self._link.peer_gone

    def check_incomplete_frame(self) -> None:
        """Close the link if the rest of a frame does not arrive although the worker's loop runs.

        Call it twice per second.
        """
        part, (before, loop_then) = self._requester.partial_frame, self._part
        if part is None or part != before:
            self._part, self._part_checks = (part, self._page.loop), 0
            return
        self._part_checks += 1
        if self._part_checks >= FRAME_CHECKS and self._page.loop != loop_then:
            self._link.close(f"{PROTOCOL_ERROR}{part[0]} bytes of a frame, and then nothing")

    def worker_ended(self) -> None:
        """Close the link of a process that has exited. The open turns fail."""
        self._link.peer_gone = True
        self._link.close("the worker has ended")

    def _consumed(self, stream: int, size: int) -> None:
        self._requester.consumed(stream, size)
        self._link.flush_soon()

    def _on_event(self, event: Event) -> None:
        if type(event) is Data:
            payload = event.payload
            turn = self._streams.get(event.stream)
            if turn is None:
                self._exchanges[event.stream].message(event.count, payload)
            elif turn.run.data(event.count, payload, self._loop.time()):
                self._requester.consumed(event.stream, len(payload))
            return
        match event:
            case End(stream, payload):
                if stream in self._streams:
                    self._listener.turn_ended(self._streams.pop(stream), payload)
                else:
                    self._exchanges.pop(stream).over(None, "")
            case Fail(stream, code, message):
                if stream in self._streams:
                    self._listener.turn_failed(self._streams.pop(stream), code, message)
                else:
                    self._exchanges.pop(stream).over(code, message)
            case Will(stream):
                self._streams[stream].run.inherit(event)
            case Usage(stream, payload):
                self._streams[stream].run.usage = usage.read(payload)
            case Head(stream):
                self._exchanges[stream].head(event)
            case Writable(stream):
                self._exchanges[stream].writable()
            case Notice(word, detail):
                self._listener.noticed(self._process, word, detail)

    def _on_lost(self, reason: str, unfinished: Sequence[Event]) -> None:
        events = [self._unsent(event) for event in unfinished]
        lost = sum(isinstance(event, Fail) and event.code is Code.LINK_LOST for event in events)
        # First, so that a turn that was never sent is not sent to this process again.
        self._listener.link_lost(self._process, reason, lost)
        for event in events:
            self._on_event(event)

    def _unsent(self, event: Event) -> Event:
        """Report a turn as unsent if the worker exited before reading it from its socket.

        The page outlives the worker, so its number of begun turns is reliable.
        """
        if isinstance(event, Fail) and self._link.peer_gone and event.stream > self._page.begun:
            return Fail(event.stream, Code.UNSENT, event.message)
        return event
