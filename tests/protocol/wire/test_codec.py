"""Encoding and decoding frames: any split, any frame, any garbage, and newer peers."""

import sys
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentscope_protocol.wire.codec import HEADER_SIZE, MAX_MESSAGE, FrameReader, decode, encode, header
from agentscope_protocol.wire.errors import Code, LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.frames import (
    MAX_ANSWER,
    MAX_BODY,
    MAX_FEW_WORDS,
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
    Notice,
    Open,
    StreamKind,
    Tag,
    Taken,
    Usage,
    Will,
)
from tests.protocol.frame_strategies import FRAMES, cut, hostile_bytes

# The wire form of version 1, which never changes: peers of earlier releases must keep reading it.
GOLDEN: dict[str, tuple[Frame, str]] = {
    "hello": (Hello(1, {"k": 7}), "9401cf0000000000000000ce00000001c6000000059181a16b07"),
    "open": (
        Open(2, 1, "s", "r", b"{}", {"t": "p"}),
        "9402cf0000000000000002ce00000001c60000000e94a173a172c4027b7d81a174a170",
    ),
    "open in another dialect": (
        Open(2, 0, "s", "r", b"", {}, 3),
        "9402cf0000000000000002ce00000300c60000000894a173a172c40080",
    ),
    "data": (Data(3, 2, b"ab"), "9403cf0000000000000003ce00000002c6000000026162"),
    "end": (End(4, b"[]"), "9404cf0000000000000004ce00000000c6000000025b5d"),
    "fail": (Fail(5, Code.APP_ERROR, "no"), "9405cf0000000000000005ce00000001c6000000026e6f"),
    "cancel": (Cancel(6, 2), "9406cf0000000000000006ce00000002c600000000"),
    "credit": (Credit(7, 65536), "9407cf0000000000000007ce00010000c600000000"),
    "usage": (Usage(8, b"{}"), "940fcf0000000000000008ce00000000c6000000027b7d"),
    "notice": (Notice("ready", ""), "940acf0000000000000000ce00000000c60000000892a57265616479a0"),
    "head": (
        Head(8, 200, ((b"a", b"\xff"),), ("t",)),
        "940bcf0000000000000008ce000000c8c60000000c929192c40161c401ff91a174",
    ),
    "input": (Input(9, 2, b"ab"), "940ccf0000000000000009ce00000002c6000000026162"),
    "taken": (Taken(10, 65536), "940dcf000000000000000ace00010000c600000000"),
    "will": (
        Will(8, b"e\x01", b"r", b""),
        "940ecf0000000000000008ce00000000c60000000a93c4026501c40172c400",
    ),
}


def read(data: bytes) -> list[Frame]:
    reader = FrameReader()
    frames = list(reader.feed(data))
    assert reader.buffered == 0
    return frames


def raw(tag: int, number: int, payload: Any, stream: int = 0) -> bytes:
    """An encoded frame; a `payload` other than bytes is packed first."""
    packed = payload if isinstance(payload, bytes) else msgpack.packb(payload)
    return header(tag, stream, number, len(packed)) + packed


@pytest.mark.parametrize("frame,wire", GOLDEN.values(), ids=GOLDEN)
def test_the_wire_form_of_version_one_does_not_change(frame: Frame, wire: str) -> None:
    assert encode(frame).hex() == wire
    assert read(bytes.fromhex(wire)) == [frame]


@given(FRAMES)
def test_every_frame_survives_a_round_trip(frame: Frame) -> None:
    assert read(encode(frame)) == [frame]


