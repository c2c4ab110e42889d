"""The HTTP requests to the platform, one method per exchange. Every failure becomes a `PlatformError`.

The platform's answers are not trusted: redirects are not followed, nothing is decompressed, cookies are not
kept, and at most `MAX_BODY` bytes of a body are read. Each request opens its own connection, so no request
uses one that the platform has just closed. Decides nothing: `loop` schedules the requests, `decisions`
interprets the answers.
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
from agentscope_supervisor.system.blocking_calls import BlockingCalls, NoThreadAvailable

MAX_BODY: Final = 64 * 1024  # bytes of an answer; a valid one has about a hundred
MAX_LOOKUPS: Final = 2  # concurrent DNS lookups; aiohttp shares one lookup among requests for the same host


class FailureKind(StrEnum):
    """The kinds of failures that the metrics count."""

    LOOKUP = "lookup"  # DNS
    CONNECTION = "connection"  # refused, reset, TLS
    TIMEOUT = "timeout"
    REDIRECT = "redirect"
    STATUS = "status"  # neither 2xx nor 3xx
    TOO_LARGE = "too_large"
    GARBAGE = "garbage"


class PlatformError(Exception):
    """An exchange failed.

    `reason` is for a log line: it contains nothing of the headers, the body or the URL.
    """

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind: Final = kind
        self.reason: Final = reason


class _Lookups(AbstractResolver):
    """Resolves names with the system's resolver, in its own threads, because a lookup may hang for 30 s."""

    def __init__(self) -> None:
        self._threads: Final = BlockingCalls("lookup", MAX_LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            found = await self._threads.run(
                partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
            )
        except NoThreadAvailable:
            raise OSError(None, "earlier DNS lookups have not returned") from None
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
        """Do nothing: a hanging lookup ends by itself, and its result is dropped."""


class PlatformClient:
    """The client of one instance. Create it on the event loop, and call `close` at the end."""

    def __init__(self, settings: PlatformSettings) -> None:
        beats = url(settings.endpoint, settings.instance_id, "heartbeat")
        config = url(settings.endpoint, settings.instance_id, "config")
        headers = {"Accept-Encoding": "identity", "User-Agent": f"agentscope-supervisor/{__version__}"}
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
            # aiohttp refuses credentials in the URL beside an Authorization header.
            beats, config = beats.with_user(None), config.with_user(None)
        self._beats: Final = beats
        self._config: Final = config
        self._proxy: Final = _proxy(beats)
        self._session: Final = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(resolver=_Lookups(), force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # each exchange has its own timeout
            auto_decompress=False,
        )

    async def beat(self, body: bytes, within: float) -> None:
        """Send a heartbeat. Only the status of the answer is read.

        `within`: seconds. Raises: PlatformError.
        """
        await self._exchange("POST", self._beats, body, within)

    async def config(self, within: float) -> bytes:
        """Return the body of the answer to a config poll. `within`: seconds. Raises: PlatformError."""
        return await self._exchange("GET", self._config, None, within)

    async def close(self) -> None:
        """Close the HTTP session. No other method may be called afterwards."""
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
                    raise PlatformError(
                        FailureKind.REDIRECT, f"status {response.status}; redirects are not followed"
                    )
                if response.status // 100 != 2:
                    raise PlatformError(FailureKind.STATUS, f"status {response.status}")
                return await _read(response) if method == "GET" else b""
        except TimeoutError:
            raise PlatformError(FailureKind.TIMEOUT, f"no complete answer within {within:g} s") from None
        except aiohttp.ClientConnectorDNSError:
            raise PlatformError(FailureKind.LOOKUP, "the host name cannot be resolved") from None
        except (aiohttp.ClientConnectionError, OSError) as error:
            # The full text of the error contains the host; the system's message is enough.
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise PlatformError(FailureKind.CONNECTION, str(reason)) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise PlatformError(FailureKind.GARBAGE, f"invalid HTTP: {type(error).__name__}") from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of a response. Raises: PlatformError if it is longer than MAX_BODY."""
    body = b""
    while chunk := await response.content.read(MAX_BODY + 1 - len(body)):
        body += chunk
        if len(body) > MAX_BODY:
            raise PlatformError(FailureKind.TOO_LARGE, f"the answer is longer than {MAX_BODY} bytes")
    return body


def url(endpoint: str, instance_id: str, what: str) -> URL:
    """Return the URL of an exchange of one instance. It keeps the path and the query of the endpoint."""
    base = URL(endpoint)
    # The id is always one segment of the path. A lone surrogate cannot be encoded in a URL.
    segment = quote(instance_id, safe="", errors="replace")
    return URL.build(
        scheme=base.scheme,
        authority=base.raw_authority,
        path=f"{base.raw_path.rstrip('/')}/instances/{segment}/{what}",
        query_string=base.raw_query_string,
        encoded=True,
    )


def _proxy(url: URL) -> str | None:
    """Return the proxy that the environment sets for this URL.

    (aiohttp's own look-up would use the default thread pool, which other code shares.)
    """
    if url.host is None or proxy_bypass(url.host):
        return None
    return getproxies().get(url.scheme)
