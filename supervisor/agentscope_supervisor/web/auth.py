"""Authentication of requests by the instance's token, and the identity of callers for limits.

Called by `app` and `invoke`. Keeps hashes of credentials, never the credentials of a caller.

Where to read next: `console_auth` has the cookie that the console's page sends instead of the token.
"""

import hashlib
import hmac
from functools import lru_cache
from typing import Final

from agentscope_protocol.config.settings import ServerSettings
from agentscope_supervisor.domain.errors import ErrorCode, Failure, Refused
from agentscope_supervisor.http1.responses import Headers
from agentscope_supervisor.web.console import Console


class Auth:
    """Checks the token, and identifies callers. `console`: None: disabled."""

    def __init__(self, settings: ServerSettings, console: Console | None) -> None:
        token = settings.auth_token
        self._console: Final = console
        self._token: Final = token.get_secret_value().encode() if token is not None else None
        # Of requests without the header. If a token is required, such a request has the console's cookie, and
        # counts as the same caller as the token.
        self._credentials: Final = f"Bearer {token.get_secret_value()}" if token is not None else ""

    def admit(self, headers: Headers) -> None:
        """Check the credentials in the headers of a request. Raises: Refused."""
        if self._token is not None:
            given = headers.get("authorization", "")
            is_right = hmac.compare_digest(given.encode("utf-8", "replace"), b"Bearer " + self._token)
            if not is_right and (self._console is None or not self._console.admits(headers)):
                message = "this route requires the header Authorization: Bearer with the instance's token"
                raise Refused(Failure(ErrorCode.UNAUTHORIZED, message))

    def caller(self, headers: Headers) -> str:
        """The identity of the caller: a hash of its credentials."""
        return _fingerprint(headers.get("authorization", self._credentials))


@lru_cache(maxsize=256)  # a few callers send most requests; a header has up to 16 KiB
def _fingerprint(credentials: str) -> str:
    return hashlib.sha256(credentials.encode("utf-8", "surrogateescape")).hexdigest()[:16]
