"""The web pages whose requests are served: checks of Host, Origin and Sec-Fetch-Site, and CORS. Pure.

A browser sends requests of any web page to any address that it reaches, this machine included. The page
cannot forge the headers that this module reads, and other clients do not send them. A page of another origin
is refused unless `server.cors_origins` has its origin.

With DNS rebinding, a name of the attacker resolves to this machine, and the browser treats the attacker's
page as the same origin. Only the Host header reveals it. A token protects from that, so that Host counts only
without a token. Header names are in lower case, or the mapping ignores case.

Where to read next: `auth` applies the checks.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure

PREFLIGHT_LASTS: Final = 600  # seconds that a browser remembers the answer to a preflight

_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::[0-9]{1,5})?")
_OWN: Final = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site of requests that no page of another origin sends; `none`: the user typed the address."""

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing (RFC 9110, section 9.2.1)

_SENT: Final = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, X-Session-Id"
_SEEN: Final = "Idempotent-Replayed, Retry-After, X-Agentscope-Worker, X-Request-Id, X-Run-Id, X-Session-Id"


class Origins:
    """The checks of one instance. `has_token`: whether requests need a token."""

    def __init__(self, settings: ServerSettings, *, has_token: bool) -> None:
        self._cors: Final = frozenset(settings.cors_origins)
        self._hosts: Final = None if has_token else frozenset(settings.hosts)
        self._is_open: Final = settings.open

    def host_refusal(self, headers: Mapping[str, str]) -> Failure | None:
        """The reason to refuse a request for its Host header; None: there is none."""
        if self._hosts is None:
            return None
        host = headers.get("host")
        if host is None or is_local(name := host_name(host)) or name in self._hosts:
            return None
        return _forbidden(
            "without a token (auth.tokens) the instance is served as localhost and under the names in "
            "server.hosts only"
        )

    def refusal(self, headers: Mapping[str, str]) -> Failure | None:
        """The reason to refuse a request with these headers; None: it is allowed."""
        failure = self.host_refusal(headers)
        if failure is not None:
            return failure
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if (site is None and origin is None) or site in _OWN or origin in self._cors:
            return None
        if site is None and _is_host(headers, origin or ""):
            return None
        return _forbidden("the request comes from a web page whose origin is not in server.cors_origins")

    def hosted_refusal(self, method: str, headers: Mapping[str, str]) -> Failure | None:
        """The reason to refuse a request to a hosted app; None: it is allowed.

        The app has its own rules for pages of other origins, but a browser asks for them only before some
        requests. Without a token, a page may not send the others either (a POST of text, a WebSocket), unless
        it is of this machine or of `server.hosts`, or the operator has opened the instance.
        """
        failure = self.host_refusal(headers)
        if failure is not None or self._hosts is None or self._is_open:
            return failure
        if method in _SAFE and "upgrade" not in headers:
            return None
        if self.refusal(headers) is None:
            return None
        name = host_name(headers.get("origin", "").partition("://")[2])
        if is_local(name) or name in self._hosts:
            return None
        return _forbidden(
            "without a token (auth.tokens), a page whose origin is not in server.cors_origins may only read"
        )

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of the response that let the page read it; none unless its origin is configured."""
        origin = headers.get("origin")
        if origin is None or origin not in self._cors:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _SEEN,
            "Vary": "Origin",
        }

    def preflight(self, method: str, headers: Mapping[str, str], allowed: Sequence[str]) -> dict[str, str]:
        """The headers that answer a browser's question before a request; none: the request is not such a
        question of a configured origin. `allowed`: the methods of the route."""
        if method != "OPTIONS" or "access-control-request-method" not in headers:
            return {}
        granted = self.headers(headers)
        if granted:
            granted |= {
                "Access-Control-Allow-Headers": _SENT,
                "Access-Control-Allow-Methods": ", ".join(allowed),
                "Access-Control-Max-Age": str(PREFLIGHT_LASTS),
            }
        return granted


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a page of this server sends the request. Without any of the headers: no.

    Sources: https://www.w3.org/TR/fetch-metadata/ (browsers send Sec-Fetch-Site to https and localhost only;
    the other headers cover plain http), https://fetch.spec.whatwg.org/#origin-header, and Referer, because a
    GET has no Origin.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return _is_host(headers, headers.get("origin") or headers.get("referer", ""))


@lru_cache(maxsize=64)  # of a client, all requests have the same
def host_name(host: str) -> str:
    """The name in the value of a Host header, in lower case, without port and brackets; empty: invalid."""
    found = _HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found is not None else ""


@lru_cache(maxsize=64)
def is_local(name: str) -> bool:
    """Whether only this machine reaches what listens on `name`: localhost, or a loopback address."""
    if name == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if ip.version == 6 else None
    return (mapped or ip).is_loopback


def _is_host(headers: Mapping[str, str], url: str) -> bool:
    """Whether this URL is on the host that the request was sent to. The scheme is not compared: behind a
    proxy that ends TLS, the server does not know it."""
    host = url.partition("://")[2].partition("/")[0]
    return host != "" and host.lower() == headers.get("host", "").lower()


def _forbidden(reason: str) -> Failure:
    return Failure(ErrorCode.FORBIDDEN, reason)