@given(FRAMES)
def test_a_frame_is_an_array_of_four_to_any_msgpack_decoder(frame: Frame) -> None:
    tag, _stream, _number, payload = msgpack.unpackb(encode(frame))
    assert Tag(tag).name == type(frame).__name__.upper()
    assert isinstance(payload, bytes)


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 2000), max_size=8))
@example([Cancel(1, 1), Cancel(1, 2)], list(range(2 * HEADER_SIZE)))
@example([Data(1, 1, b"x" * 50)], [HEADER_SIZE])
def test_any_split_of_the_bytes_yields_the_same_frames(frames: list[Frame], places: list[int]) -> None:
    wire = b"".join(map(encode, frames))
    reader, got, fed = FrameReader(), [], 0
    ends = [0]
    for frame in frames:
        ends.append(ends[-1] + len(encode(frame)))
    for piece in cut(wire, places):
        got += reader.feed(piece)
        fed += len(piece)
        # Complete frames are returned at once; only bytes of the next frame are held.
        whole = max(end for end in ends if end <= fed)
        assert len(got) == ends.index(whole)
        assert reader.buffered == fed - whole
    assert got == frames


# -- hostile peers ---------------------------------------------------------------------------


@given(hostile_bytes(st.integers(0, 3)), st.lists(st.integers(0, 2000), max_size=4))
@pytest.mark.fault("F53")
def test_hostile_bytes_raise_only_remote_protocol_error(data: bytes, places: list[int]) -> None:
    reader = FrameReader()
    try:
        for piece in cut(data, places):
            list(reader.feed(piece))
            assert reader.buffered <= len(data)
    except RemoteProtocolError:
        pass


@given(st.sampled_from(Tag), st.integers(0, MAX_STREAM), st.integers(0, MAX_NUMBER), st.binary(max_size=80))
@pytest.mark.fault("F53")
def test_any_payload_under_any_tag_decodes_or_raises_remote_protocol_error(
    tag: Tag, stream: int, number: int, payload: bytes
) -> None:
    try:
        frame = decode(tag, stream, number, payload)
    except RemoteProtocolError:
        return
    assert type(frame).__name__.upper() == tag.name


LIMITS = {tag: MAX_PAYLOAD.get(tag, MAX_WORDS) for tag in [*Tag, 99]}


@pytest.mark.parametrize("tag,limit", LIMITS.items())
@pytest.mark.fault("F51")
def test_a_length_over_the_limit_is_rejected_before_any_payload_is_buffered(tag: int, limit: int) -> None:
    head = header(tag, 1, 1, limit)
    reader = FrameReader()
    assert list(reader.feed(head)) == []
    assert reader.buffered == HEADER_SIZE

    for length in (limit + 1, 2**32 - 1):
        forged = head[:-4] + length.to_bytes(4, "big")
        reader = FrameReader()
        assert list(reader.feed(forged[:-1])) == []
        with pytest.raises(RemoteProtocolError, match="exceeds the limit"):
            list(reader.feed(forged[-1:] + b"x" * 1000))
        assert reader.buffered <= HEADER_SIZE + 1000


@pytest.mark.parametrize("at", [0, 2, 11, 16], ids=["array", "u64", "u32", "bin32"])
def test_each_fixed_byte_of_the_header_is_checked(at: int) -> None:
    wire = bytearray(encode(Data(1, 1, b"x")))
    wire[at] ^= 1
    with pytest.raises(RemoteProtocolError, match="not a frame"):
        read(bytes(wire))


def test_a_tag_above_127_is_rejected() -> None:
    wire = bytearray(encode(Cancel(1, 1)))
    wire[1] = 0x7F
    assert read(bytes(wire)) == []
    wire[1] = 0x80
    with pytest.raises(RemoteProtocolError, match="not a frame"):
        read(bytes(wire))


