"""The body of `POST /invoke`: checks of the fields that decide where and how the turn runs. Pure.

The body is sent to the worker unchanged. The worker checks the message in it, and reports an invalid one with
the same error code as this module.

Where to read next: `domain.request` has the result, and the checks that all dialects share.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain import idempotency
from agentscope_supervisor.domain.errors import invalid
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.json_outline import Outline, Path
from agentscope_supervisor.domain.request import (
    NAMES,
    ON_BUSY,
    OnBusy,
    TurnRequest,
    json_object,
    kind_of,
    session_id,
)
from agentscope_supervisor.domain.wire_format import WireFormat, form_of

# Read once: see `agentscope_protocol.wire.values`.
_EVENTS: Final = StreamKind.EVENTS
_JSON: Final = StreamKind.WHOLE

_FIELDS: Final[frozenset[Path]] = frozenset(
    (name,) for name in ("session_id", "message", "metadata", "stream", "on_busy")
)
_KINDS: Final[frozenset[Path]] = frozenset({("message",)})  # the worker reads the message


def outline(body: bytes, principal: str, *, digests: bool) -> Outline:
    """The outline that `read` needs of a body over `MAX_PARSED`. `principal`: the setting `server.principal`.
    `digests`: whether the request has an Idempotency-Key."""
    paths = _FIELDS if principal == "token" else _FIELDS | {("metadata", _member(principal))}
    return Outline(body, paths, _KINDS, digests=digests)


def read(
    body: bytes,
    wire: WireFormat,
    *,
    header_session: str | None,
    accepts_json: bool,
    token: str,
    principal: str,
    headers: Mapping[str, str],
    idempotency_key: str | None = None,
    outline: Outline | None = None,
) -> TurnRequest:
    """The request for a turn in a body.

    `header_session`: the value of X-Session-Id; None: not sent. `accepts_json`: the client accepts
    application/json. `token`: the hash of the caller's credentials. `principal`: the setting
    `server.principal`. `idempotency_key`: the value of that header; None: not sent. `outline`: of a body
    over `MAX_PARSED`, complete. Raises: Refused.

    Without a session id, that of the result is empty. A request that is sent again with its Idempotency-Key
    then has the same fingerprint, and gets the run and the session of the first one.
    """
    fields = json_object(body) if outline is None else outline.fields
    stream = _typed(fields, "stream", bool, None)
    kind = _JSON if (accepts_json if stream is None else not stream) else _EVENTS
    on_busy = fields.get("on_busy")
    if on_busy is not None and on_busy not in ON_BUSY:
        raise invalid(f"on_busy must be one of {', '.join(ON_BUSY)}")
    metadata = _typed(fields, "metadata", dict, {})
    _check_message(fields.get("message"))
    session = _session_id(fields.get("session_id"), header_session)
    caller = token if principal == "token" else _caller(metadata, _member(principal))
    key = None
    if idempotency_key is not None:
        if not idempotency.is_valid(idempotency_key):
            raise invalid(f"Idempotency-Key must be 1 to {idempotency.MAX_KEY} printable ASCII characters")
        content = idempotency.content(fields, body) if outline is None else outline.digest
        fingerprint = idempotency.fingerprint(content, session, form_of(kind, wire))
        key = Key(idempotency.scope_of(token, caller), idempotency_key, fingerprint)
    return TurnRequest(session, kind, cast("OnBusy | None", on_busy), body, caller, headers, wire, key)


def _check_message(message: object) -> None:
    """Refuse a request without a message before it interrupts another turn; the worker checks the content."""
    if not isinstance(message, dict | str):
        kind = "missing" if message is None else kind_of(message)
        raise invalid(f"message is {kind}; it must be a string, or an object with at least content")


def _session_id(in_body: object, in_header: str | None) -> str:
    if in_header is None:
        return session_id(in_body) if in_body is not None else ""
    given = session_id(in_header, "X-Session-Id")
    if in_body is not None and session_id(in_body) != given:
        raise invalid("session_id in the body and in the header X-Session-Id differ")
    return given


def _member(principal: str) -> str:
    """The key in `metadata` that this setting names."""
    return principal.removeprefix("metadata.")


def _caller(metadata: dict[str, Any], key: str) -> str:
    value = metadata.get(key, "")
    if isinstance(value, dict | list):  # its text may be long, and `str` fails on deep nesting
        raise invalid(f"metadata.{key} must be a string or a number, not {kind_of(value)}")
    return str(value)


def _typed(fields: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    if key not in fields:
        return default
    value = fields[key]
    if type(value) is not kind:
        raise invalid(f"{key} must be {NAMES[kind]}, not {kind_of(value)}")
    return value
