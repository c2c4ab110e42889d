"""An HTTP client without any magic: a test controls every byte of a request and sees every byte of an answer.

Built on bare sockets, because a client library repairs requests, retries, pools connections and joins chunks.
`call` sends one request on its own connection, `Stream` is one streamed turn with the arrival time of each
event, and `Connection` is for tests of HTTP itself. `events` checks the format of events.
"""

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

from tests.harness.events import Event, Parser, assert_whole_stream

ANSWER_WITHIN: Final = 30.0  # seconds; a test that expects a slower answer passes another value
LIMIT: Final = 1 << 20  # bytes that a reader buffers: enough for any head; longer bodies are read in chunks

_numbers = itertools.count(1)


def new_session(word: str = "session") -> str:
    """Return a session id that no other test uses."""
    return f"{word}-{next(_numbers)}"


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of an answer; header names are in lower case."""

    version: str
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer. `seconds`: from the first byte of the request to the last byte of the answer."""

    head: Head
    body: bytes
    seconds: float

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self.head.headers

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code in the body."""
        code: str = self.json["error"]["code"]
        return code


class Connection:
    """One TCP connection to an instance. Use as an async context manager."""

    def __init__(self, port: int, *, receive_buffer: int | None = None, source: str = "127.0.0.1") -> None:
        """`receive_buffer`: approximate bytes that the kernel and this side buffer; None: the defaults.
        `source`: the address of the client, a loopback address."""
        self._port = port
        self._source = source
        self._receive_buffer = receive_buffer
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        if self._source != "127.0.0.1":
            sock.bind((self._source, 0))
        if self._receive_buffer is not None:  # before connect, which negotiates the window
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        except BaseException:
            sock.close()
            raise
        limit = self._receive_buffer or LIMIT
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    def abort(self) -> None:
        """Close without sending anything."""
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Send bytes unchanged. A peer that has closed is not an error: its answer shows the reason."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def head(self) -> Head:
        """Read the head of the next answer. Raises: asyncio.IncompleteReadError if it ends early."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        version, status, *_ = status_line.split(" ", 2)
        headers = {}
        for line in lines:
            name, value = line.split(":", 1)
            assert name.lower() not in headers, f"a header came twice: {name}"
            headers[name.lower()] = value.strip()
        return Head(version, int(status), headers)

    async def body(self, head: Head) -> AsyncIterator[bytes]:
        """Read the body that follows `head`, in chunks as they arrive.

        Raises: asyncio.IncompleteReadError if it ends before its framing says so.
        """
        if head.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                chunk = await self.reader.readexactly(size + 2)
                assert chunk.endswith(b"\r\n")
                yield chunk[:-2]
            assert await self.reader.readexactly(2) == b"\r\n"
        elif "content-length" in head.headers:
            left = int(head.headers["content-length"])
            while left:
                piece = await self.reader.read(min(left, LIMIT))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                yield piece
        else:
            while piece := await self.reader.read(LIMIT):
                yield piece

    async def answer(self, *, has_body: bool = True) -> Response:
        """Read one complete answer. `has_body`: false for the answer to a HEAD request."""
        began = time.monotonic()
        head = await self.head()
        has_body &= head.status != HTTPStatus.NO_CONTENT
        body = b"".join([piece async for piece in self.body(head)]) if has_body else b""
        return Response(head, body, time.monotonic() - began)

    def has_arrived(self) -> bool:
        """Return whether unread bytes have arrived, as far as the event loop knows."""
        return len(self.reader._buffer) > 0  # type: ignore[attr-defined]  # there is no public way

    async def is_closed(self, within: float = ANSWER_WITHIN) -> bool:
        """Return whether the peer closes in time without sending more."""
        try:
            return await asyncio.wait_for(self.reader.read(1), within) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


