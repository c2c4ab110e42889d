"""A line of a worker's log on its way to the supervisor's, with what it is about. Pure.

A worker prints to a pipe, whoever in it prints. What its logging prints is a JSON text after the byte 0x1E
(RFC 7464), so that level, run and session come through as they are; all else is a line as an App wrote it,
and is taken for no more. An App may write such lines too: they say no more than it can log.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

MARK: Final = "\x1e"

MAX_BYTES: Final = 12 * 1024
"""Of one line. The supervisor cuts longer lines of output, at 16 KiB, and half a JSON text is none."""

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

ABOUT: Final = ("logger", "run", "session", "request")
"""What a line may name beside its message: who logs, and for which turn."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log. `level`: of LEVELS; `about`: by words of ABOUT; `exception`: a traceback, or ""."""

    message: str
    level: str = "info"
    about: Mapping[str, str] = field(default_factory=dict)
    exception: str = ""

    @property
    def text(self) -> str:
        """For people, on one line or several."""
        logger = f"{self.about['logger']}: " if "logger" in self.about else ""
        head = f"{self.level.upper()} {logger}{self.message}"
        return f"{head}\n{self.exception}" if self.exception else head


def write(line: LogLine) -> str | None:
    """The line as it is printed, without the line feed at its end; None: it is too long for one."""
    fields = {"level": line.level, "message": line.message, **line.about}
    if line.exception:
        fields["exception"] = line.exception
    text = MARK + json.dumps(fields, ensure_ascii=False)
    return text if len(text.encode("utf-8", "backslashreplace")) <= MAX_BYTES else None


def read(text: str) -> LogLine | None:
    """What `write` has written; None for anything else, which is a line as it stands. Never raises."""
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
    """How logs and traces name a session: its id is often a person's name or number."""
    return sha256(session_id.encode()).hexdigest()[:16]
