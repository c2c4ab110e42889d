"""The two tables are total, agree with the diagram, and stay consistent for any crossing of frames."""

import re
from collections import deque
from itertools import product

import pytest

from agentscope_protocol.wire import stream
from agentscope_protocol.wire.errors import LocalProtocolError, RemoteProtocolError
from agentscope_protocol.wire.stream import REQUESTER, RESPONDER, Move, StreamState, Table, step, unchanged

TABLES = {"requester": REQUESTER, "responder": RESPONDER}
MIRROR = {move: Move[move.name.replace("SEND", "RECV")] for move in stream.LOCAL_MOVES}
CROSSING = (Move.RECV_CANCEL, Move.RECV_INPUT, Move.RECV_LAST)


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
    requester_sends = {Move.SEND_CANCEL, Move.SEND_INPUT, Move.SEND_LAST}
    responder_sends = {Move.SEND_DATA, Move.SEND_END, Move.SEND_FAIL, Move.SEND_HEAD}
    assert {move for _, move in REQUESTER} == requester_sends | {MIRROR[move] for move in responder_sends}
    assert {move for _, move in RESPONDER} == responder_sends | {MIRROR[move] for move in requester_sends}


def test_only_data_and_input_keep_the_state() -> None:
    assert unchanged(RESPONDER, Move.SEND_DATA) == {StreamState.OPEN, *stream.HAS_HEAD}
    assert unchanged(REQUESTER, Move.RECV_DATA) == {
        StreamState.OPEN,
        *stream.HAS_HEAD,
        StreamState.CANCELLING,
    }
    assert unchanged(REQUESTER, Move.SEND_INPUT) == stream.TAKES_INPUT
    assert unchanged(RESPONDER, Move.RECV_INPUT) == stream.TAKES_INPUT
    kept = {Move.SEND_DATA, Move.RECV_DATA, Move.SEND_INPUT, Move.RECV_INPUT}
    others = [move for move in Move if move not in kept]
    assert not any(unchanged(table, move) for table in TABLES.values() for move in others)


@pytest.mark.parametrize("first", [StreamState.OPEN, StreamState.REQUESTING], ids=["turn", "exchange"])
def test_every_legal_send_is_a_legal_receive_in_any_crossing(first: StreamState) -> None:
    """Explores every state of two ends and the frames between them, up to four in each direction."""
    start = (first, first, (), ())
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
            # A responder ignores these for a stream it has closed: its terminal frame crossed them.
            move = to_responder[0]
            crossed = responder is StreamState.CLOSED and move in CROSSING
            after = responder if crossed else step(RESPONDER, responder, move)
            reach(requester, after, to_responder[1:], to_requester)

    crossings = {(requester, responder) for requester, responder, _, _ in seen}
    assert (StreamState.CANCELLING, StreamState.CLOSED) in crossings
    assert (StreamState.CLOSED, first) not in crossings
    exchange_only = stream.EXCHANGE | {StreamState.WITHDRAWN}
    reached = {state for pair in crossings for state in pair}
    assert reached & exchange_only == (exchange_only if first is StreamState.REQUESTING else set())


@pytest.mark.as_python
def test_the_diagram_matches_the_tables() -> None:
    drawn: dict[str, dict[tuple[StreamState, Move], StreamState]] = {"requester": {}, "responder": {}}
    move = r"([A-Z]+) +(send|recv) (data|end|fail|cancel|head|input|last) +([A-Z]+)"
    assert stream.__doc__ is not None
    for line in stream.__doc__.splitlines():
        for found in re.finditer(move, line):
            before, way, what, after = found.groups()
            side = "requester" if found.start() < 40 else "responder"
            drawn[side][StreamState[before], Move[f"{way}_{what}".upper()]] = StreamState[after]
    assert drawn == {"requester": dict(REQUESTER), "responder": dict(RESPONDER)}
