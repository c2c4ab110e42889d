"""The names under which sessions are stored, and which session and user ids are allowed. Pure."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass

MAX_ID = 256  # characters of a session_id (the limit of the HTTP API) or a user_id


@dataclass(frozen=True, slots=True)
class Key:
    """One session of one user. `name`: 64 hexadecimal digits, valid in every medium."""

    name: str
    session_id: str
    user_id: str

    @property
    def session(self) -> str:
        """The name under which the session is claimed."""
        return claim_name(self.session_id)


def key_of(session_id: str, user_id: str) -> Key:
    """The key of a session. Raises: TypeError or ValueError for an invalid id."""
    _check_id("session_id", session_id, smallest=1)
    _check_id("user_id", user_id, smallest=0)
    # Encoded as JSON, so that ("a", "b_c") and ("a_b", "c") have different names.
    name = hashlib.sha256(json.dumps([user_id, session_id]).encode()).hexdigest()
    return Key(name, session_id, user_id)


def claim_name(session_id: str) -> str:
    """The name under which a session is claimed: 64 hexadecimal digits, valid in every medium."""
    return hashlib.sha256(session_id.encode()).hexdigest()


def _check_id(name: str, value: object, *, smallest: int) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not smallest <= len(value) <= MAX_ID:
        raise ValueError(f"{name} must have {smallest} to {MAX_ID} characters, not {len(value)}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError(f"{name} must not contain control characters or lone surrogates")
