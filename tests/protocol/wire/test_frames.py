"""Frames: the numbers on the wire never change, and the limits are consistent."""

from typing import get_args

from agentscope_protocol.wire import frames
from agentscope_protocol.wire.frames import CancelReason, Frame, MessageKind, StreamKind, Tag


def test_tags_keep_their_numbers() -> None:
    assert {tag.name: int(tag) for tag in Tag} == {
        "HELLO": 1,
        "OPEN": 2,
        "DATA": 3,
        "END": 4,
        "FAIL": 5,
        "CANCEL": 6,
        "CREDIT": 7,
        "NOTICE": 10,
        "HEAD": 11,
        "INPUT": 12,
        "TAKEN": 13,
        "WILL": 14,
        "USAGE": 15,
    }


def test_stream_kinds_and_cancel_reasons_keep_their_numbers() -> None:
    assert {kind.name: int(kind) for kind in StreamKind} == {
        "EVENTS": 0,
        "WHOLE": 1,
        "IDLE": 2,
        "FORGET": 3,
        "HTTP": 4,
        "WEBSOCKET": 5,
    }
    assert {kind.name: int(kind) for kind in MessageKind} == {
        "BODY": 1,
        "LAST": 2,
        "TEXT": 3,
        "BINARY": 4,
        "CLOSE": 5,
    }
    assert {reason.name: int(reason) for reason in CancelReason} == {
        "CLIENT_GONE": 1,
        "TIMEOUT": 2,
        "INTERRUPTED": 3,
        "DRAINING": 4,
    }


def test_each_tag_has_a_frame_class() -> None:
    assert {frame.__name__.upper() for frame in get_args(Frame)} == {tag.name for tag in Tag}


def test_the_protocol_version_is_one() -> None:
    assert frames.PROTOCOL_VERSION == 1


def test_limits_are_consistent() -> None:
    assert frames.MAX_PAYLOAD[Tag.OPEN] > frames.MAX_BODY, "no room for ids and headers beside a body"
    assert frames.MAX_PAYLOAD[Tag.DATA] >= frames.INITIAL_CREDIT - 1 + frames.MAX_ANSWER
    assert frames.MAX_PAYLOAD[Tag.END] >= frames.MAX_ANSWER
    assert max(frames.MAX_PAYLOAD.values()) <= frames.MAX_NUMBER
