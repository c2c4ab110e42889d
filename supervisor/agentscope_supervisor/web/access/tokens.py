"""The tokens of callers, and what each caller may do. Pure.

Tokens are found by their SHA-256: how long the search takes says nothing about the token, and a token that is
configured by its hash is never stored.

Where to read next: `routes` has the scopes that each route needs, `auth` applies both.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from agentscope_protocol.config.auth_settings import AuthSettings, Scope, TokenSettings

Scopes = frozenset[Scope]

NO_SCOPES: Final[Scopes] = frozenset()
CLIENT: Final[Scopes] = frozenset({"use", "read", "metrics"})
"""The scopes of `server.auth_token`, and of all callers of an instance without tokens. Without `operate`: its
holders may not list each other's sessions."""
USERS: Final[Scopes] = frozenset({"use"})
OPERATORS: Final[Scopes] = frozenset({"operate"})
EVERYTHING: Final[Scopes] = CLIENT | {"operate"}


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. `name`: of the token; empty: it has none. `key`: the identity for limits and
    idempotency keys, which a new token of the same name keeps."""

    name: str
    key: str
    scopes: Scopes


class Tokens:
    """The tokens of one instance. `auth_token`: of the section `server`. `auth`: as `Project.read_settings`
    returns it, with the tokens that are in files."""

    def __init__(self, auth_token: SecretStr | None, auth: AuthSettings) -> None:
        short = auth_token.get_secret_value() if auth_token is not None else None
        header = f"Bearer {short}" if short is not None else ""
        self.common: Final = Caller("", hashlib.sha256(header.encode()).hexdigest()[:16], CLIENT)
        """The caller with `server.auth_token`, and every caller of an instance without tokens."""
        self.console: Final = Caller("", self.common.key, EVERYTHING)
        """The browser of an operator who is signed in to the console."""
        self._callers: Final = {bytes.fromhex(each.sha256()): _caller(each) for each in auth.tokens}
        if short is not None:
            self._callers[_digest(short)] = self.common
        scopes = NO_SCOPES.union(*(_caller(each).scopes for each in auth.tokens))
        self.is_required: Final = bool(self._callers)
        self.guards_metrics: Final = "metrics" in scopes
        self.operators: Final = frozenset(
            digest
            for digest, caller in self._callers.items()
            if caller is self.common or "operate" in caller.scopes
        )
        """The SHA-256 of each token that signs in to the console."""

    def find(self, token: str) -> Caller | None:
        """The caller with this token; None: it is wrong."""
        return self._callers.get(_digest(token))

    def is_operator(self, token: str) -> bool:
        """Whether this token signs in to the console."""
        return _digest(token) in self.operators


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _caller(token: TokenSettings) -> Caller:
    key = hashlib.sha256(f"auth.tokens {token.name}".encode()).hexdigest()[:16]
    return Caller(token.name, key, frozenset(token.scopes))
