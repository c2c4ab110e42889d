"""The exceptions of the client: one class for each error code of the HTTP API. Pure."""

from collections.abc import Mapping
from typing import Any, Final


class ClientError(Exception):
    """Any failure of a request to an instance."""


class ConnectionLost(ClientError):
    """The instance cannot be reached, or the connection was cut too often. `run_id`: of the turn, if its
    response has begun: the run can be followed with `resume`. None: whether the App ran is not known."""

    def __init__(self, message: str, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id: Final = run_id


class ApiError(ClientError):
    """The instance answered with an error, or a run ended with one.

    `retryable`: the App has not seen the turn, and the same request may be sent again. `status`: of the
    response; None: the error came as an event of a stream. `retry_after`: seconds to wait; None: not sent.
    `run_id`, `request_id`: of the request; None: not known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
        run_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code: Final = code
        self.message: Final = message
        self.retryable: Final = retryable
        self.status: Final = status
        self.retry_after: Final = retry_after
        self.run_id: Final = run_id
        self.request_id: Final = request_id


class InvalidRequest(ApiError):
    """The body, a type or the session id is invalid."""


class Unauthorized(ApiError):
    """The token is missing or wrong."""


class Forbidden(ApiError):
    """The caller may not do this."""


class NotFound(ApiError):
    """The route, run or session does not exist."""


class MethodNotAllowed(ApiError):
    """The route does not accept this method."""


class SessionBusy(ApiError):
    """The session has a turn."""


class Superseded(ApiError):
    """A newer turn of the session replaced this one."""


class RequestTimeout(ApiError):
    """The request did not arrive in time."""


class Gone(ApiError):
    """The run, or the wanted event of it, is no longer kept."""


class IdempotencyMismatch(ApiError):
    """An earlier request had the same key and another body."""


class PayloadTooLarge(ApiError):
    """The body is larger than `server.max_body_mb`."""


class UnsupportedMediaType(ApiError):
    """The body is not JSON in UTF-8."""


class TooManyRequests(ApiError):
    """A queue is full."""


class AppError(ApiError):
    """The App raised an exception."""


class InternalError(ApiError):
    """The supervisor or the worker failed."""


class WorkerLost(ApiError):
    """The worker died during the turn."""


class NotReady(ApiError):
    """No worker is ready."""


class Overloaded(ApiError):
    """A limit of the instance is reached."""


class Draining(ApiError):
    """The instance is stopping or in maintenance."""


class TurnTimeout(ApiError):
    """The turn took longer than `server.request_timeout`."""


class Interrupted(ApiError):
    """The turn was stopped."""


class Poisoned(ApiError):
    """This message or session repeatedly killed its worker."""


CLASSES: Final[Mapping[str, type[ApiError]]] = {
    "INVALID_REQUEST": InvalidRequest,
    "UNAUTHORIZED": Unauthorized,
    "FORBIDDEN": Forbidden,
    "NOT_FOUND": NotFound,
    "METHOD_NOT_ALLOWED": MethodNotAllowed,
    "SESSION_BUSY": SessionBusy,
    "SUPERSEDED": Superseded,
    "REQUEST_TIMEOUT": RequestTimeout,
    "GONE": Gone,
    "IDEMPOTENCY_MISMATCH": IdempotencyMismatch,
    "PAYLOAD_TOO_LARGE": PayloadTooLarge,
    "UNSUPPORTED_MEDIA_TYPE": UnsupportedMediaType,
    "TOO_MANY_REQUESTS": TooManyRequests,
    "APP_ERROR": AppError,
    "INTERNAL_ERROR": InternalError,
    "WORKER_LOST": WorkerLost,
    "NOT_READY": NotReady,
    "OVERLOADED": Overloaded,
    "DRAINING": Draining,
    "TIMEOUT": TurnTimeout,
    "INTERRUPTED": Interrupted,
    "POISONED": Poisoned,
}
"""By code. A code of a newer instance is an `ApiError`."""


def error_of(fields: Mapping[str, Any], **about: Any) -> ApiError:
    """The exception for the value of `error` in a body or an event. `about`: its other attributes."""
    code = str(fields.get("code", "UNKNOWN"))
    retryable = fields.get("retryable") is True
    return CLASSES.get(code, ApiError)(code, str(fields.get("message", "")), retryable=retryable, **about)
