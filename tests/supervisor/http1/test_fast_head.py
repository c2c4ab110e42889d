"""Which heads are usual turns, and that aiohttp reads each of those in the same way."""

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion11
from hypothesis import event, example, find, given, settings
from hypothesis import strategies as st

from agentscope_supervisor.http1 import fast_head, strictness
from agentscope_supervisor.http1.fast_head import MAX_HEAD, FastHead

MAX_BODY = 1000
LINE = "POST /invoke HTTP/1.1"
FIELDS = ("Host: t", "Content-Type: application/json", "Content-Length: 5")


def head(*fields: str, line: str = LINE) -> bytes:
    return "".join(f"{each}\r\n" for each in (line, *fields, "")).encode("latin-1")


def read(data: bytes) -> FastHead | None:
    return fast_head.read(data, MAX_BODY)


def test_a_usual_turn() -> None:
    data = head(*FIELDS, "X-Session-Id: \t a b \t", "Empty:")
    found = read(data + b"hello")
    assert found is not None
    assert (found.start, found.end) == (len(data), len(data) + 5)
    assert found.fields == {
        "host": "t",
        "content-type": "application/json",
        "content-length": "5",
        "x-session-id": "a b",
        "empty": "",
    }


@pytest.mark.parametrize(
    "fields",
    [
        (*FIELDS[:2], "Content-Length: 0"),
        ("Host:", FIELDS[1], "Content-Length: 1000"),
        ("host: t", "content-type: application/json", "content-length: 007"),
        (*FIELDS, "Connection: Keep-Alive"),
        ("Host: t", "Content-Type: application/json; charset=utf-8", "Content-Length: 5"),
        (*FIELDS, *(f"X-{number}: a" for number in range(97))),
    ],
)
def test_others_that_are_usual(fields: tuple[str, ...]) -> None:
    assert read(head(*fields)) is not None


