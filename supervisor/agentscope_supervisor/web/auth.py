"""Who may ask, and who is who: the instance's token, and what stands for a caller where turns are counted.

Called by `app` and `invoke`; whom the console lets in beside the token is `console`' to say.
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
    """`console`: None, off."""

    def __init__(self, settings: ServerSettings, console: Console | None) -> None:
        token = settings.auth_token
        self._console: Final = console
        self._token: Final = token.get_secret_value().encode() if token is not None else None
        # Of who has brought none: with a token he was let in as the console, and is the same caller.
        self._credentials: Final = f"Bearer {token.get_secret_value()}" if token is not None else ""

    def admit(self, headers: Headers) -> None:
        """Raises: Refused, if these are not the headers of one who may ask."""
        if self._token is not None:
            given = headers.get("authorization", "")
            is_right = hmac.compare_digest(given.encode("utf-8", "replace"), b"Bearer " + self._token)
            if not is_right and (self._console is None or not self._console.admits(headers)):
                message = "this needs the header Authorization: Bearer with the instance's token"
                raise Refused(Failure(ErrorCode.UNAUTHORIZED, message))

    def caller(self, headers: Headers) -> str:
        """What stands for who asks."""
        return _fingerprint(headers.get("authorization", self._credentials))


@lru_cache(maxsize=256)  # a few callers send most requests; a header has up to sixteen KiB
def _fingerprint(credentials: str) -> str:
    return hashlib.sha256(credentials.encode("utf-8", "surrogateescape")).hexdigest()[:16]
