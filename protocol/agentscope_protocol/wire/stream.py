"""The life of one stream, at each end of a link. The two tables contain all legal transitions. Pure.

A turn starts in OPEN, because its Open frame contains the whole request. An exchange starts in REQUESTING.

    requester (supervisor)                        responder (worker)
    OPEN        recv data      OPEN               OPEN        send data      OPEN
    OPEN        send cancel    CANCELLING         OPEN        recv cancel    CANCELLING
    OPEN        recv end       CLOSED             OPEN        send end       CLOSED
    OPEN        recv fail      CLOSED             OPEN        send fail      CLOSED

    REQUESTING  send input     REQUESTING         REQUESTING  recv input     REQUESTING
    REQUESTING  send last      REQUESTED          REQUESTING  recv last      REQUESTED
    REQUESTING  recv head      DUPLEX             REQUESTING  send head      DUPLEX
    REQUESTING  send cancel    WITHDRAWN          REQUESTING  recv cancel    WITHDRAWN
    REQUESTING  recv fail      CLOSED             REQUESTING  send fail      CLOSED
    REQUESTED   recv head      RESPONDING         REQUESTED   send head      RESPONDING
    REQUESTED   send cancel    WITHDRAWN          REQUESTED   recv cancel    WITHDRAWN
    REQUESTED   recv fail      CLOSED             REQUESTED   send fail      CLOSED
    DUPLEX      send input     DUPLEX             DUPLEX      recv input     DUPLEX
    DUPLEX      send last      RESPONDING         DUPLEX      recv last      RESPONDING
    DUPLEX      recv data      DUPLEX             DUPLEX      send data      DUPLEX
    DUPLEX      send cancel    CANCELLING         DUPLEX      recv cancel    CANCELLING
    DUPLEX      recv end       CLOSED             DUPLEX      send end       CLOSED
    DUPLEX      recv fail      CLOSED             DUPLEX      send fail      CLOSED
    RESPONDING  recv data      RESPONDING         RESPONDING  send data      RESPONDING
    RESPONDING  send cancel    CANCELLING         RESPONDING  recv cancel    CANCELLING
    RESPONDING  recv end       CLOSED             RESPONDING  send end       CLOSED
    RESPONDING  recv fail      CLOSED             RESPONDING  send fail      CLOSED
    WITHDRAWN   recv head      CANCELLING         WITHDRAWN   send fail      CLOSED
    WITHDRAWN   recv fail      CLOSED

    CANCELLING  recv data      CANCELLING         CANCELLING  send end       CLOSED
    CANCELLING  recv end       CLOSED             CANCELLING  send fail      CLOSED
    CANCELLING  recv fail      CLOSED

Frames can cross on the wire, so these unusual sequences are legal. A requester in CANCELLING still receives
data that the worker sent before the Cancel arrived; in WITHDRAWN it still receives the head. A responder may
receive Cancel, Credit or Input for a stream that it has closed, because its terminal frame crossed them;
closed streams are not kept, so `responder` detects this case from the stream id alone. A requester may
receive Taken for input that it has ended or cancelled.
"""

from collections.abc import Mapping
from enum import IntEnum, auto
from typing import Final

from agentscope_protocol.wire.errors import LocalProtocolError, RemoteProtocolError


class StreamState(IntEnum):  # hashed in C, for each frame
    OPEN = auto()
    REQUESTING = auto()  # input may follow, and there is no head yet
    REQUESTED = auto()  # the input is complete, and there is no head yet
    DUPLEX = auto()  # input may follow, after the head
    RESPONDING = auto()  # the input is complete, after the head
    WITHDRAWN = auto()  # cancelled before the head
    CANCELLING = auto()
    CLOSED = auto()


class Move(IntEnum):
    SEND_DATA = auto()
    SEND_END = auto()
    SEND_FAIL = auto()
    SEND_CANCEL = auto()
    SEND_HEAD = auto()
    SEND_INPUT = auto()
    SEND_LAST = auto()
    RECV_DATA = auto()
    RECV_END = auto()
    RECV_FAIL = auto()
    RECV_CANCEL = auto()
    RECV_HEAD = auto()
    RECV_INPUT = auto()
    RECV_LAST = auto()


Table = Mapping[tuple[StreamState, Move], StreamState]

LOCAL_MOVES: Final = frozenset(move for move in Move if move.name.startswith("SEND_"))

EXCHANGE: Final = frozenset(
    {StreamState.REQUESTING, StreamState.REQUESTED, StreamState.DUPLEX, StreamState.RESPONDING}
)
"""The states of an exchange that is not cancelled."""

TAKES_INPUT: Final = frozenset({StreamState.REQUESTING, StreamState.DUPLEX})
HAS_HEAD: Final = frozenset({StreamState.DUPLEX, StreamState.RESPONDING})
"""The states in which input may follow, and the states after the head."""

