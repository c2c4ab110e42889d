"""The section `auth` of agentapp.yaml: the tokens of clients, and what each may do. Pure.

Read next: `settings`, which has the file as a whole.
"""

import hashlib
from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from agentscope_protocol.config.problems import CONTRADICTION
from agentscope_protocol.config.setting_types import Section, ServerName, Text, Token

Scope = Literal["use", "read", "operate", "metrics"]


def _no_repetition(value: list[Scope]) -> list[Scope]:
    if len(set(value)) != len(value):
        raise PydanticCustomError(CONTRADICTION, "must not repeat a scope")
    return value


class TokenSettings(Section):
    """`auth.tokens[]`: one token."""

    name: ServerName = Field(description="The name of the token's holder, for errors and limits.")
    token: Token | None = Field(None, description="The token itself. Use a variable: `${WEB_TOKEN}`.")
    token_file: Text | None = Field(
        None,
        description="The file whose only line is the token. A relative path starts at the project folder.",
    )
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="The SHA-256 of the token, in hexadecimal digits: the token itself is not stored."
    )
    scopes: Annotated[list[Scope], AfterValidator(_no_repetition)] = Field(
        ["use"],
        min_length=1,
        description="Rights of the token's holder: `use` (turns, `/stop`, runs and sessions by id), `read` "
        "(runs and sessions by id), `operate` (the console, the lists, `/stop`), `metrics` (`/metrics`, "
        "which needs no token otherwise).",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [value for value in (self.token, self.token_file, self.token_sha256) if value is not None]
        if len(given) != 1:
            raise PydanticCustomError(
                CONTRADICTION, "must have exactly one of token, token_file and token_sha256"
            )
        return self

    def sha256(self) -> str:
        """The SHA-256 of the token, in hexadecimal digits; empty: the token is in a file."""
        if self.token is None:
            return self.token_sha256 or ""
        return hashlib.sha256(self.token.get_secret_value().encode()).hexdigest()


class AuthSettings(Section):
    """`auth`: who may send requests."""

    tokens: list[TokenSettings] = Field(
        [], description="Bearer tokens, beside `server.auth_token`. A reload applies changes."
    )

    @model_validator(mode="after")
    def _have_own_names(self) -> Self:
        repeated = [name for name, count in Counter(each.name for each in self.tokens).items() if count > 1]
        if repeated:
            raise PydanticCustomError(
                CONTRADICTION, "two tokens have the name '{name}'", {"name": repeated[0]}
            )
        holders: dict[str, str] = {}
        for each in self.tokens:
            holder = holders.setdefault(digest, each.name) if (digest := each.sha256()) else each.name
            if holder != each.name:
                raise PydanticCustomError(
                    CONTRADICTION,
                    "'{one}' and '{other}' have the same token",
                    {"one": holder, "other": each.name},
                )
        return self
