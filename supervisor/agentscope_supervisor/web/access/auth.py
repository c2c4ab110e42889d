"""Authentication of requests: the web page that sends them, the token and its scopes, and wrong tokens.

Called by `app` and `invoke`. `address`: of the client, as `http1.listener` counts it. No address is refused,
because behind a proxy all clients have the same.

Where to read next: `tokens` has the tokens, `origins` the checks for web pages, `guesses` the delays after
wrong tokens, `console_auth` the cookie that the console's page sends instead of a token.
"""

import asyncio
import logging
from typing import Final

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused
from agentscope_supervisor.http1.responses import Headers
from agentscope_supervisor.web.access.console_auth import SignIns
from agentscope_supervisor.web.access.guesses import GuessLimits
from agentscope_supervisor.web.access.origins import Origins
from agentscope_supervisor.web.access.tokens import OPERATORS, USERS, Caller, Scopes, Tokens

log = logging.getLogger(__name__)

LOG_EVERY: Final = 10.0  # seconds between two log lines

_BEARER: Final = "Bearer "
_MISSING: Final = "this route requires the header Authorization: Bearer with a token of the instance"


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
    """Checks the origin and the token of requests. `sign_ins`: of the console; None: it is disabled."""

    def __init__(self, settings: ServerSettings, tokens: Tokens, sign_ins: SignIns | None) -> None:
        self._settings: Final = settings
        self._sign_ins: Final = sign_ins
        self._loop: Final = asyncio.get_running_loop()
        self.guesses: Final = Guesses()
        self.tokens = tokens
        self.origins = Origins(settings, has_token=tokens.is_required)

    def take_over(self, tokens: Tokens) -> None:
        """Admit callers by other tokens from now on. Requests that were admitted go on."""
        self.tokens = tokens
        self.origins = Origins(self._settings, has_token=tokens.is_required)
        if self._sign_ins is not None:
            self._sign_ins.take_over(tokens)

    def admit(self, headers: Headers, address: str, needed: Scopes) -> Caller:
        """Check the origin and the credentials of a request. Returns its caller. `needed`: the scopes of
        which the caller needs one. Raises: Refused."""
        self.check_origin(headers)
        return self._caller(headers, address, needed)

    def admit_hosted(self, method: str, headers: Headers, address: str) -> bool:
        """Check a request for a hosted app. Returns whether its Authorization header is a token of the
        instance, which the app must not see. Raises: Refused.

        A preflight needs no token: the app answers it by its own rules for pages of other origins.
        """
        failure = self.origins.hosted_refusal(method, headers)
        if failure is not None:
            raise Refused(failure)
        is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
        if not self._settings.auth_hosted or is_preflight:
            return False
        self._caller(headers, address, USERS)
        return self.tokens.is_required

    def _caller(self, headers: Headers, address: str, needed: Scopes) -> Caller:
        given, tokens = headers.get("authorization", ""), self.tokens
        caller = tokens.find(given.removeprefix(_BEARER)) if given.startswith(_BEARER) else None
        if caller is not None:
            self.guesses.right(address)
        elif self._is_signed_in(headers):
            caller = tokens.console
        elif not tokens.is_required:
            caller = tokens.common
        elif given:
            raise self.guesses.wrong(_MISSING, address)
        else:
            raise Refused(Failure(ErrorCode.UNAUTHORIZED, _MISSING))
        if caller.scopes.isdisjoint(needed):
            raise Refused(Failure(ErrorCode.FORBIDDEN, _lacks(caller, needed)))
        return caller

    def _is_signed_in(self, headers: Headers) -> bool:
        """Whether the console's page sends this request, and its browser is signed in."""
        if self._sign_ins is None or "cookie" not in headers:
            return False
        return self._sign_ins.is_in(headers, self._loop.time())

    def check_origin(self, headers: Headers) -> None:
        """Refuse a web page of another origin. Raises: Refused."""
        failure = self.origins.refusal(headers)
        if failure is not None:
            raise Refused(failure)


def _lacks(caller: Caller, needed: Scopes) -> str:
    if needed == OPERATORS:
        return (
            "this is for the operator: use the console, a command of agentscope-supervisor, or a token with "
            "the scope operate"
        )
    wanted, has = " or ".join(sorted(needed)), " and ".join(sorted(caller.scopes))
    return f"this request requires the scope {wanted}, and the token {caller.name!r} has {has}"
