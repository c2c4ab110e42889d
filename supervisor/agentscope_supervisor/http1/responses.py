"""The form of what the supervisor itself answers: JSON, errors, the request's id.

Every answer that is no stream of a turn is made here, so that all have one form. Nothing here knows routes
or turns; `web.app` and `aiohttp_connection` call it.
"""

import random
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

import orjson
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from agentscope_protocol.wire.random_ids import new_id
from agentscope_supervisor.domain import sse
from agentscope_supervisor.domain.errors import RETRY_LATER, ErrorCode, Failure
from agentscope_supervisor.runs.log import Run

_OK: Final = 200  # read once: see `agentscope_protocol.wire.values`
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


_CLOSING: Final = (ErrorCode.DRAINING, ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.REQUEST_TIMEOUT)
"""Errors after which the connection is of no more use."""


Headers: TypeAlias = Mapping[str, str]
"""Of a request; names in small letters, or looked up in any."""


def request_id(headers: Headers) -> str:
    """The client's X-Request-Id, if it is one that can stand in a log; else a new one."""
    given = headers.get("x-request-id")
    return given if given is not None and _SANE_ID.fullmatch(given) else new_id()


def json_response(value: object, status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, content_type="application/json", headers=headers
    )


def error_response(
    failure: Failure, headers: Mapping[str, str], more: Mapping[str, object] | None = None
) -> web.Response:
    """A failure before the first byte of an answer. `more`: what stands beside the error in the body."""
    body = {"error": sse.error_object(failure), **(more or {})}
    response = json_response(body, failure.status, {**headers, **_error_fields(failure)})
    if closes(failure):
        response.force_close()
    return response


def closes(failure: Failure) -> bool:
    """Whether the connection ends with this answer."""
    return failure.code in _CLOSING


def _error_fields(failure: Failure) -> dict[str, str]:
    if failure.code is ErrorCode.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": _retry_after()} if failure.code in RETRY_LATER else {}


def head_bytes(status: int, fields: Mapping[str, str], more: str = "") -> bytes:
    """The head of a response that aiohttp does not make. The values must not hold what came from outside
    unchecked: a line break would begin another header. `more`: `header_lines` of other fields."""
    phrase = "OK" if status == _OK else HTTPStatus(status).phrase
    tail = f"{more}Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
    return f"HTTP/1.1 {status} {phrase}\r\n{header_lines(fields)}{tail}".encode("ascii")


def header_lines(fields: Mapping[str, str]) -> str:
    """Fields as they stand in a head."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


def error_bytes(failure: Failure, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole response with an error that aiohttp does not make. Without `headers` it is for who is answered
    before there is a request; then, and where `closes` says so, the connection is to be closed."""
    body = orjson.dumps({"error": sse.error_object(failure)})
    fields = {
        **(headers or {"X-Request-Id": new_id()}),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **_error_fields(failure),
    }
    if headers is None or closes(failure):
        fields["Connection"] = "close"
    return head_bytes(failure.status, fields) + body


def _retry_after() -> str:
    """Seconds; spread, so that those who were refused together do not come back together."""
    return str(random.randint(1, 5))


def gone_response(failure: Failure, run: Run, headers: Mapping[str, str]) -> web.Response:
    """A reader wants what a run does not have; the body tells what it has."""
    kept = None
    if run.first < run.next:
        kept = {"first": f"{run.run_id}-{run.first}", "last": f"{run.run_id}-{run.next - 1}"}
    return error_response(failure, headers, {"kept": kept})
