"""The worker's log: each record is written as one line that names the turn in which it was logged.

Records that an App or a library logs during a turn belong to that turn, also in its tasks and in threads of
`asyncio.to_thread`; a context variable identifies the turn. Records go to a pipe of their own, each in one
write: what an App prints neither tears a record nor looks like one, and a record outlives a crash.

Read next: `agentscope_protocol.wire.log_lines`, which defines the format of a line.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, copy_context

from agentscope_protocol.wire.log_lines import LEVELS, LogLine, session_digest, write

CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "mcp")
"""Libraries that log one line per call at INFO, and prompts and keys at DEBUG."""

AGENTSCOPE = "as"  # the name of AgentScope's logger, on 1.x and 2.x

_turn: ContextVar[Callable[[], Mapping[str, str]]] = ContextVar("agentscope_worker.turn", default=dict)


def about(run_id: str, session_id: str, request_id: str | None) -> dict[str, str]:
    """The context fields of a turn or an exchange; an exchange may be without a run and a session.

    A record's `about` field carries them outside of the context.
    """
    session = session_digest(session_id) if session_id else ""
    named = {"run": run_id, "session": session, "request": request_id or ""}
    return {name: value for name, value in named.items() if value}


def current_turn(context: Context | None = None) -> Mapping[str, str]:
    """The context fields of the turn of `context`, or of the caller's context; empty outside of turns."""
    about = _turn.get() if context is None else context.get(_turn, dict)
    return about()


def in_turn(about: Callable[[], Mapping[str, str]]) -> Context:
    """A context for the task of a turn: records logged in it, and in the tasks it starts, name this turn.

    `about` is called for each log line rather than once per turn, since most turns log nothing.
    """
    context = copy_context()
    context.run(_turn.set, about)
    return context


class LineFormatter(logging.Formatter):
    """Formats a record as `log_lines` defines."""

    def format(self, record: logging.LogRecord) -> str:
        exception = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        about = {"logger": record.name, **_turn.get()(), **getattr(record, "about", {})}
        return write(LogLine(record.getMessage(), _level(record.levelno), about, exception))


class RecordPipe:
    """The pipe for records, as a stream for logging: unbuffered, and UTF-8 whatever the locale is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(self._descriptor, data) :]

    def flush(self) -> None:
        """Nothing to do: `write` has written everything."""


def set_up(descriptor: int | None = None) -> logging.Handler:
    """Log to the pipe `descriptor`, which the supervisor reads; return the handler. Call once, at the start.

    Programs that the App starts do not inherit the pipe. None: log to stderr, which supervisors of older
    releases read.
    """
    if descriptor is not None:
        os.set_inheritable(descriptor, False)
    pipe = RecordPipe(sys.stderr.fileno() if descriptor is None else descriptor)
    handler = logging.StreamHandler(pipe)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A print of half a character pair, such as a part of an emoji, must not raise.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return handler


def adopt_agentscope(ours: logging.Handler) -> None:
    """Make AgentScope's own logger, which does not propagate, log there too. Call after its import.

    It gets the same handler: a pipe takes a record over 4 KiB in parts, between which a second handler, with
    a lock of its own, could write.
    """
    logger = logging.getLogger(AGENTSCOPE)
    for handler in list(logger.handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            logger.removeHandler(handler)
            logger.addHandler(ours)


def _level(number: int) -> str:
    """The name of a level, or of the next lower level in LEVELS."""
    return max((name for name in LEVELS if LEVELS[name] <= number), key=LEVELS.__getitem__, default="debug")
