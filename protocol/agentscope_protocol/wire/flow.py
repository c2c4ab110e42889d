"""Per-stream byte credit, for both ends of a link. Pure.

The rule: a worker may send on a stream while its credit is above zero, so a single message may overdraw it.
The supervisor therefore buffers less than INITIAL_CREDIT plus one Data frame per stream. Credit belongs to a
stream, and both ends always read the shared socket: a slow client slows down its own stream only. The input
of an exchange follows the same rule in the other direction: an app that does not read its request's body
slows down only the client that sends it.

Read next: `requester` and `responder`, which enforce the rule.
"""

from agentscope_protocol.wire.errors import RemoteProtocolError
from agentscope_protocol.wire.frames import INITIAL_CREDIT, MESSAGE_COST


class SendCredit:
    """The credit of one stream, at the end that sends."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = INITIAL_CREDIT

    @property
    def can_send(self) -> bool:
        return self.left > 0

    def spend(self, size: int) -> bool:
        """Record that `size` bytes were sent; returns whether more may be sent."""
        self.left -= size
        return self.can_send

    def granted(self, amount: int) -> None:
        """Add `amount` bytes of credit.

        Raises: RemoteProtocolError if the peer grants nothing, or more than was spent.
        """
        if amount <= 0 or self.left + amount > INITIAL_CREDIT:
            raise RemoteProtocolError(f"credit of {amount} on top of {self.left}")
        self.left += amount


class ReceiveWindow:
    """The receive window of one stream, at the end that receives.

    Grants credit in halves of INITIAL_CREDIT, so that small events do not cost one frame each.
    """

    __slots__ = ("held", "ungranted")

    def __init__(self) -> None:
        self.held = 0  # bytes received and not consumed yet
        self.ungranted = 0  # bytes consumed and not yet granted back

    def received(self, size: int) -> None:
        """Record that `size` bytes arrived.

        Raises: RemoteProtocolError if the peer sent without credit.
        """
        if self.held + self.ungranted >= INITIAL_CREDIT:
            raise RemoteProtocolError("data sent without credit")
        self.held += size

    def consumed(self, size: int) -> int:
        """Record that `size` bytes were consumed; returns the credit to grant now, 0 for none."""
        self.held -= size
        self.ungranted += size
        if self.ungranted * 2 < INITIAL_CREDIT:
            return 0
        grant, self.ungranted = self.ungranted, 0
        return grant


class MessageCredit(SendCredit):
    """The credit of an exchange in one direction: each message costs MESSAGE_COST beside its bytes."""

    __slots__ = ()

    def spend(self, size: int) -> bool:
        return super().spend(size + MESSAGE_COST)


class MessageWindow(ReceiveWindow):
    """The receive window of an exchange in one direction. Call `consumed` once for each message."""

    __slots__ = ()

    def received(self, size: int) -> None:
        super().received(size + MESSAGE_COST)

    def consumed(self, size: int) -> int:
        return super().consumed(size + MESSAGE_COST)
