"""The number of recently active sessions. Pure.

Keeps hashes, not session ids: ids may be long, and this module has no reason to keep them. Two ids with the
same hash count once; with 64-bit hashes that does not change the figure in practice.

Where to read next: `service` reports the end of each turn, and the metrics publish the number.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

ACTIVE_FOR: Final = 300.0  # seconds after its last turn that a session counts as active

MAX_COUNTED: Final = 100_000
"""Maximum number of sessions that are counted: 333 new ones per second, and 17 MB. With more sessions, the
reported number stays at this value."""


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
        """The number of active sessions. `running`: the sessions that have a turn now, which count too; an id
        may occur more than once."""
        self._forget(now)
        open_now = {hash(session_id) for session_id in running}
        return len(self._ended) + sum(key not in self._ended for key in open_now)

    def _forget(self, now: float) -> None:
        while self._ended:
            key = next(iter(self._ended))
            if now - self._ended[key] < ACTIVE_FOR and len(self._ended) <= MAX_COUNTED:
                return
            del self._ended[key]
