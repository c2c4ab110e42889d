"""Identifiers that nobody can guess, made in stock: of runs in the supervisor, of messages in a worker.

An id has the form of `uuid.uuid4().hex`, 32 hexadecimal digits of which 122 bits are chance, from the
kernel's generator. Python's own takes 2 µs, half of one for the kernel; a message of AgentScope 2.x has one,
and so has each of its blocks. From the stock one takes 0.2 µs compiled, 0.35 as Python.

A forked process makes a stock of its own: no two processes give out the same id.
"""

import os
from typing import Final

IN_STOCK: Final = 64
"""Ids for which the kernel is asked at once: enough that its part of an id's time is small, few enough that
nobody waits for them (10 µs compiled, 28 as Python)."""

_SIZE: Final = 16  # bytes of an id
_stock: Final[list[str]] = []  # `pop` and `extend` are each one step for all threads


def new_id() -> str:
    """An id that was never given out. Can be called in any thread."""
    while True:
        try:
            return _stock.pop()
        except IndexError:
            _stock.extend(_made(os.urandom(IN_STOCK * _SIZE)))


def _made(chance: bytes) -> list[str]:
    """Ids of version 4 and of the usual variant (RFC 9562, section 5.4), one of each 16 bytes."""
    raw = bytearray(chance)
    for start in range(0, len(raw), _SIZE):
        raw[start + 6] = raw[start + 6] & 0x0F | 0x40
        raw[start + 8] = raw[start + 8] & 0x3F | 0x80
    text = raw.hex()
    return [text[start : start + 2 * _SIZE] for start in range(0, len(text), 2 * _SIZE)]


os.register_at_fork(after_in_child=_stock.clear)
