"""Encode frames and decode bytes: `[tag, stream, number, payload]` in fixed-width msgpack. Pure.

    0x94  tag  0xcf stream:u64  0xce number:u32  0xc6 length:u32  payload

A single struct call reads or writes the 21 bytes before a payload; any other msgpack decoder still sees an
array of four. The reader is bounded: it rejects a length above the tag's limit before it buffers a byte of
the payload.

Read next: `endpoint`, which knows the legal order of frames.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import msgpack

from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.frames import (
    MAX_NUMBER,
    MAX_PAYLOAD,
    MAX_STREAM,
    MAX_WORDS,
    Cancel,
    Credit,
    Data,
    End,
    Fail,
    Frame,
    Head,
    Hello,
    Input,
    MessageKind,
    Notice,
    Open,
    StreamKind,
    Tag,
    Taken,
    Usage,
    Will,
)

_HEADER: Final = struct.Struct(">BBBQBIBI")
HEADER_SIZE: Final = _HEADER.size
_Head: TypeAlias = tuple[int, int, int, int, int, int, int, int]
# The msgpack type byte before each item.
_ARRAY4: Final = 0x94
_U64: Final = 0xCF
_U32: Final = 0xCE
_BIN32: Final = 0xC6
_MAX_TAG: Final = 0x7F
# Read once: see `agentscope_protocol.wire.values`.
_DATA: Final = int(Tag.DATA)
_END: Final = int(Tag.END)
_CREDIT: Final = int(Tag.CREDIT)

# The number of OPEN has the kind in its low byte and the dialect above it.
_KIND_BITS: Final = 8
_KIND_MASK: Final = 0xFF

_BUFFER: Final = 2048
"""Initial size in bytes of the buffer for a packed payload. It grows on demand, but most payloads fit.
msgpack's own default is 256 KiB, which takes longer to allocate than to fill."""

# A Fail message is the text of an exception; longer texts are truncated.
MAX_MESSAGE: Final = 8 * 1024  # characters; escaping expands a character to at most six bytes


def header(tag: int, stream: int, number: int, length: int) -> bytes:
    """The 21 bytes before a payload of `length` bytes.

    Raises: LocalProtocolError if a value does not fit its field or the payload exceeds its limit.
    """
    if not (0 <= stream <= MAX_STREAM and 0 <= number <= MAX_NUMBER):
        raise LocalProtocolError(f"stream {stream} or number {number} does not fit")
    limit = MAX_PAYLOAD.get(tag, MAX_WORDS)
    if length > limit:
        raise LocalProtocolError(f"payload of {length} bytes exceeds the limit of {limit} for tag {tag}")
    return _HEADER.pack(_ARRAY4, tag, _U64, stream, _U32, number, _BIN32, length)


def encode(frame: Frame) -> bytes:
    """The encoded form of one frame.

    Raises: LocalProtocolError if a field does not fit, exceeds its limit, or holds a value that msgpack
    cannot encode (an int over 64 bits, a str with a lone surrogate).
    """
    match frame:  # every failed class test costs time, so the most frequent classes come first
        case Credit(stream, amount):
            return header(_CREDIT, stream, amount, 0)
        case End(stream, payload):
            return header(_END, stream, 0, len(payload)) + payload
        case Open(stream, kind, session_id, run_id, body, headers, dialect):
            number = kind | dialect << _KIND_BITS
            return _packed(Tag.OPEN, stream, number, [session_id, run_id, body, dict(headers)])
        case Data(stream, count, payload):
            return header(_DATA, stream, count, len(payload)) + payload
        case Fail(stream, code, message):
            text = message[:MAX_MESSAGE].encode("utf-8", "backslashreplace")
            return header(Tag.FAIL, stream, code, len(text)) + text
        case Will(stream, end, result, request):
            return _packed(Tag.WILL, stream, 0, [end, result, request])
        case Cancel(stream, reason):
            return header(Tag.CANCEL, stream, reason, 0)
        case Input(stream, kind, payload):
            return header(Tag.INPUT, stream, kind, len(payload)) + payload
        case Taken(stream, amount):
            return header(Tag.TAKEN, stream, amount, 0)
        case Head(stream, status, headers, ids):
            return _packed(Tag.HEAD, stream, status, [headers, ids])
        case Usage(stream, payload):
            return header(Tag.USAGE, stream, 0, len(payload)) + payload
        case Notice(word, detail):
            return _packed(Tag.NOTICE, 0, 0, [word, detail])
        case _:
            return _packed(Tag.HELLO, 0, frame.version, [dict(frame.items)])


def _packed(tag: Tag, stream: int, number: int, fields: list[Any]) -> bytes:
    try:
        payload: bytes = msgpack.Packer(buf_size=_BUFFER).pack(fields)
    except (OverflowError, UnicodeEncodeError, TypeError, ValueError) as error:
        raise LocalProtocolError(f"{tag.name} cannot be encoded: {error}") from error
    return header(tag, stream, number, len(payload)) + payload


def decode(tag: int, stream: int, number: int, payload: bytes) -> Frame | None:
    """The frame that these four items form, or None for an unknown tag (sent by a newer peer).

    Raises: RemoteProtocolError if the items do not form a frame.
    """
    decoder = _DECODERS.get(tag)
    return None if decoder is None else decoder(stream, number, payload)


def _data(stream: int, number: int, payload: bytes) -> Frame:
    if number == 0:
        raise RemoteProtocolError("DATA without an event")
    return Data(stream, number, payload)


def _fail(stream: int, number: int, payload: bytes) -> Frame:
    # An unknown code comes from a newer peer; it means at least that the response is incomplete.
    code = Code(number) if number in _CODES else Code.APP_ERROR
    return Fail(stream, code, payload.decode("utf-8", "backslashreplace")[:MAX_MESSAGE])


