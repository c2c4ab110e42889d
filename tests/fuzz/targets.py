"""Functions that parse untrusted bytes, each with its seeds. A target raises only for a bug.

Each target allows the documented errors of the function that it calls, and checks what holds for every input.
`tests.fuzz` runs them with atheris for minutes; tests/fuzz/test_targets.py with random bytes in `make check`.
"""

import asyncio
import contextlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser

from agentscope_protocol.config import settings
from agentscope_protocol.config.problems import SettingsError
from agentscope_protocol.wire import codec
from agentscope_protocol.wire.errors import Code, RemoteProtocolError
from agentscope_protocol.wire.frames import (
    PROTOCOL_VERSION,
    Data,
    End,
    Fail,
    Frame,
    Hello,
    Notice,
    Open,
    StreamKind,
)
from agentscope_protocol.wire.requester import Requester
from agentscope_protocol.wire.responder import Responder
from agentscope_supervisor.domain.errors import Refused
from agentscope_supervisor.http1 import fast_head, strictness
from agentscope_supervisor.project import archive_read, manifest
from agentscope_supervisor.web import parse_invoke
from agentscope_supervisor.web.dialects.native import NATIVE
from tests.fuzz import request_ways

MAX_BODY: Final = 1000  # bytes of a request's body, for the heads


@dataclass(frozen=True, slots=True)
class Target:
    """`run` parses bytes. `seeds` are valid inputs, which a fuzzer mutates."""

    run: Callable[[bytes], object]
    seeds: Sequence[bytes]


def _halves(data: bytes) -> tuple[bytes, bytes]:
    """`data` in two pieces; its first byte says where."""
    at = 1 + data[0] % max(len(data), 1) if data else 0
    return data[1:at], data[at:]


def requester(data: bytes) -> None:
    """The supervisor's side of a link reads what a worker sends."""
    connection = Requester({})
    for piece in (codec.encode(Hello(PROTOCOL_VERSION, {})), *_halves(data)):
        try:
            for _ in connection.receive(piece):
                pass
        except RemoteProtocolError:
            connection.close("illegal")


def responder(data: bytes) -> None:
    """The worker's side of a link reads what a supervisor sends."""
    connection = Responder({})
    for piece in (codec.encode(Hello(PROTOCOL_VERSION, {})), *_halves(data)):
        try:
            for _ in connection.receive(piece):
                pass
        except RemoteProtocolError:
            connection.close("illegal")


def head(data: bytes) -> None:
    """A head that the fast way recognizes means the same to aiohttp's parser."""
    found = fast_head.read(data, MAX_BODY)
    if found is None or found.end > len(data):
        return
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        [(message, body)], upgraded, rest = parser.feed_data(data[: found.end])
    finally:
        loop.close()
    assert (message.method, message.path) == ("POST", "/invoke")
    assert {name.lower(): value for name, value in message.headers.items()} == found.fields
    assert (message.should_close, message.upgrade, message.chunked, upgraded, rest) == (False,) * 4 + (b"",)
    assert strictness.violation(message) is None
    assert body.read_nowait() == data[found.start : found.end]


def ways(data: bytes) -> None:
    """Bytes mean the same on every way into the front door. says where the others are cut."""
    if len(data) < 2:
        return
    request_ways.check(data[1:], data[0] * len(data) // 256)


def body(data: bytes) -> None:
    """The body of a turn is refused, or gives a request that carries the same bytes."""
    for principal, key in (("token", None), ("metadata.user", "key")):
        try:
            request = parse_invoke.read(
                data,
                NATIVE,
                header_session=None,
                accepts_json=False,
                token="token",
                principal=principal,
                headers={},
                idempotency_key=key,
            )
        except Refused:
            continue
        assert request.body == data
        json.loads(data)  # what we accept is JSON


def config(data: bytes) -> None:
    """agentapp.yaml is valid, or every problem is reported."""
    with contextlib.suppress(SettingsError):
        settings.load(data.decode("utf-8", "replace"), source="agentapp.yaml", env={"SET": "value"})


def manifest_file(data: bytes) -> None:
    """The manifest of an archive is refused, or valid, and then it is written as it was read."""
    with contextlib.suppress(manifest.ManifestError):
        read = manifest.decode(data)
        assert manifest.decode(read.encode()) == read


def archive(data: bytes) -> None:
    """An uploaded archive is whole, or refused."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "upload"
        path.write_bytes(data)
        with contextlib.suppress(archive_read.ArchiveError):
            archive_read.verify(path)


def _wire(*frames: Frame) -> bytes:
    return b"\x07" + b"".join(map(codec.encode, frames))


def _archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _json(*values: Any) -> list[bytes]:
    return [json.dumps(each).encode() for each in values]


_HEAD: Final = b"POST /invoke HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
_MANIFEST: Final = manifest.new_manifest("shop", {"python": "3.11"}, []).encode()
_TURN: Final = {"session_id": "s", "message": {"content": "hello"}, "metadata": {"user": "u"}}


def _targets() -> Iterable[tuple[str, Target]]:
    opened = Open(1, StreamKind.EVENTS, "session", "run", b"{}")
    yield "requester", Target(requester, [_wire(Data(1, 1, b"x"), End(1, b"")), _wire(Notice("ready", "{}"))])
    yield "responder", Target(responder, [_wire(opened), _wire(Fail(1, Code.APP_ERROR, "x"))])
    yield (
        "head",
        Target(
            head,
            [_HEAD + b"Content-Length: 5\r\n\r\nhello", _HEAD + b"X-A: \t b\r\nContent-Length: 0\r\n\r\n"],
        ),
    )
    usual, later = request_ways.USUAL, b"0\r\n\r\n" + request_ways.USUAL
    start, chunk = b"POST /invoke HTTP/1.1\r\n" + request_ways.FIELDS, request_ways.BODY
    yield (
        "ways",
        Target(
            ways,
            [
                b"\x80" + usual * 2,
                b"\x80" + usual.replace(b"Host", b"Connection: upgrade\r\nUpgrade: x\r\nHost") + usual,
                b"\x20%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%b" % (start, len(chunk), chunk, later),
                b"\xe0%bContent-Length: %d\r\n\r\n%b" % (start, len(later), later),
            ],
        ),
    )
    yield (
        "body",
        Target(body, _json(_TURN, {**_TURN, "stream": False, "on_busy": "reject"}, {"message": None}, [])),
    )
    yield (
        "config",
        Target(
            config,
            [
                b"models:\n  main: {provider: openai, model: m, api_key: '${SET}'}\nserver: {port: 1}\n",
                b"a: &a [1, 2]\nb: *a\nc: {<<: {d: 1e5}}\n",
            ],
        ),
    )
    yield "manifest", Target(manifest_file, [_MANIFEST])
    yield "archive", Target(archive, [_archive({manifest.MANIFEST: _MANIFEST})])


TARGETS: Final = dict(_targets())
