"""Who makes room when there are too many connections, and what strangers may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope_supervisor.http1.connection_table import GRACE, MAX_HELD, SEARCH_EVERY, ConnectionTable, Entry


class Connection:
    """The protocol of one connection."""

    def __init__(self, entry: Entry, name: str, gone: list[str]) -> None:
        self.entry, self.name, self.gone = entry, name, gone
        self.idle: float | None = None
        entry.owner = self

    def evict(self) -> None:
        self.gone.append(self.name)
        assert not self.entry.leave(), "it has no place any more"

    def idle_since(self) -> float | None:
        return self.idle


class Connections:
    """A table of `places` places, and the names of the connections that were evicted."""

    def __init__(self, places: int = 8) -> None:
        self.table = ConnectionTable(places)
        self.gone: list[str] = []

    def enter(self, name: str, now: float = 0.0, address: str = "") -> Connection:
        return Connection(self.table.enter(address, now), name, self.gone)

    def client(self, name: str, idle: float | None) -> Connection:
        """A connection that is let in."""
        made = self.enter(name)
        made.entry.let_in()
        made.idle = idle
        return made


def test_the_oldest_stranger_makes_room_first() -> None:
    all_ = Connections()
    all_.client("client", idle=0.0)
    for now, name in enumerate(["first", "second"]):
        all_.enter(name, float(now))
    assert all_.table.make_room(10.0)
    assert all_.table.make_room(10.0)
    assert all_.gone == ["first", "second"]
    assert len(all_.table) == 1


def test_who_has_just_connected_keeps_its_place() -> None:
    all_ = Connections()
    all_.enter("new", now=5.0)
    assert not all_.table.make_room(5.0 + GRACE - 0.01)
    assert all_.table.make_room(5.0 + GRACE)


def test_without_strangers_the_client_that_is_idle_longest_makes_room() -> None:
    all_ = Connections()
    all_.client("busy", idle=None)
    all_.client("idle", idle=3.0)
    all_.client("idle longest", idle=2.0)
    all_.client("idle briefly", idle=9.9)
    for _ in range(2):
        assert all_.table.make_room(10.0)
    assert not all_.table.make_room(10.0)
    assert all_.gone == ["idle longest", "idle"]


def test_the_search_for_an_idle_client_is_not_repeated_at_once() -> None:
    all_ = Connections()
    client = all_.client("client", idle=None)
    assert not all_.table.make_room(10.0)
    client.idle = 0.0
    assert not all_.table.make_room(10.0 + SEARCH_EVERY / 2)
    assert all_.table.make_room(10.0 + 2 * SEARCH_EVERY)


def test_a_connection_whose_protocol_is_not_made_yet_is_not_idle() -> None:
    all_ = Connections()
    all_.table.enter("", 0.0).let_in()
    assert not all_.table.make_room(10.0)
    all_.table.enter("", 0.0)
    assert all_.table.make_room(10.0), "it has no protocol that could be closed, but its place is free"


def test_a_request_is_awaited_from_who_has_just_connected_or_received_a_response() -> None:
    all_ = Connections()
    assert not all_.table.awaits_requests(0.0)
    client = all_.client("client", idle=None)
    assert not all_.table.awaits_requests(0.0), "its response comes first"
    client.idle = 5.0
    assert all_.table.awaits_requests(5.0 + GRACE - 0.01)
    assert not all_.table.awaits_requests(5.0 + GRACE)
    all_.enter("new").idle = 7.0
    assert all_.table.awaits_requests(7.5)


def test_a_request_is_awaited_from_a_connection_whose_protocol_is_not_made_yet() -> None:
    all_ = Connections()
    entry = all_.table.enter("", 0.0)
    assert all_.table.awaits_requests(10.0)
    entry.leave()
    assert not all_.table.awaits_requests(10.0)


def test_strangers_of_one_address_have_three_quarters_of_the_places() -> None:
    all_ = Connections(places=8)
    for number in range(6):
        assert not all_.table.is_full_of("a")
        all_.enter(f"a{number}", address="a")
    all_.enter("b0", address="b")
    assert all_.table.is_full_of("a")
    assert not all_.table.is_full_of("b")
    assert not all_.table.make_room(10.0, "c")
    assert all_.table.make_room(10.0, "b")
    assert all_.table.make_room(10.0, "a")
    assert all_.gone == ["b0", "a0"]
    assert not all_.table.is_full_of("a")


def test_clients_of_one_address_are_not_limited() -> None:
    all_ = Connections(places=4)
    for number in range(4):
        all_.enter(f"a{number}", address="a").entry.let_in()
    assert not all_.table.is_full_of("a")


def test_connections_without_an_address_are_not_limited() -> None:
    all_ = Connections(places=1)
    all_.enter("local")
    assert not all_.table.is_full_of("")


def test_strangers_hold_no_more_than_the_limit() -> None:
    all_ = Connections()
    first, second, third = (all_.enter(name) for name in ("first", "second", "third"))
    all_.enter("silent")
    second.entry.hold(10)
    first.entry.hold(MAX_HELD - 10)
    second.entry.hold(5)
    third.entry.hold(5)
    assert all_.gone == []
    third.entry.hold(6)
    assert all_.gone == ["second"]
    assert all_.table.held == MAX_HELD - 10 + 6


def test_who_alone_holds_too_much_is_evicted() -> None:
    all_ = Connections()
    all_.enter("one").entry.hold(MAX_HELD + 1)
    assert (all_.gone, all_.table.held, len(all_.table)) == (["one"], 0, 0)


@pytest.mark.parametrize("end", ["let in", "complete", "lost"])
def test_what_a_stranger_holds_is_given_back(end: str) -> None:
    all_ = Connections()
    entry = all_.enter("one", address="a").entry
    entry.hold(10)
    match end:
        case "let in":
            entry.let_in()
            entry.hold(20)
        case "complete":
            entry.hold(0)
        case _:
            assert entry.leave()
    assert all_.table.held == 0


def test_an_entry_without_a_table_is_not_limited() -> None:
    entry = Entry()
    entry.hold(MAX_HELD * 2)
    entry.let_in()
    entry.let_in()
    assert entry.is_let_in
    assert not entry.leave()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "let in", "hold", "leave", "room"]),
        st.integers(0, 9),
        st.sampled_from("ab"),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_table_counts_what_is_there(steps: list[tuple[str, int, str]]) -> None:
    all_ = Connections(places=4)
    made: list[Connection] = []
    for step, number, address in steps:
        one = made[number % len(made)] if made else None
        if step == "enter":
            made.append(all_.enter(str(len(made)), 0.0, address))
        elif step == "room":
            all_.table.make_room(10.0)
        elif one is not None and one.name not in all_.gone:
            if step == "let in":
                one.entry.let_in()
            elif step == "hold":
                one.entry.hold(number * MAX_HELD // 8)
            else:
                one.entry.leave()
                all_.gone.append(one.name)
    there = [each for each in made if each.name not in all_.gone]
    strangers = [each for each in there if not each.entry.is_let_in]
    assert len(all_.table) == len(there)
    assert all_.table.held == sum(each.entry.held for each in strangers) <= MAX_HELD
    for address in "ab":
        count = len([each for each in strangers if each.entry.address == address])
        assert all_.table.is_full_of(address) == (count >= 3)
