"""The exchanges with the platform: one request each, and every way in which one can fail as one exception.

What answers is not trusted: no redirect is followed, nothing is decompressed, no cookie is kept, and of a
body at most `MAX_BODY` bytes are read. Each request has a connection of its own, so that none meets one that
the other side has just closed. Decides nothing: `loop` says when, `decisions` what answers mean.
"""

import asyncio
import socket
from enum import StrEnum
from functools import partial
from typing import Final
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from agentscope_protocol.config.settings import PlatformSettings
from agentscope_supervisor import __version__
from agentscope_supervisor.system.blocking_calls import AllTaken, BlockingCalls

MAX_BODY: Final = 64 * 1024  # bytes of an answer; a true one has a hundred
MAX_LOOKUPS: Final = 2  # of names at a time; aiohttp makes one for a name, however many ask


class Trouble(StrEnum):
    """The kinds of failures, as metrics count them."""

    LOOKUP = "lookup"  # of the name
    CONNECTION = "connection"  # refused, reset, TLS
    TIMEOUT = "timeout"
    REDIRECT = "redirect"
    STATUS = "status"  # neither 2xx nor 3xx
    TOO_LARGE = "too_large"
    GARBAGE = "garbage"


class PlatformError(Exception):
    """An exchange failed. `reason` is for a log: nothing of headers, body or URL is in it."""

    def __init__(self, kind: Trouble, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind: Final = kind
        self.reason: Final = reason


class _Lookups(AbstractResolver):
    """Names to addresses by the system's resolver, in threads of its own: it may hang for half a minute."""

    def __init__(self) -> None:
        self._threads: Final = BlockingCalls("lookup", MAX_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            found = await self._threads.run(
                partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
            )
        except AllTaken:
            raise OSError(None, "earlier lookups hang") from None
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=family,
                proto=proto,
                flags=numeric,
            )
            for family, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """A lookup that hangs ends by itself, and nobody hears of it."""


class PlatformClient:
    """Speaks to the platform in the name of one instance. To be made on the event loop, and closed."""

    def __init__(self, settings: PlatformSettings) -> None:
        beats = url(settings.endpoint, settings.instance_id, "heartbeat")
        config = url(settings.endpoint, settings.instance_id, "config")
        headers = {"Accept-Encoding": "identity", "User-Agent": f"agentscope-supervisor/{__version__}"}
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
            # One answer to who this is: aiohttp takes no other beside the header.
            beats, config = beats.with_user(None), config.with_user(None)
        self._beats: Final = beats
        self._config: Final = config
        self._proxy: Final = _proxy(beats)
        self._session: Final = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(resolver=_Lookups(), force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # each call has its own
            auto_decompress=False,
        )

    async def beat(self, body: bytes, within: float) -> None:
        """Send a heartbeat; what the platform answers beside the status is not read.

        `within`: seconds. Raises: PlatformError.
        """
        await self._exchange("POST", self._beats, body, within)

    async def config(self, within: float) -> bytes:
        """What the platform answers to the config poll. `within`: seconds. Raises: PlatformError."""
        return await self._exchange("GET", self._config, None, within)

    async def close(self) -> None:
        """To be called last."""
        await self._session.close()

    async def _exchange(self, method: str, url: URL, body: bytes | None, within: float) -> bytes:
        headers = {"Content-Type": "application/json"} if body is not None else None
        try:
            async with (
                asyncio.timeout(within),
                self._session.request(
                    method, url, data=body, headers=headers, allow_redirects=False, proxy=self._proxy
                ) as response,
            ):
                if response.status // 100 == 3:
                    raise PlatformError(Trouble.REDIRECT, f"status {response.status}; it is not followed")
                if response.status // 100 != 2:
                    raise PlatformError(Trouble.STATUS, f"status {response.status}")
                return await _read(response) if method == "GET" else b""
        except TimeoutError:
            raise PlatformError(Trouble.TIMEOUT, f"no whole answer within {within:g} s") from None
        except aiohttp.ClientConnectorDNSError:
            raise PlatformError(Trouble.LOOKUP, "the name of its host is not known") from None
        except (aiohttp.ClientConnectionError, OSError) as error:
            # Its own text names the host; for a person the system's word is enough.
            why = getattr(error, "strerror", None) or type(error).__name__
            raise PlatformError(Trouble.CONNECTION, str(why)) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise PlatformError(Trouble.GARBAGE, f"no HTTP: {type(error).__name__}") from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, whole."""
    body = b""
    while piece := await response.content.read(MAX_BODY + 1 - len(body)):
        body += piece
        if len(body) > MAX_BODY:
            raise PlatformError(Trouble.TOO_LARGE, f"the answer is longer than {MAX_BODY} bytes")
    return body


def url(endpoint: str, instance_id: str, what: str) -> URL:
    """Where an instance sends its heartbeats, or asks for its config. The query of the endpoint stays."""
    base = URL(endpoint)
    # Whatever the id holds is one segment of the path; lone surrogates have no form in a URL.
    segment = quote(instance_id, safe="", errors="replace")
    return URL.build(
        scheme=base.scheme,
        authority=base.raw_authority,
        path=f"{base.raw_path.rstrip('/')}/instances/{segment}/{what}",
        query_string=base.raw_query_string,
        encoded=True,
    )


def _proxy(url: URL) -> str | None:
    """The environment's proxy for this URL. (aiohttp itself would ask in the threads that all share.)"""
    if url.host is None or proxy_bypass(url.host):
        return None
    return getproxies().get(url.scheme)
