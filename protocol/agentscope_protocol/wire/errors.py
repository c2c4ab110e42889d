"""The two families of protocol errors, and the numbered reasons for which a turn fails. Pure.

Nothing here knows of sockets or processes. `frames` carries the codes, `connection` raises the errors.
"""

from enum import IntEnum


class Code(IntEnum):
    """Why a stream ended without its answer. On the wire: append, never renumber."""

    APP_ERROR = 1  # the App raised, or did not answer in a form that can be sent
    CANCELLED = 2  # the requester asked for the end, and the App has ended
    OVERLOADED = 3  # refused before the App saw it
    DRAINING = 4  # refused before the App saw it: the worker is leaving
    LINK_LOST = 5  # never sent: made up by the requester when its peer went away
    PROTOCOL = 6  # the peer broke the rules on this stream
    BAD_MESSAGE = 7  # refused before the App saw it: AgentScope cannot take this message
    UNSENT = 8  # never sent: like LINK_LOST, and the turn had not been written to the link

    @property
    def begun(self) -> bool:
        """Whether the App may have seen the turn, so that another try could run it twice."""
        return self not in (Code.OVERLOADED, Code.DRAINING, Code.BAD_MESSAGE, Code.UNSENT)


class ProtocolError(Exception):
    """Base of the two below; never raised itself."""


class LocalProtocolError(ProtocolError):
    """Our own code asked for what the protocol forbids: a bug here, fix the caller."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules: drop the link; the supervisor replaces the worker."""
