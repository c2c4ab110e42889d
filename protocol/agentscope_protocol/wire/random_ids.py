"""Unguessable identifiers, generated in batches: run ids in the supervisor, message ids in a worker.

An id has the form of `uuid.uuid4().hex`: 32 hexadecimal digits, 122 random bits from the kernel's generator.
`uuid.uuid4` takes 2 µs, a quarter of it in the kernel, and each message of AgentScope 2.x needs one id plus
one for each block. An id from a batch takes 0.2 µs compiled, and 0.35 µs as Python.

A forked process starts with an empty batch, so that two processes never return the same id.
"""

import os
from typing import Final

BATCH_SIZE: Final = 64
"""Ids generated per call to the kernel: enough to make the kernel's share of an id's cost small, and few
enough that generating a batch delays no turn (10 µs compiled, 28 µs as Python)."""

_SIZE: Final = 16  # bytes of an id
_batch: Final[list[str]] = []  # `pop` and `extend` are atomic, so that threads need no lock


def new_id() -> str:
    """A new, unique id. Safe to call from any thread."""
    while True:
        try:
            return _batch.pop()
        except IndexError:
            _batch.extend(_format(os.urandom(BATCH_SIZE * _SIZE)))


def _format(entropy: bytes) -> list[str]:
    """Ids of UUID version 4 and the common variant (RFC 9562, section 5.4), one for every 16 bytes."""
    raw = bytearray(entropy)
    for start in range(0, len(raw), _SIZE):
        raw[start + 6] = raw[start + 6] & 0x0F | 0x40
        raw[start + 8] = raw[start + 8] & 0x3F | 0x80
    text = raw.hex()
    return [text[start : start + 2 * _SIZE] for start in range(0, len(text), 2 * _SIZE)]


os.register_at_fork(after_in_child=_batch.clear)
