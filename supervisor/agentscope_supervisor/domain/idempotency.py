"""The Idempotency-Key of a request: which requests repeat an earlier one. Pure.

A key names one run of one caller. A client that sends the key again gets that run from its first event on,
including its failure; the App is not called again. The rules follow the IETF draft and Stripe's API:

- A key that comes with a different request is refused with 422 (IETF
  draft-ietf-httpapi-idempotency-key-header, section 2.7).
- For a key whose first request is still in progress, the draft allows 409. Here the second request joins the
  run instead, because any number of clients can read a run.
- A run is kept for its key whether it succeeded or failed, but only if the work began (Stripe, "Idempotent
  requests"). A key is free again when its run ended before the App saw it: refused, or dropped from the
  queue. A worker crash does not free the key, unless the turn provably had not begun.
- Keys belong to a caller: the same key of another caller is a different key.

Where to read next: `runs.recorder` finds the run of a key, `runs.log` keeps the runs in memory.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from agentscope_supervisor.domain.errors import ErrorCode, Failure

MAX_KEY: Final = 255
"""Maximum length in characters, as in Stripe's API; a UUID has 36. It also bounds a row of the store."""

MISMATCH: Final = Failure(
    ErrorCode.IDEMPOTENCY_MISMATCH,
    "this Idempotency-Key was used before for a different request; use a new key",
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of one caller. Equality ignores `fingerprint`, which identifies the content of the request."""

    scope: str  # of the caller
    value: str
    fingerprint: bytes = field(compare=False)


def is_valid(value: str) -> bool:
    """Whether the value of the header is a valid key: printable ASCII, as in the draft."""
    return 1 <= len(value) <= MAX_KEY and value.isascii() and value.isprintable()


def scope_of(token: str, principal: str) -> str:
    """The scope of a caller's keys. It depends on both arguments: a request that names another caller in its
    body must not reach that caller's runs with a different token; callers that share a token have separate
    keys if `server.principal` separates them."""
    return hashlib.sha256(f"{token}\n{principal}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def content(fields: Mapping[str, Any], body: bytes) -> bytes:
    """The content of a small body: equal for two bodies exactly if they ask for the same, however their JSON
    is written. `fields`: the parsed `body`. The digest of a large body stands for its content."""
    try:
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested too deeply for orjson, or lone surrogates: then only identical bytes are equal
        return body


def fingerprint(content: bytes, session_id: str, form: int) -> bytes:
    """A hash that is equal for two requests exactly if they ask for the same. `content`: of the body.
    `session_id` and `form` (`wire_format.form_of`) are separate because headers may set them."""
    return hashlib.sha256(b"%d\n%b\n%b" % (form, session_id.encode(), content)).digest()
