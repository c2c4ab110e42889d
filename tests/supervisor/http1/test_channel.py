"""How a response is framed, on connections that go on, that end, and of HTTP/1.0."""

import asyncio
import json
from typing import Final

import pytest

from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refusal, refusal
from agentscope_supervisor.http1.channel import LAST_CHUNK, Channel
from agentscope_supervisor.http1.chunked_writer import ChunkedWriter
from agentscope_supervisor.http1.responses import header_lines

pytestmark = pytest.mark.as_python

JSON: Final = header_lines({"Content-Type": "application/json"})
APP_ERROR: Final = Failure(ErrorCode.APP_ERROR, "no")


class Sent(Channel):
    """A channel that keeps what is sent."""

    def __init__(self, *, is_http_1_0: bool = False) -> None:
        super().__init__(asyncio.get_running_loop(), is_http_1_0=is_http_1_0)
        self.data = b""
        self.streams: list[tuple[bytes, bytes]] = []  # head and end

    def send(self, data: bytes) -> None:
        self.data += data

    def writer(self, head: bytes, end: bytes) -> ChunkedWriter:
        self.streams.append((head, end))
        return ChunkedWriter(asyncio.Transport(), False, head=head, end=end)

    def close(self) -> None:
        self.is_closing = True


def parsed(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body."""
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("ascii").split("\r\n")
    return line, {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}, body


def head_of(channel: Sent, how: str) -> dict[str, str]:
    """The headers of a response that is made in this way."""
    match how:
        case "respond":
            channel.respond({}, JSON, b"{}")
        case "fail":
            channel.fail(APP_ERROR, {})
        case _:
            channel.stream({}, JSON)
            return parsed(channel.streams[0][0])[1]
    return parsed(channel.data)[1]


async def test_a_whole_response() -> None:
    channel = Sent()
    channel.respond({"X-Request-Id": "r"}, JSON, b"{}")
    line, headers, body = parsed(channel.data)
    assert (line, body, channel.status) == ("HTTP/1.1 200 OK", b"{}", 200)
    assert headers.keys() == {"x-request-id", "content-type", "content-length", "date", "server"}
    assert (headers["x-request-id"], headers["content-length"]) == ("r", "2")


async def test_the_status_is_that_of_the_last_response_of_a_connection() -> None:
    channel = Sent()
    channel.fail(APP_ERROR, {})
    channel.respond({}, JSON, b"{}")
    assert channel.status == 200
    channel.fail(APP_ERROR, {})
    channel.stream({}, JSON)
    assert channel.status == 200


async def test_an_error_in_the_form_of_a_dialect() -> None:
    channel = Sent()
    channel.refuse(APP_ERROR, Refusal(418, b"tea", {"x-should-retry": "false"}), {"X-Request-Id": "r"})
    line, headers, body = parsed(channel.data)
    assert (line, channel.status, body) == ("HTTP/1.1 418 I'm a Teapot", 418, b"tea")
    assert (headers["x-should-retry"], headers["x-request-id"]) == ("false", "r")


async def test_an_error() -> None:
    channel = Sent()
    channel.fail(APP_ERROR, {"X-Request-Id": "r"})
    line, headers, body = parsed(channel.data)
    assert (line, channel.status, channel.is_closing) == ("HTTP/1.1 500 Internal Server Error", 500, False)
    assert json.loads(body) == {"error": {"code": "APP_ERROR", "message": "no", "retryable": False}}
    assert (headers["content-length"], headers["content-type"]) == (str(len(body)), "application/json")
    assert (headers["x-request-id"], "connection" in headers) == ("r", False)


@pytest.mark.parametrize(
    "failure, name",
    [
        (refusal(ErrorCode.OVERLOADED, ""), "retry-after"),
        (Failure(ErrorCode.UNAUTHORIZED, ""), "www-authenticate"),
    ],
)
async def test_an_error_has_the_headers_of_its_code(failure: Failure, name: str) -> None:
    channel = Sent()
    channel.fail(failure, {})
    assert parsed(channel.data)[1][name]


async def test_an_error_after_which_the_connection_ends() -> None:
    channel = Sent()
    channel.fail(refusal(ErrorCode.DRAINING, ""), {})
    assert channel.is_closing
    assert parsed(channel.data)[1]["connection"] == "close"


async def test_a_stream_is_chunked_and_its_head_waits() -> None:
    channel = Sent()
    channel.stream({"X-Run-Id": "r"}, JSON)
    ((head, end),) = channel.streams
    line, headers, rest = parsed(head)
    assert (line, rest, end, channel.data) == ("HTTP/1.1 200 OK", b"", LAST_CHUNK, b"")
    assert (headers["transfer-encoding"], headers["x-run-id"]) == ("chunked", "r")
    assert not headers.keys() & {"content-length", "connection"}


@pytest.mark.parametrize("how", ["respond", "fail", "stream"])
async def test_a_connection_that_ends_says_so(how: str) -> None:
    channel = Sent()
    channel.is_closing = True
    assert head_of(channel, how)["connection"] == "close"


@pytest.mark.parametrize("how", ["respond", "fail"])
@pytest.mark.parametrize("ends", [False, True])
async def test_a_connection_of_http_1_0_goes_on_only_if_that_is_said(how: str, ends: bool) -> None:
    channel = Sent(is_http_1_0=True)
    channel.is_closing = ends
    assert head_of(channel, how).get("connection") == (None if ends else "keep-alive")
    assert channel.data.startswith(b"HTTP/1.0 ")


async def test_a_stream_of_http_1_0_ends_with_its_connection() -> None:
    channel = Sent(is_http_1_0=True)
    headers = head_of(channel, "stream")
    assert (channel.is_closing, channel.streams[0][1]) == (True, b"")
    assert channel.streams[0][0].startswith(b"HTTP/1.0 200 OK\r\n")
    assert not headers.keys() & {"transfer-encoding", "content-length", "connection"}


async def test_a_connection_provides_the_rest() -> None:
    channel = Channel(asyncio.get_running_loop())
    calls = (
        lambda: channel.send(b""),
        lambda: channel.writer(b"", b""),
        channel.close,
        channel.done,
        channel.abort,
    )
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()
