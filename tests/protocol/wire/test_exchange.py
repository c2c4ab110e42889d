"""The head of an exchange and the payload of a CLOSE message: any value, any bytes, and newer peers."""

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_protocol.wire.errors import LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.exchange import (
    NO_STATUS,
    PIECE,
    RequestHead,
    close_payload,
    decode_head,
    encode_head,
    read_close,
)
from agentscope_protocol.wire.frames import INITIAL_CREDIT
from tests.protocol.frame_strategies import BYTES, INT64, PAIRS, TEXT

ADDRESSES = st.one_of(st.none(), st.tuples(TEXT, INT64))
HEADS = st.builds(
    RequestHead,
    TEXT,
    BYTES,
    BYTES,
    PAIRS,
    ADDRESSES,
    ADDRESSES,
    TEXT,
    TEXT,
    st.lists(TEXT, max_size=3).map(tuple),
)
GET = RequestHead("GET", b"/a%20b", b"q=1", ((b"host", b"h"),), ("::1", 5), None, "http")

# The form of protocol version 1, which never changes.
GOLDEN = "99a3474554c4062f6125323062c403713d319192c404686f7374c4016892a33a3a310590a468747470a3312e3190"


def test_the_form_of_version_one_does_not_change() -> None:
    assert encode_head(GET).hex() == GOLDEN
    assert decode_head(bytes.fromhex(GOLDEN)) == GET


@given(HEADS)
def test_every_head_survives_a_round_trip(head: RequestHead) -> None:
    assert decode_head(encode_head(head)) == head


@given(st.lists(st.one_of(st.none(), TEXT), min_size=1, max_size=3))
def test_appended_fields_are_skipped(appended: list[Any]) -> None:
    assert decode_head(msgpack.packb(msgpack.unpackb(encode_head(GET)) + appended)) == GET


@given(st.binary(max_size=80))
def test_any_bytes_are_a_head_or_raise_remote_protocol_error(body: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_head(body)


@pytest.mark.parametrize(
    "at,item",
    [(0, b"GET"), (1, "/"), (3, [[b"a"]]), (3, {}), (4, ["h"]), (4, ["h", "1"]), (5, None), (8, [1])],
)
def test_a_head_with_wrong_fields_is_rejected(at: int, item: Any) -> None:
    items = msgpack.unpackb(encode_head(GET))
    items[at] = item
    with pytest.raises(RemoteProtocolError, match="OPEN"):
        decode_head(msgpack.packb(items))


def test_a_head_that_cannot_be_encoded_raises_local_protocol_error() -> None:
    with pytest.raises(LocalProtocolError):
        encode_head(RequestHead("\ud800", b"/", b"", (), None, None, "http"))


@given(st.integers(0, 0xFFFF), TEXT)
def test_a_close_survives_a_round_trip(code: int, reason: str) -> None:
    assert read_close(close_payload(code, reason)) == (code, reason)


@given(st.binary(max_size=130))
def test_any_payload_is_a_close(payload: bytes) -> None:
    code, _reason = read_close(payload)
    assert 0 <= code <= 0xFFFF


def test_a_close_without_a_code_has_none() -> None:
    assert read_close(b"") == read_close(b"\x03") == (NO_STATUS, "")
    assert read_close(b"\x03\xe8\xff") == (1000, "\ufffd")


@pytest.mark.parametrize("code", [-1, 2**16])
def test_a_code_that_does_not_fit_raises_local_protocol_error(code: int) -> None:
    with pytest.raises(LocalProtocolError):
        close_payload(code)


def test_a_piece_fits_into_the_credit() -> None:
    assert PIECE < INITIAL_CREDIT
