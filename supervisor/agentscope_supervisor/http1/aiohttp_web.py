"""The part of `aiohttp.web` that the supervisor uses: the server, requests and responses.

`aiohttp.web` itself also imports applications, routes, static files and websockets, which take 1.3 MiB.
"""

from aiohttp.web_exceptions import HTTPRequestEntityTooLarge
from aiohttp.web_protocol import PayloadAccessError, RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

__all__ = [
    "BaseRequest",
    "HTTPRequestEntityTooLarge",
    "PayloadAccessError",
    "RequestHandler",
    "RequestPayloadError",
    "Response",
    "Server",
    "StreamResponse",
]
