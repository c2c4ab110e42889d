"""The turns of a worker: each opened stream calls the App, sends what it yields, and ends with one frame.

The supervisor opens the next turn of a session only after the previous one has ended, so this module does not
order turns. Each turn is one task, and one method (`_over`) reports its end, whatever the cause.
"""

import asyncio
import contextlib
import errno
import functools
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import orjson

from agentscope_protocol.wire.endpoint import Event, Writable
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import (
    MAX_ANSWER,
    REQUEST_ID,
    Cancel,
    CancelReason,
    Open,
    StreamKind,
)
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.responder import Responder
from agentscope_worker import host, log_output
from agentscope_worker.dialects import DIALECTS, native_items
from agentscope_worker.dialects.dialect import BadMessage, Dialect
from agentscope_worker.dialects.encoder import Request, Translated
from agentscope_worker.dialects.sources import NotMsg
from agentscope_worker.runtime import AgentApp, SessionContext, tracing
from agentscope_worker.runtime.compat import finish_reasons
from agentscope_worker.runtime.compat.finish_reasons import Outcome
from agentscope_worker.runtime.sessions import claims as session_claims
from agentscope_worker.sessions import Sessions
from agentscope_worker.translator import Translator
from agentscope_worker.watchdog import LifeSigns

log = logging.getLogger(__name__)

FAIR_SHARE: Final = 256
"""Messages that an App which never waits may yield before the other turns get the loop: about 2 ms."""


class Explained(Exception):
    """The App's answer cannot be sent; the message is for the client, and needs no type."""


class _Turn:
    """One open stream."""

    def __init__(self, opened: Open) -> None:
        self.opened: Final = opened
        self.task: asyncio.Task[None]  # set right after construction
        self.has_begun = False
        self.has_answered = False  # it has sent an event
        self.cancelled = False  # AgentScope swallows CancelledError in places; this does not forget
        self.is_lost = False  # its end is not reported: the supervisor reports it as lost with the worker
        self.writable: asyncio.Future[None] | None = None
        self.outcome: Outcome | None = None  # of its model calls
        self.about: Final = functools.partial(
            log_output.about, opened.run_id, opened.session_id, opened.headers.get(REQUEST_ID)
        )

    @property
    def extra(self) -> dict[str, Mapping[str, str]]:
        """For lines about the turn that may be logged outside of its task."""
        return {"about": self.about()}


