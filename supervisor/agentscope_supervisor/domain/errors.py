"""Failures of turns and requests: the error codes of the HTTP API and their statuses. Pure.

`turns.ledger` and the routes create Failures; `http1.responses` and the wire formats send them to the client.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agentscope_protocol.wire.errors import Code


class ErrorCode(StrEnum):
    """The `code` of an error, as clients see it."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    SESSION_BUSY = "SESSION_BUSY"
    SUPERSEDED = "SUPERSEDED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    GONE = "GONE"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    APP_ERROR = "APP_ERROR"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    WORKER_LOST = "WORKER_LOST"
    NOT_READY = "NOT_READY"
    OVERLOADED = "OVERLOADED"
    DRAINING = "DRAINING"
    TIMEOUT = "TIMEOUT"
    INTERRUPTED = "INTERRUPTED"
    POISONED = "POISONED"


STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.REQUEST_TIMEOUT: 408,
    ErrorCode.SESSION_BUSY: 409,
    ErrorCode.SUPERSEDED: 409,
    # Only a stop that came before the first byte: the turn conflicts with an earlier command for its session.
    ErrorCode.INTERRUPTED: 409,
    ErrorCode.GONE: 410,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.IDEMPOTENCY_MISMATCH: 422,
    # Not 503: a balancer that retries 503 would send the message to another instance, to kill a worker there.
    ErrorCode.POISONED: 422,
    ErrorCode.TOO_MANY_REQUESTS: 429,
    ErrorCode.APP_ERROR: 500,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.WORKER_LOST: 502,
    ErrorCode.NOT_READY: 503,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.TIMEOUT: 504,
}

MEANING: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.INVALID_REQUEST: (
        "The body, a type or the session id is invalid. Also sent for ambiguous headers, which close the "
        "connection."
    ),
    ErrorCode.UNAUTHORIZED: "The bearer token is missing or wrong. Sent with `WWW-Authenticate`.",
    ErrorCode.FORBIDDEN: (
        "The request comes from a web page whose origin is not in `server.cors_origins`, or without a token "
        "its `Host` is neither local nor in `server.hosts`. Also sent for `GET /sessions`, and for "
        "`GET /runs` without `session_id`, unless the console sends it. Also sent for routes of a hosted app "
        "that would end its worker."
    ),
    ErrorCode.NOT_FOUND: "The route, run or session does not exist.",
    ErrorCode.METHOD_NOT_ALLOWED: "The route does not accept this method. Sent with `Allow`.",
    ErrorCode.REQUEST_TIMEOUT: (
        "The headers did not arrive within `server.header_timeout`, or the body not within "
        "`server.body_timeout` or slower than 1 KB/s."
    ),
    ErrorCode.SESSION_BUSY: (
        "The session has a turn, and `on_busy` is `reject`. Also sent when a session with a turn is deleted."
    ),
    ErrorCode.SUPERSEDED: "A newer turn of the session replaced this waiting turn (`on_busy: latest`).",
    ErrorCode.INTERRUPTED: "`POST /stop` or `on_busy: interrupt` ended the turn.",
    ErrorCode.GONE: (
        "The run, or the requested event of it, is no longer kept. The body names the events that are `kept`."
    ),
    ErrorCode.PAYLOAD_TOO_LARGE: (
        "The body is larger than `server.max_body_mb`; for a hosted app, than `server.max_upload_mb`."
    ),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (
        "The request has a body and not `Content-Type: application/json`, or the body is not in UTF-8 or "
        "compressed."
    ),
    ErrorCode.IDEMPOTENCY_MISMATCH: "An earlier request had the same `Idempotency-Key` and another body.",
    ErrorCode.TOO_MANY_REQUESTS: (
        "The session's queue is full (`sessions.max_queue`), or the principal has too many turns "
        "(`server.max_turns_per_principal`)."
    ),
    ErrorCode.APP_ERROR: (
        "The App raised an exception. The message is the exception's text, in a status after the name of its "
        "type; the traceback is only in the log."
    ),
    ErrorCode.INTERNAL_ERROR: "The supervisor or the worker failed.",
    ErrorCode.WORKER_LOST: (
        "The worker died during the turn, or before the response of a hosted app began. `retryable` is true "
        "only if the turn had not begun."
    ),
    ErrorCode.NOT_READY: (
        "No worker is ready, or none became ready for the session within `supervisor.start_timeout`."
    ),
    ErrorCode.OVERLOADED: (
        "A limit of the instance is reached: connections, turns or bytes of request bodies."
    ),
    ErrorCode.DRAINING: "The instance is stopping or in maintenance.",
    ErrorCode.POISONED: (
        "This message or session repeatedly killed its worker. It is refused for 10 minutes. No balancer "
        "retries this status on another instance."
    ),
    ErrorCode.TIMEOUT: (
        "The turn took longer than `server.request_timeout`, or a hosted app did not begin its response in "
        "that time."
    ),
}
"""The cause of each code, in Markdown, for the reference of the HTTP API."""

