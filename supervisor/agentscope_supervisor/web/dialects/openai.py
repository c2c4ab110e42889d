"""The shape of errors in OpenAI's API, for its two dialects. Pure.

Source: https://platform.openai.com/docs/guides/error-codes
"""

import json
from collections.abc import Mapping
from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refusal

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_SERVER_ERRORS: Final = 500  # statuses from here on are the server's


def error_type(status: int) -> str:
    """The `type` of an error with this status."""
    return _TYPES.get(status, "server_error" if status >= _SERVER_ERRORS else "invalid_request_error")


def refuse(failure: Failure, body: bytes, result: bytes = b"") -> Refusal:
    """The error response. OpenAI's clients retry some statuses on their own, unless the response says
    otherwise; a turn that the App may have seen must not be retried, nor one of a busy session."""
    error = {
        "message": failure.message,
        "type": error_type(failure.status),
        "param": None,
        "code": failure.code,
    }
    may_retry = failure.retryable and failure.code is not ErrorCode.SESSION_BUSY
    headers = {} if may_retry else {"x-should-retry": "false"}
    return Refusal(failure.status, json.dumps({"error": error}).encode(), headers)
