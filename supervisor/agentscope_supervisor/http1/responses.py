"""The supervisor's own responses: JSON bodies, errors, and request ids.

Every response that is not a stream of events is built here, so that all have the same form. Knows neither
routes nor turns.

Where to read next: `channel` and the route files in `web` call these functions.
"""

import random
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

import orjson
from aiohttp.helpers import rfc822_formatted_time

from agentscope_protocol.wire.random_ids import new_id
from agentscope_supervisor.domain.errors import RETRY_LATER, ErrorCode, Failure, Refusal, error_object
from agentscope_supervisor.domain.run import Run
from agentscope_supervisor.http1 import aiohttp_web as web

_OK: Final = 200  # read once: see `agentscope_protocol.wire.values`
SERVER: Final = "agentscope-supervisor"
"""The header Server, without versions: a stranger could look up their faults."""

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


_CLOSING: Final = (ErrorCode.DRAINING, ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.REQUEST_TIMEOUT)
"""Errors after which the connection is closed."""


Headers: TypeAlias = Mapping[str, str]
"""The headers of a request. Names are in lower case, or the mapping ignores case."""


def request_id(headers: Headers) -> str:
    """The client's X-Request-Id, if it is safe to log; otherwise a new id."""
    given = headers.get("x-request-id")
    return given if given is not None and _SANE_ID.fullmatch(given) else new_id()


def json_response(value: object, status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, content_type="application/json", headers=headers
    )


def error_response(
    failure: Failure, headers: Mapping[str, str], more: Mapping[str, object] | None = None
) -> web.Response:
    """An error response. `more`: further fields of the body."""
    return refusal_response(failure, Refusal(failure.status, error_body(failure, more)), headers)


def refusal_response(failure: Failure, refusal: Refusal, headers: Mapping[str, str]) -> web.Response:
    """An error response in the form of a dialect."""
    response = web.Response(
        body=refusal.body,
        status=refusal.status,
        content_type="application/json",
        headers={**headers, **error_fields(failure), **refusal.headers},
    )
    if closes(failure):
        response.force_close()
    return response


def closes(failure: Failure) -> bool:
    """Whether the connection is closed after this error."""
    return failure.code in _CLOSING


def error_body(failure: Failure, more: Mapping[str, object] | None = None) -> bytes:
    """The body of an error. `more`: fields beside the error."""
    return orjson.dumps({"error": error_object(failure), **(more or {})})


def error_fields(failure: Failure) -> dict[str, str]:
    """The headers that a response with this error must have."""
    if failure.code is ErrorCode.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": _retry_after()} if failure.code in RETRY_LATER else {}


def head_bytes(status: int, fields: Mapping[str, str], more: str = "", is_http_1_0: bool = False) -> bytes:
    """The head of a response that is written without aiohttp. Values must not contain unchecked input from
    outside, because a line break would begin another header. `more`: `header_lines` of further fields."""
    phrase = "OK" if status == _OK else HTTPStatus(status).phrase
    version = "1.0" if is_http_1_0 else "1.1"
    tail = f"{more}Date: {rfc822_formatted_time()}\r\nServer: {SERVER}\r\n\r\n"
    return f"HTTP/{version} {status} {phrase}\r\n{header_lines(fields)}{tail}".encode("ascii")


def header_lines(fields: Mapping[str, str]) -> str:
    """The lines of a head with these fields."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


def error_bytes(failure: Failure, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole error response, written without aiohttp. Without `headers`: for a client whose request has not
    arrived. The caller must then close the connection, and also if `closes` returns true."""
    body = error_body(failure)
    fields = {
        **(headers or {"X-Request-Id": new_id()}),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **error_fields(failure),
    }
    if headers is None or closes(failure):
        fields["Connection"] = "close"
    return head_bytes(failure.status, fields) + body


def _retry_after() -> str:
    """A random number of seconds, so that clients that were refused together do not retry together."""
    return str(random.randint(1, 5))


def kept_events(run: Run) -> dict[str, object]:
    """The fields beside the error in the body of a 410: the ids of the first and last event kept."""
    if run.first == run.next:
        return {"kept": None}
    return {"kept": {"first": f"{run.run_id}-{run.first}", "last": f"{run.run_id}-{run.next - 1}"}}


def gone_response(failure: Failure, run: Run, headers: Mapping[str, str]) -> web.Response:
    """The response to a reader that wants events which are no longer kept."""
    return error_response(failure, headers, kept_events(run))
