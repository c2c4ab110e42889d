"""The shapes of the tables of routes: operations, their parameters and answers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentscope_supervisor.domain.errors import ErrorCode
from agentscope_supervisor.domain.request import MAX_SESSION_ID

Schema = Mapping[str, Any]

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Answer:
    """One successful response. `schema`: name of a schema, empty for none."""

    status: int
    text: str
    kind: str = JSON
    schema: str = ""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A header, a query parameter or a part of the path."""

    name: str
    place: str  # header | query | path
    text: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    text: str
    answers: Sequence[Answer]
    errors: Sequence[ErrorCode] = ()
    parameters: Sequence[Parameter] = ()
    body: str = ""  # name of a schema
    is_open: bool = False  # needs no token
    also: Sequence[str] = ()  # other paths of the same operation


SESSION_ID: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_SESSION_ID}
RUN_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "integer", "minimum": 0}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
