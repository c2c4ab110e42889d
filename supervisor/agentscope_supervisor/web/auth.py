"""Authentication of requests: the web page that sends them, the token, and wrong tokens.

Called by `app` and `invoke`. `address`: of the client, as `http1.listener` counts it. No address is refused,
because behind a proxy all clients have the same.

Where to read next: `origins` has the checks for web pages, `guesses` the delays after wrong tokens,
`console_auth` the cookie that the console's page sends instead of the token.
"""

import asyncio
import hashlib
import hmac
import logging
from typing import Final

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused
from agentscope_supervisor.http1.responses import Headers
from agentscope_supervisor.web.console import Console
from agentscope_supervisor.web.guesses import GuessLimits
from agentscope_supervisor.web.origins import Origins

log = logging.getLogger(__name__)

LOG_EVERY: Final = 10.0  # seconds between two log lines

_MISSING: Final = "this route requires the header Authorization: Bearer with the instance's token"


class WrongToken(Refused):
    """The credentials of a request are wrong. The response must leave `delay` seconds later."""

    def __init__(self, failure: Failure, delay: float) -> None:
        super().__init__(failure)
        self.delay: Final = delay


class Guesses:
    """The wrong tokens that the instance has received: their delays, and what is logged."""

    def __init__(self) -> None:
        self._limits: Final = GuessLimits()
        self._loop: Final = asyncio.get_running_loop()
        self._unlogged = 0
        self._logged_at: float | None = None

    def right(self, address: str) -> None:
        """A right token came."""
        self._limits.right(address)

    def check_after(self, address: str) -> float:
        """Seconds until a token of this address may be checked."""
        return self._limits.check_after(address, self._loop.time())

    def wrong(self, message: str, address: str) -> WrongToken:
        """The exception for one more."""
        now = self._loop.time()
        delay = self._limits.wrong(address, now)
        self._unlogged += 1
        if self._logged_at is None or now - self._logged_at >= LOG_EVERY:
            log.warning("requests with a wrong token", extra={"requests": self._unlogged})
            self._unlogged, self._logged_at = 0, now
        return WrongToken(Failure(ErrorCode.UNAUTHORIZED, message), delay)


class Auth:
    """Checks the origin and the token of requests. `console`: None: disabled."""

    def __init__(self, settings: ServerSettings, console: Console | None) -> None:
        token = settings.auth_token
        self.origins: Final = Origins(settings)
        self.guesses: Final = Guesses()
        self._console: Final = console
        self._guards_hosted: Final = settings.auth_hosted
        self._header: Final = f"Bearer {token.get_secret_value()}" if token is not None else ""
        self.has_token: Final = token is not None
        self.caller: Final = hashlib.sha256(self._header.encode()).hexdigest()[:16]
        """The identity of the caller, for limits and idempotency keys: a hash of the token. All callers of an
        instance have the same token or none. A header that was not checked must not tell them apart."""

    def admit(self, headers: Headers, address: str) -> None:
        """Check the origin and the credentials of a request. Raises: Refused."""
        self.check_origin(headers)
        self._check_token(headers, address)

    def admit_hosted(self, method: str, headers: Headers, address: str) -> bool:
        """Check a request for a hosted app. Returns whether its Authorization header is the instance's token,
        which the app must not see. Raises: Refused.

        A preflight needs no token: the app answers it by its own rules for pages of other origins.
        """
        failure = self.origins.hosted_refusal(method, headers)
        if failure is not None:
            raise Refused(failure)
        is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
        if not self._guards_hosted or is_preflight:
            return False
        self._check_token(headers, address)
        return bool(self._header)

    def _check_token(self, headers: Headers, address: str) -> None:
        given = headers.get("authorization", "")
        if not self._header:
            return
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._header.encode()):
            self.guesses.right(address)
            return
        if self._console is None or not self._console.admits(headers):
            if given:
                raise self.guesses.wrong(_MISSING, address)
            raise Refused(Failure(ErrorCode.UNAUTHORIZED, _MISSING))

    def check_origin(self, headers: Headers) -> None:
        """Refuse a web page of another origin. Raises: Refused."""
        failure = self.origins.refusal(headers)
        if failure is not None:
            raise Refused(failure)