OTHERS = {
    "query": head(*FIELDS, line="POST /invoke?x HTTP/1.1"),
    "path": head(*FIELDS, line="POST /stop HTTP/1.1"),
    "method": head(*FIELDS, line="GET /invoke HTTP/1.1"),
    "version": head(*FIELDS, line="POST /invoke HTTP/1.0"),
    "empty line before": b"\r\n" + head(*FIELDS),
    "no fields": head(),
    "not whole": head(*FIELDS)[:-1],
    "nothing": b"",
    "line feeds alone": head(*FIELDS).replace(b"\r", b""),
    "line feed alone": head(*FIELDS).replace(b"t\r\n", b"t\n"),
    "folded": head(*FIELDS, "X-A: a", " b"),
    "blank before the colon": head(*FIELDS, "X-A : a"),
    "no name": head(*FIELDS, ": a"),
    "no colon": head(*FIELDS, "nonsense"),
    "no ASCII": head(*FIELDS, "X-A: \xe9"),
    "control character": head(*FIELDS, "X-A: \x01"),
    "twice": head(*FIELDS, "X-A: a", "x-a: a"),
    "too many": head(*FIELDS, *(f"X-{number}: a" for number in range(98))),
    "too long": head(*FIELDS, "X-A: " + "a" * MAX_HEAD),
    "no Host": head(*FIELDS[1:]),
    "no length": head(*FIELDS[:2]),
    "large": head(*FIELDS[:2], "Content-Length: 1001"),
    "length that is none": head(*FIELDS[:2], "Content-Length: +5"),
    "length without end": head(*FIELDS[:2], "Content-Length: 000000005"),
    "no type": head("Host: t", "Content-Length: 5"),
    "resumes a run": head(*FIELDS, "Last-Event-ID: x-1"),
    "another type": head("Host: t", "Content-Type: text/plain", "Content-Length: 5"),
    "close": head(*FIELDS, "Connection: close"),
    "upgrade": head(*FIELDS, "Connection: upgrade", "Upgrade: h2c"),
    "chunks": head(*FIELDS, "Transfer-Encoding: chunked"),
    "key": head(*FIELDS, "Idempotency-Key: k"),
    "expects": head(*FIELDS, "Expect: 100-continue"),
    "compressed": head(*FIELDS, "Content-Encoding: gzip"),
    "trailers": head(*FIELDS, "Trailer: X-A"),
    "close, in a proxy's words": head(*FIELDS, "Proxy-Connection: close"),
    "old websocket": head(*FIELDS, "Sec-WebSocket-Key1: x"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_else_is_not(name: str) -> None:
    assert read(OTHERS[name]) is None


NAMES = st.one_of(
    st.sampled_from(
        [
            *("Connection", "Proxy-Connection", "Keep-Alive", "TE", "Transfer-Encoding", "Upgrade", "Host"),
            *("Content-Length", "Content-Type", "Sec-WebSocket-Key1", "X-A", "x_a"),
        ]
    ),
    st.text("aZ-_!#~:\t \x00\x7f\xe9", max_size=4),
)
VALUES = st.one_of(
    st.sampled_from(["5", "0", "05", "1001", "keep-alive", "close", "chunked", "application/json", "t", ""]),
    st.text("a5,;:= \t\r\n\x00\x0b\x7f\xe9", max_size=6),
)
ENDS = st.sampled_from(["\r\n"] * 20 + ["\n", "\r", "\r\n ", ""])
COLONS = st.sampled_from([": ", ":", ":\t", " :"])
LINES = st.tuples(NAMES, COLONS, VALUES, ENDS).map("".join)


def field(name: str, *values: str) -> st.SearchStrategy[str]:
    """One line of this name: with a usual value mostly, or with any."""
    usual = st.sampled_from(values)
    blanks = st.sampled_from(["", " ", "\t", "  "])
    return st.tuples(st.just(name), COLONS, blanks, usual | usual | VALUES, blanks, ENDS).map("".join)


USUAL = st.tuples(
    field("Host", "t", "t:80", ""),
    field("Content-Type", "application/json", "application/json; charset=utf-8", "text/plain"),
    field("Content-Length", "5", "05", "0", "3", "+5", "5 5", "0x5", "6"),
).flatmap(st.permutations)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def recognised(data: bytes) -> FastHead | None:
    """What is a turn with its whole body, as a connection has it."""
    found = read(data)
    return found if found is not None and found.end <= len(data) else None


def lines(*fields: str) -> list[str]:
    return [f"{each}\r\n" for each in fields]


@given(
    st.sampled_from([LINE] * 9 + ["POST /invoke  HTTP/1.1", "POST http://t/invoke HTTP/1.1"]),
    USUAL,
    st.lists(LINES, max_size=3),
    st.integers(0, 3),
)
@settings(max_examples=1000)
@example(LINE, lines(*FIELDS), [], 3)
@example(LINE, lines(*FIELDS), ["Accept: text/event-stream\r\n", "X-Session-Id: \t s \r\n"], 0)
@example(LINE, lines(*FIELDS[:2], "Content-Length: \t 05 "), [], 0)
@example(LINE, lines(*FIELDS), ["Proxy-Connection: close\r\n"], 0)
@example(LINE, lines(*FIELDS[:2], "Content-Length: 5\t"), [], 0)
def test_aiohttp_reads_the_same(
    loop: asyncio.AbstractEventLoop, line: str, usual: list[str], others: list[str], at: int
) -> None:
    fields = [*usual]
    fields[at:at] = others
    data = f"{line}\r\n{''.join(fields)}\r\n".encode("latin-1") + b"hello"
    found = recognised(data)
    event("recognised" if found is not None else "another way")
    if found is None:
        return
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    [(message, body)], upgraded, rest = parser.feed_data(data[: found.end])
    assert (message.method, message.path, message.version) == ("POST", "/invoke", HttpVersion11)
    assert {name.lower(): value for name, value in message.headers.items()} == found.fields
    assert len(message.headers) == len(found.fields)
    assert (message.should_close, message.upgrade, message.chunked) == (False, False, False)
    assert (message.compression, upgraded, rest) == (None, False, b"")
    assert strictness.violation(message) is None
    assert body.is_eof()
    assert body.read_nowait() == data[found.start : found.end]


def test_odd_heads_that_are_recognised_are_among_those_that_are_made() -> None:
    """Else it would be no wonder that aiohttp reads those in the same way."""

    def is_odd(usual: list[str]) -> bool:
        found = recognised(f"{LINE}\r\n{''.join(usual)}\r\n".encode("latin-1") + b"hello")
        return found is not None and found.fields["content-length"] != "5"

    assert find(USUAL, is_odd)