def _open(stream: int, number: int, payload: bytes) -> Frame:
    session_id, run_id, body, headers = fields(Tag.OPEN, payload, (str, str, bytes, dict))
    kind, dialect = number & _KIND_MASK, number >> _KIND_BITS
    if kind not in _KINDS:
        raise RemoteProtocolError(f"OPEN with unknown stream kind {kind}")
    if not all(type(k) is str and type(v) is str for k, v in headers.items()):
        raise RemoteProtocolError("OPEN with headers that are not text")
    return Open(stream, kind, session_id, run_id, body, headers, dialect)


def _head(stream: int, number: int, payload: bytes) -> Frame:
    headers, ids = fields(Tag.HEAD, payload, (list, list))
    if not all(type(each) is str for each in ids):
        raise RemoteProtocolError("HEAD with ids that are not text")
    return Head(stream, number, header_pairs(Tag.HEAD, headers), tuple(ids))


def header_pairs(tag: Tag, headers: list[Any]) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of an exchange, from their msgpack form. Raises: RemoteProtocolError."""
    for pair in headers:
        if type(pair) is not list or [type(item) for item in pair] != [bytes, bytes]:
            raise RemoteProtocolError(f"{tag.name} with headers that are not pairs of bytes")
    return tuple([(name, value) for name, value in headers])


def _input(stream: int, number: int, payload: bytes) -> Frame:
    if number not in _MESSAGE_KINDS:
        raise RemoteProtocolError(f"INPUT with unknown message kind {number}")
    return Input(stream, number, payload)


def _notice(_stream: int, _number: int, payload: bytes) -> Frame:
    word, detail = fields(Tag.NOTICE, payload, (str, str))
    return Notice(word, detail)


def _will(stream: int, _number: int, payload: bytes) -> Frame:
    return Will(stream, *fields(Tag.WILL, payload, (bytes, bytes, bytes)))


def _hello(_stream: int, number: int, payload: bytes) -> Frame:
    (items,) = fields(Tag.HELLO, payload, (dict,))
    if not all(type(k) is str and type(v) in (str, int, bytes) for k, v in items.items()):
        raise RemoteProtocolError("HELLO with items that are not text, numbers or bytes")
    return Hello(number, items)


_CODES: Final = frozenset(int(code) for code in Code)
_KINDS: Final = frozenset(int(kind) for kind in StreamKind)
_MESSAGE_KINDS: Final = frozenset(int(kind) for kind in MessageKind)
_DECODERS: Final[Mapping[int, Callable[[int, int, bytes], Frame]]] = {
    Tag.DATA: _data,
    Tag.END: lambda stream, _number, payload: End(stream, payload),
    Tag.FAIL: _fail,
    Tag.CANCEL: lambda stream, number, _payload: Cancel(stream, number),
    Tag.CREDIT: lambda stream, number, _payload: Credit(stream, number),
    Tag.OPEN: _open,
    Tag.INPUT: _input,
    Tag.TAKEN: lambda stream, number, _payload: Taken(stream, number),
    Tag.HEAD: _head,
    Tag.NOTICE: _notice,
    Tag.WILL: _will,
    Tag.USAGE: lambda stream, _number, payload: Usage(stream, payload),
    Tag.HELLO: _hello,
}


def fields(tag: Tag, payload: bytes, types: tuple[type, ...]) -> list[Any]:
    """The first `len(types)` items of a packed payload; drops the fields that a newer peer appended.

    Raises: RemoteProtocolError if they have other types.
    """
    try:
        items = msgpack.unpackb(payload)
    except Exception as error:  # msgpack raises ValueError and unrelated classes without a common base
        raise RemoteProtocolError(f"{tag.name} is not msgpack: {type(error).__name__}") from None
    found: list[Any] = items[: len(types)] if type(items) is list else []
    if tuple(map(type, found)) != types:
        raise RemoteProtocolError(f"{tag.name} has wrong fields")
    return found


class FrameReader:
    """Splits received bytes into frames.

    Bounded: when `feed` has returned, it holds one incomplete frame at most, which is less than a header plus
    the largest payload of one tag.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._held = 0  # bytes in _chunks
        self._needed = HEADER_SIZE  # bytes required before parsing can make progress

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete frame."""
        return self._held

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes, one at a time. Exhaust the iterator before the next call.

        Raises: RemoteProtocolError for bytes that are not a frame; do not call it again after that.
        """
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return
            data = b"".join(self._chunks)
        at, size = 0, len(data)
        self._needed = HEADER_SIZE
        while size - at >= HEADER_SIZE:
            head: _Head = _HEADER.unpack_from(data, at)
            array, tag, u64, stream, u32, number, bin32, length = head
            if array != _ARRAY4 or u64 != _U64 or u32 != _U32 or bin32 != _BIN32 or tag > _MAX_TAG:
                raise RemoteProtocolError("not a frame")
            if length > MAX_PAYLOAD.get(tag, MAX_WORDS):
                raise RemoteProtocolError(f"payload of {length} bytes exceeds the limit of tag {tag}")
            end = at + HEADER_SIZE + length
            if end > size:
                self._needed = HEADER_SIZE + length
                break
            payload = data[at + HEADER_SIZE : end]
            if tag == _DATA and number:  # nearly all frames on a busy link
                yield Data(stream, number, payload)
                at = end
                continue
            frame = decode(tag, stream, number, payload)
            if frame is not None:
                yield frame
            at = end
        rest = data[at:]
        self._chunks, self._held = ([rest] if rest else []), len(rest)
