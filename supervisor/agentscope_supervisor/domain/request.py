"""One request for a turn, in any dialect, and the checks that all dialects share. Pure.

Where to read next: `web.parse_invoke` reads such a request; `domain.turn` is the turn that it becomes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.json_outline import TOO_DEEP
from agentscope_supervisor.domain.wire_format import WireFormat

MAX_SESSION_ID: Final = 256  # characters
MAX_PARSED: Final = 64 * 1024
"""Maximum size in bytes of a body that the supervisor parses: at most 4 ms of the event loop. Larger ones
are read as a `json_outline`, if the route takes them."""

OnBusy = Literal["queue", "reject", "interrupt", "latest"]
ON_BUSY: Final = ("queue", "reject", "interrupt", "latest")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


@dataclass(init=False, slots=True, unsafe_hash=True)
class TurnRequest:
    """A turn that a client asks for. `principal`: the caller whose limits it counts towards. `detached`: the
    turn goes on when its client leaves. `at_once`: the client does not wait for the end of the turn, and gets
    its state.

    `session_id` is empty if the client names no session. The route then makes one with `begin_session`,
    before anything else reads it.
    """

    session_id: str
    is_new_session: bool  # the session id was made for this request
    kind: Final[StreamKind]
    on_busy: Final[OnBusy | None]  # None: `sessions.on_busy` applies
    body: Final[bytes]
    principal: Final[str]
    headers: Final[Mapping[str, str]]  # W3C trace context and REQUEST_ID, passed on to the worker
    key: Final[Key | None]  # Idempotency-Key
    wire: Final[WireFormat]  # of the run
    detached: Final[bool]
    at_once: Final[bool]

    def __init__(
        self,
        session_id: str,
        kind: StreamKind,
        on_busy: OnBusy | None,
        body: bytes,
        principal: str,
        headers: Mapping[str, str],
        wire: WireFormat,
        key: Key | None = None,
        *,
        detached: bool = False,
        at_once: bool = False,
    ) -> None:
        self.session_id, self.kind, self.on_busy, self.body = session_id, kind, on_busy, body
        self.principal, self.headers, self.wire, self.key = principal, headers, wire, key
        self.detached, self.at_once, self.is_new_session = detached, at_once, False

    def begin_session(self, session_id: str) -> None:
        """Run the turn in this new session."""
        self.session_id, self.is_new_session = session_id, True


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body of at most MAX_PARSED bytes. Raises: Refused."""
    if len(body) > MAX_PARSED:
        message = f"the body is over {MAX_PARSED} bytes, the limit of this route"
        raise Refused(Failure(ErrorCode.PAYLOAD_TOO_LARGE, message))
    try:
        value = orjson.loads(body)
    except ValueError as error:
        if str(error).startswith("depth limit"):
            raise invalid(TOO_DEEP) from None
        raise invalid(f"the body is not valid JSON in UTF-8: {error}") from None
    if not isinstance(value, dict):
        raise invalid(f"the body must be a JSON object, not {kind_of(value)}")
    return value


def session_id(value: object, where: str = "session_id") -> str:
    """`value`, if it is a valid session id. `where`: its name in error messages. Raises: Refused."""
    if not isinstance(value, str):
        raise invalid(f"{where} must be a string, not {kind_of(value)}")
    if not 1 <= len(value) <= MAX_SESSION_ID:
        raise invalid(f"{where} must have 1 to {MAX_SESSION_ID} characters, not {len(value)}")
    if _CONTROL.search(value):
        raise invalid(f"{where} must not contain control characters")
    if _SURROGATE.search(value):
        raise invalid(f"{where} must be valid Unicode")
    return value


NAMES: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def kind_of(value: object) -> str:
    """The type of a JSON value, for error messages."""
    return NAMES[type(value)]