@pytest.mark.parametrize(
    "tag,number,payload",
    [
        (Tag.DATA, 0, b"x"),
        (Tag.OPEN, 6, ["s", "r", b"", {}]),
        (Tag.OPEN, 255, ["s", "r", b"", {}]),
        (Tag.OPEN, 0x106, ["s", "r", b"", {}]),  # of another dialect
        (Tag.OPEN, 0, ["s", "r", b""]),
        (Tag.OPEN, 0, ["s", b"r", b"", {}]),
        (Tag.OPEN, 0, ["s", "r", "", {}]),
        (Tag.OPEN, 0, ["s", "r", b"", []]),
        (Tag.OPEN, 0, ["s", "r", b"", {"k": 1}]),
        (Tag.OPEN, 0, ["s", "r", b"", {b"k": "v"}]),
        (Tag.OPEN, 0, {"s": "r"}),
        (Tag.HEAD, 200, []),
        (Tag.HEAD, 200, [[], ["t", 1]]),
        (Tag.HEAD, 200, [[[b"a"]], []]),
        (Tag.HEAD, 200, [[[b"a", "b"]], []]),
        (Tag.HEAD, 200, [[{b"a": b"b"}], []]),
        (Tag.HEAD, 200, [{}, []]),
        (Tag.INPUT, 0, b""),
        (Tag.INPUT, 6, b""),
        (Tag.NOTICE, 0, ["ready"]),
        (Tag.NOTICE, 0, ["ready", 1]),
        (Tag.NOTICE, 0, ["ready", True]),
        (Tag.NOTICE, 0, ["ready", None]),
        (Tag.NOTICE, 0, "ready"),
        (Tag.NOTICE, 0, b""),
        (Tag.NOTICE, 0, b"\x92\xa1\xff\xa0"),  # a str that is not UTF-8
        (Tag.NOTICE, 0, b"\x92\xa1a\xa1b\x00"),  # a second object after the first
        (Tag.NOTICE, 0, b"\xdd\xff\xff\xff\xff"),  # an array of 4 billion
        (Tag.NOTICE, 0, b"\x91" * 30_000),  # nested deeper than any stack
        (Tag.HELLO, 1, []),
        (Tag.HELLO, 1, [[]]),
        (Tag.HELLO, 1, [{"k": None}]),
        (Tag.HELLO, 1, [{"k": True}]),
        (Tag.HELLO, 1, [{"k": 1.5}]),
        (Tag.HELLO, 1, [{"k": ["v"]}]),
        (Tag.HELLO, 1, [{b"k": "v"}]),
        (Tag.HELLO, 1, b"\x91\x81\x01\x01"),  # a key that is a number
    ],
    ids=lambda value: value.name if isinstance(value, Tag) else "",
)
def test_a_payload_with_wrong_fields_is_rejected(tag: Tag, number: int, payload: Any) -> None:
    with pytest.raises(RemoteProtocolError, match=tag.name):
        read(raw(tag, number, payload))


# -- newer peers -----------------------------------------------------------------------------


def test_unknown_tags_are_skipped() -> None:
    known = set(Tag)
    for tag in range(128):
        if tag not in known:
            unknown = raw(tag, 7, b"whatever", stream=5)
            assert read(encode(Cancel(1, 1)) + unknown + encode(Cancel(1, 2))) == [Cancel(1, 1), Cancel(1, 2)]


@pytest.mark.parametrize("name", ["hello", "open", "open in another dialect", "notice", "head"])
@given(
    appended=st.lists(st.one_of(st.none(), st.integers(0, 9), st.text(max_size=3)), min_size=1, max_size=3)
)
def test_appended_fields_are_skipped(name: str, appended: list[Any]) -> None:
    frame, wire = GOLDEN[name]
    tag, stream, number, payload = msgpack.unpackb(bytes.fromhex(wire))
    assert read(raw(tag, number, msgpack.unpackb(payload) + appended, stream=stream)) == [frame]


@pytest.mark.parametrize("name", ["cancel", "credit", "taken"])
def test_a_payload_on_a_frame_without_one_is_skipped(name: str) -> None:
    frame, wire = GOLDEN[name]
    tag, stream, number, _ = msgpack.unpackb(bytes.fromhex(wire))
    assert read(raw(tag, number, b"more", stream=stream)) == [frame]


def test_an_unknown_fail_code_becomes_an_app_error() -> None:
    assert read(raw(Tag.FAIL, 99, b"new", stream=1)) == [Fail(1, Code.APP_ERROR, "new")]


def test_an_unknown_cancel_reason_is_kept() -> None:
    assert read(raw(Tag.CANCEL, 99, b"", stream=1)) == [Cancel(1, 99)]


