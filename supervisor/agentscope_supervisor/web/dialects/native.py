"""The native dialect: `POST /invoke`, answered with server-sent events of AgentScope messages. Pure.

The worker makes the events of the App. Here are those that the supervisor adds: errors, the end, comments.
All lines end in LF. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import json
from typing import Final

import orjson

from agentscope_protocol.wire.frames import MAX_FEW_WORDS, Will
from agentscope_supervisor.domain.errors import Failure, error_object
from agentscope_supervisor.domain.wire_format import WireFormat

PATH: Final = "/invoke"

_DONE: Final = b'{"name":"assistant","content":"","role":"assistant","metadata":{"done":true}}'
_END_OF_DONE: Final = b"}}"
_END_OF_EVENT: Final = b"\n\n"


def event(run_id: str, number: int, data: bytes) -> bytes:
    """One event. `data`: JSON without line breaks."""
    return b"id: %s-%d\ndata: %s\n\n" % (run_id.encode(), number, data)


def error(run_id: str, number: int, failure: Failure) -> bytes:
    """The event that reports a failure after the first byte; the done event follows it."""
    return event(run_id, number, json.dumps({"error": error_object(failure)}).encode())


def done(run_id: str, number: int, metadata: bytes = b"") -> bytes:
    """The last event of every stream. `metadata`: a JSON object that a worker adds to that of the event.
    Nothing is added if it is empty or invalid."""
    added = _object(metadata) if metadata else None
    if not added:
        return event(run_id, number, _DONE)
    members = orjson.dumps(added).removeprefix(b"{")
    return event(run_id, number, b"%b,%b}" % (_DONE.removesuffix(_END_OF_DONE), members))


def comment(text: str) -> bytes:
    """A line that clients skip: it keeps the connection alive, and informs a person who reads the stream."""
    return f": {text}\n\n".encode()


def tail(
    run_id: str, number: int, failure: Failure | None, metadata: bytes = b"", will: Will | None = None
) -> tuple[bytes, int]:
    """The events that end a stream, from `number` on, and how many they are. `metadata`: see `done`. `will`:
    no worker sends one in this dialect."""
    if failure is None:
        return done(run_id, number, metadata), 1
    return error(run_id, number, failure) + done(run_id, number + 1, metadata), 2


def end_of(piece: bytes, count: int) -> int:
    """The position in `piece` after its first `count` events."""
    at = 0
    for _ in range(count):
        found = piece.find(_END_OF_EVENT, at)
        if found < 0:  # the worker announced more events than it sent
            return len(piece)
        at = found + len(_END_OF_EVENT)
    return at


def messages(piece: bytes, count: int) -> bytes:
    """The JSON array of the messages in the first `count` events of `piece`."""
    lines = piece.split(b"\n")[1::3]  # an event has three lines: its id, its data, an empty one
    return b"[%b]" % b",".join(line.removeprefix(b"data: ") for line in lines[:count])


def json_body(session_id: str, run_id: str, messages: bytes) -> bytes:
    """The body of a response with `"stream": false`. `messages`: a JSON array."""
    head = orjson.dumps({"session_id": session_id, "run_id": run_id})
    return b'%b,"messages":%b}' % (head[:-1], messages)


def _object(text: bytes) -> dict[str, object] | None:
    """The JSON object in `text`, without `done`; None for anything else. A worker may send anything."""
    if len(text) > MAX_FEW_WORDS:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return {key: each for key, each in value.items() if key != "done"} if isinstance(value, dict) else None


NATIVE: Final = WireFormat(
    number=0,
    headers={
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
    },
    comment=comment,
    tail=tail,
    end_of=end_of,
    messages=messages,
    json_body=json_body,
)
