"""The common part of all dialects whose events and results the worker writes whole. Pure.

The worker translates: the supervisor copies the bytes of its events, and keeps what it sends with the end as
the result of the run. A run that the worker does not complete ends with the worker's will, in which the
supervisor fills in the places; before the worker has sent its will, with a default that the dialect has here.

Where to read next: `chat`, the shortest of these dialects.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentscope_protocol.wire.frames import Place, StreamKind, Will
from agentscope_protocol.wire.values import value
from agentscope_supervisor.domain import idempotency
from agentscope_supervisor.domain.errors import Failure, Refusal, error_object, invalid
from agentscope_supervisor.domain.idempotency import Key
from agentscope_supervisor.domain.json_outline import Outline, Path
from agentscope_supervisor.domain.request import TurnRequest, json_object, kind_of, session_id
from agentscope_supervisor.domain.wire_format import WireFormat, form_of
from agentscope_supervisor.web.dialects import native
from agentscope_supervisor.web.dialects.dialect import Dialect, ReadOutline, ReadRequest, Refuse

_END_OF_EVENT: Final = b"\n\n"
_EVENTS: Final = StreamKind.EVENTS
_WHOLE: Final = StreamKind.WHOLE


@value
class Found:
    """The fields of a request that the supervisor needs. `session`: that it names; `hint`: that it names if
    nothing else does. `metadata`: of the caller, for `server.principal`. `detached`: the turn goes on without
    its client. `at_once`: the client does not wait for the end of the turn.
    """

    session: object = None
    hint: object = None
    stream: bool = True
    metadata: object = None
    detached: bool = False
    at_once: bool = False


Find = Callable[[dict[str, Any]], Found]
"""Reads the fields of a body. Raises: Refused."""

Status = Callable[[Failure | None], str]
"""The state of a run that failed, or (None) is in progress, in the words of a dialect."""


def filled(
    template: bytes,
    run_id: str,
    number: int,
    failure: Failure | None,
    status: str,
    session_id: str = "",
    created: int = 0,
) -> bytes:
    """A template with its places filled. `failure`: None: the run is in progress."""
    error = None if failure is None else error_object(failure)
    fields = {
        Place.CODE: _json(None if error is None else error["code"]),
        Place.MESSAGE: _json(None if error is None else error["message"]),
        Place.NUMBER: b"%d" % number,
        Place.STATUS: _json(status),
        Place.ERROR: _json(error),
        Place.RUN: run_id.encode(),
        Place.SESSION: _json(session_id),
        Place.CREATED: b"%d" % created,
    }
    for place, text in fields.items():
        template = template.replace(place, text)
    return template


def format_of(
    number: int,
    name: str,
    end: bytes,
    *,
    result: bytes = b"null",
    status: Status = lambda failure: "in_progress" if failure is None else "failed",
    waiting: str = "queued",
    headers: Mapping[str, str] | None = None,
) -> WireFormat:
    """The wire format of a dialect. `end`: the events of a failed end; `result`: the result of a failed run,
    both before the worker has sent its will, with places as in a will. A will must have as many events as
    `end`. `waiting`: the status of a run that no worker has begun."""

    def tail(
        run_id: str, number: int, failure: Failure | None, metadata: bytes = b"", will: Will | None = None
    ) -> tuple[bytes, int]:
        if failure is None:
            return b"", 0  # the worker has written it
        events = (will.end if will is not None else end).split(_END_OF_EVENT)[:-1]
        written = [
            filled(event, run_id, number + index, failure, status(failure)) + _END_OF_EVENT
            for index, event in enumerate(events)
        ]
        return b"".join(written), len(written)

    def result_of(
        run_id: str, session_id: str, failure: Failure | None, will: Will | None, created: int = 0
    ) -> bytes:
        template = will.result if will is not None else result
        state = waiting if will is None and failure is None else status(failure)
        return filled(template, run_id, 0, failure, state, session_id, created)

    return WireFormat(
        number=number,
        headers=native.NATIVE.headers if headers is None else {**native.NATIVE.headers, **headers},
        comment=comment,
        tail=tail,
        end_of=native.end_of,
        messages=lambda _piece, _count: b"[]",
        json_body=lambda _session_id, _run_id, result: result,
        name=name,
        result=result_of,
    )


def comment(text: str) -> bytes:
    """A line that clients skip. It is part of the next event: OpenAI's Python client takes a comment that
    stands alone, after an event with an id, for an event without data."""
    return f": {text}\n".encode()


def dialect(
    setting: str,
    path: str,
    wire: WireFormat,
    find: Find,
    paths: frozenset[Path],
    kinds: frozenset[Path],
    refuse: Refuse,
    *,
    metadata: Path = ("metadata",),
    session_header: str = "x-session-id",
    follows: Callable[[dict[str, Any]], str | None] | None = None,
    answer: Callable[[bytes, bytes], bytes] | None = None,
) -> Dialect:
    """A dialect. `find`: reads a request; of a large one, the members in `paths`, of which only the type
    matters for `kinds`. `metadata`: the member that `server.principal` refers to. The other arguments are
    those of `Dialect`."""
    return Dialect(
        path,
        wire,
        _reader(find),
        _outliner(paths, kinds, metadata),
        setting=setting,
        refuse=refuse,
        session_header=session_header,
        follows=follows,
        answer=answer,
    )


def _outliner(paths: frozenset[Path], kinds: frozenset[Path], metadata: Path) -> ReadOutline:
    def outline(body: bytes, principal: str, *, digests: bool) -> Outline:
        wanted = paths | kinds
        if principal != "token":
            wanted |= {metadata, (*metadata, principal.removeprefix("metadata."))} - {()}
        return Outline(body, wanted, kinds, digests=digests)

    return outline


def _reader(find: Find) -> ReadRequest:
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
        fields = json_object(body) if outline is None else outline.fields
        found = find(fields)
        named = _session(found, header_session)
        kind = _EVENTS if found.stream or found.detached else _WHOLE
        caller = token if principal == "token" else _caller(found.metadata, principal)
        key = None
        if idempotency_key is not None:
            if not idempotency.is_valid(idempotency_key):
                message = f"Idempotency-Key must be 1 to {idempotency.MAX_KEY} printable ASCII characters"
                raise invalid(message)
            content = idempotency.content(fields, body) if outline is None else outline.digest
            fingerprint = idempotency.fingerprint(content, named or "", form_of(kind, wire))
            key = Key(idempotency.scope_of(token, caller), idempotency_key, fingerprint)
        return TurnRequest(
            named or "",
            kind,
            None,
            body,
            caller,
            headers,
            wire,
            key,
            detached=found.detached,
            at_once=found.at_once,
        )

    return read


def _session(found: Found, in_header: str | None) -> str | None:
    """The session that a request names. Raises: Refused."""
    named = None if found.session is None else session_id(found.session)
    if in_header is not None:
        given = session_id(in_header, "the session header")
        if named is not None and named != given:
            raise invalid("the session in the body and the one in the header differ")
        return given
    if named is None and found.hint is not None:
        return session_id(found.hint, "user")
    return named


def _caller(metadata: object, principal: str) -> str:
    value = metadata.get(principal.removeprefix("metadata."), "") if isinstance(metadata, dict) else ""
    if isinstance(value, dict | list):
        raise invalid(f"{principal} must be a string or a number, not {kind_of(value)}")
    return str(value)


def refuse(failure: Failure, body: bytes, result: bytes = b"") -> Refusal:
    """The error response of dialects that define none: the native one."""
    return Refusal(failure.status, _json({"error": error_object(failure)}))


def typed(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """The member `name`, which must be of this type, or null or absent. Raises: Refused."""
    given = fields.get(name)
    if given is None:
        return default
    if type(given) is not kind:
        raise invalid(f"{name} must not be {kind_of(given)}")
    return given


def required(fields: Mapping[str, Any], name: str, *kinds: type) -> None:
    """Refuse a request without the member that holds the message: before it interrupts another turn. The
    worker reads it. Raises: Refused."""
    if not isinstance(fields.get(name), kinds):
        raise invalid(f"{name} is missing" if name not in fields else f"{name} has the wrong type")


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
