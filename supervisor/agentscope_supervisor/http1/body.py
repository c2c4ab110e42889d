"""Request bodies: checks of their type and size, and time limits while they arrive.

A body that is refused because of its headers is not read at all, and no body is read beyond the size limit.
A body that takes too long in total, or whose rate falls below a minimum, is given up.

Where to read next: `domain.request` parses small bodies, `domain.json_outline` reads large ones.
"""

import asyncio
from typing import Final

from aiohttp.http_writer import HttpVersion11
from aiohttp.streams import StreamReader

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused, invalid, refusal
from agentscope_supervisor.domain.json_outline import Outline
from agentscope_supervisor.http1 import aiohttp_web as web
from agentscope_supervisor.http1.aiohttp_connection import is_let_in
from agentscope_supervisor.http1.channel import CONTINUE
from agentscope_supervisor.http1.strictness import PLAIN_TYPES

MIN_RATE: Final = 1024  # bytes per second, on average over each RATE_WINDOW
RATE_WINDOW: Final = 5.0  # seconds; a mobile network may be silent for as long
MAX_UNREAD: Final = 256 * 1024 * 1024
"""Maximum size in bytes of all bodies before they are turns: the same as the ledger's limit for those that
are. Without it, 10,000 clients could each send a body of the maximum size without its last byte."""

MAX_OF_STRANGER: Final = 64 * 1024  # bytes of a body on a route that needs no credentials

_CONTINUE: Final = "100-continue"

_TOO_LARGE: Final = Failure(
    ErrorCode.PAYLOAD_TOO_LARGE, f"the body is over {MAX_OF_STRANGER} bytes, the limit without credentials"
)
_OVERLOADED: Final = refusal(ErrorCode.OVERLOADED, "too many large request bodies are being received")


class BodyReader:
    """Reads bodies that must be JSON, within `server.max_body_mb` and `server.body_timeout`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.max_size: Final = int(settings.max_body_mb * 1024 * 1024)  # bytes
        self._too_large: Final = Failure(
            ErrorCode.PAYLOAD_TOO_LARGE, f"the body is over server.max_body_mb: {settings.max_body_mb:g}"
        )
        self._timeout: Final = settings.body_timeout
        self._collected = 0  # bytes of incomplete bodies, and of those whose outline is
        self._stepping: Final = asyncio.Lock()

    async def read(self, request: web.BaseRequest) -> bytes:
        """The whole body. Raises: Refused."""
        max_size, too_large = self.max_size, self._too_large
        if not is_let_in(request) and max_size > MAX_OF_STRANGER:
            max_size, too_large = MAX_OF_STRANGER, _TOO_LARGE
        if request.headers.get("Content-Type") not in PLAIN_TYPES:
            _check_type(request)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            message = "the body must not be compressed"
            raise Refused(Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message))
        if (request.content_length or 0) > max_size:
            raise Refused(too_large)
        transport = request.transport
        is_asked = request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == _CONTINUE
        if is_asked and transport is not None:  # past aiohttp's writer, which takes it for the response
            transport.write(CONTINUE)
        content = request.content
        try:
            # Almost all bodies arrive together with their head.
            body = content.read_nowait() if content.is_eof() else await self._collect(content, max_size)
        except TimeoutError:
            message = (
                f"the body did not arrive within {self._timeout:g} s, or was slower than {MIN_RATE} bytes/s"
            )
            raise Refused(Failure(ErrorCode.REQUEST_TIMEOUT, message)) from None
        except web.RequestPayloadError as error:
            content.feed_eof()  # so that aiohttp does not wait for the rest
            raise invalid(f"the body could not be read: {error}") from None
        if len(body) > max_size:
            raise Refused(too_large)
        return body

    async def complete(self, outline: Outline, size: int) -> None:
        """Complete the outline of a body of `size` bytes. However many clients send large bodies, one step of
        one of them is done each time that the event loop looks for other work. Raises: Refused."""
        self._collected += size
        try:
            if self._collected > MAX_UNREAD:
                raise Refused(_OVERLOADED)
            is_complete = False
            while not is_complete:
                async with self._stepping:  # in turn: the lock is fair
                    is_complete = outline.step()
                    await asyncio.sleep(0)
        finally:
            self._collected -= size

    async def _collect(self, content: StreamReader, max_size: int) -> bytes:
        """Collect a body that arrives in pieces, up to one piece over `max_size` bytes.

        Raises: TimeoutError, Refused, RequestPayloadError.
        """
        loop = asyncio.get_running_loop()
        body = bytearray()
        end = loop.time() + self._timeout
        enough = 0  # bytes at which a new RATE_WINDOW begins
        try:
            async with asyncio.timeout_at(end) as limit:
                while len(body) <= max_size:
                    if len(body) >= enough:
                        limit.reschedule(min(end, loop.time() + RATE_WINDOW))
                        enough = len(body) + int(MIN_RATE * RATE_WINDOW)
                    piece = await content.readany()
                    if not piece:
                        break
                    body += piece
                    self._collected += len(piece)
                    if self._collected > MAX_UNREAD:
                        raise Refused(_OVERLOADED)
            return bytes(body)
        finally:
            self._collected -= len(body)


class PieceReader:
    """Reads a body of any size in pieces, and wants MIN_RATE of its client. The time between two calls does
    not count, because the client may be waiting for the reader then."""

    def __init__(self, content: StreamReader) -> None:
        self._content: Final = content
        self._loop: Final = asyncio.get_running_loop()
        self._received = 0  # bytes in the present window
        self._left = RATE_WINDOW  # seconds of it

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises: Refused."""
        content = self._content
        if content.is_eof():  # it has arrived whole
            return content.read_nowait()
        began = self._loop.time()
        try:
            async with asyncio.timeout(self._left):
                piece = await content.readany()
        except TimeoutError:
            message = f"the body was slower than {MIN_RATE} bytes/s"
            raise Refused(Failure(ErrorCode.REQUEST_TIMEOUT, message)) from None
        except web.RequestPayloadError as error:
            content.feed_eof()  # so that aiohttp does not wait for the rest
            raise invalid(f"the body could not be read: {error}") from None
        self._received += len(piece)
        self._left -= self._loop.time() - began
        if self._received >= MIN_RATE * RATE_WINDOW:
            self._received, self._left = 0, RATE_WINDOW
        return piece


def _check_type(request: web.BaseRequest) -> None:
    """Raises: Refused."""
    if request.content_type != "application/json":
        message = f"the body must be application/json, not {request.content_type[:100]}"
    elif (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        message = "the body must be in UTF-8"
    else:
        return
    raise Refused(Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message))
