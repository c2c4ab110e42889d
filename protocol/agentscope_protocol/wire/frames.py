"""The frames of the link between supervisor and worker, and their limits. Pure.

A frame is one msgpack array of four items, `[tag, stream, number, payload]`, in a fixed-width form that
`codec` reads and writes with one struct call. The fields of each frame define its `number` and its `payload`.
Payloads of Open, Hello, Head, Notice and Will are msgpack arrays to which fields may be appended; a peer
skips unknown fields. The payloads of Data, Input and End, and the body of Open, are opaque: the supervisor
forwards them and never decodes them.

A stream is a turn, another request of the supervisor, or an exchange: one HTTP request with its response, or
one WebSocket of a hosted app. An exchange begins with Open, whose body is an `exchange.RequestHead`. Input
carries the client's body or messages to the worker, Head the start of the response to the supervisor.

Where to read next: `stream` and `endpoint` define which side may send which frame, and in which order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.values import value

PROTOCOL_VERSION: Final = 1
"""The major version. Fields and tags may be added within it; a peer with another one is refused at Hello."""

INITIAL_CREDIT: Final = 256 * 1024
"""Bytes that a worker may send on a stream before the first grant, some thousand tokens. A client that reads
never waits for a round trip, and thousands of slow clients still fit into memory."""

REQUEST_ID: Final = "x-request-id"
"""The header of Open with the request id that the client or a proxy has set. For logs."""

MAX_BODY: Final = 64 * 1024 * 1024
"""Maximum bytes of a request body, and of `server.max_body_mb`. A few inline images fit."""

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Maximum bytes of one message, or of a whole response with `stream: false`."""

MAX_WORDS: Final = 1024 * 1024
"""Maximum bytes of a payload whose tag is not in MAX_PAYLOAD; the largest is the settings snapshot in Hello.
"""

MAX_FEW_WORDS: Final = 64 * 1024
"""Maximum bytes of a text that a worker sends. The supervisor decodes it: 64 KiB of hostile msgpack take less
than 10 ms of its event loop."""

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
    HEAD = 11
    INPUT = 12
    TAKEN = 13
    WILL = 14
    USAGE = 15


MAX_PAYLOAD: Final[Mapping[int, int]] = {
    Tag.OPEN: MAX_BODY + MAX_WORDS,
    # Events are gathered while credit lasts, and the last of them may overdraw it.
    Tag.DATA: INITIAL_CREDIT + MAX_ANSWER,
    Tag.END: MAX_ANSWER,
    Tag.FAIL: MAX_FEW_WORDS,
    Tag.NOTICE: MAX_FEW_WORDS,
    Tag.HEAD: MAX_FEW_WORDS,
    Tag.INPUT: MAX_ANSWER,
    Tag.USAGE: MAX_FEW_WORDS,
}
"""Bytes a payload may have, by tag; MAX_WORDS where the tag is not listed, or not known to us."""


class Place:
    """The places in a Will: single control bytes, which JSON and server-sent events never contain. All but
    NUMBER, RUN and CREATED are filled with JSON."""

    CODE: Final = b"\x01"  # of the error, a string
    MESSAGE: Final = b"\x02"  # of the error, a string
    NUMBER: Final = b"\x03"  # of the event that it is in
    STATUS: Final = b"\x04"  # of the run, in the words of the dialect, a string
    ERROR: Final = b"\x05"  # an object with code and message, or null
    RUN: Final = b"\x06"  # the run id
    SESSION: Final = b"\x08"  # the session id, a string
    CREATED: Final = b"\x07"  # when the run was accepted: whole seconds since 1970


class StreamKind(IntEnum):
    """The purpose of a stream, and how the requester wants its answer. 0 to 255.

    A turn has one of the first two. A worker announces each of the others that it accepts in its notice
    `ready`, and is sent no stream of another kind.
    """

    # Server-sent events, in Data frames as the App yields. End is empty, or a JSON object for the metadata of
    # the done event.
    EVENTS = 0
    WHOLE = 1  # one JSON array of messages, in End
    IDLE = 2  # the session leaves this process: the App's on_session_idle; End is empty
    FORGET = 3  # delete its stored state; body {"user_id": …}, End true or false: whether there was one
    HTTP = 4  # an exchange: one request and its response; End is empty
    WEBSOCKET = 5  # an exchange: one WebSocket; End is empty


