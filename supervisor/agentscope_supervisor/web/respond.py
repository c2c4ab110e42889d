"""The delivery of answers: how the answer to a turn leaves as the response to its request.

A short answer leaves as one response, a long one as a stream that begins with its first event, or with the
first comment to a client that waits. Decides nothing about the turn; the bytes of a stream do not pass here,
`runs.client_stream` writes them to the client's transport, and `runs.reader` to those who read a run beside
the client.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import orjson
from aiohttp import web

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import Failure
from agentscope_supervisor.domain.turn import Turn
from agentscope_supervisor.http1.aiohttp_connection import outlet_of
from agentscope_supervisor.http1.responses import error_response, gone_response
from agentscope_supervisor.runs.client_stream import Answer
from agentscope_supervisor.runs.log import Run, RunState
from agentscope_supervisor.runs.reader import RunReader

QUEUED_AFTER: Final = 1.0  # seconds of waiting after which a client is told that its turn waits
SWEEP_EVERY: Final = 0.25  # seconds between two looks at the open answers
STALLED_AFTER: Final = 30.0
"""Seconds that a client may take to read the end of its answer; one that has stopped reading for good would
hold its socket and buffers for ever."""

STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class Delivery:
    """The answers under way. `keepalive`: seconds of silence after which a stream gets a comment; `ahead`:
    how many turns of its session come before a waiting turn."""

    def __init__(self, keepalive: float, ahead: Callable[[Turn], int]) -> None:
        self._keepalive: Final = keepalive
        self._ahead: Final = ahead
        self._open: dict[Answer, Turn] = {}
        self._viewers: dict[RunReader, Turn | None] = {}
        self._sweeping = False
        self._loop: Final = asyncio.get_running_loop()

    def watch(self, answer: Answer, turn: Turn) -> None:
        """Tell the client of this answer, while it waits in silence, that it is not forgotten."""
        self._open[answer] = turn
        self._sweep_soon()

    def forget(self, answer: Answer) -> None:
        """It is sent, or nobody waits for it any more."""
        del self._open[answer]

    async def deliver(
        self, request: web.BaseRequest, answer: Answer, turn: Turn, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Wait for the answer and send it; a stream is sent whole when this returns."""
        self.watch(answer, turn)
        try:
            await answer.changed()
            if answer.form is StreamKind.WHOLE:
                while not answer.settled:
                    await answer.changed()
            if answer.worker is not None:
                headers["X-Agentscope-Worker"] = answer.worker
            if answer.is_error:
                assert answer.failure is not None
                return error_response(answer.failure, headers)
            if answer.form is StreamKind.WHOLE:
                return _whole(turn, answer.whole, headers)
            headers |= STREAM_HEADERS
            if answer.settled:  # a short turn: all of it is here, and its length is known
                return web.Response(body=answer.buffered(), headers=headers)
            return await self._stream(request, answer, headers)
        finally:
            self.forget(answer)

    async def _stream(
        self, request: web.BaseRequest, answer: Answer, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        answer.begin(outlet_of(request), self._loop.time())
        while True:
            if answer.owes:
                await request.writer.drain()
                answer.repay()
            if answer.settled:
                break
            await answer.changed()
        await response.write_eof()
        return response

    async def join(
        self, request: web.BaseRequest, viewer: RunReader, turn: Turn | None, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Answer a request with the run that an earlier one has begun, from its first event on. `turn`: of
        the run, if that has not ended."""
        run = viewer.run
        if run.form is StreamKind.WHOLE:
            await viewer.ended()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUEUED_AFTER):
                    await viewer.begun()
        _name_worker(run, headers)
        if run.is_error:
            assert run.failure is not None
            return error_response(run.failure, headers)
        if run.form is StreamKind.WHOLE:
            return _whole(run, run.whole, headers)
        gone = run.resume(-1)
        if isinstance(gone, Failure):
            return gone_response(gone, run, headers)
        return await self.view(request, viewer, turn, headers)

    async def view(
        self, request: web.BaseRequest, viewer: RunReader, turn: Turn | None, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Send what a run has kept from where the viewer stands, and what comes, to the end."""
        _name_worker(viewer.run, headers)
        response = web.StreamResponse(headers=headers | STREAM_HEADERS)
        await response.prepare(request)
        if request.method == "HEAD":  # what is written to the socket beside the response would be a body
            await response.write_eof()
            return response
        self._viewers[viewer] = turn
        self._sweep_soon()
        try:
            if await viewer.read(outlet_of(request), request.writer.drain, self._loop.time):
                await response.write_eof()
        finally:
            del self._viewers[viewer]
        return response

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_EVERY, self._sweep)

    def _sweep(self) -> None:
        """Tell clients that wait in silence that they are not forgotten."""
        self._sweeping = False
        now, first = self._loop.time(), min(QUEUED_AFTER, self._keepalive)
        for answer, turn in self._open.items():
            silent = now - answer.last_write
            if answer.settled and silent >= STALLED_AFTER:
                answer.cut()  # all is sent, and the client does not read it
            if answer.form is StreamKind.WHOLE or answer.settled:
                continue
            waits = answer.worker is None
            if silent >= (first if waits and not answer.streaming else self._keepalive):
                answer.say(self._comment(turn if waits else None), now)
        for viewer, turn_of_run in self._viewers.items():
            silent = now - viewer.last_write
            if viewer.run.state is RunState.ENDED:
                if silent >= STALLED_AFTER:
                    viewer.cut()
                continue
            waits = viewer.run.state is RunState.QUEUED
            if silent >= (first if waits and viewer.is_new else self._keepalive):
                viewer.say(self._comment(turn_of_run if waits else None), now)
        if self._open or self._viewers:
            self._sweep_soon()

    def _comment(self, waiting: Turn | None) -> bytes:
        return sse.comment("keep-alive" if waiting is None else f"queued {self._ahead(waiting)}")


def _name_worker(run: Run, headers: dict[str, str]) -> None:
    if run.worker is not None:
        headers["X-Agentscope-Worker"] = run.worker


def _whole(of: Turn | Run, messages: bytes, headers: dict[str, str]) -> web.Response:
    return web.Response(body=whole_body(of, messages), content_type="application/json", headers=headers)


def whole_body(of: Turn | Run, messages: bytes) -> bytes:
    """The body of an answer in one piece; `messages`: a JSON array."""
    head = orjson.dumps({"session_id": of.session_id, "run_id": of.run_id})
    return b'%b,"messages":%b}' % (head[:-1], messages)
