"""The requests of the client, and how their responses are read. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from agentscope_supervisor.client.errors import ApiError, error_of

OnBusy = Literal["queue", "reject", "interrupt", "latest"]

NO_CODE: Final = "HTTP_"
"""The code of an error response that is not of an instance begins so; its status follows."""

UNAVAILABLE: Final = frozenset({429, 502, 503, 504})
"""Statuses of a proxy whose instance may serve the same request a little later."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `may_repeat`: sending it twice does no more than sending it once."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    may_repeat: bool = True


def invocation(
    message: str | Mapping[str, Any],
    session_id: str | None,
    metadata: Mapping[str, Any] | None,
    on_busy: OnBusy | None,
    key: str | None,
    *,
    stream: bool,
) -> Call:
    """A turn. `key`: its Idempotency-Key; None: it has none, and is never sent twice."""
    fields: dict[str, Any] = {"message": message, "stream": stream}
    if metadata is not None:
        fields["metadata"] = metadata
    if on_busy is not None:
        fields["on_busy"] = on_busy
    if session_id is not None:
        fields["session_id"] = session_id
    headers = {**({"Idempotency-Key": key} if key is not None else {}), **_pinned(session_id)}
    return _post("/invoke", fields, headers, may_repeat=key is not None)


def events(run_id: str, after: int, session_id: str | None) -> Call:
    """The events of a run after the one with this number; -1: all of them. `session_id`: of the run, if it is
    known."""
    query = f"?after={after}" if after >= 0 else ""
    return Call("GET", f"/runs/{_quoted(run_id)}/events{query}", _pinned(session_id))


def stop(session_id: str | None, run_id: str | None) -> Call:
    """The end of the turns of a session, or of one run. Raises: ValueError: it must be one of them."""
    if (session_id is None) == (run_id is None):
        raise ValueError("give either session_id or run_id")
    named = {"session_id": session_id} if run_id is None else {"run_id": run_id}
    return _post("/stop", named, _pinned(session_id), may_repeat=True)


def run(run_id: str) -> Call:
    """The state of a run."""
    return Call("GET", f"/runs/{_quoted(run_id)}")


def runs(session_id: str, state: str | None, limit: int | None, after: str | None) -> Call:
    """The runs of a session."""
    query = _query(session_id=session_id, state=state, limit=limit, after=after)
    return Call("GET", f"/runs{query}", _pinned(session_id))


def messages(session_id: str, limit: int | None, after: str | None) -> Call:
    """The messages of a session."""
    query = _query(limit=limit, after=after)
    return Call("GET", f"/sessions/{_quoted(session_id)}/messages{query}", _pinned(session_id))


def session(session_id: str) -> Call:
    """The state of a session."""
    return Call("GET", f"/sessions/{_quoted(session_id)}", _pinned(session_id))


def delete_session(session_id: str, user_id: str | None) -> Call:
    """The deletion of a session. Its repetition fails: there is nothing left."""
    path = f"/sessions/{_quoted(session_id)}" + _query(user_id=user_id)
    return Call("DELETE", path, _pinned(session_id), may_repeat=False)


HEALTH: Final = Call("GET", "/health")


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error in a response. `headers`: by name in lower case."""
    fields = read_object(body).get("error")
    if not isinstance(fields, Mapping):  # a proxy's, or another server's
        fields = {"code": f"{NO_CODE}{status}", "message": body[:200].decode("utf-8", "replace").strip()}
    after = headers.get("retry-after", "")
    return error_of(
        fields,
        status=status,
        retry_after=float(after) if after.isascii() and after.isdigit() else None,
        run_id=headers.get("x-run-id"),
        request_id=headers.get("x-request-id"),
    )


def read_object(body: bytes | str) -> dict[str, Any]:
    """The JSON object in a body or an event; empty: there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _post(path: str, fields: Mapping[str, Any], headers: Mapping[str, str], *, may_repeat: bool) -> Call:
    body = json.dumps(fields).encode()
    return Call("POST", path, {"Content-Type": "application/json", **headers}, body, may_repeat)


def _pinned(session_id: str | None) -> dict[str, str]:
    """The header by which balancers pin a session to an instance."""
    if session_id is None or session_id != session_id.strip():
        return {}
    return {"X-Session-Id": session_id} if session_id.isascii() and session_id.isprintable() else {}


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _query(**fields: object) -> str:
    given = {name: value for name, value in fields.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
