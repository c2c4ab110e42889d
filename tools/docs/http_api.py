"""docs/reference/http-api.md: routes, shapes, headers and error codes. Pure."""

from collections.abc import Iterator
from typing import Any, Final

from agentscope_supervisor.domain.errors import MEANING, RETRY_LATER, STATUS, ErrorCode
from agentscope_supervisor.web.access.tokens import EVERYTHING
from agentscope_supervisor.web.routes import Route
from tools.docs.http_operations import OPERATIONS, SCHEMAS
from tools.docs.http_shapes import JSON, Operation, Parameter, Schema
from tools.docs.markdown import code, page, table
from tools.docs.openapi import errors_of
from tools.docs.served_routes import served

INTRODUCTION: Final = """
JSON in UTF-8 over HTTP/1.1. The same API as an OpenAPI 3.1 document: [openapi.json](openapi.json). A running
instance returns it as `/openapi.json`, and `agentscope run` has the page `/docs`, which sends requests.

If `server.auth_token` or `auth.tokens` is set, every route except the health routes and `/metrics` requires
the header `Authorization: Bearer <token>`. Every `GET` route also answers `HEAD`.

A `POST` with a body must have `Content-Type: application/json`. Requests of web pages of other origins are
refused unless `server.cors_origins` has the origin; its pages may read responses, and their preflights are
answered. Without a token, the instance is served as `localhost`, at loopback addresses and under
the names in `server.hosts` only.

A token of `auth.tokens` has [scopes](../guides/security.md#several-tokens). Each route names those of which a
caller needs one. `server.auth_token` has `use`, `read` and `metrics`.
"""

HEADERS: Final = (
    (
        "X-Request-Id",
        "every response",
        "The `X-Request-Id` of the request if it has 1 to 128 letters, digits and `._:/+=@-`, else a new id.",
    ),
    ("X-Run-Id", "turns and runs", "The id of the run: 32 hexadecimal digits."),
    ("X-Session-Id", "turns", "The id of the new session, if the request names none."),
    (
        "X-Agentscope-Worker",
        "turns, hosted app",
        "`<slot>.<generation>` of the worker, if one has the turn by then.",
    ),
    (
        "Idempotent-Replayed",
        "turns",
        "`true` if the response repeats an earlier run of the `Idempotency-Key`.",
    ),
    ("Retry-After", "errors", "1 to 5 seconds, random, so that refused clients do not return together."),
    ("WWW-Authenticate", "401", "`Bearer`."),
    ("Allow", "405", "The methods of the route."),
)

HOSTED: Final = """
If the project has an ASGI app or an AgentApp of agentscope-runtime instead of a class `App`, all paths are
the app's, except these: the health routes, `/metrics`, `/console` and `/runs/…`. With `server.prefix`, every
route of this page is below that prefix instead, and all other paths are the app's.
[Exchanges](../concepts/exchange.md) describes how requests reach the app.

- A token is required on the app's routes too, unless `server.auth_hosted` is `false`. The app
  does not see a header `Authorization` that has this token. Preflights need none. The app decides which pages
  of other origins it serves; `server.cors_origins` is for this server's own routes.
- Responses have `X-Request-Id`, `X-Agentscope-Worker`, `Date` and `Server`, unless the app sets them.
- `/shutdown` and `/admin/…` of an AgentApp of agentscope-runtime are 403 `FORBIDDEN`.
- Errors of the supervisor are the JSON below. Once a response has begun, a failure ends its connection: a
  chunked response then has no last chunk.

| error | when |
| --- | --- |
| 413 `PAYLOAD_TOO_LARGE` | The body is over `server.max_upload_mb`. |
| 408 `REQUEST_TIMEOUT` | The body is slower than 1 KB/s. |
| 500 `APP_ERROR` | The app raised before its response began, or its headers cannot be sent. |
| 502 `WORKER_LOST` | The worker died before the response began. |
| 503 `NOT_READY` | No worker became ready within `supervisor.start_timeout`. |
| 503 `OVERLOADED` | `server.max_turns` or `supervisor.max_inflight` requests are open. |
| 503 `DRAINING` | The instance is stopping or in maintenance. |
| 504 `TIMEOUT` | The response did not begin within `server.request_timeout` of the last byte that was read. |
"""

ERRORS: Final = """
A failure before the first byte of the response is an HTTP status with the body
`{"error": {"code": …, "message": …, "retryable": …}}`. After the first byte of a stream the status is
already 200: the failure is the event before the last one, with the same JSON. `retryable: true` means that
the App has not seen the turn, and that the client can send the same request again.
"""


