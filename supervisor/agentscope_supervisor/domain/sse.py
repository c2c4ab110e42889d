"""The few bytes of an event stream that the supervisor makes itself: errors, the end, comments. Pure.

The events of the App are made in the worker, once, and only copied here. All lines end in LF.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import json

from agentscope_supervisor.domain.errors import Failure

_DONE = b'{"name":"assistant","content":"","role":"assistant","metadata":{"done":true}}'


def event(run_id: str, number: int, data: bytes) -> bytes:
    """One event; `data` is JSON without line breaks."""
    return b"id: %s-%d\ndata: %s\n\n" % (run_id.encode(), number, data)


def error(run_id: str, number: int, failure: Failure) -> bytes:
    """The event that tells a failure after the first byte; the end follows it."""
    return event(run_id, number, json.dumps({"error": error_object(failure)}).encode())


def error_object(failure: Failure) -> dict[str, str | bool]:
    """What stands under `error`, in a stream and in the body of a status alike."""
    return {"code": failure.code, "message": failure.message, "retryable": failure.retryable}


def done(run_id: str, number: int) -> bytes:
    """The last event of every stream."""
    return event(run_id, number, _DONE)


def comment(text: str) -> bytes:
    """A line that clients skip: it keeps the connection alive and tells a person what goes on."""
    return f": {text}\n\n".encode()
