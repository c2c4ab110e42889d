"""The body of a request on its way in: its type, its size, its pace. What it says is `invocation`'s.

Nothing is read of a body that will be refused by its headers alone, and never more than the limit.
"""

import asyncio
from typing import Final

from aiohttp import web

from agentscope_protocol.settings import ServerSettings
from agentscope_supervisor.invocation import Refused, invalid
from agentscope_supervisor.outcomes import ErrorCode, Failure


class BodyReader:
    """Reads bodies that must be JSON, within `server.max_body_mb` and `server.body_timeout`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.max_size: Final = int(settings.max_body_mb * 1024 * 1024)  # bytes
        self.too_large: Final = Failure(
            ErrorCode.PAYLOAD_TOO_LARGE, f"the body is over server.max_body_mb: {settings.max_body_mb:g}"
        )
        self._timeout: Final = settings.body_timeout

    async def read(self, request: web.BaseRequest) -> bytes:
        """The whole body. Raises: Refused."""
        if request.headers.get("Content-Type") is not None and request.content_type != "application/json":
            message = f"the body must be application/json, not {request.content_type[:100]}"
            raise Refused(Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message))
        if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
            message = "the body must be in UTF-8"
            raise Refused(Failure(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message))
        if request.content_length is not None and request.content_length > self.max_size:
            raise Refused(self.too_large)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if request.content.is_eof():  # it came with the headers, as almost all do
                return await request.read()
            async with asyncio.timeout(self._timeout):
                return await request.read()
        except TimeoutError:
            message = f"the body did not come within {self._timeout:g} s"
            raise Refused(Failure(ErrorCode.REQUEST_TIMEOUT, message)) from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused(self.too_large) from None
        except web.PayloadAccessError as error:
            raise invalid(f"the body could not be read: {error}") from None
