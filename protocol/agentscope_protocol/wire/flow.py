"""Byte credit of one stream, both ends. Pure. The rule, once:

A worker may send on a stream while its credit is above zero, so that one message may overdraw it. What
the supervisor must be ready to hold of a stream is therefore less than INITIAL_CREDIT and one Data
frame. Credit is per stream, and the shared socket is always read: a client that reads slowly slows its
own stream only.
"""

from agentscope_protocol.wire.errors import RemoteProtocolError
from agentscope_protocol.wire.frames import INITIAL_CREDIT


class SendCredit:
    """The worker's side."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = INITIAL_CREDIT

    @property
    def can_send(self) -> bool:
        return self.left > 0

    def spend(self, size: int) -> bool:
        """Note that `size` bytes were sent; returns whether more may be."""
        self.left -= size
        return self.can_send

    def granted(self, amount: int) -> None:
        """Raises: RemoteProtocolError if the peer grants nothing, or more than was spent."""
        if amount <= 0 or self.left + amount > INITIAL_CREDIT:
            raise RemoteProtocolError(f"credit of {amount} on top of {self.left}")
        self.left += amount


class ReceiveWindow:
    """The supervisor's side. Grants in halves, so that small events do not cost a frame each."""

    __slots__ = ("held", "ungranted")

    def __init__(self) -> None:
        self.held = 0  # bytes received that the client has not taken
        self.ungranted = 0  # bytes the client took that the worker has not been given back

    def received(self, size: int) -> None:
        """Raises: RemoteProtocolError if the peer sent without credit."""
        if self.held + self.ungranted >= INITIAL_CREDIT:
            raise RemoteProtocolError("data sent without credit")
        self.held += size

    def consumed(self, size: int) -> int:
        """Note that the client took `size` bytes; returns the credit to grant now, 0 for none yet."""
        self.held -= size
        self.ungranted += size
        if self.ungranted * 2 < INITIAL_CREDIT:
            return 0
        grant, self.ungranted = self.ungranted, 0
        return grant
