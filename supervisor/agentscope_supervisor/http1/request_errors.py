"""Responses to requests that cannot be parsed or that fail, and what is logged about them.

Where to read next: `aiohttp_connection` and `fast_connection` send these responses.
"""

import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

from agentscope_supervisor.domain.errors import ErrorCode, Failure
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.responses import error_response

log = logging.getLogger(__name__)

LOG_EVERY: Final = 10.0
"""Seconds between two log lines about errors of one type: a client can cause as many as it likes."""

FAILED: Final = Failure(ErrorCode.INTERNAL_ERROR, "the request failed in the supervisor")


class BrokenRule(Exception):
    """The parser accepts a head that `strictness` refuses. The text is for the client."""


class ErrorLog:
    """Logs errors of requests: one of each type in LOG_EVERY, and how many were omitted before it."""

    def __init__(self) -> None:
        self._logged_at: Final[dict[type[BaseException], float]] = {}
        self._omitted: Final[dict[type[BaseException], int]] = {}

    def failed(self, error: BaseException | None) -> None:
        """A request failed: a bug in the supervisor, unless the client broke off its body."""
        kind = type(error) if error is not None else BaseException
        now = time.monotonic()
        if now - self._logged_at.get(kind, -LOG_EVERY) < LOG_EVERY:
            self._omitted[kind] = self._omitted.get(kind, 0) + 1
            return
        self._logged_at[kind] = now
        omitted = self._omitted.pop(kind, 0)
        if isinstance(error, _OF_CLIENT):
            log.info("a request body broke off", extra={"reason": str(error)[:200], "omitted": omitted})
        else:
            log.error("request failed", exc_info=error, extra={"omitted": omitted})


_OF_CLIENT: Final = (web.RequestPayloadError, HttpProcessingError)
ERRORS: Final = ErrorLog()


def answer_to_error(
    request: web.BaseRequest, status: int, error: BaseException | None, headers: Mapping[str, str]
) -> web.StreamResponse:
    """The JSON response to an error before or in a handler; the connection closes after it.

    Raises: ConnectionError if the response has begun.
    """
    if request.writer.output_size > 0:
        raise ConnectionError("the response has begun; no error can be sent")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        text = str(error) if isinstance(error, BrokenRule) else "this is not a valid HTTP/1.1 request"
        failure = Failure(ErrorCode.INVALID_REQUEST, text)
    else:
        ERRORS.failed(error)
        failure = FAILED
    response = error_response(failure, headers)
    response.force_close()
    return response


def late(timeout: float) -> Failure:
    """The 408 sent when request headers do not arrive in time. `timeout`: seconds."""
    return Failure(ErrorCode.REQUEST_TIMEOUT, f"the request headers did not arrive within {timeout:g} s")
