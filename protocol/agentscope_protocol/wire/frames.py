"""The words of the link between supervisor and worker, and their limits. Pure.

Every frame is one msgpack array of four, `[tag, stream, number, payload]`, in a fixed-width form that
`codec` reads and writes with one struct call. `number` and `payload` mean what the frame's fields say.
Payloads of Open, Hello and Notice are msgpack arrays to which fields may be appended; a peer
skips what it does not know. The payloads of Data and End, and the body of Open, are opaque here: the
supervisor passes them on and never decodes them.

Who may send what, and after what, is in `stream` and `connection`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.values import value

PROTOCOL_VERSION: Final = 1
"""Major version. Fields and tags are added within one; a peer of another is refused at Hello."""

INITIAL_CREDIT: Final = 256 * 1024
"""Bytes a worker may send on a stream before the first grant. Some thousand tokens: enough that a
client which reads never stalls for a round trip, small enough for thousands of slow readers."""

REQUEST_ID: Final = "x-request-id"
"""Among the headers of Open: how the client, or a proxy before us, calls the request. For logs."""

MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of a request body: the largest `server.max_body_mb`; a few inline images fit."""

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of one message of an answer, or of a whole answer asked for with `stream: false`."""

MAX_WORDS: Final = 1024 * 1024
"""Bytes of the payload of a frame not named in MAX_PAYLOAD; the largest is the settings snapshot in Hello."""

MAX_FEW_WORDS: Final = 64 * 1024
"""Bytes of what a worker says in plain words: it is decoded here, and 64 KiB of hostile msgpack takes less
than 10 ms of the supervisor's loop."""

MAX_STREAM: Final = 2**64 - 1
MAX_NUMBER: Final = 2**32 - 1


class Tag(IntEnum):
    """The first item of a frame. Append, never renumber; 0 to 127 (a msgpack fixint)."""

    HELLO = 1
    OPEN = 2
    DATA = 3
    END = 4
    FAIL = 5
    CANCEL = 6
    CREDIT = 7
    # 8 and 9 were Ping and Pong; their numbers stay unused.
    NOTICE = 10


MAX_PAYLOAD: Final[Mapping[int, int]] = {
    Tag.OPEN: MAX_BODY + MAX_WORDS,
    # Events are gathered while credit lasts, and the last of them may overdraw it.
    Tag.DATA: INITIAL_CREDIT + MAX_ANSWER,
    Tag.END: MAX_ANSWER,
    Tag.FAIL: MAX_FEW_WORDS,
    Tag.NOTICE: MAX_FEW_WORDS,
}
"""Bytes a payload may have, by tag; MAX_WORDS where the tag is not listed, or not known to us."""


class StreamKind(IntEnum):
    """What a stream is for, and how the requester wants its answer. 0 to 255.

    A turn has one of the first two. The others are for the session between its turns; a worker that supports
    them says so with its word `ready`, and is not sent others.
    """

    EVENTS = 0  # server-sent events, in Data frames as the App yields
    WHOLE = 1  # one JSON array of messages, in End
    IDLE = 2  # the session leaves this process: the App's on_session_idle; End is empty
    FORGET = 3  # delete its stored state; body {"user_id": …}, End true or false: whether there was one


class CancelReason(IntEnum):
    """Why a turn is asked to end; the App's author reads it in the log."""

    CLIENT_GONE = 1
    TIMEOUT = 2
    INTERRUPTED = 3
    DRAINING = 4


@value
class Hello:
    """First frame, both ways, once. `items`: what the sides tell each other at the start."""

    version: int
    items: Mapping[str, str | int | bytes]


@dataclass(init=False, slots=True, unsafe_hash=True)
class Open:
    """Supervisor to worker: one turn, whole, or what else `kind` says. Stream ids only ever grow.

    `dialect`: the number of the wire format in which the answer's events are written; 0: the native one. In
    the frame it stands above the kind, in the same number.
    """

    stream: Final[int]
    kind: Final[int]
    session_id: Final[str]
    run_id: Final[str]
    body: Final[bytes]
    headers: Final[Mapping[str, str]]  # W3C trace context, and REQUEST_ID
    dialect: Final[int]

    def __init__(
        self,
        stream: int,
        kind: int,
        session_id: str,
        run_id: str,
        body: bytes,
        headers: Mapping[str, str] = MappingProxyType({}),
        dialect: int = 0,
    ) -> None:
        self.stream, self.kind, self.session_id, self.run_id = stream, kind, session_id, run_id
        self.body, self.headers, self.dialect = body, headers, dialect


@dataclass(init=False, slots=True, unsafe_hash=True)
class Data:
    """Worker to supervisor: `count` whole events of the answer and their bytes."""

    stream: Final[int]
    count: Final[int]
    payload: Final[bytes]

    def __init__(self, stream: int, count: int, payload: bytes) -> None:
        self.stream, self.count, self.payload = stream, count, payload


@dataclass(init=False, slots=True, unsafe_hash=True)
class End:
    """Worker to supervisor: the answer is complete. Terminal. `payload`: see StreamKind.WHOLE."""

    stream: Final[int]
    payload: Final[bytes]

    def __init__(self, stream: int, payload: bytes = b"") -> None:
        self.stream, self.payload = stream, payload


@value
class Fail:
    """Worker to supervisor: the answer will not be completed. Terminal."""

    stream: int
    code: Code
    message: str


@value
class Cancel:
    """Supervisor to worker: stop. The worker still answers with End or Fail."""

    stream: int
    reason: int


@dataclass(init=False, slots=True, unsafe_hash=True)
class Credit:
    """Supervisor to worker: `amount` more bytes may be sent on this stream."""

    stream: Final[int]
    amount: Final[int]

    def __init__(self, stream: int, amount: int) -> None:
        self.stream, self.amount = stream, amount


@value
class Notice:
    """A word about the life of the process: worker to supervisor `progress`, `ready`, `failed`;
    supervisor to worker `shutdown`. An unknown word is ignored. The detail of `ready` is empty or a JSON
    object: `forms`, those that the worker takes beside the two of a turn."""

    word: str
    detail: str


Frame = Hello | Open | Data | End | Fail | Cancel | Credit | Notice
