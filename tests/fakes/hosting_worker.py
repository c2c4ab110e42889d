"""A worker that hosts the ASGI app `app` of app.py, for tests of the supervisor's side of exchanges.

A program that takes the place of the interpreter in `supervisor.python` (`program` creates it). It loads
neither AgentScope nor a framework, and has only what the tests need: no lifespan, and no errors of an app's
own messages.
"""

import asyncio
import json
import os
import runpy
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from mmap import mmap
from pathlib import Path
from typing import Any

from agentscope_protocol.wire.endpoint import Event, Writable
from agentscope_protocol.wire.errors import Code
from agentscope_protocol.wire.exchange import PIECE, close_payload, decode_head, read_close
from agentscope_protocol.wire.frames import Cancel, CancelReason, Input, MessageKind, Open, StreamKind
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.page import PAGE_SIZE, TICK_EVERY, LifePage
from agentscope_protocol.wire.responder import Responder

Json = dict[str, Any]
App = Callable[[Json, Callable[[], Awaitable[Json]], Callable[[Json], Awaitable[None]]], Awaitable[None]]

HOSTED = "hosted.txt"  # in the project folder: the kind of app to report
IDS = b"x-learn"
"""A response header of the app whose value is reported in `Head.ids`."""


def program(folder: Path) -> str:
    """The path of an executable that runs this module instead of a worker, and Python for all else."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "if '-c' in sys.argv[1:2]:\n"  # the supervisor's check of the installation
        f"    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from tests.fakes.hosting_worker import main\n"
        "main()\n"
    )
    path.chmod(0o755)
    return str(path)


class _Exchange:
    def __init__(self, worker: "HostingWorker", opened: Open) -> None:
        self.worker, self.stream, self.kind = worker, opened.stream, opened.kind
        self.request = decode_head(opened.body)
        self.inbox: asyncio.Queue[Json] = asyncio.Queue()
        self.has_head = self.is_over = self.is_gone = False
        self.writable: asyncio.Future[None] | None = None
        self.start: Json | None = None

    @property
    def scope(self) -> Json:
        head = self.request
        scope = {
            "type": "http" if self.kind == StreamKind.HTTP else "websocket",
            "method": head.method,
            "path": head.path.decode(),
            "query_string": head.query,
            "headers": head.headers,
            "client": head.client,
            "scheme": head.scheme,
            "subprotocols": head.subprotocols,
            "pid": os.getpid(),
        }
        return scope

    async def run(self, app: App) -> None:
        responder, error = self.worker.responder, ""
        if self.kind == StreamKind.WEBSOCKET:
            self.inbox.put_nowait({"type": "websocket.connect"})
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            error = "cancelled"
        except Exception as failed:
            error = repr(failed)
        if not (self.is_over or responder.closed):
            if self.is_gone or error == "cancelled":
                responder.fail(self.stream, Code.CANCELLED, "cancelled")
            elif error or not self.has_head:
                responder.fail(self.stream, Code.APP_ERROR, error)
            else:
                responder.end(self.stream)
            self.worker.link.flush()

    async def receive(self) -> Json:
        message = await self.inbox.get()
        size = message.pop("size", None)
        if size is not None:
            self.worker.responder.taken(self.stream, size)
            self.worker.link.flush_soon()
        return message

    async def send(self, message: Json) -> None:
        responder = self.worker.responder
        if self.is_gone:
            raise OSError("the client is gone")
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._head(message["status"], message.get("headers", ()))
            case "http.response.body" | "websocket.http.response.body":
                body = message.get("body", b"")
                for at in range(0, len(body), PIECE):
                    await self._message(MessageKind.BODY, body[at : at + PIECE])
                if not message.get("more_body"):
                    self._end()
            case "websocket.accept":
                headers = [*message.get("headers", ())]
                if "subprotocol" in message:
                    headers.append((b"sec-websocket-protocol", message["subprotocol"].encode()))
                self._head(101, headers)
            case "websocket.send":
                if "text" in message:
                    await self._message(MessageKind.TEXT, message["text"].encode())
                else:
                    await self._message(MessageKind.BINARY, message["bytes"])
            case "websocket.close":
                if self.has_head:
                    payload = close_payload(message.get("code", 1000), message.get("reason", ""))
                    await self._message(MessageKind.CLOSE, payload)
                else:
                    self._head(403, ())
                self._end()
        self.worker.link.flush()
        assert not responder.closed

    def _head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        ids = [value.decode() for name, value in headers if name == IDS]
        self.worker.responder.head(self.stream, status, headers, ids)
        self.has_head = True

    async def _message(self, kind: int, payload: bytes) -> None:
        if not self.worker.responder.message(self.stream, kind, payload):
            self.worker.link.flush()
            self.writable = asyncio.get_running_loop().create_future()
            await self.writable
            if self.is_gone:
                raise OSError("the client is gone")

    def _end(self) -> None:
        self.is_over = True
        self.worker.responder.end(self.stream)

    def arrived(self, kind: int, payload: bytes) -> None:
        match kind:
            case MessageKind.BODY | MessageKind.LAST:
                more = kind == MessageKind.BODY
                self.inbox.put_nowait(
                    {"type": "http.request", "body": payload, "more_body": more, "size": len(payload)}
                )
            case MessageKind.CLOSE:
                code, reason = read_close(payload)
                self.inbox.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            case MessageKind.TEXT:
                self.inbox.put_nowait(
                    {"type": "websocket.receive", "text": payload.decode(), "size": len(payload)}
                )
            case _:
                self.inbox.put_nowait({"type": "websocket.receive", "bytes": payload, "size": len(payload)})

    def cancelled(self, reason: int, task: "asyncio.Task[None]") -> None:
        self.is_gone = True
        self.wake()
        if reason == CancelReason.CLIENT_GONE:
            self.inbox.put_nowait({"type": "http.disconnect"})
        else:
            task.cancel()

    def wake(self) -> None:
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)


class HostingWorker:
    """One worker process; `run` returns when the link ends or at SIGTERM."""

    def __init__(self, page: mmap) -> None:
        self._page = LifePage(page)
        self._exchanges: dict[int, _Exchange] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._app: App = runpy.run_path("app.py")["app"]
        self._hosted = Path(HOSTED).read_text() if Path(HOSTED).exists() else "asgi"
        self._stop = asyncio.get_running_loop().create_future()
        self.link = Link(Responder({"pid": os.getpid()}), self._on_event, self._on_lost)
        self.responder = self.link.connection

    async def run(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        await loop.create_connection(lambda: self.link, sock=sock)
        loop.add_signal_handler(signal.SIGTERM, self._end)
        detail = {"forms": [StreamKind.HTTP, StreamKind.WEBSOCKET], "hosted": self._hosted}
        self.responder.notice("ready", json.dumps(detail))
        self.link.flush()
        ticking = asyncio.ensure_future(self._tick())
        await self._stop
        ticking.cancel()

    async def _tick(self) -> None:
        while True:
            self._page.tick_loop()
            self._page.tick_thread()
            await asyncio.sleep(TICK_EVERY)

    def _on_event(self, event: Event) -> None:
        match event:
            case Open(stream):
                self._page.begin(stream)
                exchange = self._exchanges[stream] = _Exchange(self, event)
                task = self._tasks[stream] = asyncio.ensure_future(exchange.run(self._app))
                task.add_done_callback(lambda _: (self._exchanges.pop(stream), self._tasks.pop(stream)))
            case Input(stream, kind, payload) if stream in self._exchanges:
                self._exchanges[stream].arrived(kind, payload)
            case Cancel(stream, reason) if stream in self._exchanges:
                self._exchanges[stream].cancelled(reason, self._tasks[stream])
            case Writable(stream):
                self._exchanges[stream].wake()

    def _on_lost(self, _reason: str, _unfinished: Sequence[Event]) -> None:
        self._end()

    def _end(self) -> None:
        if not self._stop.done():
            self._stop.set_result(None)


def main() -> None:
    """Run as a worker; argv ends like a real worker's: supervisor's pid, link, page, log records."""
    link, page = map(int, sys.argv[-3:-1])

    async def work() -> None:
        await HostingWorker(mmap(page, PAGE_SIZE)).run(socket.socket(fileno=link))
        os._exit(0)

    asyncio.run(work())
