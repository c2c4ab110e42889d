"""Checks of a request's head, where aiohttp's parser is too lenient for a server. Pure.

The parser refuses most malformed heads itself; these rules are for heads that it accepts. A request that
breaks a rule gets a 400, and the connection is closed, because the bytes after such a head cannot be trusted.
There is no rule for:

- repeated spaces in the request line, and empty lines before it: RFC 9112 allows a server to accept them;
- trailers: they are read to their end and dropped;
- names with an underscore: they are different names, not another spelling of names with a dash;
- the value of the single Host header: nothing depends on it.

Where to read next: `aiohttp_connection` applies the rules.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Protocol

HTTP_1_0: Final = (1, 0)
HTTP_1_1: Final = (1, 1)

_ABSOLUTE: Final = re.compile(r"https?://[^/?@]+(?:[/?]|$)", re.IGNORECASE)


class Head(Protocol):
    """A parsed head, such as aiohttp's message. `path`: the target as it was sent."""

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


def _no_target(head: Head) -> bool:
    target = head.path
    return (
        not target.startswith("/")
        and _ABSOLUTE.match(target) is None
        and (head.method, target) != ("OPTIONS", "*")
    )


_RULES: Final[tuple[tuple[Callable[[Head], bool], str], ...]] = (
    (lambda head: head.version not in (HTTP_1_1, HTTP_1_0), "only HTTP/1.1 and HTTP/1.0 are supported"),
    (
        lambda head: head.version == HTTP_1_0 and "Transfer-Encoding" in head.headers,
        "HTTP/1.0 has no Transfer-Encoding",
    ),
    (
        # aiohttp ignores an empty one, and reads the body by its length.
        lambda head: head.headers.get("Transfer-Encoding", "chunked").lower() != "chunked",
        "chunked is the only supported Transfer-Encoding",
    ),
    (lambda head: head.method == "CONNECT", "CONNECT is not supported: this server opens no tunnels"),
    (_no_target, "the request target must be a path, or an http or https URL without user information"),
    (lambda head: "#" in head.path, "the request target must not have a fragment"),
)


def violation(head: Head) -> str | None:
    """The reason to refuse this head; None: it breaks no rule."""
    if _is_plain(head):
        return None
    for broken, text in _RULES:
        if broken(head):
            return text
    return None


def size(head: Head) -> int:
    """Bytes of a head, about: spaces that mean nothing are not counted."""
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in head.headers.items())
    return len(head.method) + len(head.path) + len("  HTTP/1.1\r\n\r\n") + fields


PLAIN_TYPES: Final = frozenset({None, "application/json", "application/json; charset=utf-8"})
"""Values of Content-Type that nearly all clients send, and that need no parsing; None: no header."""


def _is_plain(head: Head) -> bool:
    """Whether this head can break no rule. Nearly all heads pass here, which saves the table: a tenth of the
    time of a request."""
    path = head.path
    return (
        path.startswith("/")
        and "#" not in path
        and head.version == HTTP_1_1
        and "Transfer-Encoding" not in head.headers
        and not head.upgrade
        and head.method != "CONNECT"
    )