class Server:
    """Answers the streams of one link with an App."""

    def __init__(self, app: AgentApp, link: Link[Responder], life: LifeSigns, sessions: Sessions) -> None:
        self._app: Final = app
        self._sessions: Final = sessions
        self._link: Final = link
        self._responder: Final = link.connection
        self._turns: dict[int, _Turn] = {}
        self._life: Final = life
        self._stopping = False
        self._loop: Final = asyncio.get_running_loop()

    def on_event(self, event: Event) -> None:
        """Take one event of the link."""
        match event:
            case Open() if self._stopping:
                pass  # it has not begun: once the link is closed, another worker gets it
            case Open(stream):
                self._life.begin(stream)
                turn = self._turns[stream] = _Turn(event)
                turn.task = self._loop.create_task(
                    self._do(turn), name=event.run_id, context=log_output.in_turn(turn.about)
                )
                turn.task.add_done_callback(lambda task: self._done(turn, task))
            case Cancel(stream, reason):
                self._cancel(stream, reason)
            case Writable(stream):
                waiting = self._turns.get(stream)  # a lost turn has ended, and its stream is still open
                if waiting is not None and waiting.writable is not None and not waiting.writable.done():
                    waiting.writable.set_result(None)
            case _:
                pass

    async def stop(self, *, asked: bool) -> None:
        """Begin no further turn, cancel the open ones, and wait for their ends; the caller bounds the wait.

        `asked`: whether the supervisor asked for the end of this process. If not, the turns are lost as in a
        crash: their ends are not reported, and the end of the link tells the supervisor.
        """
        self._stopping = True
        for stream, turn in list(self._turns.items()):
            turn.is_lost = not asked and not turn.cancelled
            self._cancel(stream, CancelReason.DRAINING)
        while self._turns:
            await asyncio.wait([turn.task for turn in self._turns.values()])

    def _cancel(self, stream: int, reason: int) -> None:
        turn = self._turns.get(stream)
        if turn is not None and not turn.cancelled:
            turn.cancelled = True
            log.info("turn is cancelled (%s)", _reason(reason), extra=turn.extra)
            if turn.has_begun:  # else it will see that it is cancelled when it begins
                turn.task.cancel()

    # -- one turn ---------------------------------------------------------------------------

    async def _do(self, turn: _Turn) -> None:
        """Run one turn to its end. The end is reported in the same step, so that it leaves together with the
        last events, or right after them."""
        turn.has_begun = True
        try:
            if turn.cancelled:
                raise asyncio.CancelledError
            payload = await self._answer(turn)
        except (Exception, asyncio.CancelledError) as error:
            self._over(turn, b"", error)
        else:
            self._over(turn, payload, None)

    def _done(self, turn: _Turn, task: asyncio.Task[None]) -> None:
        """Report the end of a turn whose task could not: it was cancelled before its first step, or it raised
        a BaseException that is not an Exception."""
        if turn.opened.stream in self._turns:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            self._over(turn, b"", error or RuntimeError("the turn did not report its end"))

    async def _answer(self, turn: _Turn) -> bytes:
        """Do what the stream is for; returns the payload of End."""
        opened = turn.opened
        try:
            with session_claims.turn(opened.session_id, opened.run_id):
                match opened.kind:
                    case StreamKind.IDLE:
                        return await self._sessions.leaves(opened.session_id, opened.run_id)
                    case StreamKind.FORGET:
                        return await self._sessions.forget(opened.session_id, opened.body)
                return await self._run(turn)
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio would end the worker with it, and with the worker the turns of everybody else.
            raise Explained(f"the App raised {type(error).__name__}({error})") from error

    async def _run(self, turn: _Turn) -> bytes:
        """Run the App, in the trace that the request belongs to."""
        opened = turn.opened
        headers = {name: value for name, value in opened.headers.items() if name != REQUEST_ID}
        with (
            tracing.turn(opened.run_id, opened.session_id, headers, lambda: turn.cancelled) as trace,
            finish_reasons.observed() as outcome,
        ):
            turn.outcome = outcome
            dialect = DIALECTS.get(opened.dialect)
            if dialect is None:
                raise BadMessage(f"this worker's package does not have dialect {opened.dialect}")
            translator = None
            if isinstance(dialect, Translated):
                fields = orjson.loads(opened.body)
                message, metadata = dialect.read(fields)
                translator = self._translator(turn, dialect, fields)
            else:
                message, metadata = dialect.read(opened.body)
            context = SessionContext(opened.session_id, metadata, run_id=opened.run_id, trace=trace)
            self._sessions.begins(context)
            if translator is not None:
                await translator.begin()
            answers = await host.start_answer(self._app, message, context)
            try:
                if translator is not None:
                    return await translator.end(outcome) if await translator.run(answers) else b""
                assert not isinstance(dialect, Translated), "it has a translator"
                if opened.kind == StreamKind.WHOLE:
                    return await self._collect(turn, dialect, answers, outcome)
                await self._stream(turn, dialect, answers)
                return orjson.dumps(metadata) if (metadata := outcome.metadata) else b""
            except asyncio.CancelledError:
                await _notify_cancelled(answers)
                raise
            finally:
                close = getattr(answers, "aclose", None)
                if close is not None:  # its `finally` runs now, not when the collector finds it
                    await close()

    def _translator(self, turn: _Turn, dialect: Translated, fields: dict[str, Any]) -> Translator:
        opened = turn.opened
        stream, number = opened.stream, 0

        async def send(event: bytes) -> None:
            nonlocal number
            number += 1
            has_credit = self._responder.send(stream, event)
            self._link.flush_early()
            if not has_credit:
                turn.writable = self._loop.create_future()
                await turn.writable
            elif number % FAIR_SHARE == 0:
                await asyncio.sleep(0)

        request = Request(opened.run_id, opened.session_id, fields, int(time.time()))
        return Translator(
            dialect.encoder(request),
            functools.partial(self._responder.will, stream),
            send if opened.kind == StreamKind.EVENTS else None,
            lambda: turn.cancelled,
        )

    async def _stream(
        self, turn: _Turn, dialect: Dialect, answers: AsyncIterator[Any], number: int = 0
    ) -> None:
        """Send what the App yields, from event `number` on."""
        stream, run_id = turn.opened.stream, turn.opened.run_id.encode()
        send, write = self._responder.send, dialect.event
        async for answer in answers:
            try:
                event = write(run_id, number, answer)
            except NotMsg:
                async with contextlib.aclosing(
                    native_items.messages(answer, answers, turn.opened.run_id)
                ) as messages:
                    return await self._stream(turn, dialect, messages, number)
            if turn.cancelled:  # the App went on although its turn was cancelled
                return
            if len(event) > MAX_ANSWER:
                raise Explained(f"a message of {len(event)} bytes is over the limit of {MAX_ANSWER}")
            number += 1
            turn.has_answered = True
            has_credit = send(stream, event)
            self._link.flush_early()
            if not has_credit:
                turn.writable = self._loop.create_future()
                await turn.writable
            elif number % FAIR_SHARE == 0:
                await asyncio.sleep(0)

    async def _collect(
        self,
        turn: _Turn,
        dialect: Dialect,
        answers: AsyncIterator[Any],
        outcome: Outcome,
        collected: list[Any] | None = None,
        size: int = 0,
    ) -> bytes:
        """The messages that the App yields, joined; `collected` are the first of them, `size` their bytes."""
        collected = [] if collected is None else collected
        async for answer in answers:
            if turn.cancelled:
                return b""
            try:
                size += dialect.size(answer)
            except NotMsg:
                async with contextlib.aclosing(
                    native_items.messages(answer, answers, turn.opened.run_id)
                ) as messages:
                    return await self._collect(turn, dialect, messages, outcome, collected, size)
            if size > MAX_ANSWER:
                raise Explained(f'an answer of over {MAX_ANSWER} bytes needs "stream": true')
            collected.append(answer)
        joined = dialect.join(collected, outcome.metadata)
        if len(joined) > MAX_ANSWER:
            raise Explained(f'an answer of over {MAX_ANSWER} bytes needs "stream": true')
        return joined

    def _over(self, turn: _Turn, payload: bytes, error: BaseException | None) -> None:
        """Report the end of a turn, once, whatever the cause."""
        del self._turns[turn.opened.stream]
        if self._responder.closed or turn.is_lost:
            return
        self._report(turn, payload, error)
        if self._turns:
            self._link.flush_early()
        else:  # nothing will be gathered with it
            self._link.flush()

    def _report(self, turn: _Turn, payload: bytes, error: BaseException | None) -> None:
        stream = turn.opened.stream
        used = turn.outcome.usage.report() if turn.outcome is not None else None
        if used is not None:
            self._responder.usage(stream, orjson.dumps(used))
        if turn.cancelled:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                log.error("the App raised while its turn was cancelled", exc_info=error, extra=turn.extra)
            self._responder.fail(stream, Code.CANCELLED, "cancelled")
        elif error is None:
            self._responder.end(stream, payload)
        elif isinstance(error, BadMessage):
            self._responder.fail(stream, Code.BAD_MESSAGE, str(error))
        else:
            is_app = turn.opened.kind != StreamKind.FORGET
            source = "the App" if is_app else "the session store"
            log.error("%s raised", source, exc_info=error, extra=turn.extra)
            text = _text(error, is_typed=is_app and not turn.has_answered)
            self._responder.fail(stream, Code.APP_ERROR, text)
            if worn := _worn(error):
                self._responder.notice("worn", json.dumps({"message": worn}))


async def _notify_cancelled(answers: AsyncIterator[Any]) -> None:
    """Raise CancelledError in an App that waits in a `yield` for its client to read, as in any other wait.
    Does nothing to an App that has ended."""
    throw = getattr(answers, "athrow", None)
    if throw is not None:
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
            await throw(asyncio.CancelledError())


def _text(error: BaseException, *, is_typed: bool) -> str:
    """The text for the client: the exception's own text, or the name of its type if it has none. `is_typed`:
    the name comes before the text, because the text of a KeyError is only the key."""
    if isinstance(error, asyncio.CancelledError):
        return "the App's turn was cancelled from within"
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # the author's __str__ can raise anything
        return name
    if not text:
        return name
    return f"{name}: {text}" if is_typed and not isinstance(error, Explained) else text


def _worn(error: BaseException) -> str | None:
    """Why this process should be replaced by a fresh one, if the error says that it lacks what it needs."""
    if isinstance(error, MemoryError):
        return "it is out of memory"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "it is out of file descriptors"
    return None


def _reason(reason: int) -> str:
    try:
        return CancelReason(reason).name.lower()
    except ValueError:  # a newer supervisor's
        return f"reason {reason}"
