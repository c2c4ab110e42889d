"""One exchange: its input, its credit, and the end of its client. The base of the two kinds.

Owns waiting. The methods that the link's events call only record what has happened and wake `receive` and
`send`, which several tasks of an app may call at the same time.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Final

from agentscope_protocol.wire.errors import LocalProtocolError
from agentscope_protocol.wire.exchange import RequestHead
from agentscope_protocol.wire.frames import MAX_ANSWER, Input, Open
from agentscope_protocol.wire.link import Link
from agentscope_protocol.wire.responder import Responder

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, section 5.6.2
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]


class ClientDisconnected(OSError):
    """The client of a WebSocket has gone, and the app still sends. Frameworks expect an OSError."""


class Exchange(ABC):
    """One open exchange. `receive` and `send` are those of ASGI."""

    def __init__(self, opened: Open, head: RequestHead, link: Link[Responder]) -> None:
        self.opened: Final = opened
        self.head: Final = head
        self.stream: Final = opened.stream
        self.task: asyncio.Task[None]  # set right after construction
        self.is_gone = False  # no client waits for the response any more
        self.is_over = False  # the end of the stream has been sent
        self.is_lost = False  # its end is not reported: the supervisor reports it as lost with the worker
        self._link: Final = link
        self._responder: Final = link.connection
        self._input: Final[deque[Input]] = deque()
        self._news: Final = asyncio.Event()

    @abstractmethod
    def scope(self, state: MutableMapping[str, Any]) -> dict[str, Any]:
        """The scope for the app."""

    @abstractmethod
    async def receive(self) -> Message:
        """The next message for the app."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Take a message of the app. Raises: RuntimeError if ASGI does not allow it now."""

    @abstractmethod
    def returned(self) -> str:
        """Complete the exchange after the app has returned; returns what is wrong with that, or ""."""

    @property
    def is_deaf(self) -> bool:
        """Whether nobody reads what the app sends."""
        return self.is_gone

    def put(self, event: Input) -> None:
        """Take a message of the client."""
        self._input.append(event)
        self._news.set()

    def wake(self) -> None:
        """The stream has credit again."""
        self._news.set()

    def leave(self, reason: int) -> None:
        """The client has gone, or the supervisor cancels the exchange. `reason`: a CancelReason."""
        self.is_gone = True
        self._news.set()

    async def _change(self) -> None:
        """Wait for an event of the link. The caller checks afterwards what has happened."""
        self._news.clear()
        await self._news.wait()

    def _send_head(self, status: int, headers: Headers, ids: tuple[str, ...] = ()) -> None:
        """Send the head of the response. Raises: RuntimeError if it is over the limit."""
        try:
            self._responder.head(self.stream, status, headers, ids)
        except LocalProtocolError as error:
            raise RuntimeError(f"the head of the response cannot be sent: {error}") from error

    async def _transmit(self, kind: int, payload: bytes) -> bool:
        """Send one message as soon as the stream has credit; returns False if nobody reads it."""
        if len(payload) > MAX_ANSWER:
            raise RuntimeError(f"a message of {len(payload)} bytes is over the limit of {MAX_ANSWER}")
        while not self._responder.can_send(self.stream):
            if self.is_deaf:
                return False
            await self._change()
        self._responder.message(self.stream, kind, payload)
        return True

    def _end(self) -> None:
        self.is_over = True
        self._responder.end(self.stream)
        self._link.flush_early()
        self._news.set()  # a task that waits for the disconnect


def headers_of(message: Message) -> Headers:
    """The headers in a message of the app, with names in lower case. Raises: RuntimeError: one is invalid."""
    headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise RuntimeError("Invalid HTTP header name.")
        if _CONTROL.search(value):
            raise RuntimeError("Invalid HTTP header value.")
    return headers
