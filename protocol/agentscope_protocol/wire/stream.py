"""The life of one stream, at each end of a link. The two tables contain all legal transitions. Pure.

    requester (supervisor)                        responder (worker)
    OPEN        recv data      OPEN               OPEN        send data      OPEN
    OPEN        send cancel    CANCELLING         OPEN        recv cancel    CANCELLING
    OPEN        recv terminal  CLOSED             OPEN        send terminal  CLOSED
    CANCELLING  recv data      CANCELLING         CANCELLING  send terminal  CLOSED
    CANCELLING  recv terminal  CLOSED

Frames can cross on the wire, so two unusual sequences are legal. A requester in CANCELLING still receives
data that the worker sent before the Cancel arrived. A responder may receive Cancel or Credit for a stream
that it has closed, because its terminal frame crossed them; closed streams are not kept, so `responder`
detects this case from the stream id alone.
"""

from collections.abc import Mapping
from enum import IntEnum, auto
from typing import Final

from agentscope_protocol.wire.errors import LocalProtocolError, RemoteProtocolError


class StreamState(IntEnum):  # hashed in C, for each frame
    OPEN = auto()
    CANCELLING = auto()
    CLOSED = auto()


class Move(IntEnum):
    SEND_DATA = auto()
    SEND_TERMINAL = auto()
    SEND_CANCEL = auto()
    RECV_DATA = auto()
    RECV_TERMINAL = auto()
    RECV_CANCEL = auto()


Table = Mapping[tuple[StreamState, Move], StreamState]

LOCAL_MOVES: Final = frozenset({Move.SEND_DATA, Move.SEND_TERMINAL, Move.SEND_CANCEL})

REQUESTER: Final[Table] = {
    (StreamState.OPEN, Move.RECV_DATA): StreamState.OPEN,
    (StreamState.OPEN, Move.SEND_CANCEL): StreamState.CANCELLING,
    (StreamState.OPEN, Move.RECV_TERMINAL): StreamState.CLOSED,
    (StreamState.CANCELLING, Move.RECV_DATA): StreamState.CANCELLING,
    (StreamState.CANCELLING, Move.RECV_TERMINAL): StreamState.CLOSED,
}

RESPONDER: Final[Table] = {
    (StreamState.OPEN, Move.SEND_DATA): StreamState.OPEN,
    (StreamState.OPEN, Move.RECV_CANCEL): StreamState.CANCELLING,
    (StreamState.OPEN, Move.SEND_TERMINAL): StreamState.CLOSED,
    (StreamState.CANCELLING, Move.SEND_TERMINAL): StreamState.CLOSED,
}


def unchanged(table: Table, move: Move) -> frozenset[StreamState]:
    """The states in which a move is legal and keeps the state, so that callers can skip `step` there."""
    return frozenset(state for state in StreamState if table.get((state, move)) is state)


def step(table: Table, state: StreamState, move: Move) -> StreamState:
    """The next state.

    Raises: LocalProtocolError for an illegal SEND_* move, RemoteProtocolError for an illegal RECV_* move.
    """
    try:
        return table[state, move]
    except KeyError:
        error = LocalProtocolError if move in LOCAL_MOVES else RemoteProtocolError
        raise error(f"{move.name} in {state.name}") from None
