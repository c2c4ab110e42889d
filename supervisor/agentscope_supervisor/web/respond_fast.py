"""The delivery of an answer on the direct way: what `respond` does in a handler, in callbacks.

The answer to one turn leaves on the connection that asked for it: as a status with an error, as one response,
or as a stream that begins with its first event. No task waits; `runs.client_stream` tells that something
came, the connection that its socket takes more again or that the client is gone. Decides nothing about the
turn.
"""

from collections.abc import Callable
from typing import Final

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.http1.fast_connection import FastConnection
from agentscope_supervisor.http1.responses import closes, error_bytes, head_bytes, header_lines
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.web.respond import STREAM_HEADERS, whole_body
from agentscope_supervisor.web.tracing import CLIENT_LEFT

# Read once: see `agentscope_protocol.wire.values`.
_EVENTS: Final = StreamKind.EVENTS
_WHOLE: Final = StreamKind.WHOLE

_JSON: Final = header_lines({"Content-Type": "application/json"})
_STREAM: Final = header_lines(STREAM_HEADERS)
_CHUNKED: Final = _STREAM + header_lines({"Transfer-Encoding": "chunked"})

OnOver = Callable[["DirectAnswer", int], None]
"""Called once, last, with the status that the client was told, or CLIENT_LEFT."""


class DirectAnswer:
    """An `Exchange`: one answer. `headers`: of the response, whatever it will be."""

    __slots__ = ("_connection", "_headers", "_is_due", "_loop", "_on_over", "_status", "answer", "turn")

    def __init__(
        self,
        connection: FastConnection,
        answer: Answer,
        turn: Turn,
        headers: dict[str, str],
        on_over: OnOver,
    ) -> None:
        self.answer: Final = answer
        self.turn: Final = turn
        self._connection: Final = connection
        self._headers = headers
        self._on_over: Final = on_over
        self._loop: Final = connection.loop
        self._is_due = False
        self._status: int | None = None  # once the head is out
        answer.on_change = self._change_soon
        if answer.settled:
            self._change_soon()

    def resumed(self) -> None:
        """The client's socket takes more again."""
        if self._status is not None:  # else it was an earlier answer that filled it
            self._change()

    def lost(self) -> None:
        """The client is gone."""
        self.answer.on_change = None
        self.answer.abandon()
        self._on_over(self, CLIENT_LEFT)

    def _change_soon(self) -> None:
        # Not at once: what came in one piece with it, the end above all, is to leave in one piece.
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._change)

    def _change(self) -> None:
        self._is_due = False
        answer = self.answer
        if answer.on_change is None:
            return  # over
        if self._status is None and (answer.form is _EVENTS or answer.settled):
            self._begin()
        if self._connection.writing_paused:
            return
        answer.repay()
        if answer.settled:
            answer.on_change = None
            assert self._status is not None, "its end is a reason to begin"
            self._on_over(self, self._status)
            self._connection.answered()

    def _begin(self) -> None:
        answer, headers, connection = self.answer, self._headers, self._connection
        self._status = 200
        if answer.worker is not None:
            headers["X-Agentscope-Worker"] = answer.worker
        if connection.is_closing:
            headers["Connection"] = "close"
        if answer.is_error:
            assert answer.failure is not None
            self._status = answer.failure.status
            connection.send(error_bytes(answer.failure, headers))
            if closes(answer.failure):
                connection.close()
        elif answer.form is _WHOLE:
            self._send_whole(whole_body(self.turn, answer.whole), _JSON)
        elif answer.settled:  # a short turn: all of it is here, and its length is known
            self._send_whole(answer.buffered(), _STREAM)
        else:
            self._headers = {}
            answer.begin(connection.stream(head_bytes(200, headers, _CHUNKED)), self._loop.time())

    def _send_whole(self, body: bytes, lines: str) -> None:
        lines = f"{lines}Content-Length: {len(body)}\r\n"
        self._connection.send(head_bytes(200, self._headers, lines) + body)
