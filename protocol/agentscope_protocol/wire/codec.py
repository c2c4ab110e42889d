"""Bytes to frames and back: `[tag, stream, number, payload]` in fixed-width msgpack. Pure.

    0x94  tag  0xcf stream:u64  0xce number:u32  0xc6 length:u32  payload

One struct call reads or writes the 21 bytes before a payload; to any other msgpack decoder a frame is
still an array of four. The reader is bounded: a length over the tag's limit is refused before a byte
of its payload is kept. Next: `connection`, which knows what each frame may follow.
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
    Hello,
    Notice,
    Open,
    StreamKind,
    Tag,
)

_HEADER: Final = struct.Struct(">BBBQBIBI")
HEADER_SIZE: Final = _HEADER.size
_Head: TypeAlias = tuple[int, int, int, int, int, int, int, int]
# What msgpack has before each of the items.
_ARRAY4: Final = 0x94
_U64: Final = 0xCF
_U32: Final = 0xCE
_BIN32: Final = 0xC6
_MAX_TAG: Final = 0x7F
# Read once: see `agentscope_protocol.wire.values`.
_DATA: Final = int(Tag.DATA)
_END: Final = int(Tag.END)
_CREDIT: Final = int(Tag.CREDIT)

# Of the number of OPEN: the kind in the low byte, the dialect above it.
_KIND_BITS: Final = 8
_KIND_MASK: Final = 0xFF

_BUFFER: Final = 2048
"""Bytes that a payload is packed in at first; it grows, but most fit. msgpack itself begins with 256 KiB,
which takes longer to get than to fill."""

# A fail message is the text of an exception; what is longer helps nobody.
MAX_MESSAGE: Final = 8 * 1024  # characters; escaped they are at most six times as many bytes


def header(tag: int, stream: int, number: int, length: int) -> bytes:
    """The bytes before a payload of `length` bytes.

    Raises: LocalProtocolError if a value does not fit its field or the payload is over its limit.
    """
    if not (0 <= stream <= MAX_STREAM and 0 <= number <= MAX_NUMBER):
        raise LocalProtocolError(f"stream {stream} or number {number} does not fit")
    limit = MAX_PAYLOAD.get(tag, MAX_WORDS)
    if length > limit:
        raise LocalProtocolError(f"payload of {length} bytes is over {limit} for tag {tag}")
    return _HEADER.pack(_ARRAY4, tag, _U64, stream, _U32, number, _BIN32, length)


def encode(frame: Frame) -> bytes:
    """The wire form of one frame.

    Raises: LocalProtocolError if a field does not fit, is over its limit, or holds what msgpack
    cannot carry (an int over 64 bits, a str with a lone surrogate).
    """
    match frame:  # each class that it is not costs, so the most frequent come first
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
        case Cancel(stream, reason):
            return header(Tag.CANCEL, stream, reason, 0)
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
    """The frame of these four items, or None for a tag we do not know (a newer peer).

    Raises: RemoteProtocolError for anything else that is not a frame.
    """
    decoder = _DECODERS.get(tag)
    return None if decoder is None else decoder(stream, number, payload)


def _data(stream: int, number: int, payload: bytes) -> Frame:
    if number == 0:
        raise RemoteProtocolError("DATA without an event")
    return Data(stream, number, payload)


def _fail(stream: int, number: int, payload: bytes) -> Frame:
    # A code of a newer peer means at least that the answer will not come.
    code = Code(number) if number in _CODES else Code.APP_ERROR
    return Fail(stream, code, payload.decode("utf-8", "backslashreplace")[:MAX_MESSAGE])


def _open(stream: int, number: int, payload: bytes) -> Frame:
    session_id, run_id, body, headers = _fields(Tag.OPEN, payload, (str, str, bytes, dict))
    kind, dialect = number & _KIND_MASK, number >> _KIND_BITS
    if kind not in _KINDS:
        raise RemoteProtocolError(f"OPEN of kind {kind}")
    if not all(type(k) is str and type(v) is str for k, v in headers.items()):
        raise RemoteProtocolError("OPEN with headers that are not text")
    return Open(stream, kind, session_id, run_id, body, headers, dialect)


def _notice(_stream: int, _number: int, payload: bytes) -> Frame:
    word, detail = _fields(Tag.NOTICE, payload, (str, str))
    return Notice(word, detail)


def _hello(_stream: int, number: int, payload: bytes) -> Frame:
    (items,) = _fields(Tag.HELLO, payload, (dict,))
    if not all(type(k) is str and type(v) in (str, int, bytes) for k, v in items.items()):
        raise RemoteProtocolError("HELLO with items that are not text, numbers or bytes")
    return Hello(number, items)


_CODES: Final = frozenset(int(code) for code in Code)
_KINDS: Final = frozenset(int(kind) for kind in StreamKind)
_DECODERS: Final[Mapping[int, Callable[[int, int, bytes], Frame]]] = {
    Tag.DATA: _data,
    Tag.END: lambda stream, _number, payload: End(stream, payload),
    Tag.FAIL: _fail,
    Tag.CANCEL: lambda stream, number, _payload: Cancel(stream, number),
    Tag.CREDIT: lambda stream, number, _payload: Credit(stream, number),
    Tag.OPEN: _open,
    Tag.NOTICE: _notice,
    Tag.HELLO: _hello,
}


def _fields(tag: Tag, payload: bytes, types: tuple[type, ...]) -> list[Any]:
    """The first `len(types)` items of a packed payload; what a newer peer appended is dropped."""
    try:
        items = msgpack.unpackb(payload)
    except Exception as error:  # msgpack raises ValueError and relatives that share no other base
        raise RemoteProtocolError(f"{tag.name} is not msgpack: {type(error).__name__}") from None
    fields: list[Any] = items[: len(types)] if type(items) is list else []
    if tuple(map(type, fields)) != types:
        raise RemoteProtocolError(f"{tag.name} has wrong fields")
    return fields


class FrameReader:
    """Cuts received bytes into frames. Holds at most one incomplete frame.

    Bounded: after `feed` returns it holds less than a header and the largest payload of one tag.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._held = 0  # bytes in _chunks
        self._needed = HEADER_SIZE  # bytes that must be there before it is worth looking again

    @property
    def buffered(self) -> int:
        """Bytes of an incomplete frame that are held."""
        return self._held

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes, one at a time; to be iterated to the end before more is fed.

        Raises: RemoteProtocolError at what is not a frame; then feed no more.
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
                raise RemoteProtocolError(f"payload of {length} bytes is over the limit of tag {tag}")
            end = at + HEADER_SIZE + length
            if end > size:
                self._needed = HEADER_SIZE + length
                break
            payload = data[at + HEADER_SIZE : end]
            if tag == _DATA and number:  # nearly all frames of a busy link
                yield Data(stream, number, payload)
                at = end
                continue
            frame = decode(tag, stream, number, payload)
            if frame is not None:
                yield frame
            at = end
        rest = data[at:]
        self._chunks, self._held = ([rest] if rest else []), len(rest)
