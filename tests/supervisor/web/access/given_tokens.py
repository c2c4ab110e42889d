"""Tokens of an instance, as the tests of access give them."""

import hashlib
from typing import Any, Final

from pydantic import SecretStr

from agentscope_protocol.config.auth_settings import AuthSettings
from agentscope_supervisor.web.access.tokens import Tokens


def tokens(*given: dict[str, Any], auth_token: str | None = None) -> Tokens:
    short = SecretStr(auth_token) if auth_token is not None else None
    return Tokens(short, AuthSettings.model_validate({"tokens": list(given)}))


WEB: Final[dict[str, Any]] = {"name": "web", "token": "w"}
OPS: Final[dict[str, Any]] = {
    "name": "ops",
    "token_sha256": hashlib.sha256(b"o").hexdigest(),
    "scopes": ["operate", "metrics"],
}