RETRY_LATER: Final = frozenset(
    {ErrorCode.TOO_MANY_REQUESTS, ErrorCode.NOT_READY, ErrorCode.OVERLOADED, ErrorCode.DRAINING}
)
"""Codes of temporary refusals, before the App sees the turn. Their responses have the header Retry-After."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that is sent to the client. `retryable`: the App has not seen the turn, and the client may
    send the same request again."""

    code: ErrorCode
    message: str
    retryable: bool = False

    @property
    def status(self) -> int:
        """The HTTP status, if no byte of the response has been sent yet."""
        return STATUS[self.code]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failure as the error response of a dialect. `headers`: beside those of every error."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request is refused; `failure` is sent to the client."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def invalid(message: str) -> Refused:
    """The content of a request is wrong: 400."""
    return Refused(Failure(ErrorCode.INVALID_REQUEST, message))


def error_object(failure: Failure) -> dict[str, str | bool]:
    """The value of `error`: in the JSON body of a response, and in an event of the native dialect."""
    return {"code": failure.code, "message": failure.message, "retryable": failure.retryable}


def refusal(code: ErrorCode, message: str) -> Failure:
    """A failure before the App saw the turn; retryable if the cause is temporary."""
    return Failure(code, message, retryable=code in RETRY_LATER or code is ErrorCode.SESSION_BUSY)


_OF_WORKER: Final[Mapping[Code, ErrorCode]] = {
    Code.APP_ERROR: ErrorCode.APP_ERROR,
    # The ledger has its own failure for each turn that it cancels: nobody asked for the end of this one.
    Code.CANCELLED: ErrorCode.WORKER_LOST,
    Code.OVERLOADED: ErrorCode.OVERLOADED,
    Code.DRAINING: ErrorCode.DRAINING,
    Code.LINK_LOST: ErrorCode.WORKER_LOST,
    Code.PROTOCOL: ErrorCode.INTERNAL_ERROR,
    Code.BAD_MESSAGE: ErrorCode.INVALID_REQUEST,
    Code.UNSENT: ErrorCode.WORKER_LOST,
}


def of_worker(code: Code, message: str) -> Failure:
    """The failure to report when a worker, or the loss of its link, ended a turn."""
    reported = _OF_WORKER[code]
    if reported is ErrorCode.WORKER_LOST:
        message = "the worker died under the turn"
    return Failure(reported, message, retryable=not code.begun and reported is not ErrorCode.INVALID_REQUEST)


def failed_again(failure: Failure) -> Failure:
    """The failure to report for a turn that was lost in a crash, waited to run again, and did not complete.
    It is never retryable: the App has seen the turn."""
    if failure.retryable or failure.code is ErrorCode.WORKER_LOST:
        message = f"the worker died under the turn, and the retry failed too: {failure.message}"
        return Failure(ErrorCode.WORKER_LOST, message)
    return failure
