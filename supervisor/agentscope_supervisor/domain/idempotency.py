"""The Idempotency-Key of a request: which requests are one and the same. Pure.

A key names one run of one caller. Who sends it again gets that run, its answer from the first event on, its
failure too; the App is not called again. Two sources agree on most of it, and where they leave a choice:

- A key with another body is refused with 422 (IETF draft-ietf-httpapi-idempotency-key-header, section 2.7).
- A key whose first request is still being answered: the draft lets a server refuse the second with 409. Here
  it joins the run instead, because an answer is a stream that any number can read.
- An answer is kept whether it went well or not, but only once the work has begun (Stripe, "Idempotent
  requests"). So a key is free again when its run ended before the App saw it: refused, or dropped from the
  queue. A worker that died under the turn does not free it, unless the turn had provably not begun.
- A key is the caller's own: the same key of another caller is another key.

Where to read next: `runs.log` keeps the runs, `recorder` finds the one that belongs to a key.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from agentscope_protocol.wire.frames import StreamKind
from agentscope_supervisor.domain.errors import ErrorCode, Failure

MAX_KEY: Final = 255
"""Characters; a UUID has 36. As Stripe bounds it; a row of the store has a bounded size by it."""

MISMATCH: Final = Failure(
    ErrorCode.IDEMPOTENCY_MISMATCH, "this Idempotency-Key came before with another request; take a new key"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of one caller. Two are equal whatever they were sent with; `fingerprint` tells that apart."""

    scope: str  # of the caller
    value: str
    fingerprint: bytes = field(compare=False)


def is_valid(value: str) -> bool:
    """Whether a header's value can be a key: printable ASCII, as the draft's string is."""
    return 1 <= len(value) <= MAX_KEY and value.isascii() and value.isprintable()


def scope_of(token: str, principal: str) -> str:
    """The caller whose keys they are. Both count: a body that names somebody else must not reach his runs
    with another token, and callers who share a token are told apart if the instance tells them apart."""
    return hashlib.sha256(f"{token}\n{principal}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fingerprint(fields: Mapping[str, Any], session_id: str, form: StreamKind, body: bytes) -> bytes:
    """What two requests share exactly when they ask for the same, however their JSON is written.

    `fields`: the parsed `body`. `session_id` and `form` may have come by headers.
    """
    try:
        canonical = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    except (
        TypeError
    ):  # nested deeper than it writes, or lone surrogates: then only the same bytes are the same
        canonical = body
    return hashlib.sha256(b"%d\n%b\n%b" % (form, session_id.encode(), canonical)).digest()