# -- local errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        Cancel(-1, 0),
        Cancel(MAX_STREAM + 1, 0),
        Cancel(1, -1),
        Credit(1, MAX_NUMBER + 1),
        Cancel(1, 2**32),
        Open(1, StreamKind.EVENTS, "s", "r", b"", {}, 2**24),
        Open(1, StreamKind.EVENTS, "s", "r", b"", {}, -1),
        Head(1, -1, ()),
        Head(1, 200, ((b"a", "\ud800"),)),  # type: ignore[arg-type]  # rejected by mypy
        Head(1, 200, ((b"a", bytes(MAX_FEW_WORDS)),)),
        Input(1, 1, bytes(MAX_ANSWER + 1)),
        Hello(1, {"k": 2**64}),
        Hello(1, {"k": object()}),  # type: ignore[dict-item]  # rejected by mypy
        Notice("failed", "\ud800"),
        Open(1, StreamKind.EVENTS, "\udfff", "r", b""),
        Open(1, StreamKind.EVENTS, "s", "r", bytes(MAX_BODY + MAX_WORDS)),
        Notice("failed", "x" * MAX_WORDS),
        End(1, bytes(MAX_ANSWER + 1)),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_frame_that_cannot_be_encoded_raises_local_protocol_error(frame: Frame) -> None:
    with pytest.raises(LocalProtocolError):
        encode(frame)


def test_the_largest_body_and_the_largest_answer_fit() -> None:
    body = bytes(MAX_BODY)
    (opened,) = read(
        encode(Open(MAX_STREAM, StreamKind.WHOLE, "s" * 256, "r", body, {"traceparent": "t" * 55}))
    )
    assert isinstance(opened, Open)
    assert opened.body == body
    assert read(encode(End(1, body[:MAX_ANSWER]))) == [End(1, body[:MAX_ANSWER])]


def test_header_accepts_values_at_the_limits() -> None:
    assert len(header(Tag.END, MAX_STREAM, MAX_NUMBER, MAX_ANSWER)) == HEADER_SIZE == 21
    with pytest.raises(LocalProtocolError, match="exceeds"):
        header(Tag.END, 0, 0, MAX_ANSWER + 1)
    assert header(99, 0, 0, MAX_WORDS)
    with pytest.raises(LocalProtocolError, match="exceeds"):
        header(99, 0, 0, MAX_WORDS + 1)


@given(st.text())
@example("\ud800 half a character")
@example("x" * (MAX_MESSAGE + 1))
@example("x" * (MAX_WORDS + 1))
@example("\U0001f600" * MAX_MESSAGE)
@example("\udcff" * MAX_MESSAGE)
def test_any_exception_text_can_be_sent_in_a_fail_frame(message: str) -> None:
    """An App controls the text of its exceptions; encoding a Fail must succeed for any text."""
    (frame,) = read(encode(Fail(1, Code.APP_ERROR, message)))
    assert isinstance(frame, Fail)
    shown = message.encode("utf-8", "backslashreplace").decode()
    assert frame.message == shown[:MAX_MESSAGE]


def test_a_fail_message_that_is_not_utf8_is_escaped() -> None:
    assert read(raw(Tag.FAIL, 1, b"caf\xe9", stream=1)) == [Fail(1, Code.APP_ERROR, "caf\\xe9")]


# -- cost ------------------------------------------------------------------------------------


@pytest.mark.as_python
def test_a_large_frame_in_small_pieces_is_joined_once() -> None:
    """Counts the joins: one for the header, one for the payload. One join per piece would be quadratic."""
    wire = encode(Data(1, 1, bytes(4 * 1024 * 1024)))
    pieces = [wire[at : at + 4096] for at in range(0, len(wire), 4096)]
    pieces[:1] = [pieces[0][:10], pieces[0][10:]]
    reader, joins, got = FrameReader(), 0, []

    def count(_frame: Any, event: str, called: Any) -> None:
        nonlocal joins
        joins += event == "c_call" and called.__name__ == "join"

    sys.setprofile(count)
    try:
        for piece in pieces:
            got += list(reader.feed(piece))
    finally:
        sys.setprofile(None)
    assert got == [Data(1, 1, bytes(4 * 1024 * 1024))]
    assert joins == 2
