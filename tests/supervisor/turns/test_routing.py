"""The slot of a session: the same for ever, evenly spread, and moved only by a slot that is new."""

from collections import Counter

import pytest

from agentscope_supervisor.turns.routing import slot_of

# What version 1 answers, for good: an instance after an upgrade, and any balancer that mirrors the hash,
# must find each session where it was.
GOLDEN = [
    ("user_123_conv_456", 2, 1),
    ("user_123_conv_456", 3, 2),
    ("user_123_conv_456", 8, 5),
    ("user_123_conv_456", 64, 51),
    ("a", 2, 1),
    ("a", 3, 2),
    ("a", 8, 5),
    ("a", 64, 33),
    ("s1", 2, 1),
    ("s1", 3, 2),
    ("s1", 8, 5),
    ("s1", 64, 48),
    ("0", 2, 0),
    ("0", 3, 2),
    ("0", 8, 2),
    ("0", 64, 27),
    (" ", 2, 0),
    (" ", 3, 0),
    (" ", 8, 0),
    (" ", 64, 19),
    ("会话-1", 2, 1),
    ("会话-1", 3, 1),
    ("会话-1", 8, 1),
    ("会话-1", 64, 12),
    ("😀", 2, 0),
    ("😀", 3, 2),
    ("😀", 8, 7),
    ("😀", 64, 46),
    ("user@example.com/чат", 2, 1),
    ("user@example.com/чат", 3, 1),
    ("user@example.com/чат", 8, 6),
    ("user@example.com/чат", 64, 51),
    ("x" * 256, 2, 1),
    ("x" * 256, 3, 1),
    ("x" * 256, 8, 3),
    ("x" * 256, 64, 21),
    ("123e4567-e89b-12d3-a456-426614174000", 2, 1),
    ("123e4567-e89b-12d3-a456-426614174000", 3, 1),
    ("123e4567-e89b-12d3-a456-426614174000", 8, 3),
    ("123e4567-e89b-12d3-a456-426614174000", 64, 13),
]


@pytest.mark.parametrize("session_id, slots, slot", GOLDEN)
def test_a_session_has_the_slot_that_it_always_had(session_id: str, slots: int, slot: int) -> None:
    assert slot_of(session_id, slots) == slot


def test_one_slot_serves_all() -> None:
    assert {slot_of(f"s{i}", 1) for i in range(100)} == {0}


@pytest.mark.parametrize("slots", range(2, 9))
@pytest.mark.parametrize("pattern", ["{}", "user_{}_conv_1", "00000000-0000-0000-0000-{:012}"])
def test_a_thousand_sessions_are_spread(slots: int, pattern: str) -> None:
    """Four standard deviations of an even throw: what chance alone explains."""
    counts = Counter(slot_of(pattern.format(i), slots) for i in range(1000))
    assert counts.keys() == set(range(slots))
    share = 1 / slots
    bound = 4 * (1000 * share * (1 - share)) ** 0.5
    assert all(abs(count - 1000 * share) < bound for count in counts.values())


@pytest.mark.parametrize("slots", [2, 5, 8])
def test_a_hundred_thousand_sessions_are_spread_to_a_few_percent(slots: int) -> None:
    counts = Counter(slot_of(f"session-{i}", slots) for i in range(100_000))
    assert all(abs(counts[slot] * slots / 100_000 - 1) < 0.03 for slot in range(slots))


@pytest.mark.parametrize("slots", range(1, 8))
def test_one_slot_more_takes_its_share_and_moves_nothing_else(slots: int) -> None:
    sessions = [f"user_{i}" for i in range(4000)]
    moved = [s for s in sessions if slot_of(s, slots) != slot_of(s, slots + 1)]
    assert {slot_of(session, slots + 1) for session in moved} == {slots}
    assert len(moved) / len(sessions) == pytest.approx(1 / (slots + 1), rel=0.1)


def test_a_lone_surrogate_is_the_callers_mistake() -> None:
    with pytest.raises(UnicodeEncodeError):
        slot_of("\ud800", 2)