REQUESTER: Final[Table] = {
    (StreamState.OPEN, Move.RECV_DATA): StreamState.OPEN,
    (StreamState.OPEN, Move.SEND_CANCEL): StreamState.CANCELLING,
    (StreamState.OPEN, Move.RECV_END): StreamState.CLOSED,
    (StreamState.OPEN, Move.RECV_FAIL): StreamState.CLOSED,
    (StreamState.REQUESTING, Move.SEND_INPUT): StreamState.REQUESTING,
    (StreamState.REQUESTING, Move.SEND_LAST): StreamState.REQUESTED,
    (StreamState.REQUESTING, Move.RECV_HEAD): StreamState.DUPLEX,
    (StreamState.REQUESTING, Move.SEND_CANCEL): StreamState.WITHDRAWN,
    (StreamState.REQUESTING, Move.RECV_FAIL): StreamState.CLOSED,
    (StreamState.REQUESTED, Move.RECV_HEAD): StreamState.RESPONDING,
    (StreamState.REQUESTED, Move.SEND_CANCEL): StreamState.WITHDRAWN,
    (StreamState.REQUESTED, Move.RECV_FAIL): StreamState.CLOSED,
    (StreamState.DUPLEX, Move.SEND_INPUT): StreamState.DUPLEX,
    (StreamState.DUPLEX, Move.SEND_LAST): StreamState.RESPONDING,
    (StreamState.DUPLEX, Move.RECV_DATA): StreamState.DUPLEX,
    (StreamState.DUPLEX, Move.SEND_CANCEL): StreamState.CANCELLING,
    (StreamState.DUPLEX, Move.RECV_END): StreamState.CLOSED,
    (StreamState.DUPLEX, Move.RECV_FAIL): StreamState.CLOSED,
    (StreamState.RESPONDING, Move.RECV_DATA): StreamState.RESPONDING,
    (StreamState.RESPONDING, Move.SEND_CANCEL): StreamState.CANCELLING,
    (StreamState.RESPONDING, Move.RECV_END): StreamState.CLOSED,
    (StreamState.RESPONDING, Move.RECV_FAIL): StreamState.CLOSED,
    (StreamState.WITHDRAWN, Move.RECV_HEAD): StreamState.CANCELLING,
    (StreamState.WITHDRAWN, Move.RECV_FAIL): StreamState.CLOSED,
    (StreamState.CANCELLING, Move.RECV_DATA): StreamState.CANCELLING,
    (StreamState.CANCELLING, Move.RECV_END): StreamState.CLOSED,
    (StreamState.CANCELLING, Move.RECV_FAIL): StreamState.CLOSED,
}

RESPONDER: Final[Table] = {
    (StreamState.OPEN, Move.SEND_DATA): StreamState.OPEN,
    (StreamState.OPEN, Move.RECV_CANCEL): StreamState.CANCELLING,
    (StreamState.OPEN, Move.SEND_END): StreamState.CLOSED,
    (StreamState.OPEN, Move.SEND_FAIL): StreamState.CLOSED,
    (StreamState.REQUESTING, Move.RECV_INPUT): StreamState.REQUESTING,
    (StreamState.REQUESTING, Move.RECV_LAST): StreamState.REQUESTED,
    (StreamState.REQUESTING, Move.SEND_HEAD): StreamState.DUPLEX,
    (StreamState.REQUESTING, Move.RECV_CANCEL): StreamState.WITHDRAWN,
    (StreamState.REQUESTING, Move.SEND_FAIL): StreamState.CLOSED,
    (StreamState.REQUESTED, Move.SEND_HEAD): StreamState.RESPONDING,
    (StreamState.REQUESTED, Move.RECV_CANCEL): StreamState.WITHDRAWN,
    (StreamState.REQUESTED, Move.SEND_FAIL): StreamState.CLOSED,
    (StreamState.DUPLEX, Move.RECV_INPUT): StreamState.DUPLEX,
    (StreamState.DUPLEX, Move.RECV_LAST): StreamState.RESPONDING,
    (StreamState.DUPLEX, Move.SEND_DATA): StreamState.DUPLEX,
    (StreamState.DUPLEX, Move.RECV_CANCEL): StreamState.CANCELLING,
    (StreamState.DUPLEX, Move.SEND_END): StreamState.CLOSED,
    (StreamState.DUPLEX, Move.SEND_FAIL): StreamState.CLOSED,
    (StreamState.RESPONDING, Move.SEND_DATA): StreamState.RESPONDING,
    (StreamState.RESPONDING, Move.RECV_CANCEL): StreamState.CANCELLING,
    (StreamState.RESPONDING, Move.SEND_END): StreamState.CLOSED,
    (StreamState.RESPONDING, Move.SEND_FAIL): StreamState.CLOSED,
    (StreamState.WITHDRAWN, Move.SEND_FAIL): StreamState.CLOSED,
    (StreamState.CANCELLING, Move.SEND_END): StreamState.CLOSED,
    (StreamState.CANCELLING, Move.SEND_FAIL): StreamState.CLOSED,
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
