"""Which slot serves a session: rendezvous hashing. Pure.

The same in every process for ever.

Each (session, slot) pair has a score and the highest wins, so that a session moves only when its own slot
goes, or when a new slot outbids the old: of N + 1 slots the new one takes 1 in N + 1 sessions.
"""

from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=8192)  # a session has turn after turn; some 2 MB
def slot_of(session_id: str, slots: int) -> int:
    """The slot, 0 to `slots` - 1, that serves this session. `slots` is at least 1.

    Raises: UnicodeEncodeError for a lone surrogate; the front door has refused it before.
    """
    key = session_id.encode()
    scores = [blake2b(key, digest_size=8, key=slot.to_bytes(4, "big")).digest() for slot in range(slots)]
    return scores.index(max(scores))
