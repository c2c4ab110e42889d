"""Which slot serves a session: rendezvous hashing. Pure.

The result depends on the arguments only: it is the same in every process and in every version.

Each (session, slot) pair has a score, and the slot with the highest score serves the session. A session moves
only when its slot is removed, or when a new slot has a higher score: when a slot is added to N slots, one
session in N + 1 moves to it.
"""

from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=8192)  # a session has many turns in a row; the cache takes about 2 MB
def slot_of(session_id: str, slots: int) -> int:
    """The slot, 0 to `slots` - 1, that serves this session. `slots` is at least 1.

    Raises: UnicodeEncodeError for a lone surrogate; `domain.request.session_id` refuses such an id before.
    """
    key = session_id.encode()
    scores = [blake2b(key, digest_size=8, key=slot.to_bytes(4, "big")).digest() for slot in range(slots)]
    return scores.index(max(scores))