def error_table() -> str:
    """All error codes, by status."""
    rows = [
        [str(STATUS[each]), code(each.value), "yes" if each in RETRY_LATER else "", MEANING[each]]
        for each in sorted(ErrorCode, key=lambda each: (STATUS[each], list(ErrorCode).index(each)))
    ]
    return table(("status", "code", "`Retry-After`", "cause"), rows)


def _title(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def _anchor(operation: Operation) -> str:
    kept = (sign if sign.isalnum() or sign in "_- " else "" for sign in _title(operation).lower())
    return "".join(kept).strip().replace(" ", "-")


def _overview() -> str:
    routes = served()
    rows = [
        [
            f"[`{_title(each)}`](#{_anchor(each)})",
            each.summary + (f"; also {', '.join(map(code, each.also))}" if each.also else ""),
            _scopes(routes[each.path], each.method),
        ]
        for each in OPERATIONS
    ]
    return table(("route", "purpose", "token with"), rows)


def _scopes(route: Route, method: str) -> str:
    """The scopes of which a caller needs one."""
    needed = route.access.needs(method)
    if route.is_open:
        return ""
    return "any scope" if needed == EVERYTHING else ", ".join(map(code, sorted(needed)))


def _operation(operation: Operation) -> Iterator[str]:
    yield f"### {_title(operation)}"
    yield operation.text
    if operation.parameters:
        yield table(("parameter", "in", "type", "meaning"), map(_parameter, operation.parameters))
    if operation.body:
        yield f"Request: {_link(operation.body)}."
    rows = []
    for answer in operation.answers:
        body = _link(answer.schema) if answer.schema else "text" if answer.status != 204 else "none"
        kind = code(answer.kind) if answer.status != 204 else ""
        rows.append([str(answer.status), kind, body, answer.text])
    yield table(("status", "content type", "body", "meaning"), rows)
    if errors := errors_of(operation):
        yield "Errors: " + ", ".join(f"{STATUS[each]} `{each.value}`" for each in errors) + "."


def _parameter(parameter: Parameter) -> list[str]:
    return [code(parameter.name), parameter.place, _type(parameter.schema), parameter.text]


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _type(schema: Schema) -> str:
    match schema:
        case {"$ref": str(reference)}:
            return _link(reference.rpartition("/")[2])
        case {"anyOf": list(choices)}:
            return " or ".join(_type(each) for each in choices)
        case {"enum": list(values)}:
            return ", ".join(code(each) for each in values)
        case {"const": value}:
            return code(str(value))
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": list(names)}:
            return " or ".join(code("null") if name == "null" else name for name in names)
        case {"type": "null"}:
            return "`null`"
        case {"type": str(name)}:
            return f"{name}{_bounds(schema)}"
    raise ValueError(f"no words for {schema}")


def _bounds(schema: Schema) -> str:
    for least, most, unit in (("minLength", "maxLength", " characters"), ("minimum", "maximum", "")):
        if least in schema and most in schema:
            return f", {schema[least]} to {schema[most]}{unit}"
    return ""


def _shape(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name}"
    yield schema["description"]
    for each in schema.get("oneOf", [schema]):
        if "properties" in each:
            yield table(("key", "type", "required", "meaning"), list(_keys(each, "")))


def _keys(schema: Schema, prefix: str) -> Iterator[list[str]]:
    for name, key in schema["properties"].items():
        required = "yes" if name in schema.get("required", ()) else ""
        meaning = str(key.get("description", ""))
        if "default" in key:
            meaning = f"{meaning} Default: {code(str(key['default']))}.".strip()
        yield [code(prefix + name), _type(key), required, meaning]
        inner: Any = key
        if key.get("type") == "array":
            inner, name = key["items"], f"{name}[]"
        if "properties" in inner:
            yield from _keys(inner, f"{prefix}{name}.")


def text() -> str:
    """The page."""
    parts = [INTRODUCTION, "## Routes", _overview()]
    for operation in OPERATIONS:
        parts += _operation(operation)
    parts += [
        "## Response headers",
        table(("header", "sent with", "value"), [[code(a), b, c] for a, b, c in HEADERS]),
    ]
    parts += ["## Routes of a hosted app", HOSTED]
    parts += ["## Error codes", ERRORS, error_table()]
    parts += ["## Shapes", f"The JSON of requests and responses; content type `{JSON}`."]
    for name, schema in SCHEMAS.items():
        parts += _shape(name, schema)
    return page("HTTP API", *parts)
