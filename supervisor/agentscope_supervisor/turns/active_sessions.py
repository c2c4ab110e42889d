"""How many sessions were active lately. Pure.

Session ids may be long and are not ours to keep, so that only their hashes are; two that collide count once,
which 64 bits make no one's concern.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

ACTIVE_FOR: Final = 300.0  # seconds after its last turn that a session counts as active

MAX_COUNTED: Final = 100_000
"""Sessions that are remembered: 333 new ones in each second, and 17 MB. The count stays there above it."""


@dataclass(slots=True)
class ActiveSessions:
    """The sessions whose last turn ended in the last `ACTIVE_FOR` seconds. Times are monotonic seconds."""

    _ended: OrderedDict[int, float] = field(default_factory=OrderedDict)  # hash -> when; the oldest first

    def ended(self, session_id: str, now: float) -> None:
        """A turn of this session has ended."""
        key = hash(session_id)
        self._ended[key] = now
        self._ended.move_to_end(key)
        self._forget(now)

    def active(self, running: Iterable[str], now: float) -> int:
        """Sessions that are active, those included that have a turn now: `running`, ids in any number."""
        self._forget(now)
        open_now = {hash(session_id) for session_id in running}
        return len(self._ended) + sum(key not in self._ended for key in open_now)

    def _forget(self, now: float) -> None:
        while self._ended:
            key = next(iter(self._ended))
            if now - self._ended[key] < ACTIVE_FOR and len(self._ended) <= MAX_COUNTED:
                return
            del self._ended[key]
