"""The worker's log: each record leaves as one line that names the turn in which it was logged.

Whatever an App or a library logs while a turn runs, in its tasks and in threads of `asyncio.to_thread` too,
belongs to that turn; the context knows which. `agentscope_protocol.wire.log_lines` has the form of a line.
What an App prints goes beside this, as it is.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, copy_context

from agentscope_protocol.wire.log_lines import LEVELS, LogLine, session_digest, write

CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "mcp")
"""Libraries that log a line for each call at INFO, and prompts and keys at DEBUG."""

AGENTSCOPE = "as"  # its logger, of both majors

_turn: ContextVar[Callable[[], Mapping[str, str]]] = ContextVar("agentscope_worker.turn", default=dict)


def about(run_id: str, session_id: str, request_id: str | None) -> dict[str, str]:
    """How lines name a turn; the field `about` of a record says so where the context does not."""
    named = {"run": run_id, "session": session_digest(session_id)}
    return {**named, "request": request_id} if request_id else named


def current_turn(context: Context | None = None) -> Mapping[str, str]:
    """How lines name the turn of this context, or of the one that calls; empty outside of turns."""
    about = _turn.get() if context is None else context.get(_turn, dict)
    return about()


def in_turn(about: Callable[[], Mapping[str, str]]) -> Context:
    """A context for the task of a turn: what is logged in it, and in what it starts, is about this turn.

    `about` is asked for each line, since most turns log none.
    """
    context = copy_context()
    context.run(_turn.set, about)
    return context


class LineFormatter(logging.Formatter):
    """A record as `log_lines` has it; one that is too long as text, on as many lines as it takes."""

    def format(self, record: logging.LogRecord) -> str:
        exception = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        about = {"logger": record.name, **_turn.get()(), **getattr(record, "about", {})}
        line = LogLine(record.getMessage(), _level(record.levelno), about, exception)
        return write(line) or line.text


def set_up() -> None:
    """Log to stderr, which the supervisor reads. Called once, at the start."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def adopt_agentscope() -> None:
    """Have AgentScope's own log, which keeps to itself, name the turn too; once it is imported."""
    for handler in logging.getLogger(AGENTSCOPE).handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setFormatter(LineFormatter())


def _level(number: int) -> str:
    """The name of a level, or of the one below it."""
    return max((name for name in LEVELS if LEVELS[name] <= number), key=LEVELS.__getitem__, default="debug")
