"""Parsing of the notices of a worker, including invalid ones."""

import json

import pytest

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.workers import notices

ALWAYS = frozenset({StreamKind.EVENTS, StreamKind.WHOLE})


@pytest.mark.parametrize(
    "detail, more",
    [
        ("", set()),
        ("{}", set()),
        ('{"forms": [2, 3, 7]}', {2, 3, 7}),
        ("not JSON", set()),
        ("[]", set()),
        ('{"forms": 1}', set()),
        ('{"forms": ["x"]}', set()),
        ("[" * 100_000, set()),
    ],
)
def test_a_ready_notice_adds_stream_kinds_to_the_two_of_every_worker(detail: str, more: set[int]) -> None:
    assert notices.stream_kinds(detail) == ALWAYS | more


@pytest.mark.parametrize(
    "detail, text",
    [
        (json.dumps({"message": "no room"}), "no room"),
        (json.dumps({"message": "in \udcff.py"}), "in \\udcff.py"),
        ("plain text", "plain text"),
        ("{}", "{}"),
        ("[1]", "[1]"),
    ],
)
def test_a_message_is_valid_utf_8_and_an_invalid_notice_is_used_as_text(detail: str, text: str) -> None:
    assert notices.message(detail) == text
