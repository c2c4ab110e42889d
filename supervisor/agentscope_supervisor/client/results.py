"""The results of the client: messages, answers, runs and sessions. Pure.

Each value has the JSON that it was made of in `data`, with fields of newer instances too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentscope_supervisor.client.errors import ApiError, error_of

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the App, or a piece of one. `content`: a text, or a list of AgentScope's content blocks.
    `id`: of its event; None: it did not come as an event."""

    name: str
    role: str
    content: str | Sequence[Json]
    metadata: Json
    data: Json = field(repr=False)
    id: str | None = None

    @property
    def text(self) -> str:
        """The text in the content, without other blocks."""
        if isinstance(self.content, str):
            return self.content
        return "".join(str(block.get("text", "")) for block in self.content if block.get("type") == "text")


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer of a turn."""

    session_id: str
    run_id: str
    messages: Sequence[Message]

    @property
    def text(self) -> str:
        """The text of all messages, in order."""
        return "".join(message.text for message in self.messages)

    @property
    def usage(self) -> Json | None:
        """The tokens of the turn; None: no model reported them."""
        used: Json | None = self.messages[-1].metadata.get("usage") if self.messages else None
        return used


@dataclass(frozen=True, slots=True)
class Run:
    """A run. `state`: queued, running, ended or another one of a newer instance. `error`: why it failed.
    `messages`: those that are kept; None: they were not asked for, or are not kept whole. `usage`: of models;
    None: not known."""

    run_id: str
    session_id: str
    state: str
    stream: bool
    worker: str | None
    started_at: str | None
    error: ApiError | None
    usage: Json | None
    messages: Sequence[Message] | None
    data: Json = field(repr=False)

    @property
    def text(self) -> str:
        """The text of the messages, in order; empty if they are not here."""
        return "".join(message.text for message in self.messages or ())


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs. `next`: pass it as `after` to get the next page; None: this is the last one."""

    runs: Sequence[Run]
    next: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has a turn, or had one a short time ago. `run_id`: of its running turn. `waiting`: the
    number of its turns that wait."""

    session_id: str
    worker: str | None
    run_id: str | None
    waiting: int
    data: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Health:
    """The state of an instance. `is_up`: it serves turns. `uptime`: seconds."""

    status: str
    is_up: bool
    uptime: float
    data: Json = field(repr=False)


def message_of(data: Json, event_id: str | None = None) -> Message:
    """The message in an event, or in a list of messages."""
    return Message(
        str(data.get("name", "")),
        str(data.get("role", "")),
        data.get("content") or "",
        data.get("metadata") or {},
        data,
        event_id,
    )


def answer_of(data: Json) -> Answer:
    """The answer in the body of a response to `"stream": false`."""
    return Answer(data["session_id"], data["run_id"], [message_of(each) for each in data["messages"]])


def run_of(data: Json) -> Run:
    """The run in a body, or in a list."""
    error, messages = data.get("error"), data.get("messages")
    return Run(
        data["run_id"],
        data["session_id"],
        data["state"],
        data.get("stream") is True,
        data.get("worker"),
        data.get("started_at"),
        error_of(error, run_id=data["run_id"]) if error else None,
        data.get("usage"),
        [message_of(each) for each in messages] if messages is not None else None,
        data,
    )


def page_of(data: Json) -> RunPage:
    """The page of runs in a body."""
    return RunPage([run_of(each) for each in data["runs"]], data.get("next"))


def session_of(data: Json) -> Session:
    """The session in a body."""
    return Session(data["session_id"], data.get("worker"), data.get("run_id"), data.get("waiting", 0), data)


def health_of(data: Json, status: int) -> Health:
    """The state in the body of /health. `status`: of the response."""
    return Health(str(data.get("status", "unknown")), status == 200, float(data.get("uptime", 0)), data)
