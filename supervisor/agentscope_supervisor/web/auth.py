"""Authentication of requests: the web page that sends them, the token, and wrong tokens.

Called by `app` and `invoke`. A wrong token slows down the answers to further wrong tokens, and never a
request with the right one: the address of a client identifies nobody, because behind a proxy all clients
have the same.

Where to read next: `origins` has the checks for web pages, `console_auth` the cookie that the console's page
sends instead of the token.
"""

import asyncio
import hashlib
import hmac
import logging
from typing import Final

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused
from agentscope_supervisor.http1.responses import Headers
from agentscope_supervisor.processes.token_bucket import TokenBucket
from agentscope_supervisor.web.console import Console
from agentscope_supervisor.web.origins import Origins

log = logging.getLogger(__name__)

FREE_GUESSES: Final = 20.0  # wrong tokens that are answered at once: a client that was configured wrongly
GUESSES_PER_SECOND: Final = 2.0  # after those
MAX_DELAY: Final = 5.0  # seconds; a stopping instance waits as long for its responses
LOG_EVERY: Final = 10.0  # seconds between two log lines

_MISSING: Final = "this route requires the header Authorization: Bearer with the instance's token"


class WrongToken(Refused):
    """The credentials of a request are wrong. The response must leave `delay` seconds later."""

    def __init__(self, failure: Failure, delay: float) -> None:
        super().__init__(failure)
        self.delay: Final = delay


class Guesses:
    """The wrong tokens that the instance has received."""

    def __init__(self) -> None:
        self._bucket: Final = TokenBucket(GUESSES_PER_SECOND, FREE_GUESSES)
        self._loop: Final = asyncio.get_running_loop()
        self._unlogged = 0
        self._logged_at: float | None = None

    def wrong(self, message: str) -> WrongToken:
        """The exception for one more."""
        now = self._loop.time()
        delay = max(0.0, -self._bucket.available(now) / GUESSES_PER_SECOND)
        if delay < MAX_DELAY:  # else the debt would grow without end
            self._bucket.take(1)
        self._unlogged += 1
        if self._logged_at is None or now - self._logged_at >= LOG_EVERY:
            log.warning("requests with a wrong token", extra={"requests": self._unlogged})
            self._unlogged, self._logged_at = 0, now
        return WrongToken(Failure(ErrorCode.UNAUTHORIZED, message), min(delay, MAX_DELAY))


class Auth:
    """Checks the origin and the token of requests. `console`: None: disabled."""

    def __init__(self, settings: ServerSettings, console: Console | None) -> None:
        token = settings.auth_token
        self.origins: Final = Origins(settings)
        self.guesses: Final = Guesses()
        self._console: Final = console
        self._header: Final = f"Bearer {token.get_secret_value()}" if token is not None else ""
        self.caller: Final = hashlib.sha256(self._header.encode()).hexdigest()[:16]
        """The identity of the caller, for limits and idempotency keys: a hash of the token. All callers of an
        instance have the same token or none. A header that was not checked must not tell them apart."""

    def admit(self, headers: Headers) -> None:
        """Check the origin and the credentials of a request. Raises: Refused."""
        self.check_origin(headers)
        given = headers.get("authorization", "")
        if not self._header or hmac.compare_digest(given.encode("utf-8", "replace"), self._header.encode()):
            return
        if self._console is None or not self._console.admits(headers):
            if given:
                raise self.guesses.wrong(_MISSING)
            raise Refused(Failure(ErrorCode.UNAUTHORIZED, _MISSING))

    def check_origin(self, headers: Headers) -> None:
        """Refuse a web page of another origin. Raises: Refused."""
        failure = self.origins.refusal(headers)
        if failure is not None:
            raise Refused(failure)
