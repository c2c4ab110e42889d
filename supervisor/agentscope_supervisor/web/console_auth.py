"""Whom the console lets in: its own page, with the token or its cookie; without a token, this machine. Pure.

A browser sends what a stranger's page tells it to send, with the cookies of the target: so a cookie counts
only beside proof that our own page asks, and where there is no token, being on this machine is not enough
either. Browsers set the headers that are read here; no page can forge them. Their names are in small letters,
or looked up in any. `console` acts on it.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final

COOKIE_LASTS: Final = 30 * 86_400  # seconds; a developer is asked again once a month

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""What proxies add: the peer of a request with one of these is not its author."""

_LABEL: Final = b"agentscope-supervisor console"


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a page of this very server asks. What does not say is none.

    Sources: https://www.w3.org/TR/fetch-metadata/ (browsers send it to https and to localhost only, hence the
    others), https://fetch.spec.whatwg.org/#origin-header, and Referer for a GET, which has no Origin.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return _is_host(headers, headers.get("origin") or headers.get("referer", ""))


def local_refusal(peer: str, headers: Mapping[str, str]) -> str:
    """Why a request is refused where there is no token; empty: it is not. `peer`: its address.

    A name that was made to resolve to this machine (DNS rebinding) is the page's own origin to a browser:
    only the Host tells it.
    """
    if not _is_loopback(peer) or any(name in headers for name in _FORWARDED):
        return "without server.auth_token the console is for this machine only"
    host = headers.get("host", "").lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name != "localhost" and not _is_loopback(name):
        return "without server.auth_token the console is at localhost only, under no other name"
    if not is_same_origin(headers) or not _is_host(headers, headers.get("origin", f"http://{host}")):
        return "only the console's own page may ask this; for programs there are commands and the HTTP API"
    return ""


def _is_host(headers: Mapping[str, str], url: str) -> bool:
    """Whether this URL is of the host that was asked; of its scheme a server behind TLS knows nothing."""
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
    """The cookie that stands for the token in a browser: made from it, so that it holds as long as the token
    does, and useless to whoever wants the token."""

    def __init__(self, token: bytes) -> None:
        digest = hmac.new(token, _LABEL, hashlib.sha256).hexdigest()
        self._token: Final = token
        # Cookies know no ports: instances with different tokens need different names.
        self._name: Final = f"agentscope-console-{digest[:8]}"
        self._value: Final = digest[8:]

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def cookie(self, headers: Mapping[str, str]) -> str:
        """The Set-Cookie for who has shown the token.

        It has no Path: the browser takes the folder that the console is in, also where a proxy has put us
        below a prefix. An Origin of https is how a server behind TLS learns of that.
        """
        secure = "; Secure" if headers.get("origin", "").startswith("https://") else ""
        return f"{self._name}={self._value}; Max-Age={COOKIE_LASTS}; HttpOnly; SameSite=Strict{secure}"

    def is_held(self, headers: Mapping[str, str]) -> bool:
        """Whether a request brings the cookie, from the console's own page."""
        if not is_same_origin(headers):
            return False
        for pair in headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._name and hmac.compare_digest(
                value.encode("utf-8", "replace"), self._value.encode()
            ):
                return True
        return False
