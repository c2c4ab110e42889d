"""One line of a worker's log, with its level and context, on the way to the supervisor's log. Pure.

The worker's logging writes each record to a pipe of its own, as a JSON text after the byte 0x1E (RFC 7464).
So level, run and session reach the supervisor. Printed lines take another pipe and are never parsed.

Read next: `agentscope_worker.log_output`, which writes these lines.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

MARK: Final = "\x1e"

MAX_BYTES: Final = 12 * 1024
"""Bytes of one line. The supervisor splits output lines at 16 KiB, and half a JSON text cannot be parsed."""

PIECE: Final = MAX_BYTES // 10
"""Characters of one piece of a longer record. A character takes at most six bytes, and the ids need some."""

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

ABOUT: Final = ("logger", "run", "session", "request")
"""Context fields of a line, beside the message: the logger, and the ids of the turn."""


_MAX_ID: Final = 128  # characters of a context field in a record that is split


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log line. `level`: a key of LEVELS. `about`: context by the names in ABOUT. `exception`: a
    formatted traceback, or ""."""

    message: str
    level: str = "info"
    about: Mapping[str, str] = field(default_factory=dict)
    exception: str = ""

    @property
    def text(self) -> str:
        """The line in human-readable form; the exception follows on lines of its own."""
        logger = f"{self.about['logger']}: " if "logger" in self.about else ""
        head = f"{self.level.upper()} {logger}{self.message}"
        return f"{head}\n{self.exception}" if self.exception else head


def write(line: LogLine) -> str:
    """The encoded line without its line feed.

    A record that would be longer than MAX_BYTES becomes several lines, each with a piece of the message or of
    the exception, and with the level and the context of the record.
    """
    fields = {"level": line.level, "message": line.message, **line.about}
    if line.exception:
        fields["exception"] = line.exception
    text = MARK + json.dumps(fields, ensure_ascii=False)
    if len(text.encode("utf-8", "backslashreplace")) <= MAX_BYTES:
        return text
    about = {name: value[:_MAX_ID] for name, value in line.about.items()}
    pieces = (
        part[at : at + PIECE] for part in (line.message, line.exception) for at in range(0, len(part), PIECE)
    )
    return "\n".join(
        MARK + json.dumps({"level": line.level, "message": piece, **about}, ensure_ascii=False)
        for piece in pieces
    )


def read(text: str) -> LogLine | None:
    """Parse a line that `write` encoded; returns None for any other line. Never raises."""
    if not text.startswith(MARK):
        return None
    try:
        fields = json.loads(text[len(MARK) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        return None
    level, message = fields.get("level"), fields.get("message")
    if level not in LEVELS or message is None:
        return None
    about = {name: fields[name] for name in ABOUT if name in fields}
    return LogLine(message, level, about, fields.get("exception", ""))


def session_digest(session_id: str) -> str:
    """The short hash of a session id for logs and traces: the id itself often identifies a person."""
    return sha256(session_id.encode()).hexdigest()[:16]
