"""One HTTP request of an ASGI app: its body as messages, and the app's messages as the response.

Messages out of order raise the errors that uvicorn raises. Trailers are ignored.
"""

import asyncio
from collections.abc import MutableMapping
from typing import Any, Final

from agentscope_protocol.wire.exchange import PIECE, RequestHead
from agentscope_protocol.wire.frames import MessageKind, Open
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.responder import Responder
from agentscope_worker.asgi import response_ids
from agentscope_worker.asgi.exchange import Exchange, Headers, Message, headers_of
from agentscope_worker.asgi.scopes import http_scope

HEAD_DELAY: Final = 0.1
"""Seconds that a head of JSON or events waits for the first bytes of its body, to find identifiers there."""

_WITHOUT_BODY: Final = (204, 304)

_BODY: Final = int(MessageKind.BODY)
_LAST: Final = int(MessageKind.LAST)


class HttpExchange(Exchange):
    """One request and its response."""

    def __init__(self, opened: Open, head: RequestHead, link: Link[Responder]) -> None:
        super().__init__(opened, head, link)
        self._status: int | None = None
        self._held: Headers | None = None  # of a head that has not been sent yet
        self._left: int | None = None  # bytes of the body that Content-Length still announces
        self._has_body = head.method != "HEAD"
        self._timer: asyncio.TimerHandle | None = None

    def scope(self, state: MutableMapping[str, Any]) -> dict[str, Any]:
        return http_scope(self.head, state)

    async def receive(self) -> Message:
        while not (self.is_gone or self.is_over):
            if self._input:
                event = self._input.popleft()
                more = event.kind != _LAST
                if more:
                    self._responder.taken(self.stream, len(event.payload))
                    self._link.flush_soon()
                return {"type": "http.request", "body": event.payload, "more_body": more}
            await self._change()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.is_gone:
            return  # as uvicorn does for apps of this specification: they learn it from `receive`
        if self._status is None:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._start(message["status"], headers_of(message))
        elif kind == "http.response.trailers":
            return
        elif self.is_over:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        elif kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
        else:
            await self._body(message.get("body", b""), message.get("more_body", False))

    def returned(self) -> str:
        if self.is_over or self.is_gone:
            return ""
        return "returned without a response" if self._status is None else "did not complete its response"

    def _start(self, status: int, headers: Headers) -> None:
        length = next((value for name, value in headers if name == b"content-length"), None)
        self._status = status
        self._has_body = self._has_body and status not in _WITHOUT_BODY
        if length is not None and self._has_body:
            self._left = int(length)
        self._held = headers
        if response_ids.may_have_ids(headers):
            self._timer = asyncio.get_running_loop().call_later(HEAD_DELAY, self._release, b"")
        else:
            self._release(b"")

    def _release(self, body: bytes) -> None:
        """Send the head that is held, if it still is. `body`: its first bytes."""
        if self._held is None or self.is_gone or self.is_over:
            return
        if self._timer is not None:
            self._timer.cancel()
        headers, self._held = self._held, None
        assert self._status is not None
        ids = response_ids.ids_in(body) if body else ()
        self._send_head(self._status, headers, ids)
        self._link.flush_soon()

    async def _body(self, body: bytes, more: bool) -> None:
        if not self._has_body:
            body = b""
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                raise RuntimeError("Response content longer than Content-Length")
            if self._left and not more:
                raise RuntimeError("Response content shorter than Content-Length")
        self._release(bytes(body[: response_ids.SEARCHED]) if self._timer is not None else b"")
        for start in range(0, len(body), PIECE):
            # A part of a memoryview or a bytearray is copied: the app may change it after this call.
            whole = type(body) is bytes and len(body) <= PIECE
            piece = body if whole else bytes(body[start : start + PIECE])
            if not await self._transmit(_BODY, piece):
                return
            if more:
                self._link.flush_early()
        if not (more or self.is_gone):
            self._end()
