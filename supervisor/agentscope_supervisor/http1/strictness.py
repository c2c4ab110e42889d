"""Rules for the head of a request, where aiohttp's parser is more lenient than a server may be. Pure.

The parser refuses most malformed heads by itself; these rules are for those that it accepts. A request that
breaks a rule gets 400 and the end of the connection: bytes after such a head cannot be trusted. There is no
rule for: repeated blanks in the request line and empty lines before it (RFC 9112 allows a server to accept
them), trailers (they are read to their end and dropped), names with an underscore (they are names of their
own, not another spelling of those with a dash), the value of the one Host (nothing here depends on it).
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Protocol

HTTP_1_0: Final = (1, 0)
HTTP_1_1: Final = (1, 1)

_ABSOLUTE: Final = re.compile(r"https?://[^/?@]+(?:[/?]|$)", re.IGNORECASE)


class Head(Protocol):
    """A parsed head; aiohttp's message is one. `path`: the target as it was sent."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> tuple[int, int]: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def upgrade(self) -> bool: ...
    @property
    def chunked(self) -> bool: ...


def _no_target(head: Head) -> bool:
    target = head.path
    return (
        not target.startswith("/")
        and _ABSOLUTE.match(target) is None
        and (head.method, target) != ("OPTIONS", "*")
    )


_RULES: Final[tuple[tuple[Callable[[Head], bool], str], ...]] = (
    (lambda head: head.version not in (HTTP_1_1, HTTP_1_0), "only HTTP/1.1 and HTTP/1.0 are spoken here"),
    (
        lambda head: head.version == HTTP_1_0 and "Transfer-Encoding" in head.headers,
        "HTTP/1.0 has no Transfer-Encoding",
    ),
    (
        lambda head: head.chunked and head.headers["Transfer-Encoding"].lower() != "chunked",
        "chunked is the only Transfer-Encoding here",
    ),
    (lambda head: head.method == "CONNECT", "this is no proxy: there are no tunnels"),
    (
        lambda head: head.upgrade and head.headers.get("Upgrade", "").lower() == "websocket",
        "there are no websockets here",
    ),
    (_no_target, "the target of the request must be a path, or a URL of http or https without a user"),
    (lambda head: "#" in head.path, "the target of a request has no fragment"),
)


def violation(head: Head) -> str | None:
    """Why this head is refused; None: it is not."""
    if _is_plain(head):
        return None
    for broken, text in _RULES:
        if broken(head):
            return text
    return None


PLAIN_TYPES: Final = frozenset({None, "application/json", "application/json; charset=utf-8"})
"""Values of Content-Type that nearly all send and that need no parsing; None: there is none."""


def _is_plain(head: Head) -> bool:
    """Whether it is like almost all, which break no rule: the table costs a tenth of a request without it."""
    path = head.path
    return (
        path.startswith("/")
        and "#" not in path
        and head.version == HTTP_1_1
        and not head.chunked
        and not head.upgrade
        and head.method != "CONNECT"
    )
