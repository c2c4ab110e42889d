"""Who gets a place among the connections: how many there are, and what becomes of one more. Pure.

Descriptors are what a connection costs, and workers, logs and files need them too, so that a part is kept
from connections. Of what is kept, a quarter is the reserve for probes: connections above the bound on which
only the health routes are answered, so that a platform can tell a full instance from a dead one. Another
quarter is for those who are being told that there is no place. No connection ever gets of the other half.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

KEPT_SHARE: Final = 10  # one in so many descriptors is kept
KEPT_AT_LEAST: Final = 128  # which sixteen workers need, at about six each; of a low limit, a third
MAX_RESERVE: Final = 32  # probes at a time; a platform sends one every few seconds


class Place(Enum):
    SERVED = auto()
    RESERVED = auto()  # for probes
    NONE = auto()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The bounds. `ceiling`: a descriptor with this number or a higher one goes to no served connection; the
    kernel gives the lowest free number, so that the number of the newest tells how many are open."""

    served: int
    reserved: int
    leaving: int  # refused connections, held until their answer has arrived
    ceiling: int

    def place(self, served: int, reserved: int, descriptor: int) -> Place:
        """For one more connection, while so many are there."""
        if served < self.served and descriptor < self.ceiling:
            return Place.SERVED
        if reserved < self.reserved and descriptor < self.ceiling + self.reserved:
            return Place.RESERVED
        return Place.NONE


def places(wanted: int, limit: int, in_use: int) -> ConnectionLimits:
    """The bounds for `wanted` connections under `limit` descriptors, `in_use` of which are open already."""
    kept = max(limit // KEPT_SHARE, min(KEPT_AT_LEAST, limit // 3))
    ceiling = limit - kept
    aside = max(1, min(MAX_RESERVE, kept // 4))
    return ConnectionLimits(max(1, min(wanted, ceiling - in_use)), aside, aside, ceiling)