class MessageKind(IntEnum):
    """The content of an Input frame, or of a Data frame of an exchange. 1 to 255."""

    BODY = 1  # a piece of a body; more may follow
    LAST = 2  # Input only: the rest of the request's body, which may be empty
    TEXT = 3  # one message of a WebSocket, in UTF-8
    BINARY = 4  # one message of a WebSocket
    CLOSE = 5  # the end of a WebSocket's messages in this direction; payload: see `exchange.close_payload`


_MESSAGES: Final = frozenset({int(MessageKind.TEXT), int(MessageKind.BINARY), int(MessageKind.CLOSE)})

INPUTS: Final[Mapping[int, frozenset[int]]] = {
    StreamKind.HTTP: frozenset({int(MessageKind.BODY), int(MessageKind.LAST)}),
    StreamKind.WEBSOCKET: _MESSAGES,
}
OUTPUTS: Final[Mapping[int, frozenset[int]]] = {
    StreamKind.HTTP: frozenset({int(MessageKind.BODY)}),
    StreamKind.WEBSOCKET: _MESSAGES | {int(MessageKind.BODY)},  # of the response that rejects it
}
"""The message kinds of Input and of Data, by the kind of the exchange."""

LAST_INPUTS: Final = frozenset({int(MessageKind.LAST), int(MessageKind.CLOSE)})
"""They end the input. They need no credit, so that the end never waits for an app that does not read it."""

MESSAGE_COST: Final = 64
"""Bytes of credit that each message of an exchange costs beside its payload. It limits the number of empty
messages that one end has to hold for the other: 4096."""


class CancelReason(IntEnum):
    """Why a stream is asked to end; the App's author reads it in the log.

    A turn is cancelled in any case. The app of an exchange receives the disconnect of its client, and is
    cancelled if it does not end by itself soon; for CLIENT_GONE, the settings may let it finish its work.
    """

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
    """Worker to supervisor: `count` whole events of the answer and their bytes.

    In an exchange: one message; `count` is its MessageKind, and never LAST.
    """

    stream: Final[int]
    count: Final[int]
    payload: Final[bytes]

    def __init__(self, stream: int, count: int, payload: bytes) -> None:
        self.stream, self.count, self.payload = stream, count, payload


@dataclass(init=False, slots=True, unsafe_hash=True)
class End:
    """Worker to supervisor: the answer is complete. Terminal. `payload`: see StreamKind."""

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
class Will:
    """Worker to supervisor: how the answer ends if the App does not complete it. Once for each stream, before
    its first Data; only for dialects that the supervisor does not write itself.

    `end`: the bytes of whole events. `result`: the JSON that is kept as the result of the run. Both have
    places (see Place), which the supervisor fills in. `request`: JSON of what the client asked, for dialects
    that return it; maybe empty.
    """

    stream: int
    end: bytes
    result: bytes
    request: bytes


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
class Head:
    """Worker to supervisor: status and headers of the response. Once in an exchange, before its first Data.

    For a WebSocket, status 101 accepts it, and any other status rejects it; a response body may follow the
    rejection. `ids`: identifiers in this response (of a task, of a conversation) that later requests may
    name. The supervisor sends those requests to the same worker.
    """

    stream: int
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    ids: tuple[str, ...] = ()


@dataclass(init=False, slots=True, unsafe_hash=True)
class Input:
    """Supervisor to worker: one message of an exchange's client. `kind`: its MessageKind."""

    stream: Final[int]
    kind: Final[int]
    payload: Final[bytes]

    def __init__(self, stream: int, kind: int, payload: bytes) -> None:
        self.stream, self.kind, self.payload = stream, kind, payload


@value
class Taken:
    """Worker to supervisor: `amount` more bytes of Input may be sent on this stream."""

    stream: int
    amount: int


@value
class Notice:
    """A word about the life of the process: worker to supervisor `progress`, `ready`, `failed`;
    supervisor to worker `shutdown`. An unknown word is ignored. The detail of `ready` is empty or a JSON
    object: `forms`, the stream kinds that the worker accepts beside the two of a turn, and `hosted`, what it
    hosts in place of an App: "asgi" or "agentapp"."""

    word: str
    detail: str


@value
class Usage:
    """Worker to supervisor: the tokens that the turn's model calls used, as JSON. At most once for each
    stream, before its End or Fail."""

    stream: int
    payload: bytes


Frame = Hello | Open | Data | End | Fail | Cancel | Credit | Notice | Head | Input | Taken | Will | Usage
