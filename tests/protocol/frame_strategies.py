"""Hypothesis strategies for frames and hostile bytes."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import strategies as st

from agentscope_protocol.wire.codec import encode
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.frames import (
    MAX_NUMBER,
    MAX_STREAM,
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
    Taken,
    Usage,
    Will,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
BYTES = st.binary(max_size=60)
PAIRS = st.lists(st.tuples(BYTES, BYTES), max_size=3).map(tuple)
NUMBER = st.integers(0, MAX_NUMBER)
CODES = st.sampled_from(sorted(set(Code) - {Code.LINK_LOST, Code.UNSENT}))  # these two are never sent
MAX_DIALECT = MAX_NUMBER >> 8  # the kind is the low byte of the number
INT64 = st.integers(-(2**63), 2**64 - 1)


def frames(streams: st.SearchStrategy[int]) -> st.SearchStrategy[Frame]:
    """Any frame that can be sent; a frame with a stream uses one of `streams`."""
    return st.one_of(
        st.builds(Data, streams, st.integers(1, MAX_NUMBER), BYTES),
        st.builds(End, streams, BYTES),
        st.builds(Fail, streams, CODES, TEXT),
        st.builds(Cancel, streams, NUMBER),
        st.builds(Credit, streams, NUMBER),
        st.builds(Notice, TEXT, TEXT),
        st.builds(Head, streams, NUMBER, PAIRS, st.lists(TEXT, max_size=2).map(tuple)),
        st.builds(Input, streams, st.sampled_from(MessageKind), BYTES),
        st.builds(Taken, streams, NUMBER),
        st.builds(Will, streams, BYTES, BYTES, BYTES),
        st.builds(Usage, streams, BYTES),
        st.builds(
            Open,
            streams,
            st.sampled_from(StreamKind),
            TEXT,
            TEXT,
            BYTES,
            st.dictionaries(TEXT, TEXT, max_size=3),
            st.integers(0, MAX_DIALECT),
        ),
        st.builds(Hello, NUMBER, st.dictionaries(TEXT, st.one_of(TEXT, INT64, BYTES), max_size=3)),
    )


FRAMES = frames(st.integers(0, MAX_STREAM))


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` split at `places` (modulo its length); pieces may be empty."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@st.composite
def hostile_bytes(draw: st.DrawFn, streams: st.SearchStrategy[int]) -> bytes:
    """Bytes that resemble frames: valid frames, frames with modified bytes, and noise."""
    parts: list[bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        part = bytearray(draw(st.one_of(frames(streams).map(encode), st.binary(max_size=40))))
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            if part:
                part[draw(st.integers(0, len(part) - 1))] = draw(st.integers(0, 255))
        parts.append(bytes(part))
    return b"".join(parts)
