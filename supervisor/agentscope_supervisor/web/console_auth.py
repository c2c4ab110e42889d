"""Access to the console: by the token or its cookie; without a token, from this machine only. Pure.

A page of another site can make a browser send requests here, with the cookies of this server. So the cookie
counts only if the headers prove that the console's own page sends the request. The same proof is required
without a token, in addition to a loopback address. Browsers set the headers that this module reads, and no
page can forge them. Header names are in lower case, or the mapping ignores case.

Where to read next: `console` uses these checks.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final

COOKIE_LASTS: Final = 30 * 86_400  # seconds; after 30 days the page asks for the token again

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers that proxies add: the peer of a request with one of these is not the client."""

_LABEL: Final = b"agentscope-supervisor console"


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


def local_refusal(peer: str, headers: Mapping[str, str]) -> str:
    """The reason to refuse a request when no token is configured; empty: it is allowed. `peer`: its address.

    With DNS rebinding, a foreign name resolves to this machine, and the browser treats the foreign page as
    the same origin. Only the Host header reveals it.
    """
    if not _is_loopback(peer) or any(name in headers for name in _FORWARDED):
        return "without server.auth_token the console accepts requests from this machine only"
    host = headers.get("host", "").lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name != "localhost" and not _is_loopback(name):
        return "without server.auth_token the console is served at localhost only, under no other name"
    if not is_same_origin(headers) or not _is_host(headers, headers.get("origin", f"http://{host}")):
        return "only the console's own page may send this request; programs use the commands or the HTTP API"
    return ""


def _is_host(headers: Mapping[str, str], url: str) -> bool:
    """Whether this URL is on the host that the request was sent to. The scheme is not compared: behind a
    proxy that ends TLS, the server does not know it."""
    host = url.partition("://")[2].partition("/")[0]
    return host != "" and host.lower() == headers.get("host", "").lower()


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if ip.version == 6 else None
    return (mapped or ip).is_loopback


class ConsoleCookie:
    """The cookie that replaces the token in a browser. It is derived from the token, so that it is valid as
    long as the token is, and the token cannot be computed from it."""

    def __init__(self, token: bytes) -> None:
        digest = hmac.new(token, _LABEL, hashlib.sha256).hexdigest()
        self._token: Final = token
        # Browsers send cookies to every port of a host: instances with different tokens need different names.
        self._name: Final = f"agentscope-console-{digest[:8]}"
        self._value: Final = digest[8:]

    def is_token(self, given: str) -> bool:
        """Whether `given` is the token."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def cookie(self, headers: Mapping[str, str]) -> str:
        """The value of Set-Cookie for a client that has sent the token.

        It has no Path: the browser uses the directory of the console, also if a proxy serves the instance
        below a prefix. It is Secure if the Origin is https, which shows that a proxy ends TLS.
        """
        secure = "; Secure" if headers.get("origin", "").startswith("https://") else ""
        return f"{self._name}={self._value}; Max-Age={COOKIE_LASTS}; HttpOnly; SameSite=Strict{secure}"

    def is_held(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has the cookie, and comes from the console's own page."""
        if not is_same_origin(headers):
            return False
        for pair in headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._name and hmac.compare_digest(
                value.encode("utf-8", "replace"), self._value.encode()
            ):
                return True
        return False