def request(
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    version: str = "HTTP/1.1",
) -> bytes:
    """Return the bytes of a request.

    Content-Length is added if there is a body and `headers` has no framing.
    """
    fields = {"Host": "localhost", **(headers or {})}
    if body is not None and not {"Content-Length", "Transfer-Encoding"} & set(fields):
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(body: bytes, size: int = 65536) -> bytes:
    """Return a body in chunked transfer coding, including its end."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def call(
    port: int,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    within: float = ANSWER_WITHIN,
) -> Response:
    """Send one request on its own connection. The answer is read while the body is still being sent."""
    began = time.monotonic()
    async with asyncio.timeout(within), Connection(port) as connection:
        sending = asyncio.create_task(connection.send(request(method, path, body, headers)))
        try:
            answer = await connection.answer(has_body=method != "HEAD")
        finally:
            sending.cancel()
            await asyncio.wait([sending])
    return Response(answer.head, answer.body, time.monotonic() - began)


def turn_body(session: str | None, script: object, **fields: Any) -> bytes:
    """Return the body of a turn.

    `script`: steps of tests/apps/scripted as a list, a text, or a complete message.
    """
    if isinstance(script, dict):
        message = script
    else:
        message = {"content": script if isinstance(script, str) else json.dumps(script)}
    whole = {"message": message, **fields}
    if session is not None:
        whole["session_id"] = session
    return json.dumps(whole).encode()


JSON: Final = {"Content-Type": "application/json"}


async def invoke(
    port: int,
    session: str,
    script: object,
    *,
    headers: Mapping[str, str] | None = None,
    within: float = ANSWER_WITHIN,
    **fields: Any,
) -> Response:
    """Run a turn with `stream: false`; return its JSON answer or its error."""
    body = turn_body(session, script, **{"stream": False, **fields})
    return await call(port, "POST", "/invoke", body=body, headers={**JSON, **(headers or {})}, within=within)


async def session_in(port: int, slot: int) -> str:
    """Return a new session that is pinned to this slot, found by trying, as a client would."""
    while True:
        session = new_session(f"slot{slot}")
        response = await invoke(port, session, "where am I?")
        if response.headers["x-agentscope-worker"].split(".")[0] == str(slot):
            return session


async def stop(port: int, **what: str) -> int:
    """Call `POST /stop`; return the number of stopped turns."""
    response = await call(port, "POST", "/stop", body=json.dumps(what).encode(), headers=JSON)
    assert (response.status, response.json["status"]) == (200, "success")
    stopped: int = response.json["stopped"]
    return stopped


class Stream:
    """One streamed turn. Use as an async context manager; leaving it closes the connection.

    The request is sent on entry; `begun` waits for the head, `until` and `whole` read events.
    """

    def __init__(
        self,
        port: int,
        session: str,
        script: object,
        *,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
        **fields: Any,
    ) -> None:
        body = turn_body(session, script, **fields)
        self._begin(port, request("POST", "/invoke", body, {**JSON, **(headers or {})}), receive_buffer)

    def _begin(self, port: int, asked: bytes, receive_buffer: int | None) -> None:
        self._request = asked
        self._connection = Connection(port, receive_buffer=receive_buffer)
        self._parser = Parser()
        self._head: Head | None = None
        self._pieces: AsyncIterator[bytes]
        self.raw = b""

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        await self._connection.send(self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Close the connection without reading further."""
        self._connection.abort()

    @property
    def events(self) -> list[Event]:
        """The events read so far."""
        return self._parser.events

    @property
    def comments(self) -> list[str]:
        """The comments read so far."""
        return [comment.text for comment in self._parser.comments]

    @property
    def head(self) -> Head:
        """The head of the answer; available after `begun`."""
        assert self._head is not None
        return self._head

    @property
    def run_id(self) -> str:
        """The run id; available after `begun`."""
        return self.head.headers["x-run-id"]

    @property
    def worker(self) -> str:
        """The worker that the head names."""
        return self.head.headers["x-agentscope-worker"]

    async def begun(self, within: float = ANSWER_WITHIN) -> Self:
        """Wait for the head, which must be the head of a stream."""
        async with asyncio.timeout(within):
            if self._head is None:
                self._head = await self._connection.head()
                self._pieces = self._connection.body(self._head)
        assert self._head.status == 200, f"{self._head.status} instead of a stream"
        assert self._head.headers["content-type"] == "text/event-stream; charset=utf-8"
        return self

    def has_arrived(self) -> bool:
        """Return whether unread bytes have arrived."""
        return bool(self._connection.has_arrived())

    async def until(self, events: int = 0, comments: int = 0, within: float = ANSWER_WITHIN) -> Self:
        """Read until this many events and comments have arrived.

        Raises: AssertionError if the stream ends earlier.
        """
        await self.begun(within)
        async with asyncio.timeout(within):
            while len(self.events) < events or len(self.comments) < comments:
                assert await self.read(), f"the stream ended after {len(self.events)} events"
        return self

    async def to_end(self, within: float = ANSWER_WITHIN) -> Self:
        """Read to the end of the stream, whatever it contains."""
        await self.begun(within)
        async with asyncio.timeout(within):
            while await self.read():
                pass
        self._parser.finish()
        return self

    async def whole(self, error: str | None = None, within: float = ANSWER_WITHIN) -> list[Event]:
        """Read to the end; return the checked events without the done event and the error event.

        `error`: the code of the error event that the stream must have; None: it must have none.
        """
        await self.to_end(within)
        assert_whole_stream(self.events, self.run_id, error)
        return self.events[: -1 if error is None else -2]

    async def refused(self, within: float = ANSWER_WITHIN) -> Response:
        """Read the error that was sent instead of a stream."""
        async with asyncio.timeout(within):
            response = await self._connection.answer()
        assert response.status >= 400, f"status {response.status} is no refusal"
        return response

    async def read(self) -> bool:
        """Read the next chunk; return False at the end."""
        piece = await anext(self._pieces, b"")
        self.raw += piece
        self._parser.feed(piece, time.monotonic())
        return bool(piece)


class Watch(Stream):
    """The events of a run that another client has started, from the given position."""

    def __init__(
        self,
        port: int,
        run_id: str,
        *,
        after: int | None = None,
        last_event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        query = f"?after={after}" if after is not None else ""
        seen = {"Last-Event-ID": last_event_id} if last_event_id is not None else {}
        asked = request("GET", f"/runs/{run_id}/events{query}", None, {**seen, **(headers or {})})
        self._begin(port, asked, receive_buffer)


async def streamed(port: int, session: str, script: object, **fields: Any) -> list[Event]:
    """Run a successful turn; return its events without the done event."""
    async with Stream(port, session, script, **fields) as stream:
        return await stream.whole()


async def texts(port: int, session: str, script: object, **fields: Any) -> list[str]:
    """Run a successful turn; return its texts, one for each event."""
    return [event.text for event in await streamed(port, session, script, **fields)]
