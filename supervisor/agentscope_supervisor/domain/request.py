"""The body of `POST /invoke`: what the supervisor must know of it, checked. Pure.

The body itself goes on to the worker as it came; only what decides where and how the turn runs is read
here. A body that passes here can still be refused by AgentScope in the worker, with the same code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import idempotency
from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.turn import OnBusy

MAX_SESSION_ID: Final = 256  # characters
ROLES: Final = ("user", "assistant", "system")
ON_BUSY: Final = ("queue", "reject", "interrupt", "latest")
# Read once: see `agentscope_protocol.wire.values`.
_EVENTS: Final = StreamKind.EVENTS
_WHOLE: Final = StreamKind.WHOLE

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


@dataclass(init=False, slots=True, unsafe_hash=True)
class TurnRequest:
    """One turn that a client asks for. `principal`: who is counted for it."""

    session_id: Final[str]
    form: Final[StreamKind]
    on_busy: Final[OnBusy | None]  # None: as configured
    body: Final[bytes]
    principal: Final[str]
    headers: Final[Mapping[str, str]]  # W3C trace context and REQUEST_ID, passed on
    key: Final[Key | None]  # Idempotency-Key

    def __init__(
        self,
        session_id: str,
        form: StreamKind,
        on_busy: OnBusy | None,
        body: bytes,
        principal: str,
        headers: Mapping[str, str],
        key: Key | None = None,
    ) -> None:
        self.session_id, self.form, self.on_busy, self.body = session_id, form, on_busy, body
        self.principal, self.headers, self.key = principal, headers, key


class Refused(Exception):
    """The request cannot be taken; `failure` is what to tell."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def invalid(message: str) -> Refused:
    """A request whose content is wrong: 400."""
    return Refused(Failure(ErrorCode.INVALID_REQUEST, message))


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises: Refused."""
    try:
        value = orjson.loads(body)
    except ValueError as error:
        raise invalid(f"the body is not valid JSON in UTF-8: {error}") from None
    if not isinstance(value, dict):
        raise invalid(f"the body must be a JSON object, not {_kind(value)}")
    return value


def read(
    body: bytes,
    *,
    header_session: str | None,
    accepts_json: bool,
    token: str,
    principal: str,
    headers: Mapping[str, str],
    idempotency_key: str | None = None,
) -> TurnRequest:
    """The invocation in a body.

    `header_session`: the value of X-Session-Id, if it came. `accepts_json`: the client asked for
    application/json. `token`: what stands for the caller's credentials. `principal`: the setting of that
    name. `idempotency_key`: the value of that header, if it came. Raises: Refused.
    """
    fields = json_object(body)
    stream = _typed(fields, "stream", bool, None)
    form = _WHOLE if (accepts_json if stream is None else not stream) else _EVENTS
    on_busy = fields.get("on_busy")
    if on_busy is not None and on_busy not in ON_BUSY:
        raise invalid(f"on_busy must be one of {', '.join(ON_BUSY)}")
    metadata = _typed(fields, "metadata", dict, {})
    _check_message(fields)
    session = _session_id(fields.get("session_id"), header_session)
    caller = token if principal == "token" else _caller(metadata, principal.removeprefix("metadata."))
    key = None
    if idempotency_key is not None:
        if not idempotency.is_valid(idempotency_key):
            raise invalid(f"Idempotency-Key must be 1 to {idempotency.MAX_KEY} printable ASCII characters")
        fingerprint = idempotency.fingerprint(fields, session, form, body)
        key = Key(idempotency.scope_of(token, caller), idempotency_key, fingerprint)
    return TurnRequest(session, form, cast("OnBusy | None", on_busy), body, caller, headers, key)


def session_id(value: object, where: str = "session_id") -> str:
    """A session id that came from outside. Raises: Refused."""
    if not isinstance(value, str):
        raise invalid(f"{where} must be a string, not {_kind(value)}")
    if not 1 <= len(value) <= MAX_SESSION_ID:
        raise invalid(f"{where} must have 1 to {MAX_SESSION_ID} characters, not {len(value)}")
    if _CONTROL.search(value):
        raise invalid(f"{where} must not contain control characters")
    if _SURROGATE.search(value):
        raise invalid(f"{where} must be valid Unicode")
    return value


def _session_id(in_body: object, in_header: str | None) -> str:
    if in_header is None:
        if in_body is None:
            raise invalid("session_id is missing: give it in the body or as the header X-Session-Id")
        return session_id(in_body)
    given = session_id(in_header, "X-Session-Id")
    if in_body is not None and session_id(in_body) != given:
        raise invalid("session_id in the body and in the header X-Session-Id differ")
    return given


def _caller(metadata: dict[str, Any], key: str) -> str:
    value = metadata.get(key, "")
    if isinstance(value, dict | list):  # its text may be long, and its depth more than Python writes
        raise invalid(f"metadata.{key} must be a string or a number, not {_kind(value)}")
    return str(value)


def _check_message(fields: dict[str, Any]) -> None:
    message = fields.get("message")
    if not isinstance(message, dict):
        kind = "missing" if message is None else f"not an object but {_kind(message)}"
        raise invalid(f"message is {kind}; it needs at least content")
    content = message.get("content")
    blocks = isinstance(content, list) and all(isinstance(block, dict) for block in content)
    if not isinstance(content, str) and not blocks:
        raise invalid("message.content must be a string or a list of content blocks (objects)")
    if message.get("role", "user") not in ROLES:
        raise invalid(f"message.role must be one of {', '.join(ROLES)}")
    _typed(message, "name", str, "", "message.")


def _typed(fields: dict[str, Any], key: str, kind: type, default: Any, prefix: str = "") -> Any:
    if key not in fields:
        return default
    value = fields[key]
    if type(value) is not kind:
        raise invalid(f"{prefix}{key} must be {_NAMES[kind]}, not {_kind(value)}")
    return value


_NAMES: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _NAMES[type(value)]
