"""The heads of an exchange: of the request that the app gets, and of the response that the client gets. Pure.

Headers that concern one connection only (RFC 9110, section 7.6.1) do not pass. `X-Forwarded-*` counts only if
a trusted proxy sends it; the header itself passes to the app in any case.

Where to read next: `web.hosted` and `web.hosted_websocket` use it.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from agentscope_protocol.wire.exchange import RequestHead

Pairs = Iterable[tuple[bytes, bytes]]

_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_OF_WEBSOCKET: Final = frozenset(
    {b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol", b"content-length"}
)

_BLOCKED: Final[Mapping[str, tuple[str, ...]]] = {"agentapp": ("/shutdown", "/admin")}
"""Paths below which a kind of hosted app has routes that would end or change one worker only."""

NO_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def is_blocked(hosted: str, path: str) -> bool:
    """Whether a path of a hosted app is not served. `path`: as it was sent."""
    decoded = unquote(path)
    return any(decoded == each or decoded.startswith(f"{each}/") for each in _BLOCKED.get(hosted, ()))


class TrustedProxies:
    """The proxies whose X-Forwarded-For, -Proto and -Host count. `networks`: addresses or networks."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks: Final = [ipaddress.ip_network(each) for each in networks]

    def trusts(self, host: str) -> bool:
        """Whether this address is that of a trusted proxy."""
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if address.version == 6 else None
        return any((mapped or address) in network for network in self._networks)

    def client(self, forwarded_for: str) -> str:
        """The client in X-Forwarded-For: the last address that is not a trusted proxy; empty: none."""
        hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
        untrusted = [hop for hop in hops if not self.trusts(hop)]
        return (untrusted or hops or [""])[-1 if untrusted else 0]


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a request arrived. `peer` and `own`: the two addresses of its connection; None: a Unix socket."""

    method: str
    target: str  # as it was sent
    headers: Pairs
    peer: tuple[str, int] | None
    own: tuple[str, int] | None
    http_version: str = "1.1"
    is_websocket: bool = False


def request_head(arrival: Arrival, proxies: TrustedProxies, dropped: bytes = b"") -> RequestHead:
    """The head that the app receives. `dropped`: the name of one more header that does not pass, in lower
    case."""
    pairs = [(name.lower(), value) for name, value in arrival.headers]
    named = frozenset(
        name.strip().lower() for key, value in pairs if key == b"connection" for name in value.split(b",")
    )
    path, _, query = _path_of(arrival.target).partition("?")
    client, scheme, host = arrival.peer, "http", b""
    if client is not None and proxies.trusts(client[0]):
        fields = dict(pairs)
        if found := proxies.client(fields.get(b"x-forwarded-for", b"").decode("latin-1")):
            client = (found, 0)
        if fields.get(b"x-forwarded-proto", b"").strip().lower() in (b"https", b"wss"):
            scheme = "https"
        host = fields.get(b"x-forwarded-host", b"").partition(b",")[0].strip()
    if arrival.is_websocket:
        scheme = "wss" if scheme == "https" else "ws"
    headers = [
        (name, host if name == b"host" and host else value)
        for name, value in pairs
        if name not in _CONNECTION and name not in named and name != dropped
    ]
    subprotocols: tuple[str, ...] = ()
    if arrival.is_websocket:
        offered = b",".join(value for name, value in pairs if name == b"sec-websocket-protocol")
        subprotocols = tuple(each.strip() for each in offered.decode("latin-1").split(",") if each.strip())
    return RequestHead(
        arrival.method,
        path.encode("utf-8", "surrogateescape"),
        query.encode("utf-8", "surrogateescape"),
        tuple(headers),
        client,
        arrival.own,
        scheme,
        arrival.http_version,
        subprotocols,
    )


def _path_of(target: str) -> str:
    """The path and the query of a request target."""
    if target.startswith("/"):
        return target
    rest = target.partition("://")[2]  # RFC 9112, section 3.2.2: the absolute form
    at = min((place for mark in "/?" if (place := rest.find(mark)) >= 0), default=len(rest))
    path = rest[at:]
    return path if path.startswith("/") else f"/{path}"


class Framing(Enum):
    """How the client recognizes the end of a response."""

    NONE = auto()  # it has no body
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()  # by the end of the connection: HTTP/1.0


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of a response, ready to be sent but for the lines of the connection. `closes`: the app wants
    the connection to end."""

    lines: bytes
    framing: Framing
    length: int  # if `framing` is LENGTH
    closes: bool


class BadHead(Exception):
    """The head of an app's response cannot be sent. The text is for the log."""


def response_head(
    method: str, status: int, headers: Pairs, added: Mapping[bytes, bytes], *, is_http_1_0: bool
) -> ResponseHead:
    """The head of the response to a request with `method`. `added`: headers that are sent unless the app has
    sent one of the same name; names in lower case. Raises: BadHead.
    """
    if not 200 <= status <= 999:
        raise BadHead(f"status {status}")
    lines = [f"HTTP/{'1.0' if is_http_1_0 else '1.1'} {status} {_phrase(status)}\r\n".encode()]
    seen: set[bytes] = set()
    length, closes = -1, False
    for name, value in headers:
        key = name.lower()
        if not _is_token(name) or not _is_value(value):
            raise BadHead(f"header {name[:100]!r}")
        if key == b"connection":
            closes = closes or b"close" in value.lower()
        if key in _CONNECTION:
            continue
        if key == b"content-length":
            if not value.strip().isdigit() or len(value) > 18 or length not in (-1, int(value)):
                raise BadHead(f"Content-Length {value[:100]!r}")
            if length >= 0 or status == HTTPStatus.NO_CONTENT:
                continue
            length = int(value)
        seen.add(key)
        lines.append(b"%b: %b\r\n" % (name, value))
    lines += [b"%b: %b\r\n" % pair for pair in added.items() if pair[0] not in seen]
    if method == "HEAD" or status in NO_BODY:
        framing = Framing.NONE
    elif length >= 0:
        framing = Framing.LENGTH
    else:
        framing = Framing.CLOSE if is_http_1_0 else Framing.CHUNKED
    if framing is Framing.CHUNKED:
        lines.append(b"transfer-encoding: chunked\r\n")
    return ResponseHead(b"".join(lines), framing, length, closes)


def websocket_headers(headers: Pairs) -> tuple[str | None, list[tuple[str, str]]]:
    """The subprotocol that the app has chosen, and the headers that it adds to the handshake.

    Raises: BadHead.
    """
    chosen, added = None, []
    for name, value in headers:
        key = name.lower()
        if not _is_token(name) or not _is_value(value):
            raise BadHead(f"header {name[:100]!r}")
        if key == b"sec-websocket-protocol":
            chosen = value.decode("latin-1")
        elif key not in _CONNECTION and key not in _OF_WEBSOCKET:
            added.append((name.decode("ascii"), value.decode("utf-8", "surrogateescape")))
    return chosen, added


_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LINE_BREAKS: Final = (b"\r", b"\n", b"\0")


def _is_token(name: bytes) -> bool:
    return bool(name) and _TOKEN.issuperset(name)


def _is_value(value: bytes) -> bool:
    return not any(mark in value for mark in _LINE_BREAKS)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
