"""The response to a request that reads a run: sent in callbacks, the same on every connection.

The first client of a turn, a client that joins a run by its Idempotency-Key and one that resumes a run differ
only in where their stream begins. A short run is sent as one response of known length, a long one as a stream
that begins with its first event, or with the first comment to a client that waits. No task waits for an
event: the stream reports new events, and the connection reports that it can write more, or that the client
has left.

Where to read next: `runs.client_stream` reads the run, `http1.channel` frames the bytes.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.domain.wire_format import WireFormat
from agentscope_supervisor.http1.channel import Channel, Exchange
from agentscope_supervisor.http1.responses import header_lines, kept_events
from agentscope_supervisor.runs.client_stream import ClientStream
from agentscope_supervisor.system.sweeper import Sweeper
from agentscope_supervisor.web.dialects.dialect import Shape

QUEUED_AFTER: Final = 1.0  # seconds of waiting after which a client gets a comment that its turn waits
SWEEP_EVERY: Final = 0.25  # seconds between two looks at the open responses
STALLED_AFTER: Final = 30.0
"""Seconds that a client may take to read the end of its response. Without this limit, a client that stops
reading would hold its socket and buffers without end."""

# Read once: see `agentscope_protocol.wire.values`.
_JSON: Final = StreamKind.WHOLE

_JSON_LINES: Final = header_lines({"Content-Type": "application/json"})

OnOver = Callable[["Response", bool], None]
"""Called once, last: the response was sent, or (true) the client has left."""


class Response(Exchange):
    """One response. `turn`: of the run; None: the run has ended. `headers`: of
    the response. `resumes`: the client asks for the events of a run, so that an error of the run is sent as
    an event. `shape`: of the dialect; None: the native one."""

    __slots__ = (
        "_channel",
        "_has_begun",
        "_headers",
        "_is_due",
        "_is_whole",
        "_loop",
        "_on_over",
        "_resumes",
        "_shape",
        "stream",
        "turn",
    )

    def __init__(
        self,
        channel: Channel,
        stream: ClientStream,
        turn: Turn | None,
        headers: dict[str, str],
        on_over: OnOver,
        *,
        resumes: bool = False,
        shape: Shape | None = None,
    ) -> None:
        self.stream: Final = stream
        self.turn: Final = turn
        self._channel: Final = channel
        self._headers = headers
        self._on_over: Final = on_over
        self._loop: Final = channel.loop
        self._is_due = False
        self._is_whole = False  # all of it is sent, as one piece
        self._has_begun = False  # the head is out, or waits for the first event
        self._resumes: Final = resumes
        self._shape: Final = shape
        stream.on_change = self._change_soon
        if resumes or stream.run.ended_at is not None or stream.number != stream.run.next:
            self._change_soon()

    # -- what the connection reports ----------------------------------------------------------

    def resumed(self) -> None:
        if self._has_begun:  # else it was an earlier response that filled the socket
            self._change()

    def lost(self) -> None:
        if self.stream.on_change is not None:
            self.stream.leave()
            self._on_over(self, True)

    def probe(self) -> bool:
        if not self._has_begun:
            return False
        self.stream.comment("keep-alive", self._loop.time())
        return True

    # -- the response -------------------------------------------------------------------------

    def _change_soon(self) -> None:
        # Not at once: events and an end that arrive together are then sent together.
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._change)

    def _change(self) -> None:
        self._is_due = False
        stream = self.stream
        if stream.on_change is None:
            return  # over
        run = stream.run
        if not self._has_begun:
            if run.kind is _JSON and run.ended_at is None:
                return
            self._begin()
        if self._channel.writing_paused:
            return
        stream.ack()
        if stream.pump(self._loop.time()):
            self._change_soon()
        elif self._is_whole or (run.ended_at is not None and stream.is_over):
            stream.leave()
            self._on_over(self, False)
            self._channel.done()

    def _begin(self) -> None:
        stream, headers, channel = self.stream, self._headers, self._channel
        run = stream.run
        self._has_begun = self._is_whole = True
        if run.worker is not None:
            headers["X-Agentscope-Worker"] = run.worker
        gone = None if stream.paces or run.kind is _JSON else run.resume(stream.number - 1)
        if run.is_error and not self._resumes:
            assert run.failure is not None
            if self._shape is None:
                channel.fail(run.failure, headers)
            else:
                channel.refuse(run.failure, self._shape.refuse(run.failure, run.json_body), headers)
        elif isinstance(gone, Failure):  # the events were dropped since the request came
            channel.fail(gone, headers, kept_events(run))
        elif run.kind is _JSON:
            body = run.wire.json_body(run.session_id, run.run_id, run.json_body)
            channel.respond(headers, _JSON_LINES, body if self._shape is None else self._shape.answer(body))
        else:
            lines = stream_lines(run.wire)
            # A short run: all of it is available, and its length is known.
            whole = stream.whole() if run.ended_at is not None else None
            if whole is not None:
                channel.respond(headers, lines, whole)
            else:
                self._is_whole = False
                writer = channel.stream(headers, lines)
                self._headers = {}  # there may be thousands of open streams
                stream.begin(writer, self._loop.time())
                if self._resumes:
                    writer.flush()

    # -- silence ------------------------------------------------------------------------------

    def sweep(self, now: float, keepalive: float, ahead: Callable[[Turn], int]) -> None:
        """Send a comment to a client that waits in silence, and cut one that does not read the end."""
        stream = self.stream
        run = stream.run
        silent = now - stream.last_write
        if run.ended_at is not None:
            if silent >= STALLED_AFTER and stream.is_streaming:
                self._channel.abort()
            return
        if run.kind is _JSON:
            return
        waits = run.worker is None and self.turn is not None
        first = min(QUEUED_AFTER, keepalive)
        is_early = not self._has_begun and (waits or not stream.paces)  # it has no head yet
        if silent >= (first if is_early else keepalive):
            if not self._has_begun:
                self._begin()
                self._change_soon()
            text = f"queued {ahead(self.turn)}" if waits and self.turn is not None else "keep-alive"
            stream.comment(text, now)


class OpenResponses:
    """The responses in progress. `keepalive`: seconds of silence after which a stream gets a comment.
    `ahead`: the number of turns of the session before a waiting turn."""

    def __init__(self, keepalive: float, ahead: Callable[[Turn], int]) -> None:
        self._keepalive: Final = keepalive
        self._ahead: Final = ahead
        self._open: Final[set[Response]] = set()
        self._loop: Final = asyncio.get_running_loop()
        self._sweeper: Final = Sweeper(self._loop, SWEEP_EVERY, self._sweep)

    def add(self, response: Response) -> None:
        self._open.add(response)
        self._sweeper.soon()

    def discard(self, response: Response) -> None:
        self._open.discard(response)

    def _sweep(self) -> bool:
        now = self._loop.time()
        for response in list(self._open):
            response.sweep(now, self._keepalive, self._ahead)
        return bool(self._open)


_lines: Final[dict[WireFormat, str]] = {}


def stream_lines(wire: WireFormat) -> str:
    """The lines of a response head for a stream of this format."""
    lines = _lines.get(wire)
    if lines is None:
        lines = _lines[wire] = header_lines(wire.headers)
    return lines
