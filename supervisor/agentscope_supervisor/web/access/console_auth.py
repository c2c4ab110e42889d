"""Access to the console: the sign-in, and the cookie of a browser that is signed in. Pure.

The operator signs in with a token. Without one, the operator opens a link with a secret that is in the log
only, and that works once. Neither the address of the peer nor the absence of a proxy's headers
proves anything: a proxy on this machine connects from a loopback address too.

A page of another site can make a browser send requests here, with the cookies of this server. So the cookie
counts only if the headers prove that the console's own page sends the request.

Where to read next: `console` uses these checks, `origins` reads the headers of browsers.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from agentscope_supervisor.web.access.origins import is_same_origin
from agentscope_supervisor.web.access.tokens import Tokens

COOKIE_LASTS: Final = 12 * 3600  # seconds; a working day, after which the operator signs in again
MAX_BROWSERS: Final = 64  # signed in at the same time; another one signs out the one that signed in first


class SignIns:
    """The browsers that are signed in. A restart of the instance signs out all of them.

    `address`: of the instance. `link`: the secret in the link. `tokens`: those of the instance.
    """

    def __init__(self, address: str, link: str, tokens: Tokens) -> None:
        self.link = link  # replace it when it was used
        self._tokens = tokens
        # Browsers send cookies to every port of a host: instances need different names.
        self._name: Final = f"agentscope-console-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
        self._until: Final[dict[str, float]] = {}  # by the value of the cookie, in order of the sign-in

    @property
    def takes_link(self) -> bool:
        """Whether the link signs in, because no token does."""
        return not self._tokens.operators

    def is_secret(self, given: str) -> bool:
        """Whether `given` is a token of an operator, or without one the secret of the link."""
        if self.takes_link:
            return hmac.compare_digest(given.encode("utf-8", "replace"), self.link.encode())
        return self._tokens.is_operator(given)

    def take_over(self, tokens: Tokens) -> None:
        """Let other tokens sign in. All browsers are signed out if a token does not sign in any more."""
        if not self._tokens.operators <= tokens.operators:
            self._until.clear()
        self._tokens = tokens

    def sign_in(self, value: str, headers: Mapping[str, str], now: float) -> str:
        """Sign in the sender of a request. Returns the value of Set-Cookie. `value`: a new, unguessable id.

        The cookie has no Path: the browser uses the directory of the console, also if a proxy serves the
        instance below a prefix. So the request that deletes it must have the same path. It is Secure if the
        Origin is https, which shows that a proxy ends TLS.
        """
        self._until[value] = now + COOKIE_LASTS
        if len(self._until) > MAX_BROWSERS:
            del self._until[next(iter(self._until))]
        return self._cookie(value, COOKIE_LASTS, headers)

    def sign_out(self, headers: Mapping[str, str]) -> str:
        """Sign out the sender of a request. Returns the value of Set-Cookie, which deletes the cookie."""
        self._until.pop(self._value(headers), None)
        return self._cookie("", 0, headers)

    def is_in(self, headers: Mapping[str, str], now: float) -> bool:
        """Whether the sender of a request is signed in, and it comes from the console's own page."""
        return is_same_origin(headers) and now < self._until.get(self._value(headers), now)

    def _value(self, headers: Mapping[str, str]) -> str:
        for pair in headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._name:
                return value
        return ""

    def _cookie(self, value: str, lasts: int, headers: Mapping[str, str]) -> str:
        secure = "; Secure" if headers.get("origin", "").startswith("https://") else ""
        return f"{self._name}={value}; Max-Age={lasts}; HttpOnly; SameSite=Strict{secure}"
