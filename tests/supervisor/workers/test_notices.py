"""Parsing of the notices of a worker, including invalid ones."""

import json

import pytest

from agentscope_protocol.wire.errors import RemoteProtocolError
from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.workers import notices

ALWAYS = frozenset({StreamKind.EVENTS, StreamKind.WHOLE})


@pytest.mark.parametrize(
    "detail, more",
    [
        ("", set()),
        ("{}", set()),
        ('{"forms": []}', set()),
        ('{"forms": [2, 3, 7, 255]}', {2, 3, 7, 255}),
    ],
)
def test_a_ready_notice_adds_stream_kinds_to_the_two_of_every_worker(detail: str, more: set[int]) -> None:
    assert notices.stream_kinds(detail) == ALWAYS | more


@pytest.mark.parametrize(
    "forms",
    [
        *("1", "null", "{}", '["x"]', "[true]", "[2.0]", "[-1]", "[256]"),
        *("[Infinity]", "[-Infinity]", "[NaN]", "[1e999]", f"[{'9' * 30}]", f"[{'9' * 5000}]"),
    ],
)
def test_stream_kinds_that_are_no_bytes_break_the_protocol(forms: str) -> None:
    with pytest.raises(RemoteProtocolError, match="no valid list of stream kinds"):
        notices.stream_kinds(f'{{"forms": {forms}}}')


@pytest.mark.parametrize("detail", ["not JSON", "[]", "7", "[" * 100_000])
def test_a_ready_notice_that_is_no_object_breaks_the_protocol(detail: str) -> None:
    with pytest.raises(RemoteProtocolError, match="no valid list of stream kinds"):
        notices.stream_kinds(detail)


@pytest.mark.parametrize(
    "detail, name",
    [("", ""), ("{}", ""), ('{"hosted": "asgi"}', "asgi"), ('{"hosted": "a\\u0007"}', "a\\x07")],
)
def test_a_ready_notice_names_what_the_worker_hosts(detail: str, name: str) -> None:
    assert notices.hosted(detail) == name


@pytest.mark.parametrize("value", [1, None, ["asgi"], "x" * 65])
def test_a_hosted_app_without_a_short_name_breaks_the_protocol(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="does not name what the worker hosts"):
        notices.hosted(json.dumps({"hosted": value}))


@pytest.mark.parametrize(
    "detail, text",
    [
        (json.dumps({"message": "no room"}), "no room"),
        (json.dumps({"message": "in \udcff.py"}), "in \\udcff.py"),
        ("plain text", "plain text"),
        ("in red\x1b[31m", "in red\\x1b[31m"),
        (json.dumps({"message": "a\n\tb\x1b]0;title\x07\x9b2J"}), "a\n\tb\\x1b]0;title\\x07\\x9b2J"),
        ("{}", "{}"),
        ("[1]", "[1]"),
        ('{"message": Infinity}', "inf"),
        (f'{{"message": {"9" * 5000}}}', f'{{"message": {"9" * 5000}}}'),
    ],
)
def test_a_message_is_valid_utf_8_and_an_invalid_notice_is_used_as_text(detail: str, text: str) -> None:
    assert notices.message(detail) == text
