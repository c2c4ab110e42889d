"""Credit: two correct ends never break the rule and never deadlock; a violation is detected."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentscope_protocol.wire.errors import RemoteProtocolError
from agentscope_protocol.wire.flow import MessageCredit, MessageWindow, ReceiveWindow, SendCredit
from agentscope_protocol.wire.frames import INITIAL_CREDIT, MESSAGE_COST

SIZES = st.one_of(
    st.sampled_from([0, 1, INITIAL_CREDIT // 2, INITIAL_CREDIT - 1, INITIAL_CREDIT, 3 * INITIAL_CREDIT]),
    st.integers(0, 2 * INITIAL_CREDIT),
)
STEPS = st.lists(st.tuples(st.sampled_from(["send", "arrive", "take", "grant"]), SIZES), max_size=40)


@given(STEPS)
@example([("send", INITIAL_CREDIT - 1), ("send", INITIAL_CREDIT)] + [("arrive", 0)] * 2 + [("take", 2**40)])
def test_two_correct_ends_never_break_the_rule_or_deadlock(steps: list[tuple[str, int]]) -> None:
    sender, window = SendCredit(), ReceiveWindow()
    data: list[int] = []  # in transit to the client's side
    grants: list[int] = []  # in transit to the worker
    sent = granted = held = 0

    def take(size: int) -> None:
        nonlocal held
        held -= size
        if grant := window.consumed(size):
            grants.append(grant)

    for what, size in steps:
        if what == "send" and sender.can_send:
            sender.spend(size)
            sent += size
            data.append(size)
        elif what == "arrive" and data:
            assert held < INITIAL_CREDIT, "more bytes held than the supervisor must buffer"
            window.received(data[0])
            held += data.pop(0)
        elif what == "take":
            take(min(size, held))
        elif what == "grant" and grants:
            granted += grants[0]
            sender.granted(grants.pop(0))
        assert sender.can_send is (sent - granted < INITIAL_CREDIT)
        assert window.held == held

    for size in data:
        window.received(size)
        held += size
    take(held - min(held, INITIAL_CREDIT // 2))
    for grant in grants:
        sender.granted(grant)
    assert sender.can_send, "blocked although the client consumed more than half of the credit"


def test_one_message_may_overdraw_the_credit() -> None:
    sender = SendCredit()
    sender.spend(INITIAL_CREDIT - 1)
    assert sender.can_send
    sender.spend(10 * INITIAL_CREDIT)
    assert not sender.can_send


def test_credit_of_exactly_zero_blocks() -> None:
    sender = SendCredit()
    sender.spend(INITIAL_CREDIT)
    assert not sender.can_send
    sender.granted(1)
    assert sender.can_send


@pytest.mark.parametrize(
    "spent,amount", [(0, 1), (10, 11), (10, 0), (10, -1), (INITIAL_CREDIT, INITIAL_CREDIT + 1)]
)
def test_a_grant_of_zero_or_of_more_than_was_spent_is_rejected(spent: int, amount: int) -> None:
    sender = SendCredit()
    sender.spend(spent)
    with pytest.raises(RemoteProtocolError, match="credit"):
        sender.granted(amount)
    assert sender.left == INITIAL_CREDIT - spent


def test_the_full_amount_spent_may_be_granted() -> None:
    sender = SendCredit()
    sender.spend(3 * INITIAL_CREDIT)
    sender.granted(3 * INITIAL_CREDIT)
    assert sender.left == INITIAL_CREDIT


def test_data_without_credit_is_rejected() -> None:
    window = ReceiveWindow()
    window.received(INITIAL_CREDIT)
    with pytest.raises(RemoteProtocolError, match="without credit"):
        window.received(0)
    # Consumed, but less than half: not granted back yet, so there is still no credit.
    window = ReceiveWindow()
    window.received(INITIAL_CREDIT)
    assert window.consumed(INITIAL_CREDIT // 2 - 1) == 0
    with pytest.raises(RemoteProtocolError, match="without credit"):
        window.received(1)


def test_grants_come_in_halves() -> None:
    window = ReceiveWindow()
    window.received(INITIAL_CREDIT)
    assert window.consumed(INITIAL_CREDIT // 2 - 1) == 0
    assert window.consumed(1) == INITIAL_CREDIT // 2
    assert window.consumed(1) == 0, "credit must not be granted twice"
    window.received(1)


@given(st.lists(SIZES, min_size=1, max_size=40))
def test_an_exchange_whose_messages_are_consumed_never_blocks(sizes: list[int]) -> None:
    sender, window = MessageCredit(), MessageWindow()
    for size in sizes:
        assert sender.can_send
        sender.spend(size)
        window.received(size)
        if grant := window.consumed(size):
            sender.granted(grant)


def test_empty_messages_of_an_exchange_use_credit() -> None:
    sender, window = MessageCredit(), MessageWindow()
    sent = 0
    while sender.spend(0):
        window.received(0)
        sent += 1
    window.received(0)
    assert sent + 1 == INITIAL_CREDIT // MESSAGE_COST
    with pytest.raises(RemoteProtocolError, match="without credit"):
        window.received(0)
