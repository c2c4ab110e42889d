"""Which messages and sessions keep killing their worker. Pure.

Sessions are pinned, so that a client that sends a deadly message again and again would kill the same slot
again and again, until its breaker opens for every session of the slot. Whoever has a turn in a worker that
dies gets a strike; a turn that ends, well or with an error, takes the strikes back. A message is refused
after two strikes, its whole session after three with whatever message.

A turn that only happened to run beside the deadly one gets its strike too: nothing shows which of those that
had begun it was. It would take two deaths in a row, and the same message both times, to refuse it.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from agentscope_supervisor.domain.errors import ErrorCode, Failure

STRIKES_OF_MESSAGE: Final = 2  # the first may be chance; a third would be one death too many
STRIKES_OF_SESSION: Final = 3
REFUSED_FOR: Final = 600.0
"""Seconds from its last strike that a message or session is refused, and that a strike counts: time for a
person to look, and short enough that what is mended works again by itself."""

MAX_KEPT: Final = 10_000  # keys with strikes, of about 200 bytes; the oldest go first

Key = tuple[str, bytes]
"""A session id, and the digest of a body; empty bytes: whatever the body."""


def digest(body: bytes) -> bytes:
    """What stands for a message here."""
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
        """Keys that have strikes; none: nothing can be refused."""
        return len(self._strikes)

    def lost(self, session_id: str, body: bytes, now: float) -> bool:
        """A turn was lost with its worker, which died by itself; returns whether it is known now to kill:
        then the death says nothing of the slot."""
        message = self._strike((session_id, digest(body)), now)
        session = self._strike((session_id, b""), now)
        while len(self._strikes) > MAX_KEPT:
            del self._strikes[next(iter(self._strikes))]
        return message >= STRIKES_OF_MESSAGE or session >= STRIKES_OF_SESSION

    def survived(self, session_id: str, body: bytes) -> None:
        """A turn of this session has ended and its worker lives."""
        self._strikes.pop((session_id, digest(body)), None)
        self._strikes.pop((session_id, b""), None)

    def refusal(self, session_id: str, body: bytes, now: float) -> Failure | None:
        """Why a turn must not begin; None: it may."""
        for key, most, what in (
            ((session_id, b""), STRIKES_OF_SESSION, "session"),
            ((session_id, digest(body)), STRIKES_OF_MESSAGE, "message"),
        ):
            strikes = self._strikes.get(key)
            if strikes is not None and strikes.count >= most:
                left = strikes.last + REFUSED_FOR - now
                if left > 0:
                    told = (
                        f"this {what} was with its worker in {strikes.count} deaths in a row; it is refused"
                    )
                    return Failure(ErrorCode.POISONED, f"{told} for {left:.0f} s more")
        return None

    def _strike(self, key: Key, now: float) -> int:
        before = self._strikes.pop(key, None)
        count = before.count if before is not None and now - before.last < REFUSED_FOR else 0
        self._strikes[key] = _Strikes(count + 1, now)
        return count + 1
