"""Limits on the number of connections, and what happens to each new connection. Pure.

Each connection takes a file descriptor. Workers, logs and files need descriptors too, so that a part of them
is kept from connections. One quarter of that part is the reserve for probes: connections above the limit on
which only the health routes respond, so that a platform can tell a full instance from a dead one. Another
quarter is for connections that are being refused. No connection ever gets a descriptor of the other half.

Where to read next: `listener` applies these limits.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

KEPT_SHARE: Final = 10  # one in KEPT_SHARE descriptors is kept from connections
KEPT_AT_LEAST: Final = 128  # 16 workers need about 6 descriptors each; under a low limit, a third is kept
MAX_RESERVE: Final = 32  # concurrent probes; a platform sends one every few seconds


class Place(Enum):
    """The kind of place that a new connection gets."""

    SERVED = auto()
    RESERVED = auto()  # for probes
    NONE = auto()  # it is refused


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Maximum numbers of connections. `ceiling`: a connection whose descriptor has this number or a higher
    one is not served. The kernel assigns the lowest free number, so that the number of a new descriptor shows
    how many are open."""

    served: int
    reserved: int
    leaving: int  # refused connections that are kept until the client has received the response
    ceiling: int

    def place(self, served: int, reserved: int, descriptor: int) -> Place:
        """The place of a new connection. `served`, `reserved`: the present numbers of connections."""
        if served < self.served and descriptor < self.ceiling:
            return Place.SERVED
        if reserved < self.reserved and descriptor < self.ceiling + self.reserved:
            return Place.RESERVED
        return Place.NONE


def places(wanted: int, limit: int, in_use: int) -> ConnectionLimits:
    """The limits for `wanted` connections, if the process may have `limit` descriptors and has `in_use`."""
    kept = max(limit // KEPT_SHARE, min(KEPT_AT_LEAST, limit // 3))
    ceiling = limit - kept
    aside = max(1, min(MAX_RESERVE, kept // 4))
    return ConnectionLimits(max(1, min(wanted, ceiling - in_use)), aside, aside, ceiling)
