"""What the rules for heads take and refuse. What the parser refuses: tests/faults/test_http_malformed.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.http1.strictness import _RULES, HTTP_1_0, HTTP_1_1, size, violation


@dataclass(frozen=True)
class Message:
    method: str = "GET"
    path: str = "/health"
    version: tuple[int, int] = HTTP_1_1
    headers: Mapping[str, str] = field(default_factory=lambda: {"Host": "test:8080"})
    upgrade: bool = False


CHUNKED = {"Host": "t", "Transfer-Encoding": "chunked"}

TAKEN = {
    "as usual": Message(),
    "HTTP/1.0": Message(version=HTTP_1_0, headers={}),
    "no Host of HTTP/1.0": Message(version=HTTP_1_0, headers={}),
    "empty Host": Message(headers={"Host": ""}),
    "odd Host": Message(headers={"Host": "a b/c"}),
    "query": Message(path="/health?x=http://a@b/"),
    "URL": Message(path="http://other:8080/health"),
    "URL in capitals": Message(path="HTTPS://other"),
    "URL with an at in its query": Message(path="http://other?a@b"),
    "OPTIONS *": Message(method="OPTIONS", path="*"),
    "upgrade to h2c": Message(upgrade=True, headers={"Host": "t", "Upgrade": "h2c"}),
    "upgrade to websocket": Message(upgrade=True, headers={"Host": "t", "Upgrade": "WebSocket"}),
    "chunks": Message(headers=CHUNKED),
    "chunks in capitals": Message(headers=CHUNKED | {"Transfer-Encoding": "Chunked"}),
}

REFUSED = {
    "HTTP/0.9": (Message(version=(0, 9)), "HTTP/1.1"),
    "HTTP/2.0": (Message(version=(2, 0)), "HTTP/1.1"),
    "chunks of HTTP/1.0": (Message(version=HTTP_1_0, headers=CHUNKED), "HTTP/1.0"),
    "another coding first": (
        Message(headers={"Host": "t", "Transfer-Encoding": "gzip, chunked"}),
        "chunked",
    ),
    "tunnel": (Message(method="CONNECT", path="other:443"), "tunnels"),
    "word": (Message(path="health"), "target"),
    "asterisk": (Message(path="*"), "target"),
    "host and port": (Message(path="other:80"), "target"),
    "URL of another scheme": (Message(path="ftp://other/health"), "target"),
    "URL with a user": (Message(path="http://user@other/health"), "target"),
    "fragment": (Message(path="/health#x"), "fragment"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str) -> None:
    assert violation(TAKEN[name]) is None


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    message, word = REFUSED[name]
    assert word in (violation(message) or "")


@given(
    st.builds(
        Message,
        method=st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT"]),
        path=st.text("/#*:.@ahtp", min_size=1),
        version=st.sampled_from([(0, 9), HTTP_1_0, HTTP_1_1, (2, 0)]),
        headers=st.sampled_from([{"Transfer-Encoding": "chunked"}, {"Transfer-Encoding": ""}, {}]).map(
            lambda coding: {"Host": "t", "Upgrade": "websocket", **coding}
        ),
        upgrade=st.booleans(),
    )
)
def test_the_short_cut_says_what_the_table_says(message: Message) -> None:
    assert violation(message) == next((text for broken, text in _RULES if broken(message)), None)


def test_the_size_of_a_head_counts_its_line_and_all_headers() -> None:
    head = b"GET /health HTTP/1.1\r\nHost: t\r\nX-A: b\r\n\r\n"
    assert size(Message(headers={"Host": "t", "X-A": "b"})) == len(head)
