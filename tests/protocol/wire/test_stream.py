"""The two tables are total, agree with the diagram, and stay consistent for any crossing of frames."""

import re
from collections import deque
from itertools import product

import pytest

from agentscope_protocol.wire import stream
from agentscope_protocol.wire.errors import LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.stream import REQUESTER, RESPONDER, Move, StreamState, Table, step, unchanged

TABLES = {"requester": REQUESTER, "responder": RESPONDER}
MIRROR = {
    Move.SEND_DATA: Move.RECV_DATA,
    Move.SEND_TERMINAL: Move.RECV_TERMINAL,
    Move.SEND_CANCEL: Move.RECV_CANCEL,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("state,move", list(product(StreamState, Move)))
def test_each_move_is_legal_or_raises_the_matching_error(
    table: Table, state: StreamState, move: Move
) -> None:
    if (state, move) in table:
        assert step(table, state, move) is table[state, move]
        return
    ours = move.name.startswith("SEND_")
    with pytest.raises(
        LocalProtocolError if ours else RemoteProtocolError, match=f"{move.name} in {state.name}"
    ):
        step(table, state, move)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_closed_is_final(table: Table) -> None:
    assert not [move for state, move in table if state is StreamState.CLOSED]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_states_never_go_back(table: Table) -> None:
    order = list(StreamState)
    assert all(order.index(state) <= order.index(after) for (state, _), after in table.items())


def test_each_end_has_only_its_own_moves() -> None:
    requester_sends = {Move.SEND_CANCEL}
    responder_sends = {Move.SEND_DATA, Move.SEND_TERMINAL}
    assert {move for _, move in REQUESTER} == requester_sends | {MIRROR[move] for move in responder_sends}
    assert {move for _, move in RESPONDER} == responder_sends | {MIRROR[move] for move in requester_sends}


def test_only_data_keeps_the_state() -> None:
    assert unchanged(RESPONDER, Move.SEND_DATA) == {StreamState.OPEN}
    assert unchanged(REQUESTER, Move.RECV_DATA) == {StreamState.OPEN, StreamState.CANCELLING}
    others = [move for move in Move if move not in (Move.SEND_DATA, Move.RECV_DATA)]
    assert not any(unchanged(table, move) for table in TABLES.values() for move in others)


def test_every_legal_send_is_a_legal_receive_in_any_crossing() -> None:
    """Explores every state of two ends and the frames between them, up to four in each direction."""
    start = (StreamState.OPEN, StreamState.OPEN, (), ())
    seen, todo = {start}, deque([start])

    def reach(*configuration: object) -> None:
        if configuration not in seen:
            seen.add(configuration)
            todo.append(configuration)

    while todo:
        requester, responder, to_responder, to_requester = todo.popleft()
        for move in stream.LOCAL_MOVES:
            if (requester, move) in REQUESTER and len(to_responder) < 4:
                reach(REQUESTER[requester, move], responder, (*to_responder, MIRROR[move]), to_requester)
            if (responder, move) in RESPONDER and len(to_requester) < 4:
                reach(requester, RESPONDER[responder, move], to_responder, (*to_requester, MIRROR[move]))
        if to_requester:
            reach(step(REQUESTER, requester, to_requester[0]), responder, to_responder, to_requester[1:])
        if to_responder:
            # A responder ignores a Cancel for a stream it has closed: its terminal frame crossed the Cancel.
            move = to_responder[0]
            crossed = responder is StreamState.CLOSED and move is Move.RECV_CANCEL
            after = responder if crossed else step(RESPONDER, responder, move)
            reach(requester, after, to_responder[1:], to_requester)

    crossings = {(requester, responder) for requester, responder, _, _ in seen}
    assert (StreamState.CANCELLING, StreamState.CLOSED) in crossings
    assert (StreamState.CLOSED, StreamState.OPEN) not in crossings


@pytest.mark.as_python
def test_the_diagram_matches_the_tables() -> None:
    drawn: dict[str, dict[tuple[StreamState, Move], StreamState]] = {"requester": {}, "responder": {}}
    move = r"([A-Z]+) +(send|recv) (data|terminal|cancel) +([A-Z]+)"
    assert stream.__doc__ is not None
    for line in stream.__doc__.splitlines():
        for found in re.finditer(move, line):
            before, way, what, after = found.groups()
            side = "requester" if found.start() < 40 else "responder"
            drawn[side][StreamState[before], Move[f"{way}_{what}".upper()]] = StreamState[after]
    assert drawn == {"requester": dict(REQUESTER), "responder": dict(RESPONDER)}
