"""Messages and sessions that repeatedly crash their worker, and are refused for a while. Pure.

A session always goes to the same slot. Without this module, a client that repeats a message that crashes the
worker would crash that slot's worker each time, until the circuit breaker of the slot opens for all of its
sessions. Each turn that is lost in a crash counts a strike for its message and for its session. A turn that
ends while its worker lives, with or without an error, clears both counts. A message is refused after two
strikes, and its session, whatever the message, after three.

A turn that only runs beside the one that caused the crash gets a strike too, because nothing shows which of
the running turns caused it. It is refused only if the same message is lost in two crashes in a row.

Where to read next: `service` counts the strikes and asks for refusals.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode, Failure

STRIKES_OF_MESSAGE: Final = 2  # the first crash may be chance; a third one would be avoidable
STRIKES_OF_SESSION: Final = 3
REFUSED_FOR: Final = 600.0
"""Seconds after its last strike for which a message or session is refused, and for which a strike counts:
long enough for an operator to react, short enough that a fixed App soon serves the session again."""

MAX_KEPT: Final = 10_000  # keys with strikes, about 200 bytes each; the oldest are dropped first

Key = tuple[str, bytes]
"""A session id and the digest of a body; empty bytes: the session with any body."""


def digest(body: bytes) -> bytes:
    """The digest by which a message is recognized."""
    return blake2b(body, digest_size=16).digest()


@dataclass(slots=True)
class _Strikes:
    count: int
    last: float


@dataclass(slots=True)
class Quarantine:
    """The strikes of all messages and sessions that have any. Times are seconds of a monotonic clock."""

    _strikes: dict[Key, _Strikes] = field(default_factory=dict)  # in the order of their last strike

    def __len__(self) -> int:
        """The number of keys that have strikes; with 0, no turn can be refused."""
        return len(self._strikes)

    def lost(self, session_id: str, body: bytes, now: float) -> bool:
        """Record a turn that was lost with a worker that was not asked to end. Returns whether its message
        or session is refused from now on; the crash then does not count against the slot."""
        message = self._strike((session_id, digest(body)), now)
        session = self._strike((session_id, b""), now)
        while len(self._strikes) > MAX_KEPT:
            del self._strikes[next(iter(self._strikes))]
        return message >= STRIKES_OF_MESSAGE or session >= STRIKES_OF_SESSION

    def survived(self, session_id: str, body: bytes) -> None:
        """Record a turn of this session that ended while its worker lives."""
        self._strikes.pop((session_id, digest(body)), None)
        self._strikes.pop((session_id, b""), None)

    def refusal(self, session_id: str, body: bytes, now: float) -> Failure | None:
        """The reason to refuse a turn; None: it may begin."""
        for key, most, what in (
            ((session_id, b""), STRIKES_OF_SESSION, "session"),
            ((session_id, digest(body)), STRIKES_OF_MESSAGE, "message"),
        ):
            strikes = self._strikes.get(key)
            if strikes is not None and strikes.count >= most:
                left = strikes.last + REFUSED_FOR - now
                if left > 0:
                    message = (
                        f"the worker crashed {strikes.count} times in a row while it ran this {what};"
                        f" the {what} is refused for {left:.0f} s more"
                    )
                    return Failure(ErrorCode.POISONED, message)
        return None

    def _strike(self, key: Key, now: float) -> int:
        before = self._strikes.pop(key, None)
        count = before.count if before is not None and now - before.last < REFUSED_FOR else 0
        self._strikes[key] = _Strikes(count + 1, now)
        return count + 1
